package sftp

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"pierfs/backends"
)

func TestRoundTrips(t *testing.T) {
	r := newRig(t, Options{}, nil)
	content := bytes.Repeat([]byte("pier"), 1024)
	put(t, r.path("file"), content)
	for n := range 20 {
		put(t, r.path(fmt.Sprint("small", n)), nil)
	}
	ctx := t.Context()
	check := func(what string, want int64, f func()) {
		t.Helper()
		if got := r.flights(t, f); got > want {
			t.Errorf("%s took %d flights, at most %d are allowed", what, got, want)
		}
	}
	check("stat", 1, func() { _, err := r.Stat(ctx, "file"); ok(t, err) })
	check("list of a small directory", 2, func() {
		if n := len(entries(t, r, "")); n != 21 {
			t.Errorf("%d entries, want 21", n)
		}
	})
	check("read of 4 KiB", 2, func() {
		f, err := r.Open(ctx, "file")
		ok(t, err)
		p := make([]byte, 8192)
		n, info, err := f.ReadLast(ctx, p, 0)
		if n != 4096 || err != io.EOF || info.Size != 4096 || !bytes.Equal(p[:n], content) {
			t.Errorf("ReadLast = %d, %+v, %v", n, info, err)
		}
		ok(t, f.Close())
	})
	check("open, what was opened, and what it is by now", 2, func() {
		f, err := r.Open(ctx, "file")
		ok(t, err)
		info, err := f.Stat(ctx)
		ok(t, err)
		if info.Size != 4096 || info.Name != "file" {
			t.Errorf("Stat = %+v", info)
		}
		put(t, r.path("file"), content[:2048])
		if info, err = f.Stat(ctx); err != nil || info.Size != 2048 {
			t.Errorf("a second Stat = %+v, %v: not what the file is by now", info, err)
		}
		put(t, r.path("file"), content)
		ok(t, f.Close())
	})
	check("replacing a file", 3, func() {
		w, err := r.Create(ctx, "file", backends.WriteMode{TempName: ".file.tmp", Perm: 0o600})
		ok(t, err)
		_, err = w.WriteAt(ctx, []byte("new"), 0)
		ok(t, err)
		when := time.Unix(1700000000, 0)
		info, err := w.Commit(ctx, backends.Commit{Size: 3, Attr: backends.Attr{ModTime: &when, AccTime: &when}})
		ok(t, err)
		if info.Size != 3 || !info.ModTime.Equal(when) || info.Name != "file" || info.Mode.Perm() != 0o600 {
			t.Errorf("Commit says %+v", info)
		}
	})
	if got := get(t, r.path("file")); got != "new" {
		t.Errorf("the file holds %q", got)
	}
	check("mkdir", 1, func() { ok(t, r.Mkdir(ctx, "d", 0o755)) })
	check("rename", 1, func() { ok(t, r.Rename(ctx, "d", "e", backends.NoReplace)) })
	check("rmdir", 1, func() { ok(t, r.Rmdir(ctx, "e")) })
	check("remove", 1, func() { ok(t, r.Remove(ctx, "small0")) })
	check("utimes", 1, func() {
		when := time.Unix(1600000000, 0)
		info, err := r.SetAttr(ctx, "file", backends.Attr{ModTime: &when, AccTime: &when})
		ok(t, err)
		if !info.ModTime.Equal(when) {
			t.Errorf("SetAttr says %v", info.ModTime)
		}
	})
	check("chmod", 1, func() {
		perm := os.FileMode(0o640)
		info, err := r.SetAttr(ctx, "file", backends.Attr{Perm: &perm})
		ok(t, err)
		if info.Mode.Perm() != perm {
			t.Errorf("SetAttr says %v", info.Mode)
		}
	})
	check("symlink", 1, func() { ok(t, r.Symlink(ctx, "file", "link")) })
	check("readlink", 1, func() {
		target, err := r.Readlink(ctx, "link")
		ok(t, err)
		if target != "file" {
			t.Errorf("Readlink = %q", target)
		}
	})
	check("link", 1, func() { ok(t, r.Link(ctx, "file", "hard")) })
	check("statfs", 1, func() {
		s, err := r.StatFS(ctx)
		ok(t, err)
		if s.Total == 0 || s.NameMax == 0 {
			t.Errorf("StatFS = %+v", s)
		}
	})
}

func TestLongListingTakesFewRoundTrips(t *testing.T) {
	r := newRig(t, Options{}, nil)
	for n := range 10000 {
		put(t, r.path(fmt.Sprintf("entry-%05d", n)), nil)
	}
	got := r.flights(t, func() {
		if n := len(entries(t, r, "")); n != 10000 {
			t.Errorf("%d entries, want 10000", n)
		}
	})
	// A pipe hands replies over one by one, so that a refill may leave between two of them: what counts is that READDIRs
	// go in batches.
	if got > 6 {
		t.Errorf("10,000 entries took %d flights, at most 6 are allowed", got)
	}
}
