package cache_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pierfs/backends"
	"pierfs/backends/mem"
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

// TestWhatWasWrittenBehindWhatArrivedIsKept: a program goes on writing to a file that has arrived, and the daemon dies before it is closed.
func TestWhatWasWrittenBehindWhatArrivedIsKept(t *testing.T) {
	w := newOwing(t, nil)
	f := w.open("f", logging)
	w.add(f, "acknowledged")
	w.must(f.Publish(t.Context()))
	w.paid()
	w.add(f, ", and more")
	w.dies()
	w.has("f", "acknowledged")
	w.keeps("acknowledged, and more")
}

// TestWhatWasWrittenOverWhatArrivedIsKept: a program changes bytes of a file that has arrived, or cuts it, and the daemon dies before it is closed.
// Where nothing was changed nothing is kept.
func TestWhatWasWrittenOverWhatArrivedIsKept(t *testing.T) {
	for _, c := range []struct {
		what, kept string
		change     func(*world, *cache.File)
	}{
		{what: "nothing", change: func(*world, *cache.File) {}},
		{"a write", "ACKnowledged", func(w *world, f *cache.File) { w.write(f, "ACK", 0) }},
		{"a cut", "ack", func(w *world, f *cache.File) { w.cut(f, 3) }},
		{"a cut and as much again", "ackNOWLEDGED", func(w *world, f *cache.File) {
			w.cut(f, 3)
			w.write(f, "NOWLEDGED", 3)
		}},
		{"what arrived as well", "", func(w *world, f *cache.File) {
			w.write(f, "ACK", 0)
			w.must(f.Publish(w.Context()))
			w.paid()
			w.has("f", "ACKnowledged")
			w.write(f, "acknowledged", 0)
			w.must(f.Publish(w.Context()))
			w.paid()
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newOwing(t, nil)
			f := w.open("f", creating)
			w.write(f, "acknowledged", 0)
			w.must(f.Publish(t.Context()))
			w.paid()
			c.change(w, f)
			w.dies()
			w.has("f", "acknowledged")
			w.keeps(c.kept)
		})
	}
}

// TestWhatTheKernelWroteOverWhatArrivedIsKept is the same for a file that the kernel writes by itself: whether we have looked at it since or not.
func TestWhatTheKernelWroteOverWhatArrivedIsKept(t *testing.T) {
	for _, c := range []struct {
		what, kept string
		change     func(*world, *cache.File, *os.File)
	}{
		{what: "nothing", change: func(_ *world, f *cache.File, _ *os.File) { f.Stirred() }},
		{"a write", "ACKnowledged", func(w *world, _ *cache.File, disk *os.File) { w.writeTo(disk, "ACK") }},
		{"a write that was seen", "ACKnowledged", func(w *world, f *cache.File, disk *os.File) {
			w.writeTo(disk, "ACK")
			if !f.Stirred() {
				w.Error("the write is not seen")
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newOwing(t, func(_ *mem.Options, to *cache.Options) { to.Passthrough = true })
			f := w.open("f", creating)
			disk, err := f.Ride(creating, nil)
			if err != nil || disk == nil {
				t.Fatal(disk, err)
			}
			w.writeTo(disk, "acknowledged")
			w.must(f.Publish(t.Context()))
			if second, err := f.Ride(writing, disk); err != nil || second == nil { // so that what is owed is set apart, and sent
				t.Fatal(second, err)
			}
			w.paid()
			c.change(w, f, disk)
			w.dies()
			w.has("f", "acknowledged")
			w.keeps(c.kept)
		})
	}
}

// dies leaves the tree as a daemon that is killed does, and makes the next one.
func (w *world) dies() {
	dead := w.tree
	w.next()
	w.Cleanup(func() { dead.Close(context.Background()) })
}

// keeps demands that quarantine holds that content alone; "" is nothing.
func (w *world) keeps(content string) {
	w.Helper()
	kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
	w.must(err)
	var all []string
	for _, path := range kept {
		text, err := os.ReadFile(path)
		w.must(err)
		all = append(all, string(text))
	}
	if content == "" && len(all) > 0 || content != "" && !slices.Equal(all, []string{content}) {
		w.Errorf("quarantine holds %q, want %q", all, content)
	}
}

func (w *world) cut(f *cache.File, size int64) {
	w.Helper()
	_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
	w.must(err)
}

func (w *world) writeTo(disk *os.File, content string) {
	w.Helper()
	_, err := disk.WriteAt([]byte(content), 0)
	w.must(err)
}

// TestDamagedRecordPutsItsContentIntoQuarantine: a record of the journal is damaged on the disk. Its content is not sent and not thrown away: it lies
// in quarantine with a note of what it is, the damaged journal beside it, and what the other records owe arrives.
func TestDamagedRecordPutsItsContentIntoQuarantine(t *testing.T) {
	w := newOwing(t, nil)
	w.refuse(true)
	for _, name := range []string{"first", "precious", "last"} {
		w.save(name, "content of "+name)
	}
	if err := w.stop(); err == nil {
		t.Error("nothing is owed")
	}
	path := filepath.Join(w.options.Staging, "journal")
	text, err := os.ReadFile(path)
	w.must(err)
	at := bytes.LastIndex(text, []byte("precious"))
	if at < 0 {
		t.Fatalf("the journal tells nothing of the file: %q", text)
	}
	text[at] ^= 1
	w.must(os.WriteFile(path, text, 0o600))
	w.next()
	w.must(w.tree.Drain(t.Context()))
	w.only("first", "last")
	w.has("first", "content of first")
	w.has("last", "content of last")
	w.staged(1)
	kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("quarantine holds %q, %v", kept, err)
	}
	if content, err := os.ReadFile(kept[0]); err != nil || string(content) != "content of precious" {
		t.Errorf("it is %q, %v", content, err)
	}
	if note, err := os.ReadFile(strings.TrimSuffix(kept[0], ".data") + ".json"); err != nil || !strings.Contains(string(note), `"name":"precious"`) || !strings.Contains(string(note), `"begun"`) {
		t.Errorf("its note is %s, %v", note, err)
	}
	beside, err := filepath.Glob(filepath.Join(w.options.Quarantine, "journal.*"))
	if err != nil || len(beside) != 1 {
		t.Fatalf("the damaged journal is not kept: %q, %v", beside, err)
	}
	if damaged, err := os.ReadFile(beside[0]); err != nil || !bytes.Equal(damaged, text) {
		t.Errorf("the damaged journal is kept as %q, %v", damaged, err)
	}
	if owed := w.tree.Owed(); owed.Quarantined != 1 || owed.LastError == nil || !strings.Contains(owed.LastError.Error(), beside[0]) {
		t.Errorf("it is told as %+v, want where the journal is", owed)
	}
}

// What a crash has left of a staging file in quarantine stays there when another one leaves more of the same file.
func TestEachCrashKeepsWhatWasWrittenBehindAPromise(t *testing.T) {
	d := &dying{dead: make(chan struct{})}
	w := newOwing(t, func(_ *mem.Options, to *cache.Options) { to.Hook = d.hook })
	w.refuse(true)
	f := w.open("f", creating)
	w.write(f, "promised", 0)
	w.must(f.Publish(w.Context()))
	w.add(f, ", first")
	w.crash(d)
	f = w.open("f", writing)
	w.add(f, ", second and longer")
	w.next()
	kept, err := filepath.Glob(filepath.Join(w.options.Quarantine, "*.data"))
	w.must(err)
	var all []string
	for _, path := range kept {
		content, err := os.ReadFile(path)
		w.must(err)
		all = append(all, string(content))
		if _, err := os.Stat(strings.TrimSuffix(path, ".data") + ".json"); err != nil {
			t.Error("no note tells what is kept:", err)
		}
	}
	slices.Sort(all)
	if want := []string{"promised, first", "promised, second and longer"}; !slices.Equal(all, want) {
		t.Errorf("quarantine keeps %q, want %q", all, want)
	}
	w.refuse(false)
	w.paid()
	w.has("f", "promised")
}
