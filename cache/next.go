package cache

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// A program that reads the small files of one directory one after the other, in the order of the listing or of their names, finds
// the next ones already open and read: the tree opens them as a program would, keeps them open until he comes, and no longer than
// what the server said of them may be used. What is opened ahead is never written to here: it is closed before anything
// else than reading is done with its name.
const (
	inARow      = 3        // files, after which the next ones are opened
	firstNext   = 16       // files opened ahead at first
	mostNext    = 64       // for one reader
	nextFlying  = 32       // on their way at a time, where sessions are no matter
	nextBytes   = 16 << 20 // of all that is open ahead
	flyingBytes = 1 << 20  // of what is on its way
	mostRanked  = 20_000   // entries of a directory in which nobody is followed
	readDirs    = 64       // directories in which readers are followed
)

// nexts is what is opened ahead in a tree. Its lock is taken before those of a Tree and its Files.
type nexts struct {
	any  atomic.Int32 // how many files are open ahead, or on their way
	busy atomic.Int32 // how many others are being opened to be read

	mu     sync.Mutex
	dirs   *simplelru.LRU[string, *reading]
	held   map[string]*next
	bytes  int64 // of held
	flying int
	inAir  int64 // bytes on their way
	rest   time.Time
	timer  *time.Timer // closes what nobody came for; nil if there is none
	ended  bool
}

// next is a file that is open ahead, or on its way.
type next struct {
	name    string
	size    int64
	asked   time.Time // when the server was asked for it
	done    chan struct{}
	file    *File // nil if it could not be opened; to be read once done is closed
	dropped bool  // nobody wants it any more; guarded by nexts.mu
	arrived bool  // guarded by nexts.mu
	by      *reading
}

// reading is what is known of those who read in one directory.
type reading struct {
	list    *attr.List // which the ranks are of
	ranks   [3]ranking
	by      int // place in ranks of the order in which files are read
	window  int
	first   string // that was opened when there was no list yet; "" once it counts
	movedAt time.Time
	inHand  bool          // the last file was there when he came
	stays   time.Duration // between two files that were there
}

// ranking is one order of the regular files of a directory, and how far somebody has come in it.
type ranking struct {
	files []int32 // places in the listing
	rank  []int32 // of each place, and one; 0 for what is no regular file
	last  int32   // rank of the last file opened
	run   int     // files in a row

	latest [8]int32 // ranks, for readers with several threads
	at     int
}

func newNexts() nexts {
	dirs, err := simplelru.NewLRU[string, *reading](readDirs, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return nexts{dirs: dirs, held: map[string]*next{}}
}

// openNext returns name, opened once more, if it was opened ahead, and opens what is likely to be read after it; nil if the
// server must be asked: asked is called then when that is done.
func (t *Tree) openNext(ctx context.Context, name string, mode OpenMode) (f *File, asked func(), err error) {
	asked = func() {}
	if !mode.Read || mode.Write || mode.Truncate || mode.Create {
		t.dropNext(name)
		return nil, asked, nil
	}
	if t.options.MetadataTTL == 0 || ctx.Value(aheadKey{}) != nil {
		return nil, asked, nil
	}
	h, waited := t.comesFor(name)
	if h == nil {
		t.nexts.busy.Add(1)
		return nil, func() { t.nexts.busy.Add(-1) }, nil
	}
	if waited {
		if err := ended(ctx, h.done); err != nil {
			t.giveUpNext(h)
			return nil, asked, err
		}
	}
	if h.file == nil {
		return nil, asked, nil
	}
	if time.Since(h.asked) < t.options.MetadataTTL && t.live(name) == h.file && t.join(h.file) {
		f = h.file
	}
	t.closeNext(h)
	return f, asked, nil
}

// arriving waits for name, if it is being opened ahead where each question needs a session, and returns what is known of it then: its
// reader has asked for all that the question would. ok is false if the server must be asked.
func (t *Tree) arriving(ctx context.Context, name string) (e Entry, ok bool, err error) {
	if t.nexts.any.Load() == 0 || !t.streams() || ctx.Value(aheadKey{}) != nil {
		return Entry{}, false, nil
	}
	t.nexts.mu.Lock()
	h := t.nexts.held[name]
	t.nexts.mu.Unlock()
	if h == nil {
		return Entry{}, false, nil
	}
	if err := ended(ctx, h.done); err != nil {
		return Entry{}, true, err
	}
	return t.known(ctx, name)
}

// giveUpNext closes what somebody came for who does not wait any longer.
func (t *Tree) giveUpNext(h *next) {
	t.nexts.mu.Lock()
	h.dropped = true
	arrived := h.arrived
	t.nexts.mu.Unlock()
	if arrived {
		t.closeNext(h)
	}
}

// aheadKey marks the context of an Open by somebody who looks ahead himself.
type aheadKey struct{}

// opensAhead returns ctx for one who looks ahead himself.
func opensAhead(ctx context.Context) context.Context { return context.WithValue(ctx, aheadKey{}, true) }

// comesFor notes that name is being opened to be read, and takes what was opened ahead of it.
func (t *Tree) comesFor(name string) (h *next, waited bool) {
	n, now := &t.nexts, time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return nil, false
	}
	h = n.held[name]
	if h != nil {
		waited = !h.arrived
		n.forget(h)
		h.by.came(now, waited)
	}
	t.follow(name, h != nil, now)
	return h, waited
}

// came notes that a file that was opened ahead is wanted.
func (r *reading) came(now time.Time, waited bool) {
	r.window = min(r.window+4, mostNext)
	if !waited && r.inHand {
		r.stays = (3*r.stays + now.Sub(r.movedAt)) / 4
	}
	r.inHand, r.movedAt = !waited, now
}

// forget takes h out of what is held; the caller holds nexts.mu.
func (n *nexts) forget(h *next) {
	if n.held[h.name] == h {
		delete(n.held, h.name)
		n.bytes -= h.size
		n.any.Add(-1)
	}
}

// closeNext ends the tree's own open of a file.
func (t *Tree) closeNext(h *next) {
	if h.file != nil {
		t.warn("closing a file that was opened ahead", h.file.Close(t.ctx, false))
	}
}

// follow notes that name is being opened to be read, and opens what is likely to be read after it; the caller holds nexts.mu.
func (t *Tree) follow(name string, found bool, now time.Time) {
	n, dir := &t.nexts, parent(name)
	if now.Before(n.rest) {
		return
	}
	l, asked, listed := t.attrs.Told(dir)
	if listed && l.Len() > mostRanked {
		return
	}
	r, ok := n.dirs.Get(dir)
	if !ok {
		r = &reading{window: firstNext, movedAt: now}
		n.dirs.Add(dir, r)
	}
	if !listed { // who reads the second file will have the directory listed
		r.first, r.movedAt = path.Base(name), now
		return
	}
	if first := r.first; first != "" {
		if r.first = ""; now.Sub(r.movedAt) < lookPause {
			r.see(l, first)
		}
	}
	if !found {
		r.inHand = false
	}
	r.see(l, path.Base(name))
	r.movedAt = now
	if r.ranks[r.by].run >= inARow {
		if t.streams() && l.Len() <= smallList*inARow && now.Sub(asked) >= t.options.MetadataTTL/2 {
			t.listAgain(dir) // to ask for each file beside its transfer costs more
		}
		t.openAfter(r, dir, now)
	}
}

// listAgain begins to list dir, unless that is under way.
func (t *Tree) listAgain(dir string) {
	t.looks.mu.Lock()
	defer t.looks.mu.Unlock()
	if t.looks.glances[dir] == nil {
		t.glanceLocked(dir, firstListed)
	}
}

// see notes that base, an entry of l, is being opened.
func (r *reading) see(l *attr.List, base string) {
	if r.list != l {
		r.rank(l)
	}
	i, ok := l.Find(base)
	if !ok {
		return
	}
	if told := &r.ranks[asTold]; r.ranks[named].rank == nil && told.last > 0 && told.rank[i] > 0 && told.rank[i] != told.last && told.rank[i] != told.last+1 {
		r.sort(named, strings.Compare)
		r.sort(counted, compareCounted)
	}
	for k := range r.ranks {
		if o := &r.ranks[k]; o.rank != nil {
			o.step(o.rank[i])
		}
	}
	for k := range r.ranks {
		if r.ranks[k].run > r.ranks[r.by].run {
			r.by = k
		}
	}
}

// The orders in which files are read.
const (
	asTold  = iota // as the server lists them
	named          // by their names, byte by byte
	counted        // by their names, with numbers in them in their order
)

// slack is how many files a reader with several threads may be before or behind the one that he opens next.
const slack = 16

// step notes that the file of a rank is being opened. Several threads do not come in order: it is enough that most of them come
// near each other.
func (o *ranking) step(rank int32) {
	if rank == 0 {
		return
	}
	o.latest[o.at%len(o.latest)] = rank
	o.at++
	switch ahead := rank - o.last; {
	case ahead == 0:
	case ahead == 1, ahead > 0 && ahead <= slack && o.run >= inARow:
		o.run++
		o.last = rank
	case ahead < 0 && ahead >= -slack && o.run >= inARow:
	default:
		o.run, o.last = 1, rank
		near, furthest := 0, rank
		for _, other := range o.latest {
			if other != 0 && other-rank <= slack && rank-other <= slack {
				near++
				furthest = max(furthest, other)
			}
		}
		if near > 2*len(o.latest)/3 {
			o.run, o.last = inARow, furthest
		}
	}
}

// rank learns the order of l, and where the readers are in it.
func (r *reading) rank(l *attr.List) {
	was := *r
	r.list, r.ranks = l, [3]ranking{}
	told := &r.ranks[asTold]
	told.rank = make([]int32, l.Len())
	for i := range l.Len() {
		if e := l.At(i); e.Mode.IsRegular() && e.Known != 0 {
			told.files = append(told.files, int32(i))
			told.rank[i] = int32(len(told.files))
		}
	}
	if was.ranks[named].rank != nil {
		r.sort(named, strings.Compare)
		r.sort(counted, compareCounted)
	}
	for k := range was.ranks {
		o := &was.ranks[k]
		if o.last == 0 {
			continue
		}
		if i, ok := l.Find(was.list.At(int(o.files[o.last-1])).Name); ok && r.ranks[k].rank != nil {
			r.ranks[k].last, r.ranks[k].run = r.ranks[k].rank[i], o.run
		}
	}
}

// sort learns a further order, of which nobody was followed yet.
func (r *reading) sort(k int, compare func(a, b string) int) {
	names := make([]string, r.list.Len())
	for _, i := range r.ranks[asTold].files {
		names[i] = r.list.At(int(i)).Name
	}
	o := &r.ranks[k]
	o.files = slices.Clone(r.ranks[asTold].files)
	slices.SortFunc(o.files, func(a, b int32) int { return compare(names[a], names[b]) })
	o.rank = make([]int32, len(names))
	for at, i := range o.files {
		o.rank[i] = int32(at + 1)
	}
	if told := &r.ranks[asTold]; told.last > 0 {
		o.last, o.run = o.rank[told.files[told.last-1]], 1
	}
}

// compareCounted compares names with the numbers in them as numbers: f9 comes before f10.
func compareCounted(a, b string) int {
	for a != "" && b != "" {
		m, n := digits(a), digits(b)
		if m > 0 && n > 0 {
			x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y), cmp.Compare(m, n)); c != 0 {
				return c
			}
			a, b = a[m:], b[n:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return n
}

// openAfter opens what follows the last file that was opened in dir; the caller holds nexts.mu.
func (t *Tree) openAfter(r *reading, dir string, now time.Time) {
	n, o := &t.nexts, &r.ranks[r.by]
	window, most := r.window, nextFlying
	if caps := t.Caps(); caps.Streams > 0 {
		streams := max(caps.Streams, caps.Shorts)
		most = streams - int(n.busy.Load()) // who has many threads needs nobody to open files for him
		window = min(window, 8*streams)
	}
	if r.stays > 0 { // what is opened too far ahead is too old when he comes
		window = min(window, int(t.options.MetadataTTL/2/r.stays)+1)
	}
	last := o.last + int32(window)
	for rank := o.last + 1; rank <= min(last, int32(len(o.files))) && n.flying < most; rank++ {
		e := r.list.At(int(o.files[rank-1]))
		name := join(dir, e.Name)
		_, _, state := t.attrs.Get(name)
		switch {
		case e.Size > smallFile || n.held[name] != nil:
			continue
		case state == attr.Absent:
			continue // gone since it was listed; who makes it anew must not find it open
		case n.inAir > 0 && n.inAir+e.Size > flyingBytes, n.bytes+e.Size > nextBytes:
			return
		case t.live(name) != nil || t.options.Spool.Whole(name, t.versionOf(name, e)):
			continue // it is here
		case !t.begin():
			return
		}
		h := &next{name: name, size: e.Size, asked: now, done: make(chan struct{}), by: r}
		n.held[name] = h
		n.bytes += h.size
		n.any.Add(1)
		n.flying++
		n.inAir += h.size
		go t.fetchNext(h, dir) // ends with the fetch, which the backend's deadlines bound, or with the Tree
	}
	if len(n.held) > 0 && n.timer == nil {
		n.timer = time.AfterFunc(t.options.MetadataTTL, t.closeOld)
	}
}

// fetchNext opens and reads a file ahead.
func (t *Tree) fetchNext(h *next, dir string) {
	defer t.work.Done()
	ctx := backends.WithWhole(opensAhead(t.ctx))
	file, e, err := t.Open(ctx, h.name, OpenMode{Read: true})
	if err == nil {
		if e.Size > 0 && e.Size <= smallFile && t.small.Load() < smallFiles {
			err = file.fetchWhole(ctx)
		}
		if err == nil {
			t.counters.prefetched.Add(h.size)
		}
	}
	n, now := &t.nexts, time.Now()
	n.mu.Lock()
	h.arrived, h.file = true, file
	n.flying--
	n.inAir -= h.size
	unwanted := h.dropped || n.ended
	if away(err) {
		n.rest = now.Add(restAway)
	}
	if file == nil || unwanted {
		n.forget(h)
	}
	if r, ok := n.dirs.Peek(dir); ok && !n.ended && !now.Before(n.rest) && r.list != nil && r.ranks[r.by].run >= inARow {
		t.openAfter(r, dir, now)
	}
	n.mu.Unlock()
	if unwanted {
		t.closeNext(h)
		h.file = nil
	}
	close(h.done)
}

// dropNext closes what was opened ahead at names, or below them.
func (t *Tree) dropNext(names ...string) {
	if t.nexts.any.Load() == 0 {
		return
	}
	t.dropNexts(func(h *next) bool {
		return slices.ContainsFunc(names, func(name string) bool { return isBelow(h.name, name) })
	})
}

// dropNexts closes what was opened ahead and wanted says.
func (t *Tree) dropNexts(unwanted func(*next) bool) {
	n := &t.nexts
	var toClose []*next
	n.mu.Lock()
	for _, h := range n.held {
		if !unwanted(h) {
			continue
		}
		n.forget(h)
		h.dropped = true
		t.counters.wasted.Add(h.size)
		if h.arrived {
			toClose = append(toClose, h)
		}
	}
	n.mu.Unlock()
	for _, h := range toClose {
		t.closeNext(h)
	}
}

// closeOld closes what nobody came for while it could be used. Who reads so slowly, or no more, has the next files opened only
// after he has opened a few himself.
func (t *Tree) closeOld() {
	now := time.Now()
	t.dropNexts(func(h *next) bool {
		old := h.arrived && now.Sub(h.asked) >= t.options.MetadataTTL
		if old {
			h.by.window = firstNext
			h.by.ranks[h.by.by].run = 0
		}
		return old
	})
	n := &t.nexts
	n.mu.Lock()
	defer n.mu.Unlock()
	n.timer = nil
	if len(n.held) > 0 && !n.ended {
		n.timer = time.AfterFunc(t.options.MetadataTTL/4, t.closeOld)
	}
}

// endNexts closes all that is open ahead, for good.
func (t *Tree) endNexts() {
	t.nexts.mu.Lock()
	t.nexts.ended = true
	if t.nexts.timer != nil {
		t.nexts.timer.Stop()
	}
	t.nexts.mu.Unlock()
	t.dropNexts(func(*next) bool { return true })
}
