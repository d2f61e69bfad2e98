package cache_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pierfs/cache"
)

// TestWhatIsOwedIsCopiedBesideItsUsers: one program overwrites what is owed, another appends, a third has it promised again and again, and a fourth looks
// at its size. Nothing of what they wrote is lost, and the server gets it all.
func TestWhatIsOwedIsCopiedBesideItsUsers(t *testing.T) {
	const owed, block, rounds = 4 << 20, 64 << 10, 60
	w := newOwing(t, nil)
	w.refuse(true)
	want := bytes.Repeat([]byte("owed"), owed/4)
	w.save("f", string(want))
	f := w.open("f", cache.OpenMode{Read: true, Write: true})
	var all sync.WaitGroup
	all.Go(func() {
		for i := range rounds {
			off := int64(i*7) % (owed / block) * block
			text := bytes.Repeat([]byte{byte('A' + i%26)}, block)
			if n, err := f.WriteAt(t.Context(), text, off); n != block || err != nil {
				t.Errorf("write: %d, %v", n, err)
			}
			copy(want[off:], text)
		}
	})
	var added strings.Builder
	all.Go(func() {
		for i := range rounds * 10 {
			line := fmt.Sprintf("line %d\n", i)
			if _, err := f.Append(t.Context(), []byte(line)); err != nil {
				t.Errorf("append: %v", err)
			}
			added.WriteString(line)
		}
	})
	all.Go(func() {
		for range rounds / 3 {
			if err := f.Publish(t.Context()); err != nil {
				t.Errorf("publish: %v", err)
			}
		}
	})
	all.Go(func() {
		for range rounds * 10 {
			if e, err := f.Stat(t.Context()); err != nil || e.Size < owed {
				t.Errorf("stat: %d, %v", e.Size, err)
			}
		}
	})
	all.Wait()
	text := string(want) + added.String()
	if got := w.read(f); got != text {
		t.Errorf("the file has %d bytes, want %d, or they differ", len(got), len(text))
	}
	w.must(f.Publish(t.Context()))
	w.must(f.Close(t.Context(), false))
	w.refuse(false)
	w.paid()
	w.has("f", text)
	w.staged(0)
}

// TestWhatIsOwedIsCut: a program that cuts it goes on with what is left.
func TestWhatIsOwedIsCut(t *testing.T) {
	for _, size := range []int64{0, 3, 4, 9} {
		w := newOwing(t, nil)
		w.refuse(true)
		w.save("f", "owed")
		f := w.open("f", cache.OpenMode{Read: true, Write: true})
		w.cut(f, size)
		w.add(f, "+")
		want := ("owed" + strings.Repeat("\x00", 9))[:size] + "+"
		if got := w.read(f); got != want {
			t.Errorf("cut to %d and appended to: %q, want %q", size, got, want)
		}
		w.must(f.Publish(t.Context()))
		w.must(f.Close(t.Context(), false))
		w.refuse(false)
		w.paid()
		w.has("f", want)
		w.staged(0)
	}
}
