package attr_test

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// TestRecalledStoreKnowsTheSame does anything to a Store, tells it to another one, by and by or as a whole, and asks both of all names.
func TestRecalledStoreKnowsTheSame(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 6))
		s, byAndBy := attr.New(1000), attr.New(1000)
		s.Note()
		for range 300 {
			anything(random, s)
			if random.IntN(10) > 0 {
				continue
			}
			text, ok := s.Memo()
			if err := byAndBy.Recall(text); err != nil || !ok {
				t.Fatal(ok, err)
			}
		}
		text, _ := s.Memo()
		whole := attr.New(1000)
		if err := byAndBy.Recall(text); err != nil {
			t.Fatal(err)
		}
		if err := whole.Recall(s.WholeMemo(1 << 20)); err != nil {
			t.Fatal(err)
		}
		want := known(s)
		for what, other := range map[string]*attr.Store{"by and by": byAndBy, "as a whole": whole} {
			if got := known(other); !slices.Equal(got, want) {
				t.Fatalf("seed %d, %s:\n got %q\nwant %q", seed, what, got, want)
			}
		}
		if _, asked, state := whole.Get("a"); state == attr.Present && time.Since(asked) < 24*time.Hour {
			t.Errorf("what was recalled counts as asked for at %v", asked)
		}
	}
}

// anything makes one change that a tree makes.
func anything(random *rand.Rand, s *attr.Store) {
	name, other := anyName(random), anyName(random)
	info := info(path.Base(name), random.Int64N(100))
	if random.IntN(2) == 0 {
		info.ID, info.Known = fmt.Sprint(random.IntN(5)), info.Known|backends.HasID
	}
	switch random.IntN(9) {
	case 0, 1:
		s.Answer(name, info, time.Now(), s.Mark())
	case 2:
		s.AnswerAbsent(name, time.Now(), s.Mark())
	case 3:
		s.Put(name, info)
	case 4:
		s.PutAbsent(name)
	case 5:
		s.Forget(name)
	case 6:
		mark := s.Mark()
		if random.IntN(2) == 0 {
			s.Put(name+"/b", info) // overtakes the listing
		}
		l := new(attr.List)
		for _, base := range []string{"a", "b", "c"}[:random.IntN(4)] {
			info.Name = base
			l.Add(info)
		}
		s.AnswerList(name, l, time.Now(), mark, random.IntN(3) > 0, random.IntN(2) == 0)
	case 7:
		s.ForgetIn(name)
	case 8:
		if name != other && path.Dir(name) != other && path.Dir(other) != name {
			s.Move(name, other)
		}
	}
}

func anyName(random *rand.Rand) string {
	name := string("abc"[random.IntN(3)])
	for range random.IntN(2) {
		name += "/" + string("abc"[random.IntN(3)])
	}
	return name
}

// known tells all that a Store knows.
func known(s *attr.Store) (all []string) {
	names := []string{""}
	for _, a := range []string{"a", "b", "c"} {
		names = append(names, a)
		for _, b := range []string{"a", "b", "c"} {
			names = append(names, a+"/"+b, a+"/"+b+"/a", a+"/"+b+"/b")
		}
	}
	for _, name := range names {
		info, _, state := s.GetListed(name)
		info.ModTime = info.ModTime.UTC()
		line := fmt.Sprintf("%s: %d %+v", name, state, info)
		if l, _, ok := s.Listing(name); ok {
			var in []string
			for i := range l.Len() {
				in = append(in, l.At(i).Name)
			}
			slices.Sort(in)
			line += fmt.Sprint(in)
		}
		all = append(all, line)
	}
	return all
}

func TestOldNotesGoBeforeTheBound(t *testing.T) {
	s := attr.New(1000)
	s.AnswerList("old", list(info("f", 1)), time.Now(), s.Mark(), true, false)
	s.AnswerList("new", list(info("g", 1)), time.Now(), s.Mark(), true, false)
	other := attr.New(1000)
	if err := other.Recall(s.WholeMemo(60)); err != nil {
		t.Fatal(err)
	}
	if _, _, state := other.GetListed("new/g"); state != attr.Present {
		t.Error("what was used last is not told")
	}
	if _, _, state := other.GetListed("old/f"); state != attr.Unknown {
		t.Error("more is told than was asked for")
	}
}

// TestStampsEndWithTheirNumbers: what was undone is not recalled, neither from notes nor from all of them.
func TestStampsEndWithTheirNumbers(t *testing.T) {
	s := attr.New(100)
	s.Note()
	for number := range uint64(4) {
		s.Stamp(number)
	}
	early, _ := s.Memo()
	s.Unstamp(1)
	s.Unstamp(7) // which never was
	late, _ := s.Memo()
	if !s.KeepStamps(map[uint64]bool{2: true, 3: true, 9: true}) {
		t.Error("number 0 is undone, and nobody is told")
	}
	last, _ := s.Memo()
	if s.KeepStamps(map[uint64]bool{2: true, 3: true}) {
		t.Error("nothing is undone, and it is told")
	}
	for what, text := range map[string][]byte{"notes": slices.Concat(early, late, last), "all": s.WholeMemo(1 << 20)} {
		other := attr.New(100)
		if err := other.Recall(text); err != nil {
			t.Fatal(err)
		}
		for number, want := range []bool{false, false, true, true, false, false, false, false, false, false} {
			if got := other.Stamped(uint64(number)); got != want {
				t.Errorf("recalled from %s, number %d is stamped: %v", what, number, got)
			}
		}
	}
}

func FuzzRecall(f *testing.F) {
	s := attr.New(100)
	s.AnswerList("d", list(info("f", 1)), time.Now(), s.Mark(), true, false)
	s.Put("a/b", info("b", 7))
	f.Add(s.WholeMemo(1 << 20))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := attr.New(100)
		if s.Recall(text) == nil && s.Len() > len(text) {
			t.Errorf("%d entries out of %d bytes", s.Len(), len(text))
		}
	})
}
