package ftp

import (
	"crypto/tls"
	"fmt"
	"testing"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/integration/servers"
)

// way is one way to speak with a kind of server.
type way struct {
	kind servers.FTPKind
	mode servers.TLSMode
	tls  uint16 // the one version; 0 without TLS
}

func (w way) String() string {
	if w.mode == servers.Plain {
		return fmt.Sprintf("%v/%v", w.kind, w.mode)
	}
	return fmt.Sprintf("%v/%v/%s", w.kind, w.mode, map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"}[w.tls])
}

// ways returns every way to speak with every server.
func ways() (all []way) {
	for _, kind := range servers.FTPKinds() {
		for _, mode := range servers.FTPModes(kind) {
			if mode == servers.Plain {
				all = append(all, way{kind, mode, 0})
				continue
			}
			all = append(all, way{kind, mode, tls.VersionTLS12}, way{kind, mode, tls.VersionTLS13})
		}
	}
	return all
}

func (w way) options() servers.FTPOptions {
	o := servers.FTPOptions{Kind: w.kind, TLS: w.mode, MinTLS: w.tls, MaxTLS: w.tls}
	if w.kind == servers.ProFTPD && w.tls == tls.VersionTLS12 {
		o.Config = append(o.Config, "TLSSessionTickets on") // the only way of resumption that Go knows in 1.2
	}
	return o
}

// refused are the names that a kind of server cannot bear.
func refused(kind servers.FTPKind) []string {
	names := []string{"new\nline", "carriage\rreturn"}
	switch kind {
	case servers.Vsftpd:
		names = nil
	case servers.PureFTPd:
		names = append(names, "trailing ", "tab\there", "escape\x1b[31m", "back\\slash", "del\x7f")
	case servers.PyFTPdlib:
		names = append(names, "latin1-\xe4\xf6\xfc", "\xff\xfe")
	}
	return names
}

// refusedDirs are the names that a kind of server bears for files only.
func refusedDirs(kind servers.FTPKind) []string {
	if kind == servers.ProFTPD {
		return []string{"star*"}
	}
	return nil
}

// TestSuite gives every rule a directory of its own on one server of each kind. The race detector sees two of the ways, for
// it makes everything ten times slower; integration/test.sh runs all of them without it as well.
// Holds rows 71, 72, 118 and 119 of the requirements.
func TestSuite(t *testing.T) {
	for _, w := range ways() {
		if raceEnabled && w != (way{servers.Vsftpd, servers.Plain, 0}) && w != (way{servers.ProFTPD, servers.Explicit, tls.VersionTLS13}) {
			continue
		}
		t.Run(w.String(), func(t *testing.T) {
			t.Parallel()
			s := servers.NewFTP(t, w.options())
			above, rules := connect(t, s, w.mode, Options{}), 0
			backendtest.Run(t, func(t *testing.T) backends.Backend {
				rules++
				dir := fmt.Sprint("rule", rules)
				ok(t, above.Mkdir(t.Context(), dir, 0o755))
				return connect(t, s, w.mode, Options{WorkingDir: dir})
			}, backendtest.Options{Refused: refused(w.kind), RefusedDirs: refusedDirs(w.kind)})
		})
	}
}

// connect returns a Backend for the server's user, unless o says otherwise.
func connect(t testing.TB, s *servers.FTP, mode servers.TLSMode, o Options) *Backend {
	t.Helper()
	if o.Address == "" {
		o.Address = s.Address()
	}
	if o.Username == "" {
		o.Username = s.User
	}
	if o.Password == nil {
		o.Password = func() (string, error) { return s.Password, nil }
	}
	b, err := New(secured(s, mode, o))
	ok(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// secured adds how the server wants TLS spoken.
func secured(s *servers.FTP, mode servers.TLSMode, o Options) Options {
	if mode != servers.Plain && o.TLS == nil {
		o.TLS = &TLS{Implicit: mode == servers.Implicit, MinVersion: tls.VersionTLS12, CAFile: s.Authority.File, ServerName: s.Host}
	}
	return o
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
