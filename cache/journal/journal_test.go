package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const target = "SFTP host 22 user /data Test"

func open(t testing.TB, path string, o Options) (*Journal, Found) {
	t.Helper()
	j, found, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, found
}

func write(t testing.TB, j *Journal, c Change) Change {
	t.Helper()
	if err := j.Write(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

func put(name string) Entry {
	return Entry{Target: target, Kind: Put, Name: Name(name), Staged: name + ".data"}
}

// names are those of what is owed, in order.
func names(entries []Entry) []string {
	all := []string{}
	for _, e := range entries {
		all = append(all, string(e.Name))
	}
	return all
}

func TestWhatIsWrittenIsThereAfterwards(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := open(t, path, Options{})
	perm, now := uint32(0o640), time.Now().Round(0).UTC()
	full := Entry{
		Target: "FTP h\xffst", Kind: Put, When: now, Name: "dir/na\xffme \"\n\x00", To: "other", Staged: "1-1.data", Size: 7,
		Missing: []Range{{1, 2}}, Tail: 3, Base: &Version{Mode: 0o644, Size: 9, ModTime: now, ID: "\xfe", Known: 5},
		Show: Version{UID: 7}, Attr: Attr{Perm: &perm, ModTime: &now}, Sent: []Content{{Staged: "0-1.data", Size: 5, Tail: 2, Missing: []Range{{0, 1}}, Sum: []byte{1, 2}, Seen: Range{1, 2}}},
	}
	c := write(t, j, Change{Add: []Entry{full, put("a"), put("b")}})
	write(t, j, Change{Add: []Entry{put("c")}, Done: []uint64{c.Add[1].Seq}})
	write(t, j, Change{Hold: []uint64{c.Add[2].Seq}, Begin: []uint64{c.Add[2].Seq}})
	for range 2 {
		j.Close()
		j, _ = open(t, path, Options{})
		got := j.Owed()
		if want := []string{string(full.Name), "b", "c"}; !slices.Equal(names(got), want) {
			t.Fatalf("owed: got %q, want %q", names(got), want)
		}
		full.Seq = c.Add[0].Seq
		if !reflect.DeepEqual(got[0], full) {
			t.Errorf("entry: got %+v, want %+v", got[0], full)
		}
		if !got[1].Begun || got[2].Begun {
			t.Errorf("begun: got %v and %v, want the former alone", got[1].Begun, got[2].Begun)
		}
		if !got[1].Held || got[2].Held {
			t.Errorf("held: got %v and %v, want the former alone", got[1].Held, got[2].Held)
		}
		if over := j.Over(); !slices.Equal(names(over), []string{"a"}) {
			t.Errorf("over: got %q, want a, which is done and not forgotten", names(over))
		}
	}
	j.Forget(c.Add[1].Seq)
	if len(j.Over()) > 0 {
		t.Errorf("over: got %q, want nothing after it was forgotten", names(j.Over()))
	}
}

func TestNumbersAreNeverUsedTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := open(t, path, Options{})
	var last uint64
	for range 3 {
		c := write(t, j, Change{Add: []Entry{put("a")}})
		if c.Add[0].Seq <= last {
			t.Fatalf("got number %d after %d", c.Add[0].Seq, last)
		}
		last = c.Add[0].Seq
		write(t, j, Change{Done: []uint64{last}})
		j.Forget(last)
		j.disk.Lock()
		if err := j.rewrite(); err != nil {
			t.Fatal(err)
		}
		j.disk.Unlock()
		j.Close()
		j, _ = open(t, path, Options{})
	}
}

func TestTornEndIsCutOff(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	j, _ := open(t, whole, Options{})
	write(t, j, Change{Add: []Entry{put("a")}})
	before, _ := os.ReadFile(whole)
	write(t, j, Change{Add: []Entry{put("b")}})
	text, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(before); n < len(text); n++ {
		for _, rest := range []int{0, len(text) - n} { // the file is short, or its end was never written
			path := filepath.Join(dir, fmt.Sprint("torn-", n, "-", rest))
			if err := os.WriteFile(path, append(slices.Clone(text[:n]), make([]byte, rest)...), 0o600); err != nil {
				t.Fatal(err)
			}
			j, found := open(t, path, Options{})
			if want := int64(n + rest - len(before)); found.Torn != want || len(found.Damaged) > 0 {
				t.Fatalf("cut at %d with %d zeros: found %+v, want %d bytes torn", n, rest, found, want)
			}
			write(t, j, Change{Add: []Entry{put("c")}})
			j.Close()
			j, _ = open(t, path, Options{})
			if got := names(j.Owed()); !slices.Equal(got, []string{"a", "c"}) {
				t.Fatalf("cut at %d: owed %q, want a and c", n, got)
			}
			j.Close()
		}
	}
}

func TestDamageInTheMiddleIsPassedOverAndKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j, _ := open(t, path, Options{})
	var ends []int
	for _, name := range []string{"a", "b", "c"} {
		write(t, j, Change{Add: []Entry{put(name)}})
		text, _ := os.ReadFile(path)
		ends = append(ends, len(text))
	}
	j.Close()
	text, _ := os.ReadFile(path)
	for at := ends[0]; at < ends[1]; at++ { // each byte of b's record
		damaged := slices.Clone(text)
		damaged[at] ^= 0x40
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		j, found := open(t, path, Options{})
		if got := names(j.Owed()); !slices.Equal(got, []string{"a", "c"}) {
			t.Fatalf("byte %d: owed %q, want a and c", at, got)
		}
		if len(found.Damaged) != 1 || !bytes.Equal(found.Damaged[0].Text, damaged[ends[0]:ends[1]]) {
			t.Fatalf("byte %d: found %+v, want the record of b", at, found)
		}
		if kept, err := os.ReadFile(found.Kept); err != nil || !bytes.Equal(kept, damaged) {
			t.Fatalf("byte %d: %q holds %d bytes, %v; want the damaged file", at, found.Kept, len(kept), err)
		}
		j.Close()
		j, found = open(t, path, Options{})
		if got := names(j.Owed()); !slices.Equal(got, []string{"a", "c"}) || len(found.Damaged) > 0 {
			t.Fatalf("byte %d, again: owed %q, found %+v", at, got, found)
		}
		j.Close()
	}
}

func TestDamagedHeaderIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := open(t, path, Options{})
	write(t, j, Change{Add: []Entry{put("a")}})
	j.Close()
	text, _ := os.ReadFile(path)
	text[3]++
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	j, found := open(t, path, Options{})
	if kept, err := os.ReadFile(found.Kept); err != nil || !bytes.Equal(kept, text) || len(found.Damaged) != 1 {
		t.Errorf("found %+v, kept %d bytes, %v; want the whole file", found, len(kept), err)
	}
	if len(j.Owed()) > 0 {
		t.Errorf("owed %q, want nothing: nobody knows what the records meant", names(j.Owed()))
	}
}

func TestNewerFormatIsRefusedUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	text := binary.LittleEndian.AppendUint32([]byte(magic), version+1)
	text = binary.LittleEndian.AppendUint32(text, crc32.Checksum(text, table))
	text = append(text, "whatever comes then"...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(path, Options{}); !errors.Is(err, errNewer) {
		t.Errorf("open: got %v, want that it is newer", err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, text) {
		t.Errorf("the file was changed")
	}
}

func TestOlderFormatIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	text := binary.LittleEndian.AppendUint32([]byte(magic), version-1)
	text = binary.LittleEndian.AppendUint32(text, crc32.Checksum(text, table))
	record, err := encode(&Change{Add: []Entry{put("a")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, record...), 0o600); err != nil {
		t.Fatal(err)
	}
	j, _ := open(t, path, Options{})
	if got := names(j.Owed()); !slices.Equal(got, []string{"a"}) {
		t.Errorf("owed %q, want a", got)
	}
	if now, _ := os.ReadFile(path); !bytes.HasPrefix(now, header()) {
		t.Errorf("it was not rewritten in the format of now, though records of now will follow")
	}
}

func TestCompactionKeepsWhatCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := open(t, path, Options{})
	long := put(strings.Repeat("x", 10<<10))
	kept := write(t, j, Change{Add: []Entry{put("kept"), put("over")}})
	write(t, j, Change{Done: []uint64{kept.Add[1].Seq}})
	for range 500 {
		c := write(t, j, Change{Add: []Entry{long}})
		write(t, j, Change{Done: []uint64{c.Add[0].Seq}})
		j.Forget(c.Add[0].Seq)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 2<<20 {
		t.Errorf("the file has %d bytes for two short entries", info.Size())
	}
	j.Close()
	j, _ = open(t, path, Options{})
	if owed, over := names(j.Owed()), names(j.Over()); !slices.Equal(owed, []string{"kept"}) || !slices.Contains(over, "over") {
		t.Errorf("owed %q, over %q", owed, over)
	}
}

func TestFullJournalTakesOnlyEnds(t *testing.T) {
	j, _ := open(t, filepath.Join(t.TempDir(), "journal"), Options{MaxSize: 4 << 10})
	var taken []uint64
	for {
		c := Change{Add: []Entry{put(strings.Repeat("x", 200))}}
		if err := j.Write(&c); errors.Is(err, ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if taken = append(taken, c.Add[0].Seq); len(taken) > 100 {
			t.Fatal("it has no bound")
		}
	}
	for _, seq := range taken {
		write(t, j, Change{Done: []uint64{seq}})
		j.Forget(seq)
	}
	write(t, j, Change{Add: []Entry{put("there is room again")}})
}

func TestFullDiskSpoilsNothing(t *testing.T) {
	disk := newPowered()
	j, _ := open(t, "d/journal", Options{FS: disk})
	write(t, j, Change{Add: []Entry{put("a")}})
	disk.full = true
	if err := j.Write(&Change{Add: []Entry{put("lost")}}); err == nil {
		t.Fatal("a full disk took a record")
	}
	disk.full = false
	write(t, j, Change{Add: []Entry{put("b")}})
	j, found := open(t, "d/journal", Options{FS: disk.reboot(false, 0)})
	if got := names(j.Owed()); !slices.Equal(got, []string{"a", "b"}) || len(found.Damaged) > 0 {
		t.Errorf("owed %q, found %+v; want a and b", got, found)
	}
}

// TestNothingAcknowledgedIsLostWithThePower lets the power fail before each step on the disk in turn, and looks at all that the
// disk may hold then.
func TestNothingAcknowledgedIsLostWithThePower(t *testing.T) {
	for fail := 1; ; fail++ {
		disk := newPowered()
		disk.fail = fail
		sure, maybe := script(t, disk)
		for _, keepNames := range []bool{false, true} {
			for _, share := range []float64{0, 0.3, 0.7, 0.99, 1} {
				after := disk.reboot(keepNames, share)
				j, found, err := Open("d/journal", Options{FS: after})
				if err != nil {
					t.Fatalf("step %d, names %v, share %v: %v", fail, keepNames, share, err)
				}
				got := names(j.Owed())
				if len(found.Damaged) > 0 || !slices.Equal(got, sure) && !slices.Equal(got, maybe) {
					t.Fatalf("step %d, names %v, share %v: owed %q, want %q or %q; found %+v", fail, keepNames, share, got, sure, maybe, found)
				}
				write(t, j, Change{Add: []Entry{put("later")}})
				j.Close()
				if j, _ = open(t, "d/journal", Options{FS: after.reboot(false, 0)}); !slices.Contains(names(j.Owed()), "later") {
					t.Fatalf("step %d: what was written after the power came back is lost", fail)
				}
				j.Close()
			}
		}
		if disk.steps < fail {
			return // it did not come to that
		}
	}
}

// script writes to a journal until the power fails, and returns what is owed for certain then, and what may be instead.
func script(t *testing.T, disk *powered) (sure, maybe []string) {
	t.Helper()
	j, _, err := Open("d/journal", Options{FS: disk})
	if err != nil {
		return []string{}, []string{}
	}
	defer j.Close()
	owed := map[uint64]string{}
	tell := func() []string {
		all := []string{}
		for _, seq := range slices.Sorted(maps.Keys(owed)) {
			all = append(all, owed[seq])
		}
		return all
	}
	for i := range 12 {
		sure = tell()
		c := Change{Add: []Entry{put(fmt.Sprint("file", i))}}
		if i%3 == 2 {
			c.Done = []uint64{slices.Min(slices.Collect(maps.Keys(owed)))}
		}
		err := j.Write(&c)
		owed[c.Add[0].Seq] = string(c.Add[0].Name)
		for _, seq := range c.Done {
			delete(owed, seq)
		}
		if err != nil {
			return sure, tell()
		}
		if i%4 == 3 {
			j.disk.Lock()
			err := j.rewrite()
			j.disk.Unlock()
			if err != nil {
				return tell(), tell()
			}
		}
	}
	return tell(), tell()
}

func TestParallelCallersShareTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	var mu sync.Mutex
	passed := map[string]int{}
	j, _ := open(t, path, Options{Hook: func(site string) { mu.Lock(); passed[site]++; mu.Unlock() }})
	const callers, each = 16, 20
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for k := range each {
				c := Change{Add: []Entry{put(fmt.Sprint(i, "-", k))}}
				if err := j.Write(&c); err != nil {
					t.Error(err)
				}
				if _, ok := j.Entry(c.Add[0].Seq); !ok {
					t.Errorf("entry %d is not there when Write returns", c.Add[0].Seq)
				}
			}
		})
	}
	all.Wait()
	if n := passed[siteSync]; n == 0 || n >= callers*each {
		t.Errorf("%d syncs for %d changes of %d callers, want some shared", n, callers*each, callers)
	}
	j.Close()
	if j, _ = open(t, path, Options{}); j.Len() != callers*each {
		t.Errorf("owed %d, want %d", j.Len(), callers*each)
	}
}

func TestHookIsToldOfEachStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	passed := map[string]bool{}
	o := Options{Hook: func(site string) { passed[site] = true }}
	j, _ := open(t, path, o)
	write(t, j, Change{Add: []Entry{put("a")}})
	write(t, j, Change{Add: []Entry{put("b")}})
	j.Close()
	j, _ = open(t, path, o)
	j.Close()
	text, _ := os.ReadFile(path)
	text[headerSize+frameSize]++
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path, o)
	for _, site := range Sites() {
		if !passed[site] {
			t.Errorf("%s was never passed", site)
		}
		delete(passed, site)
	}
	if len(passed) > 0 {
		t.Errorf("passed besides what Sites tells: %v", passed)
	}
}

func FuzzParse(f *testing.F) {
	record, err := encode(&Change{Add: []Entry{put("a")}, Done: []uint64{1}})
	if err != nil {
		f.Fatal(err)
	}
	whole := append(header(), record...)
	f.Add(whole)
	f.Add(append(whole, whole...))
	f.Add(whole[:len(whole)-3])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parse(text)
		if err != nil {
			return
		}
		if p.torn < 0 || p.torn > int64(len(text)) || p.good < 0 || p.good > int64(len(text)) {
			t.Fatalf("%d bytes: good %d, torn %d", len(text), p.good, p.torn)
		}
		// What is good reads the same again, with nothing torn, and goes on being read with more behind it.
		if len(p.damaged) > 0 || p.good == 0 {
			return
		}
		again, err := parse(append(slices.Clone(text[:p.good]), record...))
		if err != nil || len(again.changes) != len(p.changes)+1 || again.torn != 0 || len(again.damaged) > 0 {
			t.Fatalf("read again with one more: %d changes of %d, torn %d, damaged %d, %v", len(again.changes), len(p.changes)+1, again.torn, len(again.damaged), err)
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add("a/\xff\"\\\n")
	f.Fuzz(func(t *testing.T, name string) {
		text, err := Name(name).MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Name
		if err := got.UnmarshalText(text); err != nil || string(got) != name {
			t.Errorf("%q as %q: got %q, %v", name, text, got, err)
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			j, _ := open(b, filepath.Join(b.TempDir(), "journal"), Options{})
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					c := Change{Add: []Entry{put("dir/some-name")}}
					if err := j.Write(&c); err != nil {
						b.Error(err)
						return
					}
					if err := j.Write(&Change{Done: []uint64{c.Add[0].Seq}}); err != nil {
						b.Error(err)
						return
					}
					j.Forget(c.Add[0].Seq)
				}
			})
		})
	}
}
