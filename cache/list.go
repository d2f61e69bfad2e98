package cache

import (
	"context"
	"io"
	"math"
	"path"
	"sync"
	"time"

	"pierfs/backends"
	"pierfs/cache/attr"
)

// Listing is a snapshot of one directory, arriving. Its methods may be called from many goroutines at once.
type Listing struct {
	cancel context.CancelFunc
	began  time.Time
	ends   time.Time // until when what it says may be used without asking again

	mu   sync.Mutex
	list *attr.List
	over map[int]Entry // what lies over entries of list: files with something unpublished
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
		case i < l.list.Len():
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
	e, ok := l.over[i]
	if !ok {
		e.Info = l.list.At(i)
		e.Version = fingerprint(e.Info)
	}
	e.Valid = max(0, time.Until(l.ends))
	return e
}

// Close stops a listing that is still under way. It may be called twice.
func (l *Listing) Close() { l.cancel() }

// add appends what the server listed.
func (l *Listing) add(info backends.Info) { l.change(func() { l.list.Add(info) }) }

// addOver appends what lies over an entry of the server, or is not there yet.
func (l *Listing) addOver(e Entry) {
	l.change(func() {
		l.over[l.list.Len()] = e
		l.list.Add(e.Info)
	})
}

func (l *Listing) end(err error) { l.change(func() { l.done, l.err = true, err }) }

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
	now := time.Now()
	l := &Listing{cancel: func() {}, began: now, ends: now.Add(t.options.MetadataTTL), list: new(attr.List), over: map[int]Entry{}}
	over := t.overlay(dir)
	if known, asked, ok := t.attrs.Listing(dir); ok && time.Since(asked) < t.options.MetadataTTL {
		l.ends = asked.Add(t.options.MetadataTTL)
		for i := range known.Len() {
			over.add(l, known.At(i))
		}
		over.rest(l)
		l.end(nil)
		return l, nil
	}
	if !t.begin() {
		return nil, shutDown("list", dir)
	}
	var listCtx context.Context
	listCtx, l.cancel = context.WithCancel(t.ctx)
	go func() { // ends with the listing, with Listing.Close or with the Tree
		defer t.work.Done()
		defer l.cancel()
		l.end(t.list(listCtx, dir, l, over))
	}()
	return l, nil
}

// list fetches dir into l and into what is known.
func (t *Tree) list(ctx context.Context, dir string, l *Listing, over *overlay) error {
	mark := t.attrs.Mark()
	var told attr.List
	listed, hidden := 0, t.Caps().Hidden
	for info, err := range t.backend.List(ctx, dir) {
		if err != nil {
			return err
		}
		listed++
		name := join(dir, info.Name)
		if t.hides(name, l.began) {
			continue
		}
		if !info.Known.Has(backends.HasType) {
			info = backends.Info{Name: info.Name} // it is there, and must be asked about before anything is believed of it
		}
		info = t.told(name, info)
		told.Add(info)
		over.add(l, info)
	}
	over.rest(l)
	t.sweep()
	caps := t.Caps()
	listed += int(min(caps.Hidden-hidden, math.MaxInt32)) // what another listing hid meanwhile only makes this one less sure
	complete := caps.ListLimit == 0 || listed < caps.ListLimit
	if !complete && t.cutListing.CompareAndSwap(false, true) {
		t.log.Warn("the server cuts listings: names beyond are not shown, and asked for one by one", "name", dir, "entries", listed)
	}
	t.attrs.AnswerList(dir, &told, l.began, mark, complete)
	return nil
}

// overlay is what lies over a listing of the server: open files with something unpublished, and the names that files are
// known to have besides.
type overlay struct {
	tree  *Tree
	dir   string
	files map[string]*File // by last element
}

func (t *Tree) overlay(dir string) *overlay {
	o := &overlay{tree: t, dir: dir, files: map[string]*File{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, f := range t.files {
		if parent(name) == dir && name != "" {
			o.files[path.Base(name)] = f
		}
	}
	return o
}

// add puts what the server listed into l, as the tree knows it.
func (o *overlay) add(l *Listing, info backends.Info) {
	f := o.files[info.Name]
	delete(o.files, info.Name)
	if f == nil || !f.Dirty() && !f.agrees(info) {
		e := Entry{Info: info, Version: fingerprint(info)}
		o.tree.countLinks(join(o.dir, info.Name), &e)
		if e.Linked == 0 {
			l.add(info)
		} else {
			l.addOver(e)
		}
		return
	}
	e := f.entry()
	e.Name = info.Name
	l.addOver(e)
}

// rest puts those into l that the server does not know yet.
func (o *overlay) rest(l *Listing) {
	for base, f := range o.files {
		if name, ok := f.Name(); ok && f.exists() && name == join(o.dir, base) {
			l.addOver(f.entry())
		}
	}
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
