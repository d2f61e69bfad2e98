package cache_test

import (
	"context"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestStatDuringARenameDoesNotPartAFileFromItsName asks for the old name when the server has renamed and we do not know
// that yet: what is written afterwards must arrive all the same.
func TestStatDuringARenameDoesNotPartAFileFromItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(_ *mem.Options, to *cache.Options) {
			to.MetadataTTL, to.NegativeTTL = time.Millisecond, time.Millisecond
		})
		w.give("a", "old")
		f := w.open("a", writing)
		answer := make(chan struct{})
		w.server.SetAfter(func(_ context.Context, op, _ string) error {
			if op == "rename" {
				<-answer
			}
			return nil
		})
		renamed := make(chan error, 1)
		go func() { renamed <- w.tree.Rename(w.Context(), "a", "b", backends.Replace) }()
		synctest.Wait()
		time.Sleep(2 * w.options.MetadataTTL)
		asked := make(chan error, 1)
		go func() {
			_, err := w.tree.Stat(w.Context(), "a")
			asked <- err
		}()
		synctest.Wait()
		close(answer)
		w.must(<-renamed)
		wantErrno(t, <-asked, syscall.ENOENT)
		w.server.SetAfter(nil)
		w.write(f, "new", 0)
		w.close(f)
		w.has("b", "new")
		w.only("b")
		w.must(w.tree.Close(w.Context()))
	})
}

func TestWritesToAFileThatSomebodyElseRemovedAreNotCalledDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.give("f", "content")
		f := w.open("f", writing)
		w.must(w.server.Delete("f"))
		time.Sleep(2 * w.options.MetadataTTL)
		_, err := w.tree.Stat(w.Context(), "f")
		wantErrno(t, err, syscall.ENOENT)
		w.write(f, "lost?", 0)
		wantErrno(t, f.Publish(w.Context()), syscall.ESTALE)
		w.lacks("f")
		w.must(f.Close(w.Context(), true))
		w.must(w.tree.Close(w.Context()))
	})
}

func TestRenameOfADirectoryWaitsForPublicationsBelowIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.must(w.server.MakeDir("d"))
		f := w.open("d/f", creating)
		w.write(f, "one", 0)
		answer, first := make(chan struct{}), true
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "writeat" && first {
				first = false
				<-answer
			}
			return nil
		})
		published, renamed := make(chan error, 1), make(chan error, 1)
		go func() { published <- f.Publish(w.Context()) }()
		synctest.Wait()
		go func() { renamed <- w.tree.Rename(w.Context(), "d", "e", backends.Replace) }()
		synctest.Wait()
		close(answer)
		w.must(<-published)
		w.must(<-renamed)
		w.close(f)
		w.has("e/f", "one")
		if names, _ := w.server.Names("e"); !slices.Equal(names, []string{"f"}) {
			t.Errorf("the renamed directory holds %q", names)
		}
		w.only("e")
		w.must(w.tree.Close(w.Context()))
	})
}

func TestRenameNoReplaceOntoAnotherNameOfTheFileIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.give("a", "x")
	_, err := w.tree.Link(w.Context(), "a", "b")
	w.must(err)
	wantErrno(t, w.tree.Rename(w.Context(), "a", "b", backends.NoReplace), syscall.EEXIST)
	w.only("a", "b")
}

func TestNameThatWasALinkCanBeCreatedAnew(t *testing.T) {
	w := newWorld(t, nil)
	w.give("a", "x")
	_, err := w.tree.Link(w.Context(), "a", "b")
	w.must(err)
	w.must(w.server.Delete("a"))
	f := w.open("a", claiming)
	w.write(f, "new", 0)
	w.close(f)
	w.has("a", "new")
	w.has("b", "x")
	w.only("a", "b")
}

func TestRemovalOfAFileWhosePublicationWasLostRemovesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.open("f", creating)
		w.write(f, "content", 0)
		w.server.SetAfter(func(_ context.Context, op, name string) error {
			if op != "commit" {
				return nil
			}
			w.server.SetFault(func(_ context.Context, op, name string) error {
				return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: backends.Lost}
			})
			return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: backends.Lost}
		})
		if err := f.Publish(w.Context()); err == nil {
			t.Fatal("a publication without an answer was called done")
		}
		w.server.SetFault(nil)
		w.server.SetAfter(nil)
		time.Sleep(time.Minute) // the connection comes back
		w.must(w.tree.Remove(w.Context(), "f"))
		w.must(f.Close(w.Context(), true))
		w.only()
		w.must(w.tree.Close(w.Context()))
	})
}

func TestFileWithoutANameReplacesNothingWhenItGetsOne(t *testing.T) {
	w := newWorld(t, nil)
	f, _, err := w.tree.Temp(w.Context(), "", 0o600)
	w.must(err)
	w.write(f, "mine", 0)
	w.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "create" {
			w.server.SetFault(nil)
			w.give("f", "theirs") // in the last moment
		}
		return nil
	})
	_, err = f.Link(w.Context(), "f")
	wantErrno(t, err, syscall.EEXIST)
	w.has("f", "theirs")
	e, err := w.tree.Stat(w.Context(), "f")
	if err != nil || e.Size != int64(len("theirs")) {
		t.Errorf("size %d, %v under a name that is another's", e.Size, err)
	}
	_, err = f.Link(w.Context(), "g")
	w.must(err)
	w.close(f)
	w.has("g", "mine")
	w.only("f", "g")
}

// TestRenameOfADirectoryWaitsForChangesInIt: a removal that is under way asks for the old name, which must still be there.
func TestRenameOfADirectoryWaitsForChangesInIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.must(w.server.MakeDir("d"))
		w.give("d/f", "content")
		held := make(chan struct{})
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "remove" {
				<-held
			}
			return nil
		})
		removed, renamed := make(chan error, 1), make(chan error, 1)
		go func() { removed <- w.tree.Remove(w.Context(), "d/f") }()
		synctest.Wait()
		go func() { renamed <- w.tree.Rename(w.Context(), "d", "e", backends.Replace) }()
		synctest.Wait()
		close(held)
		w.must(<-removed)
		w.must(<-renamed)
		if names, err := w.server.Names("e"); err != nil || len(names) > 0 {
			t.Errorf("the renamed directory holds %q, %v; want nothing", names, err)
		}
		w.must(w.tree.Close(w.Context()))
	})
}
