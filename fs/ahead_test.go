package fs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// jumps are readers that read 4 KiB here and there.
var jumps = map[string]func(f *os.File, offs []int64) error{
	"read": func(f *os.File, offs []int64) error {
		p := make([]byte, 4096)
		for _, off := range offs {
			if _, err := f.ReadAt(p, off); err != nil {
				return err
			}
		}
		return nil
	},
	"mapped": func(f *os.File, offs []int64) error {
		m, err := unix.Mmap(int(f.Fd()), 0, jumpSize, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		var sum byte
		for _, off := range offs {
			sum += m[off]
		}
		fmt.Println(sum)
		return unix.Munmap(m)
	},
}

const (
	jumpSize  = 64 << 20
	jumpPages = 12
)

func jumpChild(name, dir string) error {
	f, err := os.Open(filepath.Join(dir, "big-"+name))
	if err != nil {
		return err
	}
	defer f.Close()
	random := rand.New(rand.NewPCG(1, 1))
	var offs []int64
	for range jumpPages {
		offs = append(offs, random.Int64N(jumpSize/4096)*4096)
	}
	return jumps[name](f, offs)
}

// TestReaderThatJumpsDoesNotPay: who reads a page here and there, also of a mapping, does not have the file fetched around it.
func TestReaderThatJumpsDoesNotPay(t *testing.T) {
	r, _ := newPassageRig(t, rigOptions{})
	for name := range jumps {
		must(t, r.server.WriteFile("big-"+name, make([]byte, jumpSize)))
	}
	for name := range jumps {
		before := r.tree.Reading().FromServer
		runChild(t, "jump "+name, r.dir)
		if n := r.tree.Reading().FromServer - before; n > jumpSize/2 {
			t.Errorf("%s: %d pages of a file of %d bytes had %d bytes fetched", name, jumpPages, jumpSize, n)
		}
	}
}
