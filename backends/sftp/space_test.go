package sftp

import (
	"bytes"
	"sync"
	"syscall"
	"testing"

	"pierfs/backends"
)

// fullDisk is a server without room once fill was called: what refuses says is refused with FAILURE, and statvfs tells that
// there is no space until the content is removed and all its handles are closed.
type fullDisk struct {
	mu      sync.Mutex
	refuses func(c *channel, request frame) bool
	full    bool
	open    int             // handles that were given out and not yet taken back, on all channels
	refused int             // CLOSEs of what was not open
	opening chan struct{}   // is told of each OPEN on a further channel; nil if nobody cares
	held    <-chan struct{} // the answers to those wait for it; nil if they do not
	removed chan struct{}   // is closed by the first REMOVE
	gone    bool            // the content was removed
}

func (d *fullDisk) fill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = true
}

func (d *fullDisk) handles() (open, refused int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open, d.refused
}

func (d *fullDisk) alter(c *channel) error {
	waiting := make(map[uint32]byte)
	c.asked = func(c *channel, request frame) frame {
		d.mu.Lock()
		defer d.mu.Unlock()
		kind := request[4]
		if d.full && kind == typeExtended && bytes.Contains(request, []byte(extStatVFS)) {
			free := uint64(1 << 20)
			if !d.gone || d.open > 0 {
				free = 0
			}
			body := frame{typeExtReply}
			for _, v := range []uint64{4096, 4096, 1 << 20, free, free, 100, 50, 50, 7, 0, 255} {
				body = body.u64(v)
			}
			return answering(request, body)
		}
		if d.full && d.refuses(c, request) {
			if kind == typeClose {
				d.open-- // close(2) frees the handle also when it fails
			}
			return answering(request, statusReply(statusFailure))
		}
		switch kind {
		case typeOpen, typeClose:
			waiting[request.id()] = kind
		case typeRemove:
			if !d.gone {
				d.gone = true
				close(d.removed)
			}
		}
		if kind == typeOpen && c.number > 0 && d.opening != nil {
			d.opening <- struct{}{}
		}
		return nil
	}
	c.told = func(reply frame) []frame {
		d.mu.Lock()
		kind, known := waiting[reply.id()]
		delete(waiting, reply.id())
		switch {
		case !known:
		case kind == typeOpen && reply[4] == typeHandle:
			d.open++
		case kind == typeClose && reply[4] == typeStatus && reply[12] == statusOK:
			d.open--
		case kind == typeClose:
			d.refused++
		}
		d.mu.Unlock()
		if known && kind == typeOpen && c.number > 0 && d.held != nil {
			<-d.held
		}
		return []frame{reply}
	}
	return nil
}

// Whatever channel and whichever request tells that something failed: the reason is asked for while the content still stands, and
// nothing keeps its space once the caller has been told.
func TestFullDiskIsToldByAnyRequestOfAnyChannel(t *testing.T) {
	isSync := func(request frame) bool {
		return request[4] == typeExtended && bytes.Contains(request, []byte(extFsync))
	}
	for name, refuses := range map[string]func(*channel, frame) bool{
		"WRITE": func(_ *channel, request frame) bool { return request[4] == typeWrite },
		"FSYNC": func(_ *channel, request frame) bool { return isSync(request) },
		"CLOSE": func(c *channel, request frame) bool { return request[4] == typeClose && c.number == 0 },
		"CLOSE on a further channel": func(c *channel, request frame) bool {
			return request[4] == typeClose && c.number == 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &fullDisk{refuses: refuses, removed: make(chan struct{})}
			r := newLaned(t, d.alter)
			wait, found := pause(t, 6<<20), 0
			err := write(t, r, "file", noise(20<<20), func(w *writer, off int) {
				wait(w, off)
				if off >= 10<<20 && found == 0 {
					found = w.ways.count()
					d.fill()
				}
			})
			if found == 0 {
				t.Fatal("there are no further ways")
			}
			if backends.Errno(err) != syscall.ENOSPC {
				t.Errorf("got %v, want ENOSPC", err)
			}
			if open, refused := d.handles(); open != 0 || refused != 0 {
				t.Errorf("%d handles are open still, and %d CLOSEs were of none", open, refused)
			}
			if names := entries(t, r, ""); len(names) > 0 {
				t.Errorf("it leaves %q", names)
			}
			leaves(t, r.Backend)
		})
	}
}

// A further way that is just being opened when the content is given up takes the space of what is removed under it. Nobody is told
// that the content is gone before that handle is closed, too.
func TestNoHandleOutlivesAnAbortedContent(t *testing.T) {
	d := &fullDisk{removed: make(chan struct{}), opening: make(chan struct{}, 100)}
	d.held = d.removed
	r := newLaned(t, d.alter)
	b, err := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".file"})
	ok(t, err)
	w := b.(*writer)
	content := noise(1 << 20)
	for off := 0; len(d.opening) == 0; off += len(content) {
		if off > 256<<20 {
			t.Fatal("no further way was looked for")
		}
		_, err := w.WriteAt(t.Context(), content, int64(off))
		ok(t, err)
	}
	ok(t, w.Abort())
	if open, refused := d.handles(); open != 0 || refused != 0 {
		t.Errorf("%d handles are open still, and %d CLOSEs were of none", open, refused)
	}
	if names := entries(t, r, ""); len(names) > 0 {
		t.Errorf("it leaves %q", names)
	}
	leaves(t, r.Backend)
}
