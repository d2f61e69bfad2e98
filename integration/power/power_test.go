package power

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// disk is a Disk whose power fails and returns between what a test does.
type disk struct {
	*testing.T
	*Disk
	dir string
}

func newDisk(t *testing.T) *disk {
	dir := t.TempDir()
	return &disk{t, New(t, dir, nil), dir}
}

func (d *disk) path(name string) string { return filepath.Join(d.dir, name) }

func (d *disk) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// write makes, or adds to, the file name.
func (d *disk) write(name, content string, sync bool) {
	d.Helper()
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	d.must(err)
	_, err = f.WriteString(content)
	if sync {
		err = errors.Join(err, f.Sync())
	}
	d.must(errors.Join(err, f.Close()))
}

func (d *disk) syncNames(name string) {
	d.Helper()
	f, err := os.Open(d.path(name))
	d.must(err)
	d.must(errors.Join(f.Sync(), f.Close()))
}

// fails loses the power and brings it back, and returns what is there.
func (d *disk) fails(chance *rand.Rand) map[string]string {
	d.Helper()
	_, err := d.Return(chance)
	d.must(err)
	found := map[string]string{}
	d.must(filepath.WalkDir(d.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		found[path[len(d.dir)+1:]] = string(content)
		return err
	}))
	return found
}

func TestOnlyWhatWasSyncedIsThere(t *testing.T) {
	d := newDisk(t)
	d.write("whole", "synced", true)
	d.write("nameless", "synced", true)
	d.must(os.Rename(d.path("nameless"), d.path("nowhere")))
	d.must(os.Remove(d.path("nowhere")))
	d.write("empty", "not synced", false)
	d.must(os.Mkdir(d.path("dir"), 0o700))
	d.write("dir/inner", "synced", true)
	d.syncNames("dir")
	d.syncNames(".")
	d.write("whole", ", and more", false)
	d.write("late", "synced", true)
	if got, want := d.fails(nil), map[string]string{"whole": "synced", "empty": "", "dir/inner": "synced"}; !maps.Equal(got, want) {
		t.Errorf("after a power failure: got %q, want %q", got, want)
	}
	d.must(os.Rename(d.path("dir/inner"), d.path("whole")))
	d.must(os.Remove(d.path("empty")))
	if got, want := d.fails(nil), map[string]string{"whole": "synced", "empty": "", "dir/inner": "synced"}; !maps.Equal(got, want) {
		t.Errorf("after names were changed and not synced: got %q, want %q", got, want)
	}
	d.must(os.Rename(d.path("dir/inner"), d.path("whole")))
	d.syncNames("dir") // a renaming is never there in half
	if got, want := d.fails(nil), map[string]string{"whole": "synced", "empty": ""}; !maps.Equal(got, want) {
		t.Errorf("after one directory of a renaming was synced: got %q, want %q", got, want)
	}
}

// TestChanceKeepsSomeOfIt: what was synced is there in any case, and of the rest each file is old, new, or pages of both.
func TestChanceKeepsSomeOfIt(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 1))
	seen := map[string]int{}
	old, fresh := strings.Repeat("o", 3*page), strings.Repeat("n", 2*page)
	for range 150 {
		d := newDisk(t)
		d.write("file", old, true)
		d.syncNames(".")
		d.write("file", fresh, false)
		d.write("other", "other", true)
		got := d.fails(chance)
		content := got["file"]
		rest, ok := strings.CutPrefix(content, old)
		if !ok || strings.Trim(rest, "n\x00") != "" {
			t.Fatalf("file holds %q, which was never written", content)
		}
		seen[rest]++
		seen[got["other"]]++
	}
	want := []string{fresh, fresh[:page] + string(make([]byte, page)), string(make([]byte, page)) + fresh[:page], "other", ""}
	for _, content := range want {
		if seen[content] == 0 {
			t.Errorf("%.20q of %d bytes was never there", content, len(content))
		}
	}
}

func TestPowerFailsWhereItIsTold(t *testing.T) {
	var told []Step
	dir := t.TempDir()
	d := New(t, dir, func(s Step) bool {
		told = append(told, s)
		return s == Step{Sync, "file", true}
	})
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(bytes.Repeat([]byte("x"), 10))
	if sync := f.Sync(); err != nil || sync == nil {
		t.Errorf("write: %v, sync: %v, want the latter alone to fail", err, sync)
	}
	if _, err := f.Write([]byte("y")); err == nil {
		t.Error("something was written without power")
	}
	f.Close()
	want := []Step{{Make, "file", false}, {Make, "file", true}, {Sync, "file", false}, {Sync, "file", true}}
	if !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
	if dropped, err := d.Return(nil); err != nil || dropped != 1 { // its name
		t.Errorf("got %d changes dropped (%v), want 1", dropped, err)
	}
}
