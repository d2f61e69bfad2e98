package fs

import (
	"context"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/backends"
)

// space is what the server last said of its room. df(1) asks every mount in turn, so an answer never waits long for a
// server that is slow or away.
type space struct {
	mu    sync.Mutex
	last  backends.Space
	until time.Time     // when last is to be asked for again
	under chan struct{} // closed when the question under way is answered; nil if there is none
}

const (
	spaceFresh   = 5 * time.Second
	spacePatient = time.Second

	// What is shown when the server does not tell: room enough for whoever looks before he writes.
	plentyBytes = 1 << 50
	plentyFiles = 1 << 30
	blockSize   = 4096
	nameMax     = backends.MaxElement
)

func (s *fileSystem) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	r := s.begin(cancel, in.Pid)
	defer s.end(r)
	fillSpace(out, s.room(r))
	return fuse.OK
}

// room returns what is known of the server's room, after asking for it if that is old and the answer comes soon.
func (s *fileSystem) room(r *request) backends.Space {
	p := &s.space
	p.mu.Lock()
	if time.Now().Before(p.until) {
		defer p.mu.Unlock()
		return p.last
	}
	answered := p.under
	if answered == nil {
		answered = make(chan struct{})
		p.under = answered
		go s.askRoom(answered) // ends with the answer, which the deadlines below the seam bound
	}
	p.mu.Unlock()
	patience := time.NewTimer(spacePatient)
	defer patience.Stop()
	select {
	case <-answered:
	case <-patience.C:
	case <-r.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (s *fileSystem) askRoom(answered chan struct{}) {
	r := s.begun()
	defer s.end(r)
	var told backends.Space
	err := guarded(func() (err error) {
		told, err = r.on.tree.StatFS(context.Context(r))
		return err
	})
	p := &s.space
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.last = told
	}
	p.until = time.Now().Add(spaceFresh)
	p.under = nil
	close(answered)
}

func fillSpace(out *fuse.StatfsOut, from backends.Space) {
	if from.Total == 0 {
		from.Total, from.Free, from.Avail = plentyBytes, plentyBytes, plentyBytes
	}
	if from.Files == 0 {
		from.Files, from.FilesFree = plentyFiles, plentyFiles
	}
	size := uint64(blockSize)
	if from.BlockSize >= 512 {
		size = uint64(from.BlockSize)
	}
	*out = fuse.StatfsOut{
		Bsize:   uint32(size),
		Frsize:  uint32(size),
		Blocks:  max(from.Total/size, 1),
		Bfree:   from.Free / size,
		Bavail:  from.Avail / size,
		Files:   from.Files,
		Ffree:   from.FilesFree,
		NameLen: nameMax,
	}
	if from.NameMax > 0 {
		out.NameLen = min(from.NameMax, nameMax)
	}
}
