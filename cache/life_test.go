package cache_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/cache"
)

func TestOneOfTwoClosesAtOnceIsTheLast(t *testing.T) {
	w := newWorld(t, nil)
	for range 200 {
		f := w.open("f", creating)
		w.open("f", writing)
		w.write(f, "content", 0)
		var closes sync.WaitGroup
		for range 2 {
			closes.Go(func() {
				if err := f.Close(w.Context(), false); err != nil {
					t.Error(err)
				}
			})
		}
		closes.Wait()
		w.has("f", "content")
		w.must(w.server.Delete("f"))
		w.tree.Refresh(w.Context(), "f")
	}
}

func TestFileOpenedDuringAFailingLastCloseIsKeptForWhoOpenedIt(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("f", creating)
	w.write(f, "content", 0)
	var again *cache.File
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op != "create" {
			return nil
		}
		if again == nil {
			again = w.open("f", writing)
		}
		return syscall.EDQUOT
	})
	if err := f.Close(w.Context(), false); err != nil {
		t.Errorf("Close = %v though another open owes the content now", err)
	}
	w.server.SetFault(nil)
	if owed := w.tree.Owed(); owed.Files != 1 || owed.Quarantined != 0 {
		t.Errorf("owed %+v, want one file and nothing in quarantine", owed)
	}
	w.close(again)
	w.has("f", "content")
}

func TestNothingIsWrittenAfterTheTreeIsClosed(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "con")
	f := w.open("f", writing)
	w.write(f, "tent", 3)
	w.must(w.tree.Close(w.Context()))
	w.has("f", "content")
	_, err := f.WriteAt(w.Context(), []byte("late"), 0)
	wantErrno(t, err, syscall.ESHUTDOWN)
	_, err = f.Append(w.Context(), []byte("late"))
	wantErrno(t, err, syscall.ESHUTDOWN)
	size := int64(0)
	_, err = f.SetAttr(w.Context(), backends.Attr{Size: &size})
	wantErrno(t, err, syscall.ESHUTDOWN)
	w.must(f.Close(w.Context(), false))
	_, err = f.WriteAt(w.Context(), []byte("later"), 0)
	wantErrno(t, err, syscall.EBADF)
	w.empty(w.options.Staging, w.options.Quarantine)
	w.uncached()
}

// empty demands that nothing is left in the directories but the list of names that a living tree has taken.
func (w *world) empty(dirs ...string) {
	w.Helper()
	for _, dir := range dirs {
		left, err := os.ReadDir(dir)
		left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return e.Name() == "taken" })
		if err != nil || len(left) != 0 {
			w.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
}

func TestAbandonedExclusiveCreationLeavesNothing(t *testing.T) {
	w := newWorld(t, nil)
	f := w.open("lock", claiming)
	w.write(f, "half", 0)
	w.must(f.Close(w.Context(), true))
	w.only()
	if _, err := w.tree.Stat(w.Context(), "lock"); backends.Errno(err) != syscall.ENOENT {
		t.Errorf("Stat of the abandoned name: %v", err)
	}
	w.close(w.open("lock", claiming))
	w.only("lock")
}

func TestTruncateThatFailsChangesNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", "content")
	f := w.open("f", writing)
	w.must(os.RemoveAll(w.options.Staging)) // as if the local disk were full
	size := int64(0)
	if _, err := f.SetAttr(w.Context(), backends.Attr{Size: &size}); err == nil {
		t.Fatal("a file was cut without a place to keep that")
	}
	if got := w.read(f); got != "content" {
		t.Errorf("the file reads %q after a truncate that failed", got)
	}
	w.must(os.Mkdir(w.options.Staging, 0o700))
	w.close(f)
	w.has("f", "content")
}

func TestAttributesOfAReplacedFileAreNotThoseOfItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", "old")
		f := w.open("f", reading)
		w.read(f)
		w.give("tmp", "successor")
		w.must(w.server.Move("tmp", "f"))
		time.Sleep(2 * w.options.MetadataTTL)
		_, err := w.tree.Stat(w.Context(), "f") // the tree learns of it
		w.must(err)
		perm := os.FileMode(0o600)
		_, err = f.SetAttr(w.Context(), backends.Attr{Perm: &perm})
		wantErrno(t, err, syscall.ESTALE)
		if info, err := w.server.Lstat("f"); err != nil || info.Mode.Perm() == perm {
			t.Errorf("mode %v, %v: the other file was changed", info.Mode, err)
		}
		w.must(f.Close(w.Context(), false))
		w.must(w.tree.Close(w.Context()))
	})
}

func TestModeChangedDuringAWriteIsKept(t *testing.T) {
	w := newWorld(t, nil)
	w.give("f", strings.Repeat("x", 100))
	f := w.open("f", writing)
	perm := os.FileMode(0o751)
	w.server.SetAfter(func(_ context.Context, op, _ string) error {
		if op == "setattr" {
			w.write(f, "changed", 0) // the server has answered, and the answer is on its way
		}
		return nil
	})
	_, err := f.SetAttr(w.Context(), backends.Attr{Perm: &perm})
	w.must(err)
	w.server.SetAfter(nil)
	w.close(f)
	if info, err := w.server.Lstat("f"); err != nil || info.Mode.Perm() != perm {
		t.Errorf("mode %v, %v on the server, want %v", info.Mode, err, perm)
	}
}
