package cache_test

import (
	"context"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends/mem"
	"pierfs/cache"
)

// forbidden are things that servers do not let anybody do.
var forbidden = map[string]func(what, name string) syscall.Errno{
	"names that begin with a dot": func(what, name string) syscall.Errno {
		if what == "make" && strings.HasPrefix(path.Base(name), ".") {
			return syscall.EACCES
		}
		return 0
	},
	"all names but some": func(what, name string) syscall.Errno {
		if what != "remove" && !strings.HasSuffix(name, ".csv") {
			return syscall.EIO // with no reason given
		}
		return 0
	},
	"renaming": func(what, _ string) syscall.Errno {
		if what == "rename" {
			return syscall.EOPNOTSUPP
		}
		return 0
	},
	"renaming and removing": func(what, name string) syscall.Errno {
		if what == "rename" || what == "remove" {
			return syscall.EPERM
		}
		return 0
	},
}

// directKinds are a server that can do everything, and one that can only stream.
var directKinds = map[string]func() mem.Options{
	"sftp": func() mem.Options { return mem.Options{} },
	"ftp":  func() mem.Options { return mem.FTP(nil) },
}

// whenCommitted is a hook that calls f before a content is made final.
func whenCommitted(f func()) mem.Hook {
	return func(_ context.Context, op, _ string) error {
		if op == "commit" {
			f()
		}
		return nil
	}
}

// TestServersThatRefuseTheWayAreWrittenDirectly: files arrive where nothing may gather beside them, and it is told that they do so less
// safely; how that is done is learned once.
func TestServersThatRefuseTheWayAreWrittenDirectly(t *testing.T) {
	for refusal, forbid := range forbidden {
		for kind, options := range directKinds {
			for _, background := range []bool{false, true} {
				t.Run(strings.Join([]string{refusal, kind, map[bool]string{false: "close", true: "background"}[background]}, "/"), func(t *testing.T) {
					t.Parallel()
					w := newOwing(t, func(so *mem.Options, to *cache.Options) {
						*so = options()
						so.Forbid = forbid
						if kind == "ftp" { // which explains what it refuses of a name
							so.Forbid = func(what, name string) syscall.Errno {
								if forbid(what, name) == syscall.EIO {
									return syscall.EACCES
								}
								return forbid(what, name)
							}
						}
						to.Background = background
					})
					w.must(w.server.MakeDir("dir"))
					w.save("dir/a.csv", "content of a")
					w.must(w.tree.Drain(w.Context()))
					w.has("dir/a.csv", "content of a")
					if said := w.tree.Weaker(); len(said) != 1 || !strings.Contains(said[0], "in dir: files are written in place") {
						t.Errorf("what is told: %q", said)
					}

					made := w.server.Calls()["create"]
					w.save("dir/b.csv", "content of b")
					w.must(w.tree.Drain(w.Context()))
					w.has("dir/b.csv", "content of b")
					if n := w.server.Calls()["create"] - made; n != 1 {
						t.Errorf("the second file took %d attempts", n)
					}
					w.save("dir/a.csv", "another, and shorter"[:10])
					w.must(w.tree.Drain(w.Context()))
					w.has("dir/a.csv", "another, a")

					f := w.open("dir/a.csv", writing)
					w.write(f, "OTHER", 2)
					w.close(f)
					w.must(w.tree.Drain(w.Context()))
					w.has("dir/a.csv", "anOTHER, a")

					f = w.open("dir/x.csv", cache.OpenMode{Write: true, Create: true, Exclusive: true})
					w.write(f, "exclusive", 0)
					w.close(f)
					w.must(w.tree.Drain(w.Context()))
					w.has("dir/x.csv", "exclusive")

					names, err := w.server.Names("dir")
					w.must(err)
					if forbid("remove", "dir/.a") == 0 && !slices.Equal(names, []string{"a.csv", "b.csv", "x.csv"}) {
						t.Errorf("the server has %q", names)
					}
				})
			}
		}
	}
}

// TestRefusalOfOneFileIsNotTheDirectorys: a file that may not be replaced, though it may be written, is, and nothing else is written less
// safely for that.
func TestRefusalOfOneFileIsNotTheDirectorys(t *testing.T) {
	w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
		so.Forbid = func(what, name string) syscall.Errno {
			if what == "rename" && name == "theirs" {
				return syscall.EACCES // as in a directory with the sticky bit
			}
			return 0
		}
	})
	w.give("theirs", "their content")
	w.give("ours", "our content")
	w.save("theirs", "rewritten")
	w.has("theirs", "rewritten")
	half := ""
	w.server.SetFault(whenCommitted(func() {
		content, _ := w.server.ReadFile("ours")
		half = string(content)
	}))
	w.save("ours", "rewritten")
	if half != "our content" {
		t.Errorf("while another file is uploaded its name has %q: it is written in place", half)
	}
	w.has("ours", "rewritten")
}

// TestRefusalThatConcernsTheContentIsOne: what the server refuses either way is told as it was said first, and nothing is learned.
func TestRefusalThatConcernsTheContentIsOne(t *testing.T) {
	w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
		so.Forbid = func(what, name string) syscall.Errno {
			if what == "make" && strings.HasPrefix(name, "closed/") {
				return syscall.EACCES
			}
			return 0
		}
	})
	w.must(w.server.MakeDir("closed"))
	f := w.open("closed/f", creating)
	w.write(f, "content", 0)
	wantErrno(t, f.Close(w.Context(), false), syscall.EACCES)
	if said := w.tree.Weaker(); len(said) > 0 {
		t.Errorf("what is told: %q", said)
	}
	w.save("f", "content")
	w.has("f", "content")
}

// TestUnexplainedRefusalCostsNoOldFile: a server that gives no reason may be full, for which nothing is written over what is there.
func TestUnexplainedRefusalCostsNoOldFile(t *testing.T) {
	w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
		so.Forbid = func(what, _ string) syscall.Errno {
			if what == "make" {
				return syscall.EIO
			}
			return 0
		}
	})
	w.give("f", "old content")
	f := w.open("f", cache.OpenMode{Write: true, Truncate: true})
	w.write(f, "new", 0)
	wantErrno(t, f.Close(w.Context(), false), syscall.EIO)
	w.has("f", "old content")
}

// TestPermissionsAreTriedAgain: what a server refused is tried again after a while.
func TestPermissionsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := true
		w := newWorld(t, func(so *mem.Options, _ *cache.Options) {
			so.Forbid = func(what, _ string) syscall.Errno {
				if refuses && what == "rename" {
					return syscall.EACCES
				}
				return 0
			}
		})
		w.save("a", "content")
		refuses = false
		w.save("b", "content")
		time.Sleep(2 * time.Hour)
		gathered := false
		w.server.SetFault(whenCommitted(func() {
			names, _ := w.server.Names("")
			gathered = slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, ".pierfs-") })
		}))
		w.save("c", "content")
		if !gathered {
			t.Error("an hour later it still is written in place")
		}
		w.must(w.tree.Close(w.Context()))
	})
}

// TestUploadToItsOwnNameGoesOnWhereItBroke: nothing may gather beside a name (tempName = "none"), and an upload that was acknowledged breaks off half way, also
// because the daemon dies. What it has left under the name is ours, and no conflict: all of it arrives there.
func TestUploadToItsOwnNameGoesOnWhereItBroke(t *testing.T) {
	for kind, options := range directKinds {
		for _, crash := range []bool{false, true} {
			t.Run(kind+map[bool]string{true: ", behind a crash"}[crash], func(t *testing.T) {
				d := &dying{at: 1 << 30, dead: make(chan struct{})}
				w := newOwing(t, func(so *mem.Options, to *cache.Options) {
					*so = options()
					to.TempName, to.Hook = cache.TempNone, d.hook
				})
				content := strings.Repeat("0123456789abcdef", 3<<16)
				w.give("f", "old")
				w.sees()
				broke := make(chan struct{})
				var once sync.Once
				w.server.SetFault(func(_ context.Context, op, name string) error {
					if op != "commit" {
						return nil
					}
					if crash {
						once.Do(func() { close(broke) })
						select {}
					}
					w.server.SetFault(nil)
					w.give("f", content[:1<<20])
					w.server.Break()
					close(broke)
					return lost(op, name)
				})
				w.save("f", content)
				<-broke
				if crash {
					w.server.SetFault(nil)
					w.give("f", content[:1<<20])
					w.crash(d)
				}
				w.must(w.tree.Drain(t.Context()))
				w.only("f")
				w.has("f", content)
				if n := w.tree.Owed().Conflicts; n != 0 {
					t.Errorf("%d conflicts were told", n)
				}
			})
		}
	}
}
