package cache_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/cache"
	"pierfs/cache/journal"
)

// TestNewerContentOfANameIsSent: a daemon may have died when a name had been taken from one content, and another was owed to it already,
// before it had noted that the first is owed no more. The newer one is sent, and the older one kept for a person.
func TestNewerContentOfANameIsSent(t *testing.T) {
	w := newOwing(t, nil)
	w.refuse(true)
	w.save("f", "newer")
	if err := w.nextDaemonAfter(func(staging string) {
		j, _, err := journal.Open(filepath.Join(staging, "journal"), journal.Options{})
		w.must(err)
		first := j.Owed()[0]
		older := first
		older.Staged, older.Size = "1-1.data", 5
		w.must(os.WriteFile(filepath.Join(staging, older.Staged), []byte("older"), 0o600))
		w.must(j.Write(&journal.Change{Add: []journal.Entry{older, first}, Done: []uint64{first.Seq}}))
		w.must(j.Close())
	}); err == nil {
		t.Error("nothing is owed")
	}
	w.paid()
	w.has("f", "newer")
	w.only("f")
	w.staged(1)
	kept, err := os.ReadFile(filepath.Join(w.options.Quarantine, "1-1.data"))
	if err != nil || string(kept) != "older" {
		t.Errorf("kept is %q, %v", kept, err)
	}
}

// TestContentThatCannotBeReadNowIsHeld: a content that is owed and cannot be read when the daemon starts, for want of descriptors or because
// its disk is ill, is not given up. It is held and told, and the daemon that can read it sends it.
func TestContentThatCannotBeReadNowIsHeld(t *testing.T) {
	w := newOwing(t, nil)
	w.refuse(true)
	w.save("f", "content")
	w.save("g", "content of g")
	var path string
	var whole []byte
	_ = w.nextDaemonAfter(func(staging string) {
		all, err := filepath.Glob(filepath.Join(staging, "*.data"))
		w.must(err)
		for _, name := range all {
			if text, err := os.ReadFile(name); err == nil && string(text) == "content" {
				path, whole = name, text
			}
		}
		w.must(os.Truncate(path, 3))
	})
	w.await("the other one is sent", func() bool { return len(w.tree.Queue()) == 1 })
	if q := w.tree.Queue(); len(q) != 1 || q[0].Name != "f" || !q[0].Held || q[0].Reason == nil || !strings.Contains(q[0].Reason.Error(), "shorter") {
		t.Errorf("queue %+v, want f, held and why", q)
	}
	if err := w.tree.Drain(t.Context()); !errors.Is(err, cache.ErrOwed) {
		t.Errorf("Drain = %v, want ErrOwed", err)
	}
	_ = w.nextDaemonAfter(func(string) { w.must(os.WriteFile(path, whole, 0o600)) })
	w.paid()
	w.has("f", "content")
	w.staged(0)
}

// TestWhatWasWrittenBehindAPromiseIsKept: a program goes on writing behind its last fsync, and the daemon dies. What it was promised is sent,
// and what it had written since lies in quarantine with that.
func TestWhatWasWrittenBehindAPromiseIsKept(t *testing.T) {
	d := &dying{at: 1 << 30, dead: make(chan struct{})}
	w := newKnowing(t, d)
	w.away(true)
	f := w.open("log", cache.OpenMode{Write: true, Create: true, Append: true, Perm: 0o644})
	w.add(f, "promised\n")
	w.must(f.Publish(t.Context()))
	w.add(f, "and not yet\n")
	w.crash(d)
	w.away(false)
	w.paid()
	w.has("log", "promised\n")
	w.staged(1)
	all, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
	w.must(err)
	if text, err := os.ReadFile(all[0]); err != nil || !bytes.Equal(text, []byte("promised\nand not yet\n")) {
		t.Errorf("kept is %q, %v", text, err)
	}
}

// nextDaemonAfter is nextDaemon with something done to the staging directory while no daemon is there.
func (w *world) nextDaemonAfter(harm func(staging string)) error {
	w.Helper()
	err := w.stop()
	harm(w.options.Staging)
	w.next()
	return err
}
