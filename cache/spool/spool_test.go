package spool_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"pierfs/cache/spool"
)

// TestRangesAgreeWithAMap holds Ranges against a map of single bytes through many random changes.
func TestRangesAgreeWithAMap(t *testing.T) {
	const width = 64
	random := rand.New(rand.NewPCG(1, 2))
	var set spool.Ranges
	var model [width]bool
	for step := range 20_000 {
		off := random.Int64N(width)
		end := off + random.Int64N(width-off+1)
		switch random.IntN(4) {
		case 0:
			set.Cut(off)
			clear(model[off:])
		case 1:
			set.Remove(spool.Range{Off: off, End: end})
			clear(model[off:end])
		default:
			set.Add(spool.Range{Off: off, End: end})
			for i := off; i < end; i++ {
				model[i] = true
			}
		}
		var missing [width]bool
		for r := range set.Missing(spool.Range{Off: 0, End: width}) {
			if r.Len() <= 0 {
				t.Fatalf("step %d: empty missing range %v", step, r)
			}
			for i := r.Off; i < r.End; i++ {
				missing[i] = true
			}
		}
		last := int64(-1)
		for r := range set.All() {
			if r.Off <= last {
				t.Fatalf("step %d: range %v touches the one before, which ends at %d", step, r, last)
			}
			last = r.End
		}
		for i := range model {
			if model[i] == missing[i] {
				t.Fatalf("step %d: byte %d in set: %v, missing: %v", step, i, model[i], missing[i])
			}
		}
	}
}

// TestFileAgreesWithASlice holds a File against a plain byte slice: whatever was written, filled, cut or stretched in
// whatever order, reading with the missing ranges filled first gives what a local file would give.
func TestFileAgreesWithASlice(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 200 {
		base := make([]byte, random.IntN(100))
		for i := range base {
			base[i] = byte('a' + i%26)
		}
		f, err := spool.Create(filepath.Join(t.TempDir(), "content"), int64(len(base)))
		if err != nil {
			t.Fatal(err)
		}
		model := bytes.Clone(base)
		for range 30 {
			off := random.Int64N(120)
			p := bytes.Repeat([]byte{byte('A' + random.IntN(26))}, random.IntN(40))
			switch random.IntN(5) {
			case 0, 1:
				if _, err := f.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
				if len(p) > 0 {
					model = stretch(model, off+int64(len(p)))
					copy(model[off:], p)
				}
			case 2:
				at, _, err := f.Append(p)
				if err != nil || at != int64(len(model)) {
					t.Fatalf("Append at %d, %v; want %d", at, err, len(model))
				}
				model = append(model, p...)
			case 3:
				if err := f.Truncate(off); err != nil {
					t.Fatal(err)
				}
				model = stretch(model, off)[:off]
			case 4:
				fill(t, f, base, off, int64(len(p)))
			}
		}
		if f.Size() != int64(len(model)) {
			t.Fatalf("round %d: size %d, want %d", round, f.Size(), len(model))
		}
		fill(t, f, base, 0, f.Size())
		if missing := f.Missing(0, f.Size()); missing != nil {
			t.Fatalf("round %d: still missing %v", round, missing)
		}
		got := make([]byte, len(model)+1)
		n, err := f.ReadAt(got, 0)
		if err != io.EOF || !bytes.Equal(got[:n], model) {
			t.Fatalf("round %d: read %q, %v\nwant %q", round, got[:n], err, model)
		}
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
	}
}

func fill(t *testing.T, f *spool.File, base []byte, off, n int64) {
	t.Helper()
	for _, r := range f.Missing(off, n) {
		if r.End > int64(len(base)) {
			t.Fatalf("missing %v lies beyond the base of %d bytes", r, len(base))
		}
		if err := f.Fill(base[r.Off:r.End], r.Off); err != nil {
			t.Fatal(err)
		}
	}
}

func stretch(p []byte, size int64) []byte {
	for int64(len(p)) < size {
		p = append(p, 0)
	}
	return p
}
