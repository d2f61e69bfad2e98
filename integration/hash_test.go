package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// asked counts the commands that the server got and that begin with one of words.
func asked(t *testing.T, server *servers.FTP, words ...string) (n int) {
	t.Helper()
	for _, command := range server.Commands(t) {
		for _, word := range words {
			if strings.HasPrefix(command, word+" ") {
				n++
			}
		}
	}
	return n
}

// TestServerIsAskedForItsChecksum: with verify = "hash" a server that computes checksums is asked for one of each upload, and nothing is
// read back.
func TestServerIsAskedForItsChecksum(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	o := servers.FTPOptions{Kind: servers.ProFTPD}
	server := servers.NewFTP(t, o)
	way := link.New(t, link.Options{})
	host, port := split(t, server.Through(t, way))
	s := stageOf(t, server, o, daemon.Fields{"host": host, "port": port, "verify": "hash"})
	content := random(8, size)
	crossed := way.Meter()
	if err := put(filepath.Join(s.mount, "order"), content); err != nil {
		t.Fatal(err)
	}
	if c := crossed(); c.ToClient > size/8 {
		t.Errorf("%v, want no content back", c)
	}
	has(t, filepath.Join(s.behind, "order"), content)
	if n := asked(t, server, "HASH", "XSHA512", "XSHA256"); n != 1 {
		t.Errorf("the server was asked for %d checksums, want one:\n%s", n, strings.Join(server.Commands(t), "\n"))
	}
}

// lying makes a pyftpdlib tell checksums of its own invention, as often as asked for first, and the truth from then on.
func lying(times int) servers.FTPOptions {
	return servers.FTPOptions{Kind: servers.PyFTPdlib, Config: []string{fmt.Sprintf(`
import hashlib
lies = [%d]
made = Handler.__init__
def init(self, *args, **named):
    made(self, *args, **named)
    self._extra_feats = self._extra_feats + ['XSHA256']
def ftp_XSHA256(self, path):
    with open(path, 'rb') as f:
        told = hashlib.sha256(f.read()).hexdigest()
    if lies[0]:
        lies[0] -= 1
        told = '0' * 64
    self.respond('250 ' + told)
Handler.__init__, Handler.ftp_XSHA256 = init, ftp_XSHA256
Handler.proto_cmds = dict(Handler.proto_cmds, XSHA256=dict(perm='r', auth=True, arg=True, help='XSHA256 path'))
`, times)}}
}

// TestWrongChecksumIsSentAgainAndThenTold: what arrives is other than what was sent, says the server. It is sent again, and where that does not
// help the program is told, or the operator; the old content stays.
func TestWrongChecksumIsSentAgainAndThenTold(t *testing.T) {
	t.Parallel()
	const tries = 3
	for what, c := range map[string]struct {
		lies  int
		later bool
	}{"once": {1, false}, "always": {1000, false}, "always, in the background": {1000, true}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o := lying(c.lies)
			server := servers.NewFTP(t, o)
			fields := daemon.Fields{"verify": "hash", "retryCount": tries - 1}
			if c.later {
				maps.Copy(fields, daemon.Fields{"commit": "background", "drainTimeout": "1s"})
			}
			s := stageOf(t, server, o, fields)
			if err := os.WriteFile(filepath.Join(s.behind, "order"), []byte("as before"), 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(s.behind, "order"), 0o666); err != nil {
				t.Fatal(err)
			}
			err := put(filepath.Join(s.mount, "order"), []byte("changed"))
			switch {
			case c.lies == 1:
				if err != nil {
					t.Errorf("close: %v, want nil once it was sent again", err)
				}
				has(t, filepath.Join(s.behind, "order"), []byte("changed"))
				if n := asked(t, server, "STOR"); n != 2 {
					t.Errorf("it was sent %d times, want 2", n)
				}
				return
			case c.later:
				if err != nil {
					t.Errorf("close: %v, want nil", err)
				}
				await(t, "the queue tells of it", func() bool {
					return strings.Contains(s.daemon.Pierfs(t, "queue", connection, "--json").Stdout, "other bytes than were sent")
				})
			default:
				errnoIs(t, "close", err, syscall.EIO)
				if n := asked(t, server, "STOR"); n != tries {
					t.Errorf("it was sent %d times, want %d", n, tries)
				}
				if log := s.daemon.Log(); !strings.Contains(log, "other bytes than were sent") {
					t.Errorf("the log tells nothing of it:\n%s", log)
				}
			}
			has(t, filepath.Join(s.behind, "order"), []byte("as before"))
		})
	}
}
