package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// content is what a program believes a file to hold, and what the server must have of it.
type content struct {
	bytes     []byte
	published []byte // nil: never
	claimed   bool   // an empty file stands under the name
	gone      bool   // removed or replaced
	opens     []*cache.File
}

// model is a world beside a plain map that says what programs must see.
type model struct {
	*world
	random *rand.Rand
	names  map[string]*content
	open   []*content // those with opens, in an order that the seed decides

	mu     sync.Mutex // for what faults touch: calls go out together, and may outlive who wanted them
	breaks int        // faults that lost the open files of the server
	log    []string
}

var modelNames = []string{"a", "b", "c", "d/x", "d/y"}

// TestTreeAgreesWithAMap makes random calls, compares all that can be seen after each, and loses a request or a reply now and
// then: one at a time, so that nobody may notice.
func TestTreeAgreesWithAMap(t *testing.T) {
	seeds, steps := 5, 120
	if testing.Short() {
		seeds = 2
	}
	for server, newWorld := range servers {
		for seed := range seeds {
			for _, faults := range []bool{false, true} {
				t.Run(fmt.Sprint(server, seed, faults), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						m := &model{world: newWorld(t, nil), random: rand.New(rand.NewPCG(uint64(seed), 7)), names: map[string]*content{}}
						m.run(steps, faults)
					})
				})
			}
		}
	}
}

// servers are the kinds of server that a tree must agree with a map on.
var servers = map[string]func(*testing.T, func(*mem.Options, *cache.Options)) *world{"SFTP": newKeeping, "FTP": newStreamKeeping}

func (m *model) run(steps int, faults bool) {
	m.must(m.server.MakeDir("d"))
	for range steps {
		if faults && m.random.IntN(3) == 0 {
			m.oneFault()
		}
		m.step()
		m.server.SetFault(nil)
		m.server.SetAfter(nil)
		m.compare()
		if m.Failed() {
			m.Fatalf("after %q", m.log)
		}
	}
	m.finish()
}

// oneFault lets one of the next few calls be lost, before or after the server did it, or refused for the moment.
func (m *model) oneFault() {
	countdown, class, broken := m.random.IntN(4), backends.Class(1+m.random.IntN(2)), m.random.IntN(2) == 0
	hook := func(_ context.Context, op, name string) error {
		if op == "abort" || op == "entry" {
			return nil
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if countdown--; countdown != -1 {
			return nil
		}
		m.log = append(m.log, fmt.Sprintf("(%s of %s %v)", op, name, class))
		if broken {
			m.breaks++
			m.server.Break()
		}
		return &backends.Error{Op: op, Name: name, Code: syscall.ECONNRESET, Class: class}
	}
	if class == backends.Lost && m.random.IntN(2) == 0 {
		m.server.SetAfter(hook)
	} else {
		m.server.SetFault(hook)
	}
}

func (m *model) step() {
	name := modelNames[m.random.IntN(len(modelNames))]
	if len(m.open) > 0 && m.random.IntN(3) > 0 {
		m.onOpen(m.open[m.random.IntN(len(m.open))])
		return
	}
	switch m.random.IntN(5) {
	case 0, 1, 2:
		m.openOne(name)
	case 3:
		m.remove(name)
	case 4:
		m.rename(name, modelNames[m.random.IntN(len(modelNames))])
	}
}

func (m *model) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *model) openOne(name string) {
	mode := cache.OpenMode{
		Read: true, Write: true, Perm: 0o600,
		Create: m.random.IntN(2) == 0, Truncate: m.random.IntN(4) == 0, Exclusive: m.random.IntN(4) == 0,
	}
	mode.Exclusive = mode.Exclusive && mode.Create
	m.note("open %s %+v", name, mode)
	c := m.names[name]
	f, _, err := m.tree.Open(m.Context(), name, mode)
	switch {
	case c == nil && !mode.Create:
		wantErrno(m.T, err, syscall.ENOENT)
		return
	case c != nil && mode.Exclusive && backends.CauseOf(err) != backends.CauseConnLost:
		wantErrno(m.T, err, syscall.EEXIST)
		return
	case c != nil && mode.Exclusive:
		return // an answer was lost: nobody knows
	case err != nil && mode.Exclusive && backends.Errno(err) == syscall.EIO:
		m.must(m.server.Delete(name)) // the empty file may be anybody's, as it says
		m.tree.Refresh(m.Context(), name)
		return
	}
	m.must(err)
	if c == nil {
		c = &content{claimed: mode.Exclusive && m.tree.Caps().Exclusive}
		m.names[name] = c
	}
	if mode.Truncate {
		c.bytes = nil
	}
	if c.opens = append(c.opens, f); len(c.opens) == 1 {
		m.open = append(m.open, c)
	}
}

func (m *model) onOpen(c *content) {
	f := c.opens[m.random.IntN(len(c.opens))]
	p := bytes.Repeat([]byte{byte('a' + m.random.IntN(26))}, 1+m.random.IntN(2000)*m.random.IntN(300))
	off := m.random.Int64N(int64(len(c.bytes)) + 100)
	switch m.random.IntN(7) {
	case 0:
		m.note("write %d at %d", len(p), off)
		_, err := f.WriteAt(m.Context(), p, off)
		m.must(err)
		c.bytes = append(c.bytes, make([]byte, max(0, int(off)+len(p)-len(c.bytes)))...)
		copy(c.bytes[off:], p)
	case 1, 2:
		m.note("append %d", len(p))
		_, err := f.Append(m.Context(), p)
		m.must(err)
		c.bytes = append(c.bytes, p...)
	case 3:
		m.note("truncate to %d", off)
		_, err := f.SetAttr(m.Context(), backends.Attr{Size: &off})
		m.must(err)
		c.bytes = append(c.bytes, make([]byte, max(0, int(off)-len(c.bytes)))...)[:off]
	case 4:
		m.note("publish")
		if m.filled(c, f.Publish(m.Context())) {
			c.publish()
		}
	default:
		m.note("close of %d", len(c.opens))
		last := len(c.opens) == 1
		if m.filled(c, f.Close(m.Context(), false)) && last {
			c.publish()
		}
		i := slices.Index(c.opens, f)
		c.opens = slices.Delete(c.opens, i, i+1)
		if last {
			m.open = slices.DeleteFunc(m.open, func(o *content) bool { return o == c })
		}
	}
}

func (c *content) publish() {
	if !c.gone {
		c.published, c.claimed = append([]byte{}, c.bytes...), false
	}
}

// filled demands that err is nil.
func (m *model) filled(c *content, err error) bool {
	m.Helper()
	m.must(err)
	return err == nil
}

func (m *model) remove(name string) {
	m.note("remove %s", name)
	err := m.tree.Remove(m.Context(), name)
	c := m.names[name]
	if c == nil {
		if err != nil { // nil after a lost answer: it is gone
			wantErrno(m.T, err, syscall.ENOENT)
		}
		return
	}
	m.must(err)
	c.gone = true
	delete(m.names, name)
}

func (m *model) rename(from, to string) {
	m.note("rename %s %s", from, to)
	err := m.tree.Rename(m.Context(), from, to, backends.Replace)
	c := m.names[from]
	if c == nil {
		wantErrno(m.T, err, syscall.ENOENT)
		return
	}
	m.must(err)
	if from == to {
		return
	}
	c.publish()
	if old := m.names[to]; old != nil {
		old.gone = true
	}
	delete(m.names, from)
	m.names[to] = c
}

// compare demands that names, sizes, contents and the server are what the model says.
func (m *model) compare() {
	m.Helper()
	onServer := map[string]bool{"d": true}
	claims := 0 // each has a temporary name
	for _, name := range modelNames {
		e, err := m.tree.Stat(m.Context(), name)
		c := m.names[name]
		if c == nil {
			wantErrno(m.T, err, syscall.ENOENT)
			m.lacks(name)
			continue
		}
		if err != nil || e.Size != int64(len(c.bytes)) {
			m.Errorf("Stat of %s = %d, %v, want %d", name, e.Size, err, len(c.bytes))
		}
		switch {
		case c.published != nil:
			m.has(name, string(c.published))
		case c.claimed:
			m.has(name, "")
		default:
			m.lacks(name)
		}
		if c.published != nil || c.claimed {
			onServer[name] = true
		}
		if c.claimed {
			claims++
		}
	}
	temporary := func(name string) bool { return name[0] == '.' }
	for dir, prefix := range map[string]string{"": "", "d": "d/"} {
		got, err := m.server.Names(dir)
		m.must(err)
		if slices.ContainsFunc(got, temporary) && m.breaks > 0 {
			time.Sleep(time.Second) // what a break has left is removed a little later
			got, err = m.server.Names(dir)
			m.must(err)
		}
		for _, name := range got {
			if claims > 0 && temporary(name) {
				claims--
			} else if !onServer[prefix+name] {
				m.Errorf("the server holds %q", prefix+name)
			}
		}
		var want []string
		for name := range m.names {
			if (dir == "d") == (name[0] == 'd') {
				want = append(want, name[len(prefix):])
			}
		}
		if dir == "" {
			want = append(want, "d")
		}
		slices.Sort(want)
		if got := m.list(dir); !slices.Equal(got, want) {
			m.Errorf("List of %q = %q, want %q", dir, got, want)
		}
	}
	if len(m.open) > 0 {
		m.compareContent(m.open[m.random.IntN(len(m.open))])
	}
}

func (m *model) compareContent(c *content) {
	m.Helper()
	p := make([]byte, len(c.bytes)+10)
	n, err := c.opens[0].ReadAt(m.Context(), p, 0)
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.gone && m.breaks > 0 && backends.Errno(err) == syscall.ESTALE {
		return // nothing of it is left, here or there
	}
	if err != io.EOF || !bytes.Equal(p[:n], c.bytes) {
		m.Errorf("read %s, %v, want %s", short(string(p[:n])), err, short(string(c.bytes)))
	}
}

// finish closes everything and demands that nothing is left.
func (m *model) finish() {
	for _, c := range m.open {
		for _, f := range c.opens {
			m.must(f.Close(m.Context(), false))
		}
		c.opens = nil
		c.publish()
	}
	m.open = nil
	m.compare()
	time.Sleep(time.Second) // what a break may have left is looked for once more
	m.empty(m.options.Staging, m.options.Quarantine)
	m.must(m.tree.Close(m.Context()))
}

// TestManyProgramsAtOnce lets eight programs do what they like with a few names while the connection breaks now and then.
// Each content is one letter and says its own length, so that whatever is read must be whole and of one version.
func TestManyProgramsAtOnce(t *testing.T) {
	rounds := 80
	if testing.Short() {
		rounds = 20
	}
	for server, newWorld := range servers {
		for _, faults := range []bool{false, true} {
			t.Run(fmt.Sprint(server, faults), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, func(_ *mem.Options, to *cache.Options) {
						to.MetadataTTL, to.NegativeTTL = 50*time.Millisecond, 50*time.Millisecond
						to.Retry.Count, to.Retry.Timeout = 30, time.Minute // so that bad luck alone never spends a budget
					})
					w.crowd(rounds, faults)
				})
			})
		}
	}
}

func (w *world) crowd(rounds int, faults bool) {
	w.must(w.server.MakeDir("d"))
	if faults {
		w.losing()
	}
	var programs sync.WaitGroup
	for i := range 8 {
		programs.Go(func() { w.program(rand.New(rand.NewPCG(uint64(i), 9)), i, rounds) })
	}
	programs.Wait()
	w.server.SetFault(nil)
	w.server.SetAfter(nil)
	for _, dir := range []string{"", "d"} {
		names, err := w.server.Names(dir)
		w.must(err)
		for _, name := range names {
			if len(name) > 4 {
				w.Errorf("%q is left on the server", name)
			}
		}
	}
	w.must(w.tree.Close(w.Context()))
	w.empty(w.options.Staging, w.options.Quarantine)
}

// losing loses one call of forty, and delays all of them.
func (w *world) losing() {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 1))
	hook := func(ctx context.Context, op, name string) error {
		mu.Lock()
		lose, pause := random.IntN(40) == 0, time.Duration(random.IntN(5))*time.Millisecond
		mu.Unlock()
		time.Sleep(pause)
		if !lose || op == "abort" || op == "entry" {
			return nil
		}
		w.server.Break()
		return lost(op, name)
	}
	w.server.SetFault(hook)
	w.server.SetAfter(hook)
}

// letter is a content of one letter that says its length.
func letter(random *rand.Rand) []byte {
	size := []int{20, 5000, 300 << 10}[random.IntN(3)] + random.IntN(100)
	p := bytes.Repeat([]byte{byte('a' + random.IntN(26))}, size)
	copy(p, fmt.Sprintf("%08d", size))
	return p
}

// whole reports whether p is one letter's content.
func whole(p []byte) bool {
	var size int
	if n, err := fmt.Sscanf(string(p[:min(len(p), 8)]), "%08d", &size); n != 1 || err != nil || size != len(p) {
		return false
	}
	return len(bytes.Trim(p[8:], string(p[8:9]))) == 0
}

func (w *world) program(random *rand.Rand, id, rounds int) {
	own, log := fmt.Sprintf("d/o%d", id), 0
	shared := func() string { return fmt.Sprintf("s%d", random.IntN(3)) }
	for range rounds {
		switch random.IntN(6) {
		case 0: // replace by rename, as editors do
			temp := fmt.Sprintf("t%d", id)
			if w.put(temp, letter(random), false) {
				w.allow(w.tree.Rename(w.Context(), temp, shared(), backends.Replace))
			}
		case 1: // replace in place; O_TRUNC and one write are one version here, since they are published together
			w.put(fmt.Sprintf("p%d", random.IntN(2)), letter(random), true)
		case 2, 3:
			w.readWhole(shared())
		case 4:
			w.allow(w.tree.Remove(w.Context(), shared()))
		case 5: // a log of one's own: what is acknowledged stays
			f, _, err := w.tree.Open(w.Context(), own, creating)
			if w.allow(err); err != nil {
				continue
			}
			_, err = f.Append(w.Context(), fmt.Appendf(nil, "%04d\n", log))
			w.must(err)
			if err := f.Close(w.Context(), false); err != nil {
				w.Errorf("close of a log: %v", err)
			}
			log++
		}
	}
	got, err := w.server.ReadFile(own)
	if err != nil && !(log == 0 && errors.Is(err, os.ErrNotExist)) {
		w.Error(err)
	}
	var want []byte
	for i := range log {
		want = fmt.Appendf(want, "%04d\n", i)
	}
	if !bytes.Equal(got, want) {
		w.Errorf("%s holds %s, want %d lines", own, short(string(got)), log)
	}
}

// put writes a whole file of its own writer.
func (w *world) put(name string, p []byte, alone bool) bool {
	mode := cache.OpenMode{Write: true, Create: true, Truncate: true, Perm: 0o600}
	f, _, err := w.tree.Open(w.Context(), name, mode)
	if w.allow(err); err != nil {
		return false
	}
	if alone { // several may write: each takes care of its own bytes only
		_, err = f.WriteAt(w.Context(), p[:8], 0)
	} else {
		_, err = f.WriteAt(w.Context(), p, 0)
	}
	w.must(err)
	return w.allow(f.Close(w.Context(), false))
}

func (w *world) readWhole(name string) {
	f, e, err := w.tree.Open(w.Context(), name, reading)
	if w.allow(err); err != nil {
		return
	}
	defer f.Close(w.Context(), false)
	p := make([]byte, e.Size+1)
	n, err := f.ReadAt(w.Context(), p, 0)
	if err != io.EOF {
		w.allow(err)
		return
	}
	if !whole(p[:n]) {
		w.Errorf("%d of %d bytes of %s are %s: not one version", n, e.Size, name, short(string(p[:n])))
	}
}

// allow demands that err is nil or what a race or a lost open file explains.
func (w *world) allow(err error) bool {
	w.Helper()
	allowed := map[syscall.Errno]bool{0: true, syscall.ENOENT: true, syscall.ESTALE: true}
	if !allowed[backends.Errno(err)] {
		w.Errorf("%v: want one of %v", err, slices.Collect(maps.Keys(allowed)))
	}
	return err == nil
}
