package bench

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// sizes says how much there is to do.
type sizes struct {
	middle, big      int64 // of the files that are read and written as a whole
	listed, wide     int   // entries of a directory
	few, small, many int   // files of smallSize
	absent, deep     int   // names to ask for
	randoms, appends int
	outer, inner     int // directories of the tree, one in the other
	leaves           int // files in each of the inner ones
	warmRandoms      int
}

var (
	full = sizes{middle: 64 << 20, big: 512 << 20, listed: 10_000, wide: 100_000, few: 100, small: 200, many: 1_000, absent: 300, deep: 50,
		randoms: 200, appends: 20, outer: 20, inner: 10, leaves: 10, warmRandoms: 20_000}

	// tiny is for tests of the works themselves.
	tiny = sizes{middle: 1 << 20, big: 2 << 20, listed: 40, wide: 50, few: 4, small: 6, many: 8, absent: 5, deep: 3,
		randoms: 8, appends: 3, outer: 2, inner: 2, leaves: 2, warmRandoms: 16}
)

const (
	smallSize = 4 << 10
	block     = 1 << 20   // of whoever reads or writes a large file
	depth     = 10        // directories above a deep name
	lineSize  = 1 << 10   // of an append
	bigSeed   = 1 << 20   // of the large file; those of small files are their numbers
	writeSeed = 1<<20 + 1 // of the large file that is written
)

// fill writes the content of the file called seed from offset on, a multiple of 8 like p's length, into p. Each word of each
// file is another one, so that nothing can be taken for something else.
func fill(p []byte, seed, offset int64) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], word(seed, offset+int64(i)))
	}
}

// word is what the file called seed has at offset, after splitmix64.
func word(seed, offset int64) uint64 {
	z := (uint64(seed)<<40 + uint64(offset)/8 + 1) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sums remembers the checksums of large contents.
var sums = map[[2]int64]uint32{}

// sumOf returns the checksum of the first n bytes of the file called seed.
func sumOf(seed, n int64) uint32 {
	key := [2]int64{seed, n}
	if sum, ok := sums[key]; ok {
		return sum
	}
	var sum uint32
	p := make([]byte, block)
	for offset := int64(0); offset < n; offset += block {
		p := p[:min(block, n-offset)]
		fill(p, seed, offset)
		sum = crc32.Update(sum, castagnoli, p)
	}
	sums[key] = sum
	return sum
}

// sumRead reads r to its end as cat does, in pieces of size, and compares what came with the file called seed.
func sumRead(r io.Reader, size int, seed, want int64, each func(n int) error) error {
	var sum uint32
	var n int64
	p := make([]byte, size)
	for {
		k, err := r.Read(p)
		sum = crc32.Update(sum, castagnoli, p[:k])
		n += int64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
		if err := each(k); err != nil {
			return err
		}
	}
	if n != want || sum != sumOf(seed, want) {
		return fmt.Errorf("%d bytes with sum %08x, want %d with %08x", n, sum, want, sumOf(seed, want))
	}
	return nil
}

// skimRead reads r to its end in pieces of size, and compares the first word of each page with the file called seed.
func skimRead(r io.Reader, size int, seed, want int64) error {
	p := make([]byte, size)
	var n int64
	for {
		k, err := io.ReadFull(r, p)
		for i := 0; i+8 <= k; i += smallSize {
			if got, want := binary.LittleEndian.Uint64(p[i:]), word(seed, n+int64(i)); got != want {
				return fmt.Errorf("%016x at %d, want %016x", got, n+int64(i), want)
			}
		}
		n += int64(k)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
	if n != want {
		return fmt.Errorf("%d bytes, want %d", n, want)
	}
	return nil
}

// sameFile compares a file with the first n bytes of the one called seed.
func sameFile(name string, seed, n int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := sumRead(f, block, seed, n, func(int) error { return nil }); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return nil
}

// sameBlock compares p with what the file called seed has at offset.
func sameBlock(p []byte, seed, offset int64) error {
	want := make([]byte, len(p))
	fill(want, seed, offset)
	if !bytes.Equal(p, want) {
		return fmt.Errorf("%d bytes at %d of file %d are not what was written there", len(p), offset, seed)
	}
	return nil
}

// sameEnds looks only at the first and the last word of p, for whom a comparison of all would take longer than the reading.
func sameEnds(p []byte, seed, offset int64) error {
	last := len(p) - 8
	if binary.LittleEndian.Uint64(p) != word(seed, offset) || binary.LittleEndian.Uint64(p[last:]) != word(seed, offset+int64(last)) {
		return fmt.Errorf("%d bytes at %d of file %d are not what was written there", len(p), offset, seed)
	}
	return nil
}

// old is when the files were changed that works find: not so lately that another change could hide behind the same time, and
// at midnight, for some listings tell only the day.
var old = time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)

// makeFile makes a file with the first n bytes of the one called seed.
func makeFile(name string, seed, n int64) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Chtimes(name, old, old)) }()
	return writeContent(f, seed, n, func(int) error { return nil })
}

// writeContent writes the first n bytes of the file called seed, a block at a time.
func writeContent(w io.Writer, seed, n int64, each func(n int) error) error {
	p := make([]byte, min(block, n))
	for offset := int64(0); offset < n; offset += int64(len(p)) {
		p = p[:min(int64(len(p)), n-offset)]
		fill(p, seed, offset)
		if _, err := w.Write(p); err != nil {
			return err
		}
		if err := each(len(p)); err != nil {
			return err
		}
	}
	return nil
}

// numbered returns the name of one of many files. Their order by name is that of the numbers.
func numbered(i int) string { return fmt.Sprintf("file%06d.dat", i) }

// makeNumbered makes n files of size bytes.
func makeNumbered(dir string, n int, size int64) error {
	for i := range n {
		if err := makeFile(filepath.Join(dir, numbered(i)), int64(i), size); err != nil {
			return err
		}
	}
	return nil
}

// deepDir is the directory where the deep names are.
func deepDir() string {
	dir := ""
	for i := range depth {
		dir = filepath.Join(dir, "level"+strconv.Itoa(i))
	}
	return dir
}

// makeTree makes the tree that is walked, and returns nothing of it: treeNames knows it.
func makeTree(dir string, n sizes) error {
	for _, name := range treeNames(n) {
		path := filepath.Join(dir, name)
		if filepath.Ext(name) == "" {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
		} else if err := makeFile(path, 0, 8); err != nil {
			return err
		}
	}
	return nil
}

// treeNames returns every name in the tree, each directory before what is in it.
func treeNames(n sizes) (names []string) {
	for i := range n.outer {
		outer := fmt.Sprintf("outer%02d", i)
		names = append(names, outer)
		for j := range n.inner {
			inner := filepath.Join(outer, fmt.Sprintf("inner%02d", j))
			names = append(names, inner)
			for k := range n.leaves {
				names = append(names, filepath.Join(inner, numbered(k)))
			}
		}
	}
	return names
}

// sameNames compares two sets of names and says what is too many or too few.
func sameNames(got, want []string) error {
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if slices.Equal(got, want) {
		return nil
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i < len(want) && want[i] < got[i]:
			return fmt.Errorf("%d names, want %d: %q is missing", len(got), len(want), want[i])
		case i >= len(want) || got[i] < want[i]:
			return fmt.Errorf("%d names, want %d: %q is too many", len(got), len(want), got[i])
		}
	}
	return errors.New("names differ")
}
