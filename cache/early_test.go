package cache_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

const long = 12 << 20 // long enough to travel while it is written

func bytesOf(size int, seed byte) []byte {
	content := make([]byte, size)
	source := rand.NewChaCha8([32]byte{seed})
	_, _ = source.Read(content) // it never fails
	return content
}

// writeOn writes content from off on as a program does, a block at a time, and lets what travels arrive.
func (w *world) writeOn(f *cache.File, content []byte, off int) {
	w.Helper()
	const block = 128 << 10
	for ; off < len(content); off += block {
		w.write(f, string(content[off:min(off+block, len(content))]), int64(off))
	}
	synctest.Wait()
}

// wire counts the writes that the server gets, and lets them fail if a test wants that.
type wire struct {
	writes atomic.Int64
	fail   func(op string, nth int64) error // nil never does
}

func (c *wire) hook(_ context.Context, op, _ string) error {
	nth := c.writes.Load()
	if op == "writeat" {
		nth = c.writes.Add(1)
	}
	if c.fail != nil {
		return c.fail(op, nth)
	}
	return nil
}

// early runs f in a bubble, and looks for what is left behind.
func earlyWorld(t *testing.T, f func(w *world, c *wire)) {
	t.Helper()
	earlyWorldOf(t, nil, f)
}

// streamWorld is earlyWorld with a server that takes writes at the end only, and three transfers at a time.
func streamWorld(t *testing.T, f func(w *world, c *wire)) {
	t.Helper()
	earlyWorldOf(t, func(so *mem.Options, _ *cache.Options) { *so = mem.FTP(func(c *backends.Caps) { c.Streams = 3 }) }, f)
}

func earlyWorldOf(t *testing.T, change func(*mem.Options, *cache.Options), f func(w *world, c *wire)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, c := newWorld(t, change), new(wire)
		w.server.SetFault(c.hook)
		f(w, c)
		w.must(w.tree.Close(w.Context()))
		if left, err := os.ReadDir(w.options.Staging); err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name()[0] >= '0' && e.Name()[0] <= '9' }) {
			w.Errorf("staging holds %v, %v", left, err)
		}
	})
}

func TestBytesTravelWhileTheyAreWritten(t *testing.T) {
	for name, mode := range map[string]cache.OpenMode{"new": creating, "claimed": claiming, "over an old one": cutting} {
		t.Run(name, func(t *testing.T) {
			earlyWorld(t, func(w *world, c *wire) {
				content, old := bytesOf(long, 1), "old"
				if name == "over an old one" {
					w.give("f", old)
				}
				f := w.open("f", mode)
				w.writeOn(f, content, 0)
				travelled := c.writes.Load()
				if travelled < long>>20-1 {
					t.Errorf("%d MiB of %d travelled while they were written", travelled, long>>20)
				}
				switch got, err := w.server.ReadFile("f"); {
				case name == "over an old one" && string(got) != old, name == "claimed" && (err != nil || len(got) != 0), name == "new" && err == nil:
					t.Errorf("before the close the name bears %d bytes, %v", len(got), err)
				}
				w.close(f)
				if more := c.writes.Load() - travelled; more > 1 {
					t.Errorf("close sent %d MiB", more)
				}
				w.has("f", string(content))
				w.only("f")
			})
		})
	}
}

func TestSmallFilesDoNotTravelEarly(t *testing.T) {
	earlyWorld(t, func(w *world, c *wire) {
		f := w.open("f", creating)
		w.writeOn(f, bytesOf(4<<20-1, 1), 0)
		if n := c.writes.Load(); n > 0 {
			t.Errorf("%d writes before the close", n)
		}
		w.close(f)
	})
}

// What is changed behind what travels is sent again, and what is cut off is cut off there, too.
func TestChangesBehindWhatTravels(t *testing.T) {
	for name, change := range map[string]func(w *world, f *cache.File, content []byte) []byte{
		"header": func(w *world, f *cache.File, content []byte) []byte {
			copy(content, "header")
			w.write(f, "header", 0)
			return content
		},
		"middle": func(w *world, f *cache.File, content []byte) []byte {
			copy(content[5<<20:], content[:3<<20])
			w.write(f, string(content[:3<<20]), 5<<20)
			return content
		},
		"cut": func(w *world, f *cache.File, content []byte) []byte {
			size := int64(6<<20 + 17)
			_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
			w.must(err)
			return content[:size]
		},
		"cut to nothing": func(w *world, f *cache.File, content []byte) []byte {
			size := int64(0)
			_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
			w.must(err)
			return nil
		},
		"cut and stretched": func(w *world, f *cache.File, content []byte) []byte {
			for _, size := range []int64{6 << 20, 9 << 20} {
				_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
				w.must(err)
			}
			clear(content[6<<20:])
			return content[:9<<20]
		},
		"synced, and written on": func(w *world, f *cache.File, content []byte) []byte {
			w.must(f.Sync(w.Context()))
			more := append(content, bytesOf(long, 2)...)
			w.writeOn(f, more, long)
			return more
		},
		"renamed": func(w *world, f *cache.File, content []byte) []byte {
			w.must(w.tree.Rename(w.Context(), "f", "g", backends.Replace))
			w.must(w.tree.Rename(w.Context(), "g", "f", backends.Replace))
			return content
		},
	} {
		for mode, open := range map[string]cache.OpenMode{"new": creating, "claimed": claiming} {
			t.Run(name+", "+mode, func(t *testing.T) {
				earlyWorld(t, func(w *world, c *wire) {
					content := bytesOf(long, 1)
					f := w.open("f", open)
					w.writeOn(f, content, 0)
					content = change(w, f, content)
					w.close(f)
					w.has("f", string(content))
					w.only("f")
				})
			})
		}
	}
}

func TestWhatTravelledIsRemovedWithItsName(t *testing.T) {
	for name, end := range map[string]func(w *world, f *cache.File){
		"removed": func(w *world, f *cache.File) {
			w.must(w.tree.Remove(w.Context(), "f"))
			w.close(f)
		},
		"given up": func(w *world, f *cache.File) { w.must(f.Close(w.Context(), true)) },
		"told, and given up": func(w *world, f *cache.File) {
			f.GiveUp()
			w.must(f.Close(w.Context(), true))
		},
	} {
		for mode, open := range map[string]cache.OpenMode{"new": creating, "claimed": claiming} {
			t.Run(name+", "+mode, func(t *testing.T) {
				earlyWorld(t, func(w *world, c *wire) {
					f := w.open("f", open)
					w.writeOn(f, bytesOf(long, 1), 0)
					end(w, f)
					synctest.Wait()
					w.only()
				})
			})
		}
	}
}

// A beginning that fails is nothing to the program: all is sent anew.
func TestBeginningThatFailsIsSentAnew(t *testing.T) {
	for name, fail := range map[string]func(op string, nth int64) error{
		"create":       func(op string, nth int64) error { return failing(op == "create" && nth == 0, syscall.ENOSPC) },
		"first write":  func(op string, nth int64) error { return failing(op == "writeat" && nth == 1, syscall.EIO) },
		"sixth write":  func(op string, nth int64) error { return failing(op == "writeat" && nth == 6, syscall.EIO) },
		"without word": func(op string, nth int64) error { return lostWord(op == "writeat" && nth == 6) },
	} {
		t.Run(name, func(t *testing.T) {
			earlyWorld(t, func(w *world, c *wire) {
				c.fail = fail
				content := bytesOf(long, 1)
				f := w.open("f", creating)
				w.writeOn(f, content, 0)
				c.fail = nil
				w.close(f)
				w.has("f", string(content))
				w.only("f")
			})
		})
	}
}

func failing(now bool, code syscall.Errno) error {
	if !now {
		return nil
	}
	return &backends.Error{Op: "test", Code: code, Class: backends.Final}
}

func lostWord(now bool) error {
	if !now {
		return nil
	}
	return &backends.Error{Op: "test", Code: syscall.EIO, Class: backends.Lost}
}

// Many contents share what may travel early; the others are sent when they are closed.
func TestManyContentsTravel(t *testing.T) {
	earlyWorld(t, func(w *world, c *wire) {
		var files []*cache.File
		names := []string{"a", "b", "c", "d", "e", "f", "g"}
		for i, name := range names {
			f := w.open(name, creating)
			w.writeOn(f, bytesOf(5<<20, byte(i)), 0)
			files = append(files, f)
		}
		for _, f := range files {
			w.close(f)
		}
		for i, name := range names {
			w.has(name, string(bytesOf(5<<20, byte(i))))
		}
		w.only(names...)
	})
}

// Whatever a program does while its bytes travel, the server has in the end what a disk would have.
func TestAnyWritesWhileBytesTravel(t *testing.T) {
	for seed := range uint64(16) {
		server := earlyWorld
		if seed >= 12 {
			server = streamWorld
		}
		server(t, func(w *world, c *wire) {
			chance := rand.New(rand.NewPCG(seed, 1))
			f, disk := w.open("f", creating), []byte{}
			put := func(p []byte, off int) {
				if end := off + len(p); end > len(disk) {
					disk = append(disk, make([]byte, end-len(disk))...)
				}
				copy(disk[off:], p)
				w.write(f, string(p), int64(off))
			}
			for range 60 {
				switch chance.IntN(8) {
				case 0:
					put(bytesOf(1+chance.IntN(100_000), byte(chance.Uint32())), chance.IntN(len(disk)+1))
				case 1:
					size := int64(chance.IntN(len(disk) + 100_000))
					_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
					w.must(err)
					disk = append(disk[:min(len(disk), int(size))], make([]byte, max(0, int(size)-len(disk)))...)
				case 2:
					time.Sleep(time.Millisecond) // what travels arrives
				case 3:
					if chance.IntN(10) == 0 {
						w.must(f.Sync(w.Context()))
					}
				default:
					put(bytesOf(1<<20, byte(chance.Uint32())), len(disk))
				}
			}
			w.close(f)
			if got, err := w.server.ReadFile("f"); err != nil || !bytes.Equal(got, disk) {
				t.Errorf("seed %d: the server has %d bytes, %v; the disk %d, or others", seed, len(got), err, len(disk))
			}
			w.only("f")
		})
	}
}

// A server that takes writes at the end only gets them as they come, too, in one transfer.
func TestBytesTravelToAServerThatStreams(t *testing.T) {
	streamWorld(t, func(w *world, c *wire) {
		content := bytesOf(long, 1)
		f := w.open("f", creating)
		w.writeOn(f, content, 0)
		travelled := c.writes.Load()
		if travelled < long>>20-1 {
			t.Errorf("%d MiB of %d travelled while they were written", travelled, long>>20)
		}
		w.close(f)
		if more := c.writes.Load() - travelled; more > 1 {
			t.Errorf("close sent %d MiB", more)
		}
		if n := w.server.Calls()["stor"]; n != 1 {
			t.Errorf("%d transfers, want 1", n)
		}
		w.has("f", string(content))
		w.only("f")
	})
}

// Who goes back into what has travelled, or cuts it, has all sent anew; who pauses lets go of the transfer.
func TestStreamThatIsNotWrittenOnward(t *testing.T) {
	for name, change := range map[string]func(w *world, f *cache.File, content []byte) []byte{
		"header": func(w *world, f *cache.File, content []byte) []byte {
			copy(content, "header")
			w.write(f, "header", 0)
			return content
		},
		"cut": func(w *world, f *cache.File, content []byte) []byte {
			size := int64(2 << 20)
			_, err := f.SetAttr(w.Context(), backends.Attr{Size: &size})
			w.must(err)
			return content[:size]
		},
		"pause": func(w *world, f *cache.File, content []byte) []byte {
			time.Sleep(time.Minute)
			if names, err := w.server.Names(""); err != nil || len(names) > 0 {
				w.Errorf("after a minute's pause the server has %q, %v", names, err)
			}
			return content
		},
	} {
		t.Run(name, func(t *testing.T) {
			streamWorld(t, func(w *world, c *wire) {
				f := w.open("f", creating)
				content := bytesOf(long, 1)
				w.writeOn(f, content, 0)
				if c.writes.Load() == 0 {
					t.Error("nothing travels: this test tests nothing")
				}
				content = change(w, f, content)
				w.writeOn(f, append(content, bytesOf(1<<20, 2)...), len(content))
				w.close(f)
				w.has("f", string(content)+string(bytesOf(1<<20, 2)))
				w.only("f")
			})
		})
	}
}

// TestWhoClosesAFileHasATransfer: however many contents travel early, and however long their programs take, who closes another file need
// not wait for them.
func TestWhoClosesAFileHasATransfer(t *testing.T) {
	streamWorld(t, func(w *world, c *wire) {
		var open []*cache.File
		for _, name := range []string{"a", "b", "c"} {
			f := w.open(name, creating)
			w.writeOn(f, bytesOf(5<<20, 1), 0)
			open = append(open, f)
		}
		f := w.open("closed", creating)
		w.writeOn(f, bytesOf(5<<20, 2), 0)
		w.close(f)
		w.has("closed", string(bytesOf(5<<20, 2)))
		for _, f := range open {
			w.close(f)
			name, _ := f.Name()
			w.has(name, string(bytesOf(5<<20, 1)))
		}
		w.only("a", "b", "c", "closed")
	})
}

// A Tree that is closed while bytes travel keeps what was written, and leaves nothing of it on the server.
func TestTreeIsClosedWhileBytesTravel(t *testing.T) {
	earlyWorld(t, func(w *world, c *wire) {
		content := bytesOf(long, 1)
		f := w.open("f", creating)
		w.writeOn(f, content, 0)
		if err := w.tree.Close(w.Context()); err == nil {
			t.Error("Close tells of nothing that was kept")
		}
		w.only()
		w.quarantineHolds(string(content))
		if _, err := f.ReadAt(w.Context(), make([]byte, 1), 0); backends.Errno(err) != syscall.ESHUTDOWN && backends.Errno(err) != syscall.ESTALE {
			t.Errorf("ReadAt = %v", err)
		}
		_ = f.Close(w.Context(), false)
	})
}

// TestBeginningThatIsThrownAwayMovesWithItsDirectory: a file is unlinked while its bytes travel, and its directory is renamed before the
// server has heard that the temporary name is to go.
func TestBeginningThatIsThrownAwayMovesWithItsDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.must(w.server.MakeDir("dir"))
		f := w.open("dir/f", creating)
		for i := range 8 {
			w.write(f, strings.Repeat("x", 1<<20), int64(i)<<20)
		}
		synctest.Wait()
		if names, _ := w.server.Names("dir"); len(names) != 1 {
			t.Fatalf("nothing travels: this test tests nothing: %q", names)
		}
		renamed := make(chan struct{})
		w.server.SetFault(func(_ context.Context, op, _ string) error {
			if op == "abort" {
				<-renamed
			}
			return nil
		})
		w.must(w.tree.Remove(w.Context(), "dir/f"))
		w.must(f.Close(w.Context(), false))
		w.must(w.tree.Rename(w.Context(), "dir", "moved", backends.Replace))
		close(renamed)
		time.Sleep(time.Minute)
		if names, err := w.server.Names("moved"); err != nil || len(names) > 0 {
			t.Errorf("the directory holds %q, %v", names, err)
		}
		w.must(w.tree.Close(w.Context()))
	})
}
