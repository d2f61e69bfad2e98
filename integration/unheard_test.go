package integration

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/backends/retry"
	"pierfs/cache"
	"pierfs/conncfg"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// unheard is a server one of whose answers gets lost, and which another host reaches meanwhile.
type unheard struct {
	backends.Backend
	lose atomic.Pointer[func() error] // called once, behind the change that ends an upload or renames
}

func (u *unheard) lost(err error) error {
	if lose := u.lose.Swap(nil); err == nil && lose != nil {
		return (*lose)()
	}
	return err
}

func (u *unheard) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	return u.lost(u.Backend.Rename(ctx, from, to, mode))
}

func (u *unheard) Remove(ctx context.Context, name string) error {
	return u.lost(u.Backend.Remove(ctx, name))
}

func (u *unheard) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	w, err := u.Backend.Create(ctx, name, mode)
	if err != nil {
		return nil, err
	}
	return &unheardWriter{w, u}, nil
}

type unheardWriter struct {
	backends.Writer
	u *unheard
}

func (w *unheardWriter) Commit(ctx context.Context, c backends.Commit) (backends.Info, error) {
	info, err := w.Writer.Commit(ctx, c)
	return info, w.u.lost(err)
}

// maybe is what may lie beside a name or not: if the answer to the last step was lost, theirs came later than ours.
const maybe = "maybe"

// TestForeignFileBehindALostAnswerStaysOnServers has another host replace what was just published, renamed or removed on a real server, while the
// answer to that is lost: his file stays what it is, and ours beside it.
func TestForeignFileBehindALostAnswerStaysOnServers(t *testing.T) {
	t.Parallel()
	sshd := servers.NewSSHD(t, servers.SSHOptions{})
	vsftpd := servers.NewFTP(t, servers.FTPOptions{})
	host, port := split(t, vsftpd.Address())
	ftp, err := dial.Dial(conncfg.Target{
		Name: connection, Protocol: conncfg.FTP, Host: host, Port: port, Username: vsftpd.User, Password: conncfg.NewSecret(vsftpd.Password),
		WorkingDir: vsftpd.Root, ConnectTimeout: process.Patience, SocketTimeout: process.Patience,
	}, dial.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ftp.Close() })
	for _, s := range []struct {
		what, dir string
		b         backends.Backend
	}{
		{"SFTP", sshd.Dir, openBackend(t, sshd, sshd.Address()).(*retry.Backend).Backend},
		{"FTP", vsftpd.Dir, ftp.Backend},
	} {
		for i, c := range []struct {
			what, theirs, beside string // beside: what is beside it then
			background           bool
			change               func(tree *cache.Tree, name string) error
			moved                bool // what was there is at the name with a 2 behind it
			code                 syscall.Errno
		}{
			{what: "a change", theirs: "theirs, longer", beside: "before, and more", change: grown, code: syscall.ESTALE},
			{what: "a change, theirs of our size", theirs: "BEFORE, AND MORE", beside: "before, and more", change: grown, code: syscall.ESTALE},
			{what: "an owed change", background: true, theirs: "theirs, longer", beside: maybe, change: grown},
			{what: "a renaming", theirs: "theirs", moved: true, change: func(tree *cache.Tree, name string) error {
				return tree.Rename(context.Background(), name, name+"2", backends.Replace)
			}},
			{what: "a removal", theirs: "theirs", change: func(tree *cache.Tree, name string) error { return tree.Remove(context.Background(), name) }},
		} {
			t.Run(s.what+", "+c.what, func(t *testing.T) {
				name := "f" + strconv.Itoa(i)
				path := filepath.Join(s.dir, name)
				give := func(text string) error { return os.WriteFile(path, []byte(text), 0o666) }
				if err := give("before"); err != nil {
					t.Fatal(err)
				}
				now := time.Now().Add(-time.Hour)
				if err := os.Chtimes(path, now, now); err != nil {
					t.Fatal(err)
				}
				u := &unheard{Backend: s.b}
				policy := retry.Policy{Count: 2, Timeout: process.Patience}
				state := t.TempDir()
				tree, err := cache.New(stays{retry.New(u, policy, retry.Options{})}, cache.Options{
					Staging: filepath.Join(state, "staging"), Quarantine: filepath.Join(state, "quarantine"), Retry: policy,
					Background: c.background, Target: s.what, Host: "here", MetadataTTL: time.Minute, NegativeTTL: time.Minute,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer tree.Close(context.Background())
				if _, err := tree.Stat(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				lose := func() error {
					if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
						return err
					}
					if err := give(c.theirs); err != nil {
						return err
					}
					return &backends.Error{Op: "rename", Name: name, Code: syscall.ECONNRESET, Class: backends.Lost, Cause: backends.CauseConnLost}
				}
				u.lose.Store(&lose)
				if err := c.change(tree, name); backends.Errno(err) != c.code {
					t.Errorf("it ended with %v, want %v", err, c.code)
				}
				if err := tree.Drain(t.Context()); err != nil {
					t.Error(err)
				}
				if u.lose.Load() != nil {
					t.Fatal("no answer was lost")
				}
				wants := map[string]string{path: c.theirs}
				if c.moved {
					wants[path+"2"] = "before"
				}
				beside, err := filepath.Glob(path + ".conflict-here-*")
				switch {
				case err != nil, c.beside == "" && len(beside) > 0, c.beside != "" && c.beside != maybe && len(beside) != 1:
					t.Errorf("beside it lies %q, %v", beside, err)
				case len(beside) == 1:
					wants[beside[0]] = "before, and more"
				}
				for at, want := range wants {
					if got, err := os.ReadFile(at); err != nil || string(got) != want {
						t.Errorf("%s holds %q, %v, want %q", strings.TrimPrefix(at, s.dir), got, err, want)
					}
				}
			})
		}
	}
}

// stays is a Backend that outlives the trees on it.
type stays struct{ backends.Backend }

func (stays) Close() error { return nil }

// grown reads a file and writes it anew with more behind it.
func grown(tree *cache.Tree, name string) error {
	ctx := context.Background()
	f, _, err := tree.Open(ctx, name, cache.OpenMode{Read: true, Write: true})
	if err != nil {
		return err
	}
	p := make([]byte, 6)
	if _, err := f.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	for off, text := range []string{"before, and more"} {
		if _, err := f.WriteAt(ctx, []byte(text), int64(off)); err != nil {
			return err
		}
	}
	err = f.Publish(ctx)
	if closed := f.Close(ctx, err != nil); err == nil {
		err = closed
	}
	return err
}
