package cache

import (
	"context"
	"io"
	"path"
	"sync"
	"time"

	"pierfs/backends"
)

// Listing is a snapshot of one directory, arriving. Its methods may be called from many goroutines at once.
type Listing struct {
	cancel context.CancelFunc
	ends   time.Time // until when what it says may be used without asking again

	mu      sync.Mutex
	entries []Entry
	done    bool
	err     error
	news    chan struct{} // closed at the next change; nil while nobody waits
}

// At returns entry i, waiting until it has arrived; io.EOF past the last. What was returned once never changes or moves,
// but for Valid, which is what is left when At is called.
// An error of the server comes at the place where the listing broke off, and stays.
func (l *Listing) At(ctx context.Context, i int) (Entry, error) {
	for {
		l.mu.Lock()
		switch {
		case i < len(l.entries):
			defer l.mu.Unlock()
			e := l.entries[i]
			e.Valid = max(0, time.Until(l.ends))
			return e, nil
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

// Close stops a listing that is still under way. It may be called twice.
func (l *Listing) Close() { l.cancel() }

func (l *Listing) add(entries ...Entry) {
	l.change(func() { l.entries = append(l.entries, entries...) })
}

func (l *Listing) end(err error) {
	l.change(func() { l.done, l.err = true, err })
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
	over := t.overlay(dir)
	if infos, asked, ok := t.attrs.Listing(dir); ok && time.Since(asked) < t.options.MetadataTTL {
		l := &Listing{cancel: func() {}, ends: asked.Add(t.options.MetadataTTL)}
		for _, info := range infos {
			over.add(l, info)
		}
		over.rest(l)
		l.end(nil)
		return l, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, shutDown("list", dir)
	}
	listCtx, cancel := context.WithCancel(t.ctx)
	l := &Listing{cancel: cancel, ends: time.Now().Add(t.options.MetadataTTL)}
	t.work.Go(func() { // ends with the listing, with Listing.Close or with the Tree
		defer cancel()
		l.end(t.list(listCtx, dir, l, over))
	})
	return l, nil
}

// list fetches dir into l and into what is known.
func (t *Tree) list(ctx context.Context, dir string, l *Listing, over *overlay) error {
	mark, asked := t.attrs.Mark(), time.Now()
	var infos []backends.Info
	for info, err := range t.backend.List(ctx, dir) {
		if err != nil {
			return err
		}
		info = t.times.shown(join(dir, info.Name), info)
		infos = append(infos, info)
		over.add(l, info)
	}
	over.rest(l)
	limit := t.Caps().ListLimit
	t.attrs.AnswerList(dir, infos, asked, mark, limit == 0 || len(infos) < limit)
	return nil
}

// overlay is what lies over a listing of the server: open files with something unpublished, and names to be hidden.
type overlay struct {
	tree   *Tree
	dir    string
	files  map[string]*File // by last element
	hidden map[string]struct{}
}

func (t *Tree) overlay(dir string) *overlay {
	o := &overlay{tree: t, dir: dir, files: map[string]*File{}, hidden: map[string]struct{}{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, f := range t.files {
		if parent(name) == dir && name != "" {
			o.files[path.Base(name)] = f
		}
	}
	for name := range t.temps {
		if parent(name) == dir {
			o.hidden[path.Base(name)] = struct{}{}
		}
	}
	return o
}

// add puts what the server listed into l, as the tree knows it.
func (o *overlay) add(l *Listing, info backends.Info) {
	if _, ok := o.hidden[info.Name]; ok {
		return
	}
	e := Entry{Info: info, Version: fingerprint(info)}
	if f := o.files[info.Name]; f != nil {
		delete(o.files, info.Name)
		if f.Dirty() || f.agrees(info) {
			e = f.entry()
			e.Name = info.Name
		}
	}
	l.add(e)
}

// rest puts those into l that the server does not know yet.
func (o *overlay) rest(l *Listing) {
	for base, f := range o.files {
		if name, ok := f.Name(); ok && f.Dirty() && name == join(o.dir, base) {
			l.add(f.entry())
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
