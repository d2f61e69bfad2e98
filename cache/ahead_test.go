package cache_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends/mem"
	"pierfs/cache"
)

// road is a way to the server that takes its time: half a round trip in each direction, and so many bytes a second.
type road struct {
	trip time.Duration
	rate int64

	mu     sync.Mutex
	free   time.Time // when the road is free again
	flying int64     // bytes on order
	most   int64     // the most of them since it was cleared
	calls  int
	bytes  int64
	down   bool
}

// carry is for mem.Backend.SetFault: a readat of a block takes what it takes.
func (r *road) carry(_ context.Context, op, _ string) error {
	if op != "readat" {
		time.Sleep(r.trip)
		return nil
	}
	const block = 256 << 10
	r.mu.Lock()
	r.calls++
	r.flying += block
	r.bytes += block
	r.most = max(r.most, r.flying)
	down := r.down
	if now := time.Now().Add(r.trip); r.free.Before(now) {
		r.free = now
	}
	r.free = r.free.Add(time.Duration(block * int64(time.Second) / r.rate))
	due := r.free
	r.mu.Unlock()
	time.Sleep(time.Until(due))
	r.mu.Lock()
	r.flying -= block
	r.mu.Unlock()
	if down {
		return syscall.ENETUNREACH
	}
	return nil
}

// cleared returns the most that was on order since it was called last.
func (r *road) cleared() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := r.most
	r.most = r.flying
	return most
}

func (r *road) carried() (calls int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls, r.bytes
}

// onRoad runs f with a world behind a road, in the bubble's time.
func onRoad(t *testing.T, r *road, f func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.server.SetFault(r.carry)
		f(w)
		w.must(w.tree.Close(w.Context()))
	})
}

// readOn reads n bytes from off on, as the kernel does for a program, and returns how long it took.
func (w *world) readOn(f *cache.File, off, n int64) time.Duration {
	w.Helper()
	began := time.Now()
	p := make([]byte, 128<<10)
	for end := off + n; off < end; off += int64(len(p)) {
		if _, err := f.ReadAt(w.Context(), p, off); err != nil && err != io.EOF {
			w.Fatal(err)
		}
	}
	return time.Since(began)
}

func TestSequentialReaderGetsWhatTheRoadGives(t *testing.T) {
	const size = 64 << 20
	for _, test := range []struct {
		trip time.Duration
		rate int64
		most time.Duration
	}{
		{40 * time.Millisecond, 400e6, 500 * time.Millisecond}, // 168 ms of bandwidth
		{100 * time.Millisecond, 150e6, 1400 * time.Millisecond},
		{40 * time.Millisecond, 20e6, 3600 * time.Millisecond},
		{200 * time.Microsecond, 1e9, 80 * time.Millisecond},
	} {
		onRoad(t, &road{trip: test.trip, rate: test.rate}, func(w *world) {
			w.give("f", strings.Repeat("0123456789abcdef", size/16))
			f := w.open("f", reading)
			took := w.readOn(f, 0, size)
			t.Logf("%v, %d MB/s: %v", test.trip, test.rate/1e6, took)
			if took > test.most {
				t.Errorf("%v, %d MB/s: 64 MiB took %v, want at most %v", test.trip, test.rate/1e6, took, test.most)
			}
			w.close(f)
		})
	}
}

// What is on order on a slow road holds up everybody else on it.
func TestSlowRoadIsNotFilled(t *testing.T) {
	r := &road{trip: 40 * time.Millisecond, rate: 5e6}
	onRoad(t, r, func(w *world) {
		w.give("f", strings.Repeat("0123456789abcdef", 4<<20))
		f := w.open("f", reading)
		w.readOn(f, 0, 32<<20)
		r.cleared()
		w.readOn(f, 32<<20, 16<<20)
		if most := r.cleared(); most > 2<<20 {
			t.Errorf("%d KiB were on order at a time, where 200 KiB come in a round trip", most>>10)
		}
		w.close(f)
	})
}

// However long and wide a road is, there is a bound on what all readers of a tree have on order on it.
func TestOrdersOfATreeAreBounded(t *testing.T) {
	const most, readers = 32 << 20, 3
	r := &road{trip: 400 * time.Millisecond, rate: 1e9} // which holds 400 MB
	onRoad(t, r, func(w *world) {
		var all sync.WaitGroup
		for i := range readers {
			name := fmt.Sprint(i)
			w.must(w.server.WriteFile(name, make([]byte, 96<<20)))
			f := w.open(name, reading)
			all.Go(func() {
				w.readOn(f, 0, 96<<20)
				w.close(f)
			})
		}
		all.Wait()
		if got := r.cleared(); got > most+2*readers*256<<10 || got < most/2 { // and what each reader asks for himself
			t.Errorf("%d MiB were on order at a time, want as much as may be, which is %d", got>>20, most>>20)
		}
	})
}

func TestReaderWhoJumpsPaysForHisReadsOnly(t *testing.T) {
	r := &road{trip: 40 * time.Millisecond, rate: 100e6}
	onRoad(t, r, func(w *world) {
		const size = 512 << 20
		w.must(w.server.WriteFile("f", make([]byte, size)))
		f := w.open("f", reading)
		random := rand.New(rand.NewPCG(1, 2))
		p := make([]byte, 4096)
		for range 30 {
			_, err := f.ReadAt(w.Context(), p, random.Int64N(size-4096))
			w.must(err)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		if calls, bytes := r.carried(); bytes > 30*512<<10+4<<20+2<<20 {
			t.Errorf("30 reads of 4 KiB in 512 MiB cost %d requests of %d MiB", calls, bytes>>20)
		}
		w.close(f)
	})
}

// Once jumping about has taken about as long as all of the file would, all of it is fetched.
func TestFileIsFetchedWholeForThoseWhoJumpAbout(t *testing.T) {
	const size = 64 << 20
	for _, test := range []struct {
		rate int64
		most time.Duration
	}{{400e6, 1300 * time.Millisecond}, {100e6, 2500 * time.Millisecond}} {
		r := &road{trip: 40 * time.Millisecond, rate: test.rate}
		onRoad(t, r, func(w *world) {
			w.must(w.server.WriteFile("f", make([]byte, size)))
			f := w.open("f", reading)
			random := rand.New(rand.NewPCG(3, 4))
			p := make([]byte, 4096)
			began := time.Now()
			for range 200 {
				_, err := f.ReadAt(w.Context(), p, random.Int64N(size-4096))
				w.must(err)
			}
			took := time.Since(began)
			_, bytes := r.carried()
			t.Logf("%d MB/s: 200 reads in %v, %d MiB", test.rate/1e6, took, bytes>>20)
			if took > test.most || bytes > size+4<<20 {
				t.Errorf("%d MB/s: 200 reads took %v and %d MiB, want at most %v and 68 MiB", test.rate/1e6, took, bytes>>20, test.most)
			}
			w.close(f)
		})
	}
}

// A second reader gets his share of a road that the first one fills.
func TestReadersShareFairly(t *testing.T) {
	r := &road{trip: 40 * time.Millisecond, rate: 100e6}
	onRoad(t, r, func(w *world) {
		for _, name := range []string{"a", "b", "c"} {
			w.must(w.server.WriteFile(name, make([]byte, 64<<20)))
		}
		first := w.open("a", reading)
		w.readOn(first, 0, 16<<20)
		var all sync.WaitGroup
		all.Go(func() { w.readOn(first, 16<<20, 48<<20) })
		var took [2]time.Duration
		files := []*cache.File{w.open("b", reading), w.open("c", reading)}
		for i, f := range files {
			all.Go(func() { took[i] = w.readOn(f, 0, 8<<20) })
		}
		all.Wait()
		for i := range took { // 24 MiB in three equal parts are a quarter of a second
			if took[i] > 700*time.Millisecond {
				t.Errorf("8 MiB beside two other readers took %v", took[i])
			}
		}
		for _, f := range append(files, first) {
			w.close(f)
		}
	})
}

// What all trees of a daemon fetch ahead is bounded together.
func TestTreesShareABudget(t *testing.T) {
	const budget = 2 << 20
	r := &road{trip: 40 * time.Millisecond, rate: 400e6}
	synctest.Test(t, func(t *testing.T) {
		shared := cache.NewBudget(budget)
		var worlds []*world
		var all sync.WaitGroup
		for range 4 {
			w := newWorld(t, func(_ *mem.Options, o *cache.Options) { o.Ahead = shared })
			w.server.SetFault(r.carry)
			w.must(w.server.WriteFile("f", make([]byte, 16<<20)))
			worlds = append(worlds, w)
		}
		for _, w := range worlds {
			all.Go(func() {
				f := w.open("f", reading)
				w.readOn(f, 0, 16<<20)
				w.close(f)
			})
		}
		all.Wait()
		if most := r.cleared(); most > budget+4*256<<10 { // and what each reader itself asks for
			t.Errorf("%d KiB were on order at a time", most>>10)
		}
		for _, w := range worlds {
			w.must(w.tree.Close(w.Context()))
		}
	})
}

// A server that is away fails faster than it could answer: it is asked for what a reader wants, and not for more.
func TestServerThatIsAwayIsNotAskedAhead(t *testing.T) {
	r := &road{trip: time.Millisecond, rate: 1e9}
	onRoad(t, r, func(w *world) {
		w.must(w.server.WriteFile("f", make([]byte, 64<<20)))
		f := w.open("f", reading)
		w.readOn(f, 0, 4<<20)
		synctest.Wait()
		time.Sleep(time.Second)
		r.mu.Lock()
		r.down = true
		before := r.calls
		r.mu.Unlock()
		p := make([]byte, 128<<10)
		if _, err := f.ReadAt(w.Context(), p, 48<<20); err == nil {
			t.Error("a server that is away was read from")
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		if calls, _ := r.carried(); calls-before > 10 {
			t.Errorf("it was asked %d times for one read", calls-before)
		}
		w.close(f)
	})
}
