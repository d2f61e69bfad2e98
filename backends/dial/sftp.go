package dial

import (
	"context"
	"slices"

	"pierfs/backends/sftp"
	"pierfs/conncfg"
	"pierfs/conncfg/trust"
)

func connectSFTP(t conncfg.Target, o Options, step func(Step)) (protocol, error) {
	options := optionsSFTP(t, o)
	if step != nil {
		options.Step = func(s sftp.Step) { step(Step{Name: s.Name, Took: s.Took, Detail: s.Detail, Err: s.Err}) }
	}
	return sftp.New(options)
}

func scanSFTP(ctx context.Context, t conncfg.Target, o Options) (trust.Identity, error) {
	kind, blob, _, err := sftp.ScanHostKey(ctx, optionsSFTP(t, o))
	return trust.Identity{Key: trust.HostKey{Type: kind, Blob: blob}}, err
}

// scanVia returns the key of the host in between.
func scanVia(ctx context.Context, t conncfg.Target, o Options) (trust.Identity, error) {
	direct := t
	direct.Host, direct.Port, direct.Via = t.Via.Host, t.Via.Port, conncfg.Via{}
	return scanSFTP(ctx, direct, o)
}

func optionsSFTP(t conncfg.Target, o Options) sftp.Options {
	files := slices.Clone(o.KnownHostsFiles)
	if t.SSH.KnownHostsFile != "" {
		files = append(files, t.SSH.KnownHostsFile)
	}
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
		KnownHostsFiles:  files,
		Trusted:          o.trusted,
		WorkingDir:       t.WorkingDir,
		ConnectTimeout:   t.ConnectTimeout,
		SocketTimeout:    t.SocketTimeout,
		Logger:           o.Logger,
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
