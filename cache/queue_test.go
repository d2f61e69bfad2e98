package cache_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/backends/retry"
	"pierfs/cache"
)

func TestStagingLimitIsToldToWhoWrites(t *testing.T) {
	const limit = 1 << 20
	w := newOwing(t, func(_ *mem.Options, to *cache.Options) { to.StagingLimit = limit })
	w.refuse(true)
	w.save("first", strings.Repeat("x", limit/2))
	f := w.open("second", creating)
	_, err := f.WriteAt(t.Context(), make([]byte, limit), 0)
	wantErrno(t, err, syscall.ENOSPC)
	w.must(f.Close(t.Context(), true))
	w.save("small", "there is room for this")
	if err := w.nextDaemon(); !errors.Is(err, cache.ErrOwed) {
		t.Errorf("Close = %v, want ErrOwed", err)
	}
	w.refuse(true)
	f = w.open("third", creating) // what a former daemon left counts
	_, err = f.WriteAt(t.Context(), make([]byte, limit*3/4), 0)
	wantErrno(t, err, syscall.ENOSPC)
	w.must(f.Close(t.Context(), true))
	w.refuse(false)
	w.paid()
	w.staged(0)
	w.save("fourth", strings.Repeat("y", limit*3/4)) // what was sent gives its room back
	w.must(w.tree.Drain(t.Context()))
	w.only("first", "small", "fourth")
}

func TestDrainTellsWhatIsLeft(t *testing.T) {
	w := newOwing(t, nil)
	w.must(w.tree.Drain(t.Context()))
	w.refuse(true)
	w.save("f", "content")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.tree.Drain(ctx); !errors.Is(err, cache.ErrOwed) {
		t.Errorf("Drain = %v, want ErrOwed", err)
	}
	w.must(w.tree.Hold(w.tree.Queue()[0].Seq))
	if err := w.tree.Drain(t.Context()); !errors.Is(err, cache.ErrOwed) { // and does not wait for what nobody sends
		t.Errorf("Drain of what is held = %v, want ErrOwed", err)
	}
	if owed := w.tree.Owed(); owed.Held != 1 || owed.Files != 1 {
		t.Errorf("owed %+v, want one that is held", owed)
	}
	w.refuse(false)
	w.must(w.tree.Retry(w.tree.Queue()[0].Seq))
	w.must(w.tree.Drain(t.Context()))
	w.has("f", "content")
	if owed := w.tree.Owed(); owed.Held != 0 || owed.Files != 0 || owed.Outage != nil {
		t.Errorf("owed %+v, want nothing", owed)
	}
}

func TestOutageIsTold(t *testing.T) {
	w := newOwing(t, func(_ *mem.Options, to *cache.Options) {
		to.Retry = retry.Policy{Count: 1, Timeout: 100 * time.Millisecond}
	})
	w.refuse(true)
	w.save("f", "content")
	w.server.SetFault(func(context.Context, string, string) error {
		return &backends.Error{Op: "any", Code: syscall.EHOSTDOWN, Class: backends.Transient, Cause: backends.CauseConnRefused}
	})
	w.tree.Wake()
	w.await("the outage is told", func() bool {
		q := w.tree.Queue()
		return w.tree.Owed().Outage != nil && len(q) == 1 && q[0].Reason != nil && (q[0].Sending || !q[0].Next.IsZero())
	})
	w.refuse(false)
	w.must(w.tree.Drain(t.Context()))
	if err := w.tree.Owed().Outage; err != nil {
		t.Errorf("outage %v after its end", err)
	}
}

// dueContent reads what is due.
func dueContent(t *testing.T, r io.ReadCloser, due cache.Due, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || int64(len(got)) != due.Size {
		t.Errorf("%d bytes, %v; want %d", len(got), err, due.Size)
	}
	return string(got)
}

// TestWhoWritesOnBehindWhatIsDroppedIsTold: an operator drops what is owed to a file that a program still writes. What it has written behind that
// has no place any more, and close tells it.
func TestWhoWritesOnBehindWhatIsDroppedIsTold(t *testing.T) {
	w := newRemote(t, nil)
	w.give("f", "old")
	w.sees()
	w.away(true)
	f := w.open("f", cutting)
	w.write(f, "first", 0)
	w.must(f.Publish(t.Context()))
	w.write(f, ", and more", 5)
	_, err := w.tree.Drop(w.tree.Queue()[0].Seq, true)
	w.must(err)
	wantErrno(t, f.Publish(t.Context()), syscall.ESTALE)
	w.must(f.Close(t.Context(), true))
	w.away(false)
	w.has("f", "old")
	w.staged(1)
}

func TestWhatIsDueCanBeTakenAndDropped(t *testing.T) {
	w := newOwing(t, nil)
	w.give("log", strings.Repeat("line\n", 100_000))
	w.refuse(true)
	w.save("a", "content of a")
	w.save("b", "content of b")
	f := w.open("log", writing)
	w.add(f, "last line\n")
	w.must(f.Close(t.Context(), false))
	due := map[string]cache.Due{}
	for _, d := range w.tree.Queue() {
		due[d.Name] = d
	}
	if len(due) != 3 || due["log"].Missing == 0 || due["a"].Missing != 0 {
		t.Fatalf("queue %+v, want three, of which log is not all here", due)
	}
	if _, _, err := w.tree.OpenDue(due["log"].Seq); err == nil {
		t.Error("what is not all here was opened")
	}
	r, d, err := w.tree.OpenDue(due["a"].Seq)
	if got := dueContent(t, r, d, err); got != "content of a" {
		t.Errorf("a is due as %q", got)
	}
	kept, err := w.tree.Drop(due["a"].Seq, true)
	w.must(err)
	if got, err := os.ReadFile(kept); string(got) != "content of a" || filepath.Dir(kept) != w.options.Quarantine {
		t.Errorf("%s holds %q, %v", kept, got, err)
	}
	if kept, err := w.tree.Drop(due["b"].Seq, false); err != nil || kept != "" {
		t.Errorf("Drop = %q, %v; want nothing kept", kept, err)
	}
	if _, err := w.tree.Drop(due["b"].Seq, false); err == nil {
		t.Error("b was dropped twice")
	}
	for _, name := range []string{"a", "b"} {
		if _, err := w.tree.Stat(t.Context(), name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s, which was dropped: %v", name, err)
		}
	}
	w.refuse(false)
	w.must(w.tree.Drain(t.Context()))
	w.only("log")
	w.staged(1)
}

func TestWhatIsLeftCanBeDealtWithUnmounted(t *testing.T) {
	w := newOwing(t, nil)
	if left, err := cache.Left(filepath.Join(t.TempDir(), "never")); err != nil || left != nil {
		t.Errorf("a directory that never was owes %v, %v", left, err)
	}
	w.refuse(true)
	for _, name := range []string{"a", "b", "c"} {
		w.save(name, "content of "+name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.tree.Close(ctx); !errors.Is(err, cache.ErrOwed) {
		t.Errorf("Close = %v, want ErrOwed", err)
	}
	left, err := cache.Left(w.options.Staging)
	w.must(err)
	if len(left) != 3 || left[0].Name != "a" || left[0].Held || left[0].Target != w.options.Target {
		t.Fatalf("left %+v", left)
	}
	r, d, err := cache.OpenLeft(w.options.Staging, left[1].Seq)
	if got := dueContent(t, r, d, err); got != "content of b" {
		t.Errorf("b is due as %q", got)
	}
	w.must(cache.HoldLeft(w.options.Staging, left[0].Seq))
	kept, err := cache.DropLeft(w.options.Staging, w.options.Quarantine, left[1].Seq, true)
	w.must(err)
	if got, err := os.ReadFile(kept); string(got) != "content of b" {
		t.Errorf("%s holds %q, %v", kept, got, err)
	}
	left, err = cache.Left(w.options.Staging)
	w.must(err)
	if len(left) != 2 || !left[0].Held || left[1].Name != "c" {
		t.Fatalf("left %+v, want a held and c", left)
	}
	w.next()
	w.refuse(false)
	if err := w.tree.Drain(t.Context()); !errors.Is(err, cache.ErrOwed) {
		t.Errorf("Drain = %v, want ErrOwed of what is held", err)
	}
	w.only("c")
	w.nextDaemon()
	w.must(cacheClosed(w))
	w.must(cache.RetryLeft(w.options.Staging, left[0].Seq))
	w.next()
	w.must(w.tree.Drain(t.Context()))
	w.only("a", "c")
}

// cacheClosed closes the tree, whose server goes on.
func cacheClosed(w *world) error {
	ctx, cancel := context.WithCancel(w.Context())
	cancel()
	if err := w.tree.Close(ctx); !errors.Is(err, cache.ErrOwed) {
		return err
	}
	return nil
}

// TestWhatReadersFetchIsPromisedOnlyOnceItIsSynced loses the power after readers fetched what a content builds on, and a program
// changed nothing but an attribute since: zeros must not pass for what was fetched.
func TestWhatReadersFetchIsPromisedOnlyOnceItIsSynced(t *testing.T) {
	old := strings.Repeat("line\n", 100_000)
	var onDisk []byte
	var path string
	w := newOwing(t, func(_ *mem.Options, to *cache.Options) {
		to.Hook = func(site string) {
			if site == "staging.synced" {
				found, _ := filepath.Glob(filepath.Join(to.Staging, "*.data"))
				path = found[0]
				onDisk, _ = os.ReadFile(path)
			}
		}
	})
	w.give("log", old)
	w.refuse(true)
	f := w.open("log", cache.OpenMode{Read: true, Write: true})
	w.add(f, "last\n")
	w.must(f.Publish(t.Context()))
	w.shows("log", old+"last\n")
	mode := os.FileMode(0o600)
	_, err := w.tree.SetAttr(t.Context(), "log", backends.Attr{Perm: &mode})
	w.must(err)
	w.must(f.Close(t.Context(), false))
	w.must(cacheClosed(w))
	w.must(os.WriteFile(path, onDisk, 0o600)) // as the disk has it, had the power gone
	w.next()
	w.refuse(true)
	w.shows("log", old+"last\n")
	w.refuse(false)
	w.must(w.tree.Drain(t.Context()))
	w.has("log", old+"last\n")
}
