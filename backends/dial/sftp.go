package dial

import (
	"context"
	"slices"

	"pierfs/backends/sftp"
	"pierfs/conncfg"
	"pierfs/conncfg/trust"
)

func connectSFTP(t conncfg.Target, o Options, step func(Step)) (protocol, error) {
	way, err := wayTo(t, o)
	if err != nil {
		return nil, err
	}
	options := optionsSFTP(t, o, way)
	if step == nil {
		step = o.Login
	}
	if step != nil {
		options.Step = func(s sftp.Step) {
			step(Step{Name: s.Name, Took: s.Took, Detail: s.Detail, Err: s.Err, Trips: s.Trips})
		}
	}
	b, err := sftp.New(options)
	if err != nil {
		way.close()
		return nil, err
	}
	return &protocolSFTP{b, way}, nil
}

// protocolSFTP is a Backend that gives up the way to its server.
type protocolSFTP struct {
	*sftp.Backend
	way way
}

func (b *protocolSFTP) Close() error {
	defer b.way.close()
	return b.Backend.Close()
}

func scanSFTP(ctx context.Context, t conncfg.Target, o Options, want string) (trust.Identity, error) {
	way, err := wayTo(t, o)
	if err != nil {
		return trust.Identity{}, err
	}
	defer way.close()
	kind, blob, _, err := sftp.FindHostKey(ctx, optionsSFTP(t, o, way), want)
	return trust.Identity{Key: trust.HostKey{Type: kind, Blob: blob}}, err
}

// scanVia returns the key of the host in between.
func scanVia(ctx context.Context, t conncfg.Target, o Options, want string) (trust.Identity, error) {
	direct := t
	direct.Host, direct.Port, direct.Via = t.Via.Host, t.Via.Port, conncfg.Via{}
	return scanSFTP(ctx, direct, o, want)
}

// knownHosts are the files that tell which host keys to believe.
func knownHosts(t conncfg.Target, o Options) []string {
	files := slices.Clone(o.KnownHostsFiles)
	if t.SSH.KnownHostsFile != "" {
		files = append(files, t.SSH.KnownHostsFile)
	}
	return files
}

func optionsSFTP(t conncfg.Target, o Options, w way) sftp.Options {
	return sftp.Options{
		Address:          t.Address(),
		Username:         t.Username,
		Password:         o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.Password }),
		PrivateKey:       o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.SSH.PrivateKey }),
		PrivateKeyFile:   t.SSH.PrivateKeyFile,
		Passphrase:       o.reveal(t, func(t conncfg.Target) conncfg.Secret { return t.SSH.Passphrase }),
		CertificateFile:  t.SSH.CertificateFile,
		Agent:            t.SSH.Agent,
		AgentSocket:      t.SSH.AgentSocket,
		LegacyAlgorithms: t.SSH.LegacyAlgorithms,
		HostKey:          t.SSH.HostKey,
		KnownHostsFiles:  knownHosts(t, o),
		Trusted:          o.trusted,
		WorkingDir:       t.WorkingDir,
		Verify:           string(t.Verify),
		ConnectTimeout:   t.ConnectTimeout,
		SocketTimeout:    t.SocketTimeout,
		IdleTimeout:      t.IdleTimeout,
		Dial:             w.dial,
		Logger:           o.Logger,
		Trace:            o.Trace,
	}
}

// trusted hands the trusted keys down. A store that cannot be read trusts nobody, and the login is refused.
func (o Options) trusted(address string) []sftp.TrustedKey {
	if o.Trusted == nil {
		return nil
	}
	keys, err := o.Trusted(address)
	if err != nil && o.Logger != nil {
		o.Logger.Error("the trusted host keys cannot be read", "server", address, "err", err)
	}
	trusted := make([]sftp.TrustedKey, len(keys))
	for i, key := range keys {
		trusted[i] = sftp.TrustedKey{Type: key.Type, Blob: key.Blob}
	}
	return trusted
}
