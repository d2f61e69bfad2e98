package hostile

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
)

// defineFTP defines a connection to server.
func (s *stage) defineFTP(name string, server *FTPServer, more daemon.Fields) {
	s.t.Helper()
	fields := daemon.Fields{
		"protocol": "FTP", "host": server.Host, "port": server.Port, "username": server.User, "password": server.Password,
		"workingDir": server.Root, "timeout": timeout.String(), "allowOddTimeout": true, "retryCount": retries,
	}
	maps.Copy(fields, more)
	s.daemon.Define(s.t, name, fields)
	s.secrets = append(s.secrets, server.Password)
}

// furnishFTPDeeds puts what the deeds work on into the working directory.
func furnishFTPDeeds(s *FTPServer) {
	for _, name := range []string{"stat", "read", "write", "append", "remove", "rename", "chmod", "truncate", "link"} {
		s.Put(name, File{Data: name, Mtime: 1_700_000_000})
	}
	s.Put("list/1", File{})
	s.Put("list/2", File{})
	s.Put("rmdir", Dir())
	s.Put("readlink", Link("read"))
}

// TestDaemonUnderFTPAttack is the third row of the threat table for FTP as a whole: whatever the servers do, no program
// hangs, the daemon lives and stays small, nothing is taken for uploaded that is not, and the honest mount serves as ever.
func TestDaemonUnderFTPAttack(t *testing.T) {
	t.Parallel()
	attacks := map[string][]FTPRule{
		"mute":               {FTPMute()},
		"stall":              {FTPStalls()},
		"cut":                {FTPCuts()},
		"refused":            {FTPReplies("550 no")},
		"busy":               {FTPReplies("450 busy")},
		"bye":                {FTPReplies("421 bye")},
		"all well":           {FTPReplies("250 fine")},
		"stray":              {FTPAdds("213 999")},
		"pasv-nonsense":      {FTPReplies("500 no", "EPSV"), FTPReplies("227 )(", "PASV")},
		"no-data":            {FTPReplies("425 no", "EPSV", "PASV")},
		"flood":              {FTPFloods("250-x\r\n")},
		"flood-line":         {FTPFloods("2")},
		"discard":            {FTPTakes(-1, 0, "226 done")},
		"half":               {FTPTakes(-1, 1000, "226 done")},
		"full":               {FTPTakes(-1, 1000, "452 disk full")},
		"quota":              {FTPReplies("552 quota exceeded", "STOR", "APPE")},
		"no-226":             {FTPTakes(-1, -1, "")},
		"short":              {FTPSends("x", "226 done", "RETR", "MLSD")},
		"endless-listing":    {FTPSendsForEver(func() string { return "type=file;size=1; " + strings.Repeat("x", 200) + "\r\n" }, "MLSD")},
		"endless-file":       {FTPSendsForEver(func() string { return strings.Repeat("x", 1<<16) }, "RETR")},
		"silent-data":        {FTPSends("", "", "RETR", "MLSD")},
		"no-rename":          {FTPReplies("553 no", "RNTO")},
		"rename-is-pretence": {FTPReplies("350 go on", "RNFR"), FTPReplies("250 sure", "RNTO")},
	}
	s := newStage(t)
	servers := map[string]*FTPServer{}
	for name := range attacks {
		name = strings.ReplaceAll(name, " ", "-")
		server := NewFTP(t, FTPManner{})
		furnishFTPDeeds(server)
		servers[name] = server
		s.defineFTP(name, server, nil)
	}
	s.start()
	stop := s.watch()
	var attack sync.WaitGroup
	turns := make(chan struct{}, 6) // so many attacks at once
	for name, rules := range attacks {
		name = strings.ReplaceAll(name, " ", "-")
		attack.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			server, dir := servers[name], s.daemon.Mount(name)
			s.meets(name)
			server.Behave(FTPManner{Rules: rules})
			for _, deed := range deeds {
				err := does(t, patience, name+": "+deed.name, func() error { return deed.do(dir) })
				if target := map[string]string{"write": "write", "write anew": "new"}[deed.name]; target != "" {
					f, there := server.Get(target)
					if err == nil && f.Data != content {
						t.Errorf("%s: %s succeeded, and the server has %d bytes of %d", name, deed.name, len(f.Data), len(content))
					}
					if err != nil && there && f.Data != content && f.Data != target {
						t.Errorf("%s: %s failed (%v), and the server has %d bytes under the name", name, deed.name, err, len(f.Data))
					}
				}
				if errors.Is(err, errUntrue) {
					t.Errorf("%s: %s: %v", name, deed.name, err)
				}
			}
			if server.Behave(FTPManner{}); len(server.strays()) > 0 {
				t.Errorf("%s: the server was sent %q", name, server.strays())
			}
		})
	}
	attack.Wait()
	stop()
}

// TestNoInjectedFTPCommandThroughTheMount: a name with a line end is a name like any other to programs, and never a command
// to the server.
func TestNoInjectedFTPCommandThroughTheMount(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	server := NewFTP(t, FTPManner{})
	furnishFTPDeeds(server)
	s.defineFTP("ftp", server, nil)
	s.start()
	dir := s.daemon.Mount("ftp")
	for _, name := range []string{"x\r\nDELE read", "x\nDELE read", "x\rDELE read", "\nSITE CHMOD 777 read"} {
		at := filepath.Join(dir, name)
		for what, do := range map[string]func() error{
			"write":      func() error { return put(at, content) },
			"mkdir":      func() error { return os.Mkdir(at, 0o755) },
			"remove":     func() error { return syscall.Unlink(at) },
			"rename":     func() error { return os.Rename(filepath.Join(dir, "rename"), at) },
			"stat":       func() error { _, err := os.Lstat(at); return err },
			"list":       func() error { _, err := os.ReadDir(at); return err },
			"stat in it": func() error { _, err := os.Lstat(filepath.Join(at, "y")); return err },
		} {
			if err := does(t, patience, what, do); err == nil {
				t.Errorf("%s of %q succeeded", what, name)
			}
		}
	}
	if strays := server.strays(); len(strays) > 0 || server.Asked("SITE") > 0 {
		t.Errorf("the server was sent %q", strays)
	}
	if f, ok := server.Get("read"); !ok || f.Data != "read" {
		t.Errorf("the file is %q, %v", f.Data, ok)
	}
}

// TestFTPMountNames is the second row: what a server calls a link, a directory or a file of the working
// directory is never a way out of it, and its words move no cursor.
func TestFTPMountNames(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, name := range []string{"../escape", "/etc/passwd", "..", ".", "a/b", "nul\x00byte", "cr\rhere", strings.Repeat("x", 300)} {
		fmt.Fprintf(&b, "type=file;size=4; %s\r\n", name)
	}
	good := []string{"esc\x1b[2Jape", "latin1-\xe4", "c1-\u009b31m", "plain"}
	for _, name := range good {
		fmt.Fprintf(&b, "type=file;size=4; %s\r\n", name)
	}
	b.WriteString("type=OS.unix=slink:/etc/passwd;size=4; out\r\ntype=OS.unix=slink:../../etc/passwd; up\r\n")
	server := NewFTP(t, FTPManner{Rules: []FTPRule{FTPSends(b.String(), "226 done", "MLSD")}})
	furnishFTPDeeds(server)
	server.Put("out", Link("/etc/passwd"))
	server.Put("up", Link("../../etc/passwd"))
	s := newStage(t)
	s.defineFTP("ftp", server, nil)
	s.start()
	var got []string
	if err := does(t, patience, "list", func() error {
		entries, err := os.ReadDir(s.daemon.Mount("ftp"))
		for _, e := range entries {
			got = append(got, e.Name())
		}
		return err
	}); err != nil {
		t.Errorf("list: %v", err)
	}
	for _, name := range good {
		if !slices.Contains(got, name) {
			t.Errorf("%q is missing in %q", name, got)
		}
	}
	if len(got) > len(good)+2 {
		t.Errorf("the directory has %q", got)
	}
	for _, name := range []string{"out", "up"} {
		content, err := os.ReadFile(s.at("ftp", name))
		if err == nil && string(content) == Outside {
			t.Errorf("through %s lies what is outside", name)
		}
	}
	for _, args := range [][]string{{"ls", "ftp:/"}, {"ls", "ftp:/", "--json"}, {"stat", "ftp:/no\x1b[2J"}} {
		r := s.daemon.Pierfs(t, args...)
		for where, out := range map[string]string{"output": r.Stdout, "errors": r.Stderr} {
			if at := control.FindString(out); at != "" {
				t.Errorf("pierfs %q: a terminal is sent %q in its %s:\n%q", args, at, where, out)
			}
		}
	}
	if strays := server.strays(); len(strays) > 0 {
		t.Errorf("the server was asked for what lies outside: %q", strays)
	}
}
