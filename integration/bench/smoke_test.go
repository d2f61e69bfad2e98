package bench

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// harm is something wrong with the files of a work.
type harm string

const (
	nothing harm = "nothing"
	content harm = "other content of the same size"
	shorter harm = "a file cut short"
	missing harm = "a file missing"
	tooMany harm = "a file too many"
)

// do does the harm to dir, and to the last of its files.
func (h harm) do(dir string) error {
	var last string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			last = path
		}
		return err
	})
	if err != nil {
		return err
	}
	switch h {
	case content:
		info, err := os.Stat(last)
		if err != nil {
			return err
		}
		return makeFile(last, 77, info.Size())
	case shorter:
		info, err := os.Stat(last)
		if err != nil {
			return err
		}
		return os.Truncate(last, info.Size()-1)
	case missing:
		return os.Remove(last)
	case tooMany:
		return os.WriteFile(filepath.Join(dir, "absent0003"), nil, 0o600)
	}
	return nil
}

// TestWorksTellRightFromWrong: each work is done on a plain directory, where it finds nothing wrong, and on one where
// something is, which it finds. Harm comes before a work that reads and behind one that writes.
func TestWorksTellRightFromWrong(t *testing.T) {
	finds := map[string][]harm{ // the others look at all that there is
		"rand_4k":   {content, missing},
		"warm_rand": {content, missing},
		"ls_10k":    {shorter, missing, tooMany},
		"find_tree": {missing, tooMany},
		"missing":   {tooMany},
		"deep":      {shorter, missing},
		"warm_ls":   {missing, tooMany},
		"warm_ls_l": {shorter, missing, tooMany},
		"unlink":    {tooMany},
	}
	for _, w := range works {
		harms := finds[w.name]
		if harms == nil {
			harms = []harm{content, shorter, missing}
			if w.writes {
				harms = append(harms, tooMany)
			}
		}
		for _, h := range append([]harm{nothing}, harms...) {
			t.Run(w.name+"/"+string(h), func(t *testing.T) {
				err := tryHarm(t, w, h)
				if (err != nil) != (h != nothing) {
					t.Errorf("with %s wrong, %s found %v", h, w.name, err)
				}
			})
		}
	}
}

// tryHarm does w in a directory to which h is done, and returns what w says.
func tryHarm(t *testing.T, w *work, h harm) error {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	c := &cell{run: &run{limit: time.Minute, size: tiny}, work: w, top: dir, server: data, dir: data, ctx: t.Context()}
	err := fillDir(dir, w, tiny)
	if err == nil && w.first != nil {
		err = w.first(c)
	}
	if err == nil && !w.writes {
		err = h.do(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := w.do(c); err != nil {
		return err
	}
	if c.closing != nil {
		if err := c.closing(); err != nil {
			return err
		}
	}
	if w.writes {
		if err := h.do(data); err != nil {
			t.Fatal(err)
		}
	}
	return c.check()
}

// TestACellOfPierfs: the whole way once, with a work that reads and one that writes, and with a wrong answer.
func TestACellOfPierfs(t *testing.T) {
	programs, _ := build(t, "")
	s := newSite(t, "sftp")
	for _, test := range []struct {
		work string
		harm harm
	}{{"cat_small", nothing}, {"cat_small", content}, {"write_small", nothing}} {
		w := works[slices.IndexFunc(works, func(w *work) bool { return w.name == test.work })]
		c := &cell{run: &run{limit: time.Minute, programs: programs, size: tiny}, site: s, work: w, peer: peers[0], trip: 5 * time.Millisecond}
		c.top = s.makeFiles(t, w, tiny)
		if err := test.harm.do(filepath.Join(c.top, "data")); err != nil {
			t.Fatal(err)
		}
		f := c.measure(t)
		if (f.wrong != nil) != (test.harm != nothing) || f.over {
			t.Errorf("%s with %s wrong: %v, %+v", w.name, test.harm, f.wrong, f)
		}
		if f.took < c.trip || f.crossed.Flights == 0 || cmp.Or(f.crossed.ToClient, f.crossed.ToServer) == 0 {
			t.Errorf("%s: %v and %v, which is too little for a way of %v", w.name, f.took, f.crossed, c.trip)
		}
	}
}

// TestALateCellIsOver: what hangs is given up, and says so.
func TestALateCellIsOver(t *testing.T) {
	c := &cell{run: &run{size: tiny}}
	err := c.within(t.Context(), time.Millisecond, mounted{}, func() error { return c.steps(1<<40, func(int) error { return nil }) })
	f := figure{took: 60 * time.Second, over: true, done: 30, of: 200}
	if err == nil || f.String() != ">60 (15 %)" {
		t.Errorf("got %v and %s, want an end and >60 (15 %%)", err, f)
	}
}

// TestTargetsAreJudged: a table shows what was missed, and a wrong answer never as a figure.
func TestTargetsAreJudged(t *testing.T) {
	took := func(d time.Duration) result { return result{figure: figure{took: d}} }
	seconds := target{peer: "pierfs", seconds: 0.6}
	beside := target{peer: "pierfs", beside: "sshfs", ratio: 1.5}
	for _, test := range []struct {
		t          target
		cells      map[string]result
		met, known bool
	}{
		{seconds, map[string]result{"pierfs": took(600 * time.Millisecond)}, true, true},
		{seconds, map[string]result{"pierfs": took(601 * time.Millisecond)}, false, true},
		{seconds, map[string]result{"pierfs": {figure: figure{wrong: os.ErrInvalid}}}, false, true},
		{seconds, map[string]result{"sshfs": took(1)}, false, false},
		{beside, map[string]result{"pierfs": took(2 * time.Second), "sshfs": took(3 * time.Second)}, true, true},
		{beside, map[string]result{"pierfs": took(3 * time.Second), "sshfs": took(3 * time.Second)}, false, true},
	} {
		if met, known := test.t.met(test.cells); met != test.met || known != test.known {
			t.Errorf("%s of %v: met %v, known %v", test.t.says(), test.cells, met, known)
		}
	}
}
