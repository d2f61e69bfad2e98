package fs

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends/mem"
	"pierfs/cache"
)

// BenchmarkListAgain answers what the kernel asks to list a directory of 100,000 entries that is known; one operation is one
// whole listing.
func BenchmarkListAgain(b *testing.B) {
	server := mem.New(mem.Options{})
	const entries = 100_000
	for i := range entries {
		if err := server.WriteFile(fmt.Sprintf("some-file-%06d.dat", i), nil); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	tree, err := cache.New(server, cache.Options{Staging: filepath.Join(dir, "staging"), Quarantine: filepath.Join(dir, "quarantine"), MetadataTTL: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close(b.Context())
	s := newFileSystem(tree, Options{})
	buf := make([]byte, 128<<10)
	for b.Loop() {
		var open fuse.OpenOut
		if code := s.OpenDir(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: rootID}}, &open); code != fuse.OK {
			b.Fatal(code)
		}
		for off, n := uint64(0), 0; ; n++ {
			list := fuse.NewDirEntryList(buf, off)
			in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: rootID}, Fh: open.Fh, Offset: off, Size: uint32(len(buf))}
			if code := s.ReadDir(nil, in, list); code != fuse.OK {
				b.Fatal(code)
			}
			if list.Offset == off {
				break
			}
			off = list.Offset
		}
		s.ReleaseDir(&fuse.ReleaseIn{Fh: open.Fh})
	}
	b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
