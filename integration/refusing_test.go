package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// refusing are servers that do not let contents gather beside their names, or take these, and what is told of each.
var refusing = map[string]struct {
	start func(*testing.T, daemon.Fields) *stage
	told  string
	keeps bool // nothing can be removed
}{
	"vsftpd, no names with a dot":           {ftpWith(servers.Vsftpd, "deny_file={.*}"), "refuses temporary names", false},
	"vsftpd, no renaming":                   {ftpWith(servers.Vsftpd, "cmds_denied=RNFR,RNTO"), "refuses to rename uploads", false},
	"vsftpd, no renaming and no removing":   {ftpWith(servers.Vsftpd, "cmds_denied=RNFR,RNTO,DELE"), "refuses to rename uploads", true},
	"pure-ftpd, no names with a dot":        {ftpWith(servers.PureFTPd, "--prohibitdotfileswrite"), "refuses temporary names", false},
	"proftpd, only some names":              {ftpWith(servers.ProFTPD, `PathAllowFilter "\.csv$"`), "refuses temporary names", false},
	"proftpd, no renaming":                  {ftpWith(servers.ProFTPD, "<Limit RNFR RNTO>", "DenyAll", "</Limit>"), "refuses to rename uploads", false},
	"proftpd, no renaming over another":     {ftpWith(servers.ProFTPD, "<Directory />", "AllowOverwrite off", "</Directory>"), "cannot replace a file in one step", false},
	"sshd, no posix-rename":                 {sftpWithout("posix-rename"), "cannot replace a file in one step", false},
	"sshd, no rename":                       {sftpWithout("rename"), "", false},
	"sshd, no renaming at all":              {sftpWithout("rename,posix-rename"), "refuses to rename uploads", false},
	"sshd, no renaming, links and removing": {sftpWithout("rename,posix-rename,hardlink,remove"), "refuses to rename uploads", true},
}

func ftpWith(kind servers.FTPKind, config ...string) func(*testing.T, daemon.Fields) *stage {
	return func(t *testing.T, more daemon.Fields) *stage {
		return newFTPStage(t, servers.FTPOptions{Kind: kind, Config: config}, more)
	}
}

func sftpWithout(requests string) func(*testing.T, daemon.Fields) *stage {
	return func(t *testing.T, more daemon.Fields) *stage {
		return newStage(t, servers.SSHOptions{SFTP: "internal-sftp -P " + requests}, more)
	}
}

// TestServersThatRefuseTemporaryNames: files are made, replaced, changed and created exclusively where uploads cannot go their usual way,
// and the log and the status tell what that costs.
func TestServersThatRefuseTemporaryNames(t *testing.T) {
	t.Parallel()
	for name, c := range refusing {
		for _, commit := range []string{"close", "background"} {
			t.Run(name+", "+commit, func(t *testing.T) {
				t.Parallel()
				s := c.start(t, daemon.Fields{"commit": commit})
				is := func(name, content string) {
					t.Helper()
					s.daemon.Pierfs(t, "queue", "retry", connection)
					await(t, name+" is at the server", func() bool {
						got, err := os.ReadFile(filepath.Join(s.behind, name))
						return err == nil && string(got) == content
					})
					has(t, filepath.Join(s.mount, name), []byte(content))
				}
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				at := func(name string) string { return filepath.Join(s.mount, name) }
				must(put(at("a.csv"), []byte("content of a")))
				is("a.csv", "content of a")
				must(put(at("a.csv"), []byte("content of a, and another")))
				is("a.csv", "content of a, and another")
				f, err := os.OpenFile(at("a.csv"), os.O_RDWR, 0)
				must(err)
				_, err = f.WriteAt([]byte("CONTENT"), 0)
				must(errors.Join(err, f.Close()))
				is("a.csv", "CONTENT of a, and another")
				f, err = os.OpenFile(at("b.csv"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
				must(err)
				_, err = f.WriteString("content of b")
				must(errors.Join(err, f.Close()))
				is("b.csv", "content of b")
				if _, err = os.OpenFile(at("b.csv"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); !errors.Is(err, syscall.EEXIST) {
					t.Errorf("a second exclusive creation: %v", err)
				}

				if status := s.daemon.Pierfs(t, "status").Stdout; c.told != "" && !strings.Contains(status, c.told) {
					t.Errorf("status tells nothing of it:\n%s", status)
				}
				if left := sh(t, s.behind, `ls -A`); !c.keeps && left != "a.csv\nb.csv\n" {
					t.Errorf("the server has %q", left)
				}
			})
		}
	}
}
