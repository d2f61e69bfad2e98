package background

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// remote is what both kinds of servers can be made to suffer.
type remote interface {
	Kill(t testing.TB)
	Restart(t testing.TB)
	SetReadOnly(t testing.TB, on bool)
}

// outage is one way in which a server does not take what is owed.
type outage struct {
	name  string
	begin func()
	end   func()
	says  []string // one of these stands in the reason, or is the cause
}

// room is what the server's disk has, and content what is written to it.
const (
	room    = 8 << 20
	content = 256 << 10
)

// TestOutagesAreToldAndEnd: whatever keeps the server from taking what is owed, programs go on, operators read why, and when it is mended
// everything arrives.
func TestOutagesAreToldAndEnd(t *testing.T) {
	t.Parallel()
	t.Run("sshd", func(t *testing.T) {
		t.Parallel()
		server := servers.NewSSHD(t, servers.SSHOptions{Size: room})
		fields := daemon.To(t, server, background)
		fields["hostKey"] = server.Fingerprint(t)
		s := newStage(t, fields)
		s.suffer(server.Dir, append(s.outages(server, server.Dir),
			outage{"password changed", func() { server.ChangePassword(t, "another"); server.KillSessions(t) }, func() {
				fields["password"] = "another"
				s.define(fields)
			}, []string{"auth_failed"}},
			outage{"host key changed", func() { server.ChangeHostKeys(t) }, func() {
				fields["hostKey"] = server.Fingerprint(t)
				s.define(fields)
			}, []string{"host_key_changed"}}))
	})
	t.Run("vsftpd", func(t *testing.T) {
		t.Parallel()
		server := servers.NewFTP(t, servers.FTPOptions{Size: room})
		fields := maps.Clone(background)
		maps.Copy(fields, daemon.Fields{"protocol": "FTP", "host": server.Host, "port": server.Port, "username": server.User,
			"password": server.Password, "workingDir": server.Root})
		s := newStage(t, fields)
		s.suffer(server.Dir, append(s.outages(server, server.Dir),
			outage{"password changed", func() { server.ChangePassword(t, "another"); server.KillSessions(t) }, func() {
				fields["password"] = "another"
				s.define(fields)
			}, []string{"auth_failed"}}))
	})
}

// outages are those that every server may have.
func (s *stage) outages(server remote, dir string) []outage {
	filler := filepath.Join(dir, "filler")
	return []outage{
		{"gone", func() { server.Kill(s.t) }, func() { server.Restart(s.t) }, []string{"connection_refused"}},
		{"disk full", func() { fill(s.t, filler) }, func() { s.must(os.Remove(filler)) }, []string{"no space left", "451", "452", "552"}},
		{"permission denied", func() { s.must(os.Chmod(dir, 0o555)) }, func() { s.must(os.Chmod(dir, 0o755)) }, []string{"permission denied"}},
		{"read-only", func() { server.SetReadOnly(s.t, true) }, func() { server.SetReadOnly(s.t, false) },
			[]string{"read-only", "permission denied", "input/output error", "Failure"}},
	}
}

// define changes the definition, and has the daemon know it.
func (s *stage) define(fields daemon.Fields) {
	s.t.Helper()
	s.daemon.Define(s.t, connection, fields)
	s.daemon.Reload(s.t)
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// fill writes to the server's disk until it is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	for one := []byte{0}; ; { // what no block has room for
		if _, err = f.Write(one); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the server's disk: %v", err)
	}
}

// suffer has one outage after the other.
func (s *stage) suffer(dir string, all []outage) {
	s.t.Helper()
	for i, o := range all {
		name, text := fmt.Sprint("during ", o.name), strings.Repeat(fmt.Sprint(i), content)
		s.put("steady", fmt.Sprint("as before ", o.name))
		s.paid()
		s.list()
		o.begin()
		began := time.Now()
		s.put(name, text)
		if took := time.Since(began); took > 5*time.Second {
			s.t.Errorf("%s: the writer waited %v", o.name, took)
		}
		var last string
		s.await(fmt.Sprintf("%s is told as one of %q", o.name, o.says), func() bool {
			q := s.queue()
			if q.Count != 1 || q.Owed[0].Path != name {
				return false
			}
			last = q.Owed[0].Cause + " " + q.Owed[0].Reason
			return one(last, o.says)
		})
		if c := s.status(); c.OwedFiles != 1 || c.OwedBytes != content || c.OwedSince == "" || !one(c.OwedCause+" "+c.OwedReason, o.says) {
			s.t.Errorf("%s: status tells %+v", o.name, c)
		}
		o.end()
		s.paid()
		has(s.t, filepath.Join(dir, name), text)
		has(s.t, filepath.Join(dir, "steady"), fmt.Sprint("as before ", o.name))
	}
	if c := s.status(); c.OwedFiles+c.Held+c.Quarantined != 0 || c.OwedReason != "" {
		s.t.Errorf("after all outages status tells %+v", c)
	}
}

func one(text string, of []string) bool {
	for _, word := range of {
		if strings.Contains(strings.ToLower(text), strings.ToLower(word)) {
			return true
		}
	}
	return false
}

// TestStagingLimitIsENOSPC: who writes more than there may be owed is told so at once, and everything that was acknowledged arrives.
func TestStagingLimitIsENOSPC(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	fields := daemon.To(t, server, background)
	fields["stagingLimit"] = "16MiB"
	s := newStage(t, fields)
	s.put("steady", "as before")
	s.paid()
	server.Kill(t)
	const size = 1 << 20
	n := 0
	var err error
	for ; n < 20 && err == nil; n++ {
		err = os.WriteFile(filepath.Join(s.mount, fmt.Sprint("f", n)), make([]byte, size), 0o644)
	}
	if !errors.Is(err, syscall.ENOSPC) || n < 10 || n > 17 {
		t.Errorf("write number %d of 1 MiB: %v; want ENOSPC around 16 MiB", n, err)
	}
	server.Restart(t)
	s.paid()
	for i := range n - 1 {
		if info, err := os.Stat(filepath.Join(server.Dir, fmt.Sprint("f", i))); err != nil || info.Size() != size {
			t.Errorf("f%d at the server: %v, %v", i, info, err)
		}
	}
	s.put("after", "there is room again")
	s.paid()
	has(t, filepath.Join(server.Dir, "after"), "there is room again")
}

// TestStopSendsWhatItCan: SIGTERM sends what is owed; what the server does not take stays, and is told by the exit status until it is there.
func TestStopSendsWhatItCan(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	fields := daemon.To(t, server, background)
	s := newStage(t, fields)
	for i := range 20 {
		s.put(fmt.Sprint("f", i), fmt.Sprint(i))
	}
	if status := s.daemon.Stop(t); status != 0 {
		t.Errorf("exit status %d with a server that answers, want 0\n%s", status, s.daemon.Log())
	}
	for i := range 20 {
		has(t, filepath.Join(server.Dir, fmt.Sprint("f", i)), fmt.Sprint(i))
	}
	s.start()
	s.list()
	server.Kill(t)
	s.put("late", "precious")
	if status := s.daemon.Stop(t); status != 74 {
		t.Errorf("exit status %d with something owed, want 74\n%s", status, s.daemon.Log())
	}
	fields["enabled"] = false // it counts though nothing mounts it
	s.daemon.Define(t, connection, fields)
	s.start()
	if r := s.daemon.Pierfs(t, "queue", "--check", "--age", "1h"); r.Status != 0 || !strings.Contains(r.Stdout, "1 change is owed") {
		t.Errorf("queue --check: exit %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
	if r := s.daemon.Pierfs(t, "queue", "--check", "--age", "0s"); r.Status != 75 {
		t.Errorf("queue --check of what is too old: exit %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
	if r := s.daemon.Pierfs(t, "metrics"); !strings.Contains(r.Stdout, `pierfs_owed_changes{connection="partner",environment="Test"} 1`) {
		t.Errorf("metrics: exit %d, %s%s", r.Status, r.Stdout, r.Stderr)
	}
	if status := s.daemon.Stop(t); status != 74 {
		t.Errorf("exit status %d with a journal that nobody mounts, want 74", status)
	}
	fields["enabled"] = true
	s.daemon.Define(t, connection, fields)
	server.Restart(t)
	s.start()
	s.paid()
	has(t, filepath.Join(server.Dir, "late"), "precious")
	if r := s.daemon.Pierfs(t, "disable", connection); r.Status != 0 {
		t.Errorf("disable of what owes nothing: exit %d, %s", r.Status, r.Stderr)
	}
	if status := s.daemon.Stop(t); status != 0 {
		t.Errorf("exit status %d with nothing owed, want 0", status)
	}
}
