package sftp

import (
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"pierfs/backends"
)

// TestOnlyWhatWasAnsweredWithoutAGapIsWhole: WRITEs on several channels are answered in any order, and those of one that died twice.
func TestOnlyWhatWasAnsweredWithoutAGapIsWhole(t *testing.T) {
	for range 100 {
		w := &writer{sure: sure{kept: true}}
		done := make([]bool, 32)
		for n := range 2 * len(done) {
			i := rand.IntN(len(done))
			if n >= len(done) {
				i = n - len(done)
			}
			w.answered(int64(10*i), int64(10*i+10))
			done[i] = true
			want := 0
			for want < len(done) && done[want] {
				want++
			}
			if w.sure.whole != int64(10*want) {
				t.Fatalf("%d bytes are whole, want %d", w.sure.whole, 10*want)
			}
		}
		if len(w.sure.beyond) > 0 {
			t.Fatalf("%v is kept account of for ever", w.sure.beyond)
		}
	}
}

// TestWhatWasSyncedOutlivesItsSession: a content goes on in another session, from what the first one's server had synced.
func TestWhatWasSyncedOutlivesItsSession(t *testing.T) {
	r := newRig(t, Options{}, nil)
	text := make([]byte, 16<<20)
	for i := range text {
		text[i] = byte(i >> 8 * i)
	}
	w, err := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".first", Perm: 0o644})
	ok(t, err)
	for off := 0; off < len(text)/2; off += 1 << 20 {
		_, err := w.WriteAt(t.Context(), text[off:off+1<<20], int64(off))
		ok(t, err)
		ok(t, w.Sync(t.Context())) // so that the next one meets answers
	}
	eventually(t, func() string { return "the server syncs by itself" }, func() bool { return w.Acknowledged() >= 4<<20 })
	ok(t, r.process().Close())
	if err := w.Sync(t.Context()); err == nil {
		t.Fatal("a dead server syncs")
	}
	_ = w.Abort()
	n := w.Acknowledged()
	if n < 4<<20 || n > int64(len(text)/2) {
		t.Fatalf("%d bytes are certain", n)
	}
	again := func() backends.Writer {
		w, err := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".second", Perm: 0o644, Left: ".first"})
		ok(t, err)
		return w
	}
	w = again()
	ok(t, w.TakeOver(t.Context(), 0, n))
	_, err = w.WriteAt(t.Context(), text[n:], n)
	ok(t, err)
	_, err = w.Commit(t.Context(), backends.Commit{Size: int64(len(text))})
	ok(t, err)
	if get(t, r.path("file")) != string(text) {
		t.Error("the file has another content than was sent")
	}
	ok(t, os.Truncate(r.path(".first"), n-1))
	w = again()
	if err := w.TakeOver(t.Context(), 0, n); backends.Errno(err) != syscall.EIO || backends.ClassOf(err) != backends.Final {
		t.Errorf("a file that is too short is taken over: %v", err)
	}
	ok(t, w.Abort())
}

// TestSyncThatFailsInBetweenFailsTheUpload: the server's kernel tells of lost writes once, so that the sync behind the last byte succeeds.
func TestSyncThatFailsInBetweenFailsTheUpload(t *testing.T) {
	for refusal, fails := range map[uint32]bool{statusFailure: true, statusUnsupported: false} {
		var last byte
		refused := 0
		b, s := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
			again := *p
			ours := kind == typeExtended && again.text() == extFsync && last == typeFstat // and not the one of Sync
			if last = kind; ours {
				refused++
				return statusReply(refusal), true
			}
			return nil, false
		})
		s.offers = extCopyData
		w, err := b.Create(t.Context(), "file", backends.WriteMode{TempName: ".temp"})
		ok(t, err)
		for off := int64(0); off < 4*secureStep && err == nil; off += 1 << 20 {
			if _, err = w.WriteAt(t.Context(), make([]byte, 1<<20), off); err == nil {
				err = w.Sync(t.Context())
			}
		}
		if (err != nil) != fails || w.Acknowledged() != 0 {
			t.Errorf("after a sync that was refused with %d: %v, and %d bytes are certain", refusal, err, w.Acknowledged())
		}
		ok(t, w.Abort())
		if refused != 1 {
			t.Errorf("%d syncs were refused: this test tests nothing, or the server is asked again", refused)
		}
	}
}

// TestServerThatCopiesLessThanItSaysIsFoundOut: what the last bytes of its answer say is not what counts.
func TestServerThatCopiesLessThanItSaysIsFoundOut(t *testing.T) {
	const size = 1 << 20
	of := func(size uint64) ([]byte, bool) {
		return attrsReply(attrs{flags: attrSize | attrPerm, size: size, perm: modeFile | 0o600}), true
	}
	for copied, fails := range map[uint64]bool{size: false, size - 1: true, 0: true} {
		b, s := scripted(t, Options{}, func(kind byte, p *parser) ([]byte, bool) {
			name := *p
			if kind == typeOpen && name.text() == "/base/.left" {
				return frame{typeHandle}.text("left"), true
			}
			switch about := *p; about.text() {
			case "/base/.left", "left":
				if kind == typeLstat || kind == typeFstat {
					return of(size)
				}
			case "h":
				if kind == typeFstat {
					return of(copied)
				}
			}
			return nil, false
		})
		s.offers = extCopyData
		w, err := b.Create(t.Context(), "file", backends.WriteMode{TempName: ".temp", Left: ".left"})
		ok(t, err)
		if err = w.TakeOver(t.Context(), 0, size); (err != nil) != fails || !fails && !s.heard(extCopyData) {
			t.Errorf("%d bytes of %d were copied: %v", copied, size, err)
		}
		_ = w.Abort()
	}
}
