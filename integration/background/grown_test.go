package background

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// server is what both kinds are to these tests.
type server interface {
	Kill(t testing.TB)
	Restart(t testing.TB)
}

// onBoth runs test with an sshd and with a vsftpd.
func onBoth(t *testing.T, test func(t *testing.T, server server, dir string, fields daemon.Fields)) {
	t.Parallel()
	t.Run("sshd", func(t *testing.T) {
		t.Parallel()
		server := servers.NewSSHD(t, servers.SSHOptions{})
		test(t, server, server.Dir, daemon.To(t, server, background))
	})
	t.Run("vsftpd", func(t *testing.T) {
		t.Parallel()
		server := servers.NewFTP(t, servers.FTPOptions{})
		test(t, server, server.Dir, toFTP(server))
	})
}

// toFTP is background on server.
func toFTP(server *servers.FTP) daemon.Fields {
	fields := maps.Clone(background)
	maps.Copy(fields, daemon.Fields{"protocol": "FTP", "host": server.Host, "port": server.Port, "username": server.User,
		"password": server.Password, "workingDir": server.Root})
	return fields
}

// TestOwedLinesGoBehindTheServersOwn: programs go on writing to a log while the server is gone, and a program at the server does so too; the daemon is
// killed in between. All lines are there once, theirs before ours, and a mode that was set is that of the file.
func TestOwedLinesGoBehindTheServersOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, server server, dir string, fields daemon.Fields) {
		s := newStage(t, fields)
		log, behind := filepath.Join(s.mount, "log"), filepath.Join(dir, "log")
		s.put("log", "one\n")
		s.paid()
		s.list()
		server.Kill(t)
		for _, line := range []string{"two\n", "three\n"} {
			s.must(addTo(log, line))
		}
		s.must(os.Chmod(log, 0o604))
		theirs := strings.Repeat("theirs\n", 1000)
		s.must(addTo(behind, theirs))
		s.daemon.Kill()
		s.start()
		s.must(addTo(log, "four\n"))
		server.Restart(t)
		s.paid()
		want := "one\n" + theirs + "two\nthree\nfour\n"
		has(t, behind, want)
		has(t, log, want)
		if info, err := os.Stat(behind); err != nil || info.Mode().Perm() != 0o604 {
			t.Errorf("at the server: %v, %v; want the mode 0604", info, err)
		}
		if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 1 {
			t.Errorf("the server has %q, %v; want the log alone", names, err)
		}
		if c := s.status(); c.Quarantined+c.Held != 0 {
			t.Errorf("status tells %+v", c)
		}
	})
}

func addTo(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// TestQuotaIsToldAndEnds: a login has used up what pure-ftpd gives it. What is owed waits, operators read why, and it arrives when there is room.
func TestQuotaIsToldAndEnds(t *testing.T) {
	t.Parallel()
	server := servers.NewFTP(t, servers.FTPOptions{Kind: servers.PureFTPd, Chroot: true, Config: []string{"--quota", "1000:1"}})
	s := newStage(t, toFTP(server))
	s.put("steady", strings.Repeat("s", 900<<10))
	s.paid()
	s.list()
	late := strings.Repeat("l", 400<<10)
	s.put("late", late)
	s.await("the quota is told", func() bool {
		q := s.queue()
		return q.Count == 1 && q.Owed[0].Path == "late" && q.Owed[0].Tries > 0 && strings.Contains(strings.ToLower(q.Owed[0].Reason), "quota")
	})
	if c := s.status(); c.OwedFiles != 1 || !strings.Contains(strings.ToLower(c.OwedReason), "quota") {
		t.Errorf("status tells %+v", c)
	}
	has(t, filepath.Join(s.mount, "late"), late)
	if _, err := os.Stat(filepath.Join(server.Dir, "late")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("the server has a part of it under its name: %v", err)
	}
	s.must(os.Remove(filepath.Join(s.mount, "steady")))
	s.paid()
	has(t, filepath.Join(server.Dir, "late"), late)
}
