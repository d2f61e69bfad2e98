package model

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestModelAgreesWithALocalDisk is the proof of the model: a file system that is what the others are compared with never
// gives an answer that the model does not expect.
func TestModelAgreesWithALocalDisk(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			report, err := Run(Options{Dir: dir, Backing: dir, Seed: seed, Processes: 8, Hands: 1 + int(seed%2), Ops: 1500, Command: serving(t, "")})
			t.Log(report)
			if err != nil {
				t.Fatal(err)
			}
			if report.Ops < 8*1500 || report.Reads == 0 || report.Writes == 0 || report.Locks == 0 {
				t.Errorf("that was not all: %v", report)
			}
		})
	}
}

// TestOutagesLeaveBothWorldsOpen: a disk of which operations fail with EIO, done or not done, is what an outage may be;
// one that does something else under cover of an EIO is not.
func TestOutagesLeaveBothWorldsOpen(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"fails before": true, "fails behind": true, "fails and damages": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			report, err := Run(Options{Dir: dir, Backing: dir, Seed: 5, Processes: 2, Ops: 2500, Outages: true, Longest: time.Second,
				Command: serving(t, name), Calm: func() error { return os.WriteFile(filepath.Join(dir, "calm"), nil, 0o644) }})
			t.Log(report)
			if ok && err != nil {
				t.Fatal(err)
			}
			if !ok && err == nil {
				t.Fatal("not noticed")
			}
			if ok && report.Failed == 0 {
				t.Error("nothing failed")
			}
		})
	}
}

// TestRefusedRenameMayHavePublished: a rename publishes what is below its first name before the server may refuse it. If the
// close of such a file then fails, the server may have what it was at the rename, with the attributes that it was given then.
func TestRefusedRenameMayHavePublished(t *testing.T) {
	w := NewWorld()
	for _, step := range []struct {
		o Op
		a Answer
	}{
		{Op{Kind: Mkdir, Path: "d", Mode: 0o755}, Answer{}},
		{Op{Kind: Mkdir, Path: "full", Mode: 0o755}, Answer{}},
		{Op{Kind: Mkdir, Path: "full/kid", Mode: 0o755}, Answer{}},
		{Op{Kind: Open, Path: "d/f", Flags: syscall.O_WRONLY | syscall.O_CREAT, Mode: 0o644, Slot: 1}, Answer{}},
		{Op{Kind: Rename, Path: "d", Other: "full"}, Answer{Err: syscall.ENOTEMPTY}},
		{Op{Kind: Fchmod, Slot: 1, Mode: 0o600}, Answer{}}, // at the server, if it has the file
		{Op{Kind: Write, Slot: 1, Size: 2}, Answer{N: 2}},
	} {
		after, _, why := w.step(step.o, step.a, everything)
		if len(after) != 1 {
			t.Fatalf("%s: %d worlds, %s", step.o, len(after), why)
		}
		w = after[0]
	}
	closed, _, _ := w.step(Op{Kind: Close, Slot: 1}, Answer{Err: syscall.ECONNREFUSED}, everything)
	type left struct {
		size int // -1 for no file
		perm uint32
	}
	found := map[left]bool{}
	for _, u := range closed {
		if p, err := u.existing("d/f", false); err == syscall.ENOENT {
			found[left{size: -1}] = true
		} else {
			found[left{len(u.nodes[p.node].data), u.nodes[p.node].perm}] = true
		}
	}
	if want := map[left]bool{{size: -1}: true, {0, 0o644}: true, {0, 0o600}: true, {2, 0o600}: true}; !maps.Equal(found, want) {
		t.Errorf("the server may have %v, want %v", found, want)
	}
}

// failing are disks of which some operations end with EIO.
var failing = map[string]fault{
	"fails before": func(o Op, do func(Op) Answer) Answer {
		if fails(o, do) && o.Kind != Close { // which closes in any case
			return Answer{Err: syscall.EIO}
		}
		return do(o)
	},
	"fails behind": func(o Op, do func(Op) Answer) Answer {
		a := do(o)
		if !fails(o, do) {
			return a
		}
		if o.Kind == Open && a.Err == 0 {
			do(Op{Kind: Close, Slot: o.Slot})
		}
		return Answer{Err: syscall.EIO}
	},
	"fails and damages": func(o Op, do func(Op) Answer) Answer {
		if o.Kind == Rename && fails(o, do) {
			// What a rename by remove and rename does to its target when it is cut between the two.
			do(Op{Kind: Unlink, Base: o.Base, Path: o.Other})
			return Answer{Err: syscall.EIO}
		}
		return do(o)
	},
}

// fails chooses a tenth of the operations that change something, until the test makes the file "calm".
func fails(o Op, do func(Op) Answer) bool {
	switch o.Kind {
	case Open, Write, Ftruncate, Truncate, Rename, NoReplace, Unlink, Mkdir, Rmdir, Symlink, Link, Chmod, Utimes, Fsync, Close:
		return o.Base != sharedDir && o.N > 0 && o.N%20 < 2 && do(Op{Kind: Stat, Path: "calm"}).Err != 0
	}
	return false
}

// TestHistories: what is read of a register must fit into one order with what was written.
func TestHistories(t *testing.T) {
	t.Parallel()
	type step struct {
		value      int
		begin, end int
		kind       string // w, r, or ? for a write of which nobody knows
	}
	for _, test := range []struct {
		name   string
		events []step
		want   string // a part of the reason; "" if it is well
	}{
		{"read after write", []step{{1, 0, 1, "w"}, {1, 2, 3, "r"}}, ""},
		{"stale read", []step{{1, 0, 1, "w"}, {2, 2, 3, "w"}, {1, 4, 5, "r"}}, "still at"},
		{"read during write", []step{{1, 0, 1, "w"}, {2, 2, 5, "w"}, {1, 3, 4, "r"}}, ""},
		{"new, then old again", []step{{1, 0, 1, "w"}, {2, 2, 9, "w"}, {2, 3, 4, "r"}, {1, 5, 6, "r"}}, "still at"},
		{"old, then new", []step{{1, 0, 1, "w"}, {2, 2, 9, "w"}, {1, 3, 4, "r"}, {2, 5, 6, "r"}}, ""},
		{"from the future", []step{{1, 0, 1, "w"}, {2, 1, 2, "r"}, {2, 3, 4, "w"}}, "before it was written"},
		{"from nowhere", []step{{1, 0, 1, "w"}, {7, 2, 3, "r"}}, "never written"},
		{"unknown write, not seen", []step{{1, 0, 1, "w"}, {2, 2, 3, "?"}, {1, 4, 5, "r"}}, ""},
		{"unknown write, seen later", []step{{1, 0, 1, "w"}, {2, 2, 3, "?"}, {1, 4, 5, "r"}, {2, 6, 7, "r"}}, ""},
		{"unknown write, seen and gone", []step{{1, 0, 1, "w"}, {2, 2, 3, "?"}, {2, 4, 5, "r"}, {1, 6, 7, "r"}}, "still at"},
		{"two readers disagree", []step{{1, 0, 9, "w"}, {2, 0, 9, "w"}, {1, 1, 2, "r"}, {2, 3, 4, "r"}, {1, 5, 6, "r"}}, "still at"},
	} {
		h := newHistory()
		at := func(n int) time.Time { return h.start.Add(time.Duration(n) * time.Second) }
		for _, e := range test.events {
			switch e.kind {
			case "r":
				h.read("read", e.value, at(e.begin), at(e.end))
			default:
				h.write("write", e.value, at(e.begin), at(e.end), e.kind == "w")
			}
		}
		if got := h.check(); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
