package sftp

import (
	"testing"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/integration/servers"
)

func TestSuiteOverPipe(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Backend { return newRig(t, Options{}, nil) }, backendtest.Options{Beside: true})
}

// A server that lacks extensions does less, and the suite holds it to saying so.
func TestSuiteWithoutExtensions(t *testing.T) {
	for _, denied := range []string{
		"posix-rename",
		"lsetstat,fsync,hardlink",
		"posix-rename,statvfs,fstatvfs,hardlink,fsync,lsetstat,limits,expand-path,copy-data,home-directory,users-groups-by-id",
	} {
		t.Run(denied, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backends.Backend {
				return newRig(t, Options{}, nil, "-P", denied)
			}, backendtest.Options{Beside: true})
		})
	}
}

func TestSuiteOverSSH(t *testing.T) {
	if testing.Short() {
		t.Skip("slow: starts a server for each rule")
	}
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		s := servers.NewSSHD(t, servers.SSHOptions{})
		return connect(t, s, Options{})
	}, backendtest.Options{Beside: true})
}

// connect returns a Backend for the server's user, by password, unless o says otherwise.
func connect(t testing.TB, s *servers.SSHD, o Options) *Backend {
	t.Helper()
	o.Address = s.Address()
	if o.Username == "" {
		o.Username = s.User
	}
	if o.Password == nil && o.PrivateKeyFile == "" && !o.Agent {
		o.Password = func() (string, error) { return s.Password, nil }
	}
	if o.HostKey == "" && o.Trusted == nil && o.KnownHostsFiles == nil {
		o.HostKey = s.Fingerprint(t)
	}
	b, err := New(o)
	ok(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}
