package spool

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"
)

// TestStoreIsInUseWhileItIsSurveyed: a large directory on a slow disk takes its time, and what happens meanwhile counts more
// than what is found.
func TestStoreIsInUseWhileItIsSurveyed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "content")
	v := Version{Size: 1000, ModTime: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	older, newer := bytes.Repeat([]byte("o"), 1000), bytes.Repeat([]byte("n"), 1000)
	begin := func() (*Store, *Shelf) {
		s, err := OpenStore(dir, StoreOptions{Floor: Floor{Bytes: 1}})
		if err != nil {
			t.Fatal(err)
		}
		return s, s.Shelf("test")
	}
	s, h := begin()
	for _, name := range []string{"dropped", "forgotten/below", "taken", "small", "stays"} {
		h.KeepSmall(name, v, older, time.Now())
	}
	s.Close()

	// A Store whose survey has not begun to look into the files, and whose users have waited long enough.
	s, h = begin()
	<-s.ready
	all := s.list()
	s.ready = make(chan struct{})
	for name, e := range h.entries {
		delete(h.entries, name)
		s.closed.Remove(e.place)
		s.used -= e.bytes
	}
	s.opened = time.Now().Add(-time.Hour)

	if h.Whole("stays", Version{}) {
		t.Error("something is known before it was looked at")
	}
	h.Drop("dropped")
	h.Forget("forgotten")
	f, err := h.Take("taken", v)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Fill(newer[:10], 0); err != nil {
		t.Fatal(err)
	}
	h.KeepSmall("small", v, newer, time.Now())
	s.survey(all)
	for name, want := range map[string][]byte{"dropped": nil, "forgotten/below": nil, "small": newer, "stays": older} {
		if got, _ := h.Small(name, v); !bytes.Equal(got, want) {
			t.Errorf("%s: %.10q, want %.10q", name, got, want)
		}
	}
	if f.Real() != 10 {
		t.Errorf("what was taken has %d bytes", f.Real())
	}
	if err := f.Release(true); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s, h = begin()
	if u := h.Usage(); u.Files != 3 {
		t.Errorf("%d files are left", u.Files)
	}
	s.Close()
}

// BenchmarkSurvey looks into 2,000 small contents.
func BenchmarkSurvey(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "content")
	s, err := OpenStore(dir, StoreOptions{})
	if err != nil {
		b.Fatal(err)
	}
	h := s.Shelf("test")
	for i := range 2000 {
		content := bytes.Repeat([]byte{byte(i)}, 1000)
		h.KeepSmall("dir/name"+time.Duration(i).String(), Version{Size: 1000, ModTime: time.Unix(1, 0)}, content, time.Now())
	}
	s.Close()
	for b.Loop() {
		s, err := OpenStore(dir, StoreOptions{})
		if err != nil {
			b.Fatal(err)
		}
		<-s.ready
		s.Close()
	}
}
