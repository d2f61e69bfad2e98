package attr_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
)

func info(name string, size int64) backends.Info {
	return backends.Info{Name: name, Size: size, ModTime: time.Unix(1_000_000, 5), Known: backends.HasSize | backends.HasModTime}
}

func list(infos ...backends.Info) *attr.List {
	l := new(attr.List)
	for _, i := range infos {
		l.Add(i)
	}
	return l
}

func TestAnswerIsRememberedWithItsAge(t *testing.T) {
	s := attr.New(100)
	asked := time.Now().Add(-time.Minute)
	if !s.Answer("a/b", info("b", 7), asked, s.Mark()) {
		t.Fatal("an answer that nothing overtook was refused")
	}
	got, at, state := s.Get("a/b")
	if state != attr.Present || !at.Equal(asked) || got != info("b", 7) {
		t.Errorf("Get = %+v, %v, %v; want what was put", got, at, state)
	}
	if _, _, state := s.Get("a/c"); state != attr.Unknown {
		t.Errorf("a name nobody spoke of is %v, want unknown", state)
	}
}

func TestOvertakenAnswerIsNotRemembered(t *testing.T) {
	s := attr.New(100)
	mark := s.Mark()
	if !s.Answer("a/c", info("c", 1), time.Now(), mark) {
		t.Error("an answer was refused because of nothing")
	}
	s.Put("a/b", info("b", 9)) // our own change, made while the server was asked
	if !s.Answer("a/c", info("c", 2), time.Now(), mark) {
		t.Error("an answer was refused because of another name's change")
	}
	if s.Answer("a/b", info("b", 1), time.Now(), mark) {
		t.Error("an answer older than our own change was taken")
	}
	s.AnswerList("a", list(info("b", 1)), time.Now(), mark, true, false)
	if got, _, _ := s.Get("a/b"); got.Size != 9 {
		t.Errorf("size %d after an overtaken listing, want our own 9", got.Size)
	}
}

func TestMarkSurvivesEviction(t *testing.T) {
	s := attr.New(2)
	mark := s.Mark()
	s.Put("a/b", info("b", 9))
	s.Put("x/1", info("1", 1))
	s.Put("y/1", info("1", 1))
	s.Put("z/1", info("1", 1)) // by now the directory a is forgotten
	if s.Answer("a/b", info("b", 1), time.Now(), mark) {
		t.Error("an answer older than our own change was taken after its directory had been forgotten")
	}
}

func TestCompleteListingAnswersForAbsentNames(t *testing.T) {
	for _, complete := range []bool{true, false} {
		s := attr.New(100)
		s.AnswerList("a", list(info("b", 1)), time.Now(), s.Mark(), complete, false)
		want := map[bool]attr.State{true: attr.Absent, false: attr.Unknown}[complete]
		if _, _, state := s.Get("a/missing"); state != want {
			t.Errorf("complete=%v: absent name is %v, want %v", complete, state, want)
		}
	}
}

func TestOwnChangesKeepAListingComplete(t *testing.T) {
	s := attr.New(100)
	s.AnswerList("a", list(info("b", 1), info("c", 1)), time.Now(), s.Mark(), true, false)
	s.Put("a/new", info("new", 1))
	s.PutAbsent("a/b")
	l, _, ok := s.Listing("a")
	if !ok || l.Len() != 2 || l.At(0).Name+l.At(1).Name != "cnew" && l.At(0).Name+l.At(1).Name != "newc" {
		t.Fatalf("Listing = %v, %v; want c and new", l, ok)
	}
	s.Forget("a/c")
	if _, _, ok := s.Listing("a"); ok {
		t.Error("a listing with a name of uncertain fate was served as complete")
	}
}

func TestChangeMakesTheDirectoryItselfStale(t *testing.T) {
	s := attr.New(100)
	s.Answer("a", info("a", 0), time.Now(), s.Mark())
	s.Put("a/b", info("b", 1))
	if _, asked, _ := s.Get("a"); time.Since(asked) < time.Hour {
		t.Error("the directory's own time is still believed after a name in it changed")
	}
}

func TestForgetBelowSparesTheNeighbours(t *testing.T) {
	s := attr.New(100)
	for _, name := range []string{"a", "a/b", "a/b/c", "ab", "ab/c"} {
		s.Put(name, info("x", 1))
	}
	s.ForgetBelow("a")
	for name, want := range map[string]attr.State{"a": attr.Unknown, "a/b": attr.Unknown, "a/b/c": attr.Unknown, "ab": attr.Present, "ab/c": attr.Present} {
		if _, _, state := s.Get(name); state != want {
			t.Errorf("%s is %v, want %v", name, state, want)
		}
	}
}

func TestListKeepsEverything(t *testing.T) {
	want := backends.Info{
		Name: "n", Mode: 0o4755, Size: 1 << 40, ModTime: time.Unix(5, 6), AccTime: time.Unix(7, 8), UID: 1, GID: 2, Nlink: 3, ID: "id",
		Known: backends.HasID | backends.HasSize, TimeUnit: time.Minute,
	}
	if got := list(want).At(0); got != want {
		t.Errorf("At = %+v, want %+v", got, want)
	}
	s := attr.New(10)
	s.AnswerList("d", list(want), time.Now(), s.Mark(), true, false)
	if l, _, ok := s.Listing("d"); !ok || l.At(0) != want {
		t.Errorf("Listing = %+v, %v, want %+v", l, ok, want)
	}
}

func TestStoreIsBounded(t *testing.T) {
	s := attr.New(1000)
	for i := range 100 {
		var infos []backends.Info
		for j := range 100 {
			infos = append(infos, info(fmt.Sprint(j), 1))
		}
		dir := fmt.Sprint("dir", i)
		s.AnswerList(dir, list(infos...), time.Now(), s.Mark(), true, false)
	}
	if n := s.Len(); n > 1000 || n < 900 {
		t.Errorf("%d entries held, want at most 1000 and no fewer than needed", n)
	}
	if _, _, ok := s.Listing("dir99"); !ok {
		t.Error("the latest directory was dropped")
	}
}

// heap returns how many bytes are on the heap.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// entriesAlone are n names, each of which somebody asked for by itself, 10,000 in a directory and far below the root.
func entriesAlone(s *attr.Store, n int) {
	below := strings.Repeat("directory/", 10)
	for i := range n {
		s.Answer(fmt.Sprintf("%sd%d/file-%06d", below, i/10_000, i), info("", 1), time.Now(), s.Mark())
	}
}

// entriesListed are n names of one listing.
func entriesListed(s *attr.Store, n int) {
	l := new(attr.List)
	for i := range n {
		l.Add(info(fmt.Sprintf("file-%06d", i), 1))
	}
	s.AnswerList("d", l, time.Now(), s.Mark(), true, false)
}

// TestEntriesAreSmall: whichever way a name came to be known, a million of them are not 150 MB.
func TestEntriesAreSmall(t *testing.T) {
	const n = 60_000
	for what, fill := range map[string]func(*attr.Store, int){"asked for by itself": entriesAlone, "listed": entriesListed} {
		s := attr.New(2 * n)
		before := heap()
		fill(s, n)
		each := (heap() - before) / n
		t.Logf("%s: %.0f bytes", what, each)
		if each > 150 || s.Len() < n {
			t.Errorf("%s: an entry takes %.0f bytes of heap, want at most 150; %d of %d are known", what, each, s.Len(), n)
		}
		runtime.KeepAlive(s)
	}
}

// BenchmarkMemory tells the bytes of heap that an entry costs which was asked for by itself.
func BenchmarkMemory(b *testing.B) {
	const n = 200_000
	for b.Loop() {
		s := attr.New(2 * n)
		before := heap()
		entriesAlone(s, n)
		b.ReportMetric((heap()-before)/n, "B/entry")
		runtime.KeepAlive(s)
	}
}

func TestAnswerOlderThanARemovalIsNotTakenAfterAListing(t *testing.T) {
	s := attr.New(100)
	s.Put("d/f", info("f", 1))
	mark := s.Mark() // somebody asks for d/f, and the answer takes its time
	s.PutAbsent("d/f")
	s.AnswerList("d", list(info("g", 1)), time.Now(), s.Mark(), true, false)
	if s.Answer("d/f", info("f", 1), time.Now(), mark) {
		t.Error("a removed name came back by an answer from before")
	}
}

func TestEmptyDirectoriesCount(t *testing.T) {
	s := attr.New(100)
	for i := range 1000 {
		s.AnswerList(fmt.Sprint(i), list(), time.Now(), s.Mark(), true, false)
	}
	if n := s.Len(); n > 100 {
		t.Errorf("%d empty directories are remembered, want at most 100", n)
	}
}

func dirInfo(name string, at int64) backends.Info {
	return backends.Info{Name: name, Mode: os.ModeDir | 0o755, ModTime: time.Unix(at, 0), Known: backends.HasType | backends.HasModTime}
}

// TestDirectoryIsWhatItsLastChangeTold: what is said of a directory in the flight of a change holds unless another change of ours in it
// has ended meanwhile, for nobody knows which of the two came last.
func TestDirectoryIsWhatItsLastChangeTold(t *testing.T) {
	s := attr.New(100)
	told := func(m attr.Mark, at int64) attr.Told {
		return attr.Told{Mark: m, Asked: time.Now(), Dirs: map[string]backends.Info{"d": dirInfo("d", at)}}
	}
	want := func(when string, fresh bool, at int64) {
		t.Helper()
		info, asked, state := s.Get("d")
		if is := time.Since(asked) < time.Minute; state != attr.Present || is != fresh || fresh && info.ModTime.Unix() != at {
			t.Errorf("%s: %v, of %v, fresh: %v; want %d, fresh: %v", when, state, info.ModTime, is, at, fresh)
		}
	}
	s.Answer("d", dirInfo("d", 1), time.Now(), s.Mark())
	s.Change(told(s.Mark(), 2), attr.Made("d/a", info("a", 1)))
	want("after one change", true, 2)
	first, second := s.Mark(), s.Mark()
	s.Change(told(second, 4), attr.Removed("d/a"))
	want("after the second of two at once", true, 4)
	s.Change(told(first, 3), attr.Made("d/b", info("b", 1)))
	want("after the first of them, which ended later", false, 0)
	s.Change(told(s.Mark(), 5), attr.Removed("d/b"))
	want("after the next one", true, 5)
	s.Forget("d/c")
	want("after one that told nothing", false, 0)
}

// TestAnswerAboutADirectoryIsNoOlderThanAChangeInIt: who asked for a directory, or for a listing that holds it, before we changed a name
// in it asks again.
func TestAnswerAboutADirectoryIsNoOlderThanAChangeInIt(t *testing.T) {
	for name, answer := range map[string]func(*attr.Store, attr.Mark){
		"stat":    func(s *attr.Store, m attr.Mark) { s.Answer("d", dirInfo("d", 1), time.Now(), m) },
		"list":    func(s *attr.Store, m attr.Mark) { s.AnswerList("", list(dirInfo("d", 1)), time.Now(), m, true, false) },
		"setattr": func(s *attr.Store, m attr.Mark) { s.Change(attr.Told{Mark: m}, attr.Altered("d", dirInfo("d", 1))) },
	} {
		for what, change := range map[string]func(*attr.Store, attr.Mark){
			"a change that told nothing": func(s *attr.Store, _ attr.Mark) { s.PutAbsent("d/a") },
			"a change that told": func(s *attr.Store, m attr.Mark) {
				s.Change(attr.Told{Mark: m, Asked: time.Now(), Dirs: map[string]backends.Info{"d": dirInfo("d", 2)}}, attr.Removed("d/a"))
			},
		} {
			s := attr.New(100)
			s.Answer("d", dirInfo("d", 1), time.Now(), s.Mark())
			m := s.Mark()
			change(s, m)
			answer(s, m)
			if got, asked, state := s.Get("d"); state == attr.Present && time.Since(asked) < time.Minute && got.ModTime.Unix() != 2 {
				t.Errorf("%s after %s: the directory is as of %d, and that is believed", name, what, got.ModTime.Unix())
			}
		}
	}
}

// TestListingKeepsWhatWasChangedMeanwhile: a listing that was under way while we changed names is good for the others.
func TestListingKeepsWhatWasChangedMeanwhile(t *testing.T) {
	s := attr.New(100)
	s.Put("d/before", info("before", 1))
	m := s.Mark()
	s.Put("d/made", info("made", 2))
	s.PutAbsent("d/gone")
	s.Forget("d/unsure")
	if !s.AnswerList("d", list(info("before", 1), info("gone", 1), info("unsure", 1), info("other", 1)), time.Now(), m, true, false) {
		t.Fatal("the listing was refused")
	}
	for name, want := range map[string]attr.State{
		"before": attr.Present, "made": attr.Present, "gone": attr.Absent, "unsure": attr.Unknown, "other": attr.Present, "none": attr.Absent,
	} {
		if _, _, state := s.Get("d/" + name); state != want {
			t.Errorf("%s is %v, want %v", name, state, want)
		}
	}
	if s.Answer("d/made", info("made", 9), time.Now(), m) || s.AnswerAbsent("d/before", time.Now(), 0) {
		t.Error("an answer from before a change of ours was taken")
	}
	if _, _, ok := s.Listing("d"); ok {
		t.Error("a directory with a name of which nobody knows what became of it was told whole")
	}
}
