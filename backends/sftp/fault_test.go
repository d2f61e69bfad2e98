package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/integration/servers"
)

// leaves fails the test unless, once b is closed, no goroutine of this package or of the libraries below it is left.
func leaves(t *testing.T, b *Backend) {
	t.Helper()
	ok(t, b.Close())
	eventually(t, func() string { return "all goroutines end\n" + stacks() }, func() bool { return stacks() == "" })
}

// stacks returns the stacks of goroutines that belong to a session.
func stacks() string {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var ours []string
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if strings.Contains(stack, "testing.tRunner") || strings.Contains(stack, "sftp.serve.") {
			continue
		}
		if strings.Contains(stack, "backends/sftp.") || strings.Contains(stack, "crypto/ssh.") || strings.Contains(stack, "pkg/sftp") {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}

// everyCall is one call of each kind, by name; each returns its error.
func everyCall(ctx context.Context, b *Backend, r backends.Reader, w backends.Writer) map[string]func() error {
	when := time.Unix(1e9, 0)
	return map[string]func() error{
		"stat": func() error { _, err := b.Stat(ctx, "file"); return err },
		"list": func() error {
			for _, err := range b.List(ctx, "") {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"open":     func() error { _, err := b.Open(ctx, "file"); return err },
		"readat":   func() error { _, err := r.ReadAt(ctx, make([]byte, 1<<20), 0); return err },
		"create":   func() error { _, err := b.Create(ctx, "new", backends.WriteMode{TempName: ".new"}); return err },
		"commit":   func() error { _, err := w.Commit(ctx, backends.Commit{}); return err },
		"mkdir":    func() error { return b.Mkdir(ctx, "dir", 0o755) },
		"rename":   func() error { return b.Rename(ctx, "file", "other", backends.Replace) },
		"setattr":  func() error { _, err := b.SetAttr(ctx, "file", backends.Attr{ModTime: &when}); return err },
		"symlink":  func() error { return b.Symlink(ctx, "x", "link") },
		"readlink": func() error { _, err := b.Readlink(ctx, "link"); return err },
		"statfs":   func() error { _, err := b.StatFS(ctx); return err },
	}
}

// stopTimeout is the timeout of connections whose server is stopped. What the server does before that must be done in it,
// on a busy machine too.
const stopTimeout = 2 * time.Second

// slack is what a busy machine may add to a timeout. Whoever waits for what never comes exceeds it all the same.
const slack = 8 * time.Second

// dies returns when the session has ended.
func dies(t *testing.T, s *session) {
	t.Helper()
	select {
	case <-s.dead:
	case <-time.After(10 * time.Second):
		t.Fatal("the session is not found dead")
	}
}

// inUse is the session that b has now.
func inUse(b *Backend) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current
}

// A server that is stopped in the middle of everything costs every caller an error within the timeout, and nothing stays
// behind.
func TestStoppedServerFreesEveryCaller(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	b := connect(t, s, Options{SocketTimeout: stopTimeout})
	put(t, filepath.Join(s.Dir, "file"), make([]byte, 4<<20))
	ok(t, os.Chmod(s.Dir, 0o777))
	r, err := b.Open(t.Context(), "file")
	ok(t, err)
	w, err := b.Create(t.Context(), "upload", backends.WriteMode{TempName: ".upload"})
	ok(t, err)
	s.Stop(t)
	defer s.Cont(t)
	var all sync.WaitGroup
	begun := time.Now()
	for name, call := range everyCall(t.Context(), b, r, w) {
		all.Go(func() {
			err := call()
			took := time.Since(begun)
			if err == nil || backends.Errno(err) == syscall.EIO && took < stopTimeout {
				t.Errorf("%s: got %v after %v", name, err, took)
			}
			if class := backends.ClassOf(err); class != backends.Lost && class != backends.Transient {
				t.Errorf("%s: class %v of %v", name, class, err)
			}
			if took > 2*stopTimeout+slack {
				t.Errorf("%s took %v, the timeout is %v", name, took, stopTimeout)
			}
		})
	}
	all.Wait()
	begun = time.Now()
	leaves(t, b)
	if took := time.Since(begun); took > stopTimeout+slack {
		t.Errorf("Close took %v", took)
	}
}

// An upload into a black hole blocks in a write; that write too ends within the timeout.
func TestStoppedServerFreesUpload(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	ok(t, os.Chmod(s.Dir, 0o777))
	b := connect(t, s, Options{SocketTimeout: stopTimeout})
	w, err := b.Create(t.Context(), "upload", backends.WriteMode{TempName: ".upload"})
	ok(t, err)
	s.Stop(t)
	defer s.Cont(t)
	begun, block := time.Now(), make([]byte, 1<<20)
	for off := int64(0); err == nil; off += int64(len(block)) {
		if off > 64<<20 {
			t.Fatal("64 MiB went into a stopped server")
		}
		_, err = w.WriteAt(t.Context(), block, off)
	}
	if took := time.Since(begun); took > 3*stopTimeout+slack {
		t.Errorf("the upload gave up after %v, the timeout is %v", took, stopTimeout)
	}
	begun = time.Now()
	if err := w.Abort(); err == nil {
		t.Error("Abort says that a stopped server has removed the temporary file")
	}
	if took := time.Since(begun); took > 2*stopTimeout+slack {
		t.Errorf("Abort took %v", took)
	}
	leaves(t, b)
}

// An ended context frees its caller at once, whatever the server does, and does not cost the others their session.
func TestContextFreesCaller(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	ok(t, os.Chmod(s.Dir, 0o777))
	put(t, filepath.Join(s.Dir, "file"), make([]byte, 4<<20))
	b := connect(t, s, Options{SocketTimeout: 2 * slack})
	r, err := b.Open(t.Context(), "file")
	ok(t, err)
	w, err := b.Create(t.Context(), "upload", backends.WriteMode{TempName: ".upload"})
	ok(t, err)
	s.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var all sync.WaitGroup
	begun := time.Now()
	for name, call := range everyCall(ctx, b, r, w) {
		all.Go(func() {
			if err := call(); backends.Errno(err) != syscall.ETIMEDOUT {
				t.Errorf("%s: got %v, want ETIMEDOUT", name, err)
			}
			if took := time.Since(begun); took > slack {
				t.Errorf("%s took %v", name, took)
			}
		})
	}
	all.Wait()
	s.Cont(t)
	works(t, b)
	if n := s.Sessions(); n != 1 {
		t.Errorf("%d sessions, want the first one", n)
	}
	// The handles that arrived late are closed, and what they made is gone.
	// Some of them are removed by goroutines that nobody waits for.
	eventually(t, func() string { return "late temporary files are removed" }, func() bool {
		_, created := os.Lstat(filepath.Join(s.Dir, ".new"))
		_, uploaded := os.Lstat(filepath.Join(s.Dir, ".upload"))
		return errors.Is(created, os.ErrNotExist) && errors.Is(uploaded, os.ErrNotExist)
	})
	leaves(t, b)
}

// An idle session that the server has ended is replaced, and nobody notices.
func TestDeadSessionIsReplaced(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	b := connect(t, s, Options{})
	works(t, b)
	r, err := b.Open(t.Context(), "")
	if err == nil {
		r.Close()
	}
	s.KillSessions(t)
	dies(t, inUse(b))
	works(t, b)
	s.Kill(t)
	_, err = b.Stat(t.Context(), "")
	if class := backends.ClassOf(err); err == nil || class == backends.Final || class == backends.Refused {
		t.Errorf("with the server gone: %v %v", class, err)
	}
	s.Restart(t)
	works(t, b)
	leaves(t, b)
}

// An idle session is not killed for its silence; one whose server has stopped is, by the keepalive.
func TestIdleSession(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	b := connect(t, s, Options{SocketTimeout: stopTimeout})
	works(t, b)
	first := inUse(b)
	select {
	case <-first.dead:
		t.Error("the idle session died")
	case <-time.After(2 * stopTimeout):
	}
	works(t, b)
	if inUse(b) != first {
		t.Error("the idle session was replaced")
	}
	s.Stop(t)
	defer s.Cont(t)
	dies(t, first)
}

// A full disk fails the upload as such, and what the name held stays byte for byte: nothing is renamed before the replies
// that justify it.
func TestFullDiskKeepsOldContent(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount tmpfs: %v (this test needs root)", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	for _, size := range []int{200 << 10, 4 << 20} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			r := newRigAt(t, dir, Options{}, nil)
			old := strings.Repeat("old content ", 50000)
			put(t, r.path("file"), []byte(old))
			put(t, r.path("filler"), make([]byte, 1<<20-len(old)-100<<10))
			_, err := create(t.Context(), r, "file", make([]byte, size), backends.WriteMode{TempName: ".file"})
			if backends.Errno(err) != syscall.ENOSPC {
				t.Errorf("got %v, want ENOSPC", err)
			}
			if get(t, r.path("file")) != old {
				t.Error("the old content has changed")
			}
			if _, err := os.Lstat(r.path(".file")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the temporary file: %v", err)
			}
		})
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, "size=1m"); err != nil {
		t.Fatalf("mount tmpfs: %v (this test needs root)", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	r := newRigAt(t, dir, Options{}, nil)
	_, created := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".file"})
	for what, err := range map[string]error{"mkdir": r.Mkdir(t.Context(), "d", 0o755), "create": created} {
		if backends.Errno(err) != syscall.EROFS {
			t.Errorf("%s: got %v, want EROFS", what, err)
		}
	}
}

// Two programs that create the same name exclusively can never both win.
func TestExclusiveIsDecidedByServer(t *testing.T) {
	r := newRig(t, Options{}, nil)
	var won atomic.Int64
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			mode := backends.WriteMode{TempName: fmt.Sprint(".tmp", n), Exclusive: true}
			switch _, err := create(t.Context(), r, "lock", []byte("mine"), mode); {
			case err == nil:
				won.Add(1)
			case backends.Errno(err) != syscall.EEXIST:
				t.Errorf("got %v, want EEXIST", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d won", won.Load())
	}
	if got := entries(t, r, ""); len(got) != 1 { // what removes the rest leaves ahead of the question
		t.Errorf("the losers leave %q", got)
	}
	w, err := r.Create(t.Context(), "other", backends.WriteMode{TempName: ".t", Exclusive: true})
	ok(t, err)
	ok(t, w.Abort())
	if got := entries(t, r, ""); len(got) != 1 {
		t.Errorf("after Abort there are %q", got)
	}
}

// A server that gives less than it was asked for costs more requests, and no byte.
func TestShortReadsAreReadOn(t *testing.T) {
	r := newRig(t, Options{}, nil)
	content := bytes.Repeat([]byte("0123456789abcdef"), 128<<10) // 2 MiB; OpenSSH gives at most 261120 bytes at a time
	put(t, r.path("file"), content)
	works(t, r.Backend)
	r.current.maxRead = 1 << 20 // beyond what the server gives
	f, err := r.Open(t.Context(), "file")
	ok(t, err)
	p := make([]byte, len(content)+10)
	n, err := f.ReadAt(t.Context(), p, 0)
	if n != len(content) || err != io.EOF || !bytes.Equal(p[:n], content) {
		t.Errorf("ReadAt = %d, %v of %d bytes", n, err, len(content))
	}
	n, info, err := f.ReadLast(t.Context(), p[:len(content)], 0)
	if n != len(content) || err != nil && err != io.EOF || info.Size != int64(n) || !bytes.Equal(p[:n], content) {
		t.Errorf("ReadLast = %d, %v of %d bytes", n, err, len(content))
	}
}

// A long transfer does not hold up a stat by more than what is on its way already.
func TestBulkDoesNotStarveStat(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	put(t, filepath.Join(s.Dir, "big"), make([]byte, 64<<20))
	b := connect(t, s, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var moved atomic.Int64
	running := make(chan struct{})
	run := sync.OnceFunc(func() { close(running) })
	for range 4 {
		all.Go(func() {
			p := make([]byte, 2<<20)
			for ctx.Err() == nil {
				r, err := b.Open(ctx, "big")
				if err != nil {
					return
				}
				for off := int64(0); off < 64<<20 && ctx.Err() == nil; off += int64(len(p)) {
					n, err := r.ReadAt(ctx, p, off)
					if moved.Add(int64(n)) > 64<<20 {
						run()
					}
					if err != nil && ctx.Err() == nil {
						t.Errorf("ReadAt: %v", err)
						return
					}
				}
				r.Close()
			}
		})
	}
	select {
	case <-running:
	case <-time.After(time.Minute):
		t.Error("the transfers do not run")
	}
	worst := time.Duration(0)
	for range 20 {
		begun := time.Now()
		_, err := b.Stat(t.Context(), "big")
		ok(t, err)
		worst = max(worst, time.Since(begun))
	}
	cancel()
	all.Wait()
	t.Logf("slowest of 20 stats beside 4 readers: %v", worst)
	if worst > slack {
		t.Errorf("a stat took %v beside four readers", worst)
	}
}
