package cache

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// Listing is a snapshot of one directory, arriving. Its methods may be called from many goroutines at once.
type Listing struct {
	cancel context.CancelFunc
	room   *atomic.Int64 // entries that it may still have; nil if nobody counts
	began  time.Time
	ends   time.Time // until when what it says may be used without asking again

	mu   sync.Mutex
	list *attr.List    // what the server listed, or what is known; shared, and not to be changed once it is complete
	over map[int]Entry // what lies over entries of list: files with something unpublished, and those of several names
	rest []Entry       // what the server does not list yet
	done bool
	err  error
	news chan struct{} // closed at the next change; nil while nobody waits
}

// At returns entry i, waiting until it has arrived; io.EOF past the last. What was returned once never changes or moves,
// but for Valid, which is what is left when At is called. An error of the server comes at the place where the listing
// broke off, and stays.
func (l *Listing) At(ctx context.Context, i int) (Entry, error) {
	for {
		l.mu.Lock()
		switch {
		case i < l.list.Len()+len(l.rest):
			defer l.mu.Unlock()
			return l.entry(i), nil
		case l.err != nil:
			defer l.mu.Unlock()
			return Entry{}, l.err
		case l.done:
			l.mu.Unlock()
			return Entry{}, io.EOF
		}
		if l.news == nil {
			l.news = make(chan struct{})
		}
		news := l.news
		l.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return Entry{}, ctx.Err()
		}
	}
}

// entry returns entry i, which is there; the caller holds mu.
func (l *Listing) entry(i int) Entry {
	var e Entry
	if n := l.list.Len(); i >= n {
		e = l.rest[i-n]
	} else if over, ok := l.over[i]; ok {
		e = over
	} else {
		e.Info = l.list.At(i)
		e.Version = fingerprint(e.Info)
		if l.list.Old(i) {
			return e // with no life of its own
		}
	}
	e.Valid = max(0, time.Until(l.ends))
	return e
}

// Shown tells listings of one directory apart: equal ones show the same names, of the same types and in the same order.
type Shown struct{ listed, rest uint64 }

// Shown returns what l shows. It is the zero value, which is equal to no other listing's, while l is still under way, and if nobody
// can say whether another one shows the same.
func (l *Listing) Shown() Shown {
	l.mu.Lock()
	defer l.mu.Unlock()
	listed := l.list.Shape()
	if !l.done || l.err != nil || listed == 0 {
		return Shown{}
	}
	var rest maphash.Hash
	rest.SetSeed(shownSeed)
	for _, e := range l.rest {
		fmt.Fprintf(&rest, "%s/%v/", e.Name, e.Mode.Type())
	}
	return Shown{listed, rest.Sum64()}
}

// shownSeed makes it useless to choose names for their hashes.
var shownSeed = maphash.MakeSeed()

// Len returns how many entries l has; false while it is still under way.
func (l *Listing) Len() (n int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list.Len() + len(l.rest), l.done && l.err == nil
}

// Left returns for how long what l says may be used without asking again.
func (l *Listing) Left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.ends))
}

// Close stops a listing that is still under way. It may be called twice.
func (l *Listing) Close() { l.cancel() }

// add appends what the server listed.
func (l *Listing) add(info backends.Info) { l.change(func() { l.list.Add(info) }) }

// end completes the listing with rest, or with the reason why it is not complete.
func (l *Listing) end(rest []Entry, err error) {
	l.change(func() { l.done, l.rest, l.err = true, rest, err })
}

func (l *Listing) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

// List returns the listing of dir, from what is known if that is fresh, else as it arrives from the server; an error of
// the server, such as ENOENT, comes out of At. Files that are not published yet are in it, temporary names of ours are
// not. Close it when it is no longer wanted.
func (t *Tree) List(ctx context.Context, dir string) (*Listing, error) {
	if err := backends.CheckName("list", dir); err != nil {
		return nil, err
	}
	t.visited(dir)
	l := t.newListing(func() {})
	if t.listKnown(dir, l) {
		return l, nil
	}
	if t.changes.concernsIn(dir) {
		_, asked, known := t.attrs.Listing(dir)
		if known && !isRecalled(asked) && t.listLastKnown(dir, l) {
			return l, nil
		}
		var err error
		if t.changes.movesIn(dir) { // else the server has the names, and attributes wait for contents, which may take long
			err = t.awaitChanges(ctx, dir)
		}
		if err != nil {
			if ctx.Err() == nil && t.listLastKnown(dir, l) {
				return l, nil
			}
			return nil, err
		}
	}
	if !t.begin() {
		return nil, shutDown("list", dir)
	}
	over := t.overlay(dir)
	var listCtx context.Context
	listCtx, l.cancel = context.WithCancel(t.ctx)
	go func() { // ends with the listing, with Listing.Close or with the Tree
		defer t.work.Done()
		defer l.cancel()
		if g := t.underWay(dir); g != nil && ended(listCtx, g.done) == nil && t.listKnown(dir, l) {
			return
		}
		if err := t.list(listCtx, dir, l, over); t.isAway(listCtx, err) && l.list.Len() == 0 && t.listLastKnown(dir, l) {
			return
		} else if err != nil {
			l.end(nil, err)
			return
		}
		l.end(over.rest(), nil)
		t.listed(dir, l.list.Len(), time.Since(l.began))
	}()
	return l, nil
}

// Known is List for who wants what is known of dir alone: nil if that is not fresh.
func (t *Tree) Known(dir string) *Listing {
	l := t.newListing(func() {})
	if !t.listKnown(dir, l) {
		return nil
	}
	t.visited(dir)
	return l
}

// Lifetime returns for how long what the server said may be used without asking again.
func (t *Tree) Lifetime() time.Duration { return t.options.MetadataTTL }

// newListing returns a listing of which nothing has arrived.
func (t *Tree) newListing(cancel context.CancelFunc) *Listing {
	now := time.Now()
	return &Listing{cancel: cancel, began: now, ends: now.Add(t.options.MetadataTTL), list: new(attr.List), over: map[int]Entry{}}
}

// listKnown makes l, of which nothing has arrived, what is known of dir, if that is fresh.
func (t *Tree) listKnown(dir string, l *Listing) bool {
	known, asked, ok := t.attrs.Listing(dir)
	if !ok || time.Since(asked) >= t.options.MetadataTTL {
		return false
	}
	t.attrs.Seen(dir)
	t.fillKnown(dir, l, known, asked)
	return true
}

// fillKnown makes l known, which dir held when it was asked for, and what is to be seen over that.
func (t *Tree) fillKnown(dir string, l *Listing, known *attr.List, asked time.Time) {
	o := t.overlay(dir)
	over := o.lay(known)
	rest := o.rest()
	l.change(func() {
		l.list, l.over, l.rest = known, over, rest
		l.ends, l.done = asked.Add(t.options.MetadataTTL), true
	})
}

// setIn returns what is known of names in dir whose attributes are owed.
func (t *Tree) setIn(dir string) map[string]backends.Info {
	set := map[string]backends.Info{}
	for _, name := range t.changes.setIn(dir) {
		if info, _, state := t.attrs.GetListed(name); state == attr.Present && info.Known.Has(backends.HasType) {
			set[name] = info
		}
	}
	return set
}

// list fetches dir into l and into what is known; not into that if changes are owed there, for the server tells of before, and they may
// have been made when that is looked at.
func (t *Tree) list(ctx context.Context, dir string, l *Listing, over *overlay) error {
	t.putBackIn(ctx, dir)
	mark := t.attrs.Mark()
	behind, set := t.changes.concernsIn(dir), t.setIn(dir)
	listed, hidden := 0, t.Caps().Hidden
	for info, err := range t.backend.List(ctx, dir) {
		if err != nil {
			return err
		}
		if listed++; l.room != nil && l.room.Add(-1) < 0 {
			return errLarge
		}
		name := join(dir, info.Name)
		if t.hides(name, l.began) {
			continue
		}
		t.noteLeftover(name, info, l.began)
		if promised, ok := set[name]; ok {
			over.add(l, promised)
			continue
		}
		if !info.Known.Has(backends.HasType) {
			info = backends.Info{Name: info.Name} // it is there, and must be asked about before anything is believed of it
		}
		over.add(l, t.told(name, info))
	}
	t.sweep()
	caps := t.Caps()
	listed += int(min(caps.Hidden-hidden, math.MaxInt32)) // what another listing hid meanwhile only makes this one less sure
	complete := caps.ListLimit == 0 || listed < caps.ListLimit
	if !complete && t.cutListing.CompareAndSwap(false, true) {
		t.log.Warn("the server cuts listings: names beyond are not shown, and asked for one by one", "name", dir, "entries", listed)
	}
	if known := !behind && t.arrived(dir, l, mark, complete); !known && l.room != nil {
		return errOvertaken
	}
	return nil
}

// arrived puts l, which has arrived, into what is known; false if changes of ours have overtaken it.
func (t *Tree) arrived(dir string, l *Listing, mark attr.Mark, complete bool) bool {
	l.mu.Lock() // who reads l reads its list, which is made ready to be shared
	defer l.mu.Unlock()
	return t.attrs.AnswerList(dir, l.list, l.began, mark, complete, l.room != nil)
}

// overlay is what lies over a listing of the server: open files, of which some have something unpublished, and names of files
// that are known to have several.
type overlay struct {
	tree  *Tree
	dir   string
	names map[string]*File // by last element; nil for one that is not open
}

func (t *Tree) overlay(dir string) *overlay {
	o := &overlay{tree: t, dir: dir, names: map[string]*File{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.links {
		if parent(name) == dir {
			o.names[path.Base(name)] = nil
		}
	}
	for name, f := range t.files {
		if parent(name) == dir && name != "" {
			o.names[path.Base(name)] = f
		}
	}
	return o
}

// add puts what the server listed into l, as the tree knows it.
func (o *overlay) add(l *Listing, info backends.Info) {
	f, ok := o.names[info.Name]
	if !ok {
		l.add(info)
		return
	}
	delete(o.names, info.Name)
	e, lies := o.entry(f, info)
	l.change(func() {
		if lies {
			l.over[l.list.Len()] = e
		}
		l.list.Add(info)
	})
}

// lay returns what lies over entries of a listing that is known.
func (o *overlay) lay(known *attr.List) map[int]Entry {
	over := map[int]Entry{}
	for base, f := range o.names {
		i, ok := known.Find(base)
		if !ok {
			continue
		}
		delete(o.names, base)
		if e, lies := o.entry(f, known.At(i)); lies {
			over[i] = e
		}
	}
	return over
}

// entry returns what the tree shows of a name of which the server said info; false if that is what the server said.
func (o *overlay) entry(f *File, info backends.Info) (Entry, bool) {
	if f != nil && (f.Dirty() || f.agrees(info)) {
		e := f.entry()
		e.Name = info.Name
		return e, true
	}
	e := Entry{Info: info, Version: fingerprint(info)}
	o.tree.countLinks(join(o.dir, info.Name), &e)
	return e, e.Linked != 0
}

// rest returns what the server does not know yet, by name: the same in the same order each time.
func (o *overlay) rest() (rest []Entry) {
	for base, f := range o.names {
		if f == nil {
			continue
		}
		if name, ok := f.Name(); ok && f.exists() && name == join(o.dir, base) {
			rest = append(rest, f.entry())
		}
	}
	slices.SortFunc(rest, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return rest
}

// parent returns the directory that holds name.
func parent(name string) string {
	dir := path.Dir(name)
	if dir == "." {
		return ""
	}
	return dir
}

// join returns the name of element in dir.
func join(dir, element string) string {
	if dir == "" {
		return element
	}
	return dir + "/" + element
}
