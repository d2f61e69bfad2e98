package attr_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
)

func entries(l *attr.List) (all []string) {
	for i := range l.Len() {
		e := l.At(i)
		all = append(all, fmt.Sprintf("%s=%d/%s", e.Name, e.Size, e.ID))
	}
	return all
}

// TestListingIsWhatWasListedAndChangedSince makes random changes over listings and compares with a plain model. A listing that
// was taken before a change stays as it is.
func TestListingIsWhatWasListedAndChangedSince(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		s := attr.New(1 << 20)
		var names []string // in the order of the listing, then as they are told
		want := map[string]backends.Info{}
		l := new(attr.List)
		for i := range random.IntN(40) * random.IntN(80) {
			e := info(fmt.Sprintf("%s%d", strings.Repeat("n", random.IntN(60)), i), int64(i))
			e.ID = strings.Repeat("i", random.IntN(3))
			names, want[e.Name] = append(names, e.Name), e
			l.Add(e)
		}
		s.AnswerList("d", l, time.Now(), s.Mark(), true, false)
		before, _, _ := s.Listing("d")
		first := entries(before)
		for i := range random.IntN(50) {
			name := fmt.Sprint("new", random.IntN(10))
			if len(names) > 0 && random.IntN(3) > 0 {
				name = names[random.IntN(len(names))]
			}
			if random.IntN(2) == 0 {
				s.PutAbsent("d/" + name)
				delete(want, name)
				continue
			}
			want[name] = info(name, int64(1000+i))
			s.Put("d/"+name, want[name])
		}
		after, _, ok := s.Listing("d")
		if !ok || after.Len() != len(want) {
			t.Fatalf("seed %d: %d entries (known: %v), want %d", seed, after.Len(), ok, len(want))
		}
		last := -1
		for i := range after.Len() {
			e := after.At(i)
			if e != want[e.Name] {
				t.Fatalf("seed %d: entry %d is %+v, want %+v", seed, i, e, want[e.Name])
			}
			if at, ok := after.Find(e.Name); !ok || at != i {
				t.Fatalf("seed %d: entry %d is found at %d, %v", seed, i, at, ok)
			}
			if at := slices.Index(names, e.Name); at >= 0 && at < last {
				t.Fatalf("seed %d: %q is out of order", seed, e.Name)
			} else if at >= 0 {
				last = at
			}
			if got, _, state := s.Get("d/" + e.Name); state != attr.Present || got != e {
				t.Fatalf("seed %d: Get is %+v, %v; want %+v", seed, got, state, e)
			}
		}
		for _, name := range names {
			if _, there := want[name]; there {
				continue
			}
			if _, ok := after.Find(name); ok {
				t.Fatalf("seed %d: %q was removed and is found", seed, name)
			}
			if _, _, state := s.Get("d/" + name); state != attr.Absent {
				t.Fatalf("seed %d: %q was removed and is %v", seed, name, state)
			}
		}
		if got := entries(before); !slices.Equal(got, first) {
			t.Fatalf("seed %d: a listing changed after it was taken:\n%q\n%q", seed, first, got)
		}
	}
}

// TestNewerAnswerOutlivesAListing: what was asked for after a listing had begun is newer than the listing.
func TestNewerAnswerOutlivesAListing(t *testing.T) {
	s := attr.New(100)
	began, mark := time.Now(), s.Mark()
	s.Answer("d/f", info("f", 2), began.Add(time.Second), s.Mark())
	s.Answer("d/g", info("g", 2), began.Add(-time.Second), s.Mark())
	s.AnswerList("d", list(info("f", 1), info("g", 1)), began, mark, true, false)
	for name, want := range map[string]int64{"d/f": 2, "d/g": 1} {
		if got, _, _ := s.Get(name); got.Size != want {
			t.Errorf("%s has size %d, want %d", name, got.Size, want)
		}
	}
}

// TestOwnTimeOfAListedDirectoryIsOld: a directory that was listed with its siblings has another time once we change a name in it.
func TestOwnTimeOfAListedDirectoryIsOld(t *testing.T) {
	s := attr.New(100)
	s.AnswerList("", list(info("a", 1), info("b", 1)), time.Now(), s.Mark(), true, false)
	s.Put("b/new", info("new", 1))
	l, _, ok := s.Listing("")
	if !ok || l.Len() != 2 {
		t.Fatalf("Listing = %v, %v", l, ok)
	}
	for i := range l.Len() {
		if name := l.At(i).Name; l.Old(i) != (name == "b") {
			t.Errorf("%s is old: %v", name, l.Old(i))
		}
	}
}

// BenchmarkListMemory tells the bytes of heap that a listed entry costs, and what reading the listing adds.
func BenchmarkListMemory(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		s := attr.New(2 * n)
		before := heap()
		entriesListed(s, n)
		known := heap()
		s.Answer("d/file-000001", info("file-000001", 1), time.Now(), s.Mark())
		l, _, ok := s.Listing("d")
		read := heap()
		b.ReportMetric((known-before)/n, "B/entry")
		b.ReportMetric((read-known)/n, "B/entry-read")
		if !ok || l.Len() != n {
			b.Fatalf("%d entries, %v", l.Len(), ok)
		}
		runtime.KeepAlive(s)
	}
}

// TestListingThatNobodySawTellsLess: what a listing tells to the minute, or does not tell of, is not what a name has that somebody
// asks for, until a program has seen that listing.
func TestListingThatNobodySawTellsLess(t *testing.T) {
	s := attr.New(100)
	coarse, exact := info("coarse", 1), info("exact", 1)
	coarse.TimeUnit = time.Minute
	listed := func(unseen bool) { s.AnswerList("d", list(coarse, exact), time.Now(), s.Mark(), true, unseen) }
	want := func(when string, of map[string]attr.State) {
		t.Helper()
		for name, want := range of {
			if _, _, state := s.Get("d/" + name); state != want {
				t.Errorf("%s: %s is %v, want %v", when, name, state, want)
			}
		}
		for name, want := range map[string]attr.State{"coarse": attr.Present, "missing": attr.Absent} {
			if _, _, state := s.GetListed("d/" + name); state != want {
				t.Errorf("%s: by the listing %s is %v, want %v", when, name, state, want)
			}
		}
	}
	listed(true)
	want("unseen", map[string]attr.State{"coarse": attr.Unknown, "exact": attr.Present, "missing": attr.Unknown})
	s.Seen("d")
	want("seen", map[string]attr.State{"coarse": attr.Present, "missing": attr.Absent})
	listed(true)
	want("listed again", map[string]attr.State{"coarse": attr.Present})
}

// TestToldIsOneListUntilTheNext: who follows a reader through a directory must not begin anew with each name that is learned.
func TestToldIsOneListUntilTheNext(t *testing.T) {
	s := attr.New(100)
	s.AnswerList("d", list(info("a", 1), info("b", 1)), time.Now(), s.Mark(), true, false)
	first, _, ok := s.Told("d")
	s.Answer("d/a", info("a", 2), time.Now(), s.Mark())
	s.PutAbsent("d/b")
	again, _, _ := s.Told("d")
	if !ok || first != again || first.Len() != 2 {
		t.Errorf("Told = %v, then %v; want the same list of two", first, again)
	}
	s.AnswerList("d", list(info("a", 1)), time.Now(), s.Mark(), true, false)
	if next, _, _ := s.Told("d"); next == first || next.Len() != 1 {
		t.Errorf("Told = %v after another listing", next)
	}
}

// TestListsOfOneShapeShowTheSameNames makes random changes, answers and listings of one directory: as long as its shape stays, so do its
// names, their types and their order; and attributes alone change no shape.
func TestListsOfOneShapeShowTheSameNames(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 2))
		s := attr.New(1 << 20)
		shown := map[uint64]string{}
		var last uint64
		for step := range 200 {
			name := fmt.Sprint("n", random.IntN(12))
			e := info(name, int64(step))
			if random.IntN(8) == 0 {
				e.Mode |= os.ModeDir
			}
			op := random.IntN(12)
			switch op {
			case 0:
				l := list(e)
				for i := range 12 {
					if other := fmt.Sprint("n", i); other != name && random.IntN(2) == 0 {
						l.Add(info(other, 1))
					}
				}
				s.AnswerList("d", l, time.Now(), s.Mark(), true, random.IntN(2) == 0)
			case 1:
				s.PutAbsent("d/" + name)
			case 2:
				s.Forget("d/" + name)
			case 3:
				s.AnswerAbsent("d/"+name, time.Now(), s.Mark())
			case 4:
				s.Move("d", "e")
				s.Move("e", "d")
			case 5, 6:
				s.Put("d/"+name, e)
			case 7, 8:
				s.Answer("d/"+name, e, time.Now(), s.Mark())
			default:
				if l, _, ok := s.Listing("d"); ok && l.Len() > 0 { // attributes alone
					known := l.At(random.IntN(l.Len()))
					known.Size++
					s.Answer("d/"+known.Name, known, time.Now(), s.Mark())
				}
			}
			l, _, ok := s.Listing("d")
			if !ok {
				continue
			}
			var show string
			for i := range l.Len() {
				e := l.At(i)
				show += fmt.Sprintf("%s %v\n", e.Name, e.Mode.Type())
			}
			if before, known := shown[l.Shape()]; known && before != show || l.Shape() == 0 {
				t.Fatalf("seed %d, step %d: shape %d showed\n%sand now\n%s", seed, step, l.Shape(), before, show)
			}
			if op > 8 && l.Shape() != last && last != 0 {
				t.Errorf("seed %d, step %d: attributes gave it the shape %d in place of %d", seed, step, l.Shape(), last)
			}
			shown[l.Shape()], last = show, l.Shape()
		}
	}
}
