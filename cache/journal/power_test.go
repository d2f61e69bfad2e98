package journal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// powered is a file system in memory that can lose its power: what was not synced, of contents and of names, is then gone, or
// there in part, as the test decides.
type powered struct {
	mu    sync.Mutex
	now   map[string]*inode
	then  map[string]*inode // the names that are on the disk
	steps int               // changes so far
	fail  int               // the step that power fails at; 0 is never
	full  bool              // the disk takes no byte more
}

type inode struct{ now, then []byte }

var errPower = errors.New("no power")

func newPowered() *powered { return &powered{now: map[string]*inode{}, then: map[string]*inode{}} }

// step counts one change; the power fails before the one that is asked for. The caller holds mu.
func (p *powered) step() error {
	if p.fail > 0 && p.steps >= p.fail {
		return errPower
	}
	p.steps++
	return nil
}

// reboot returns what is on the disk after the power came back: with keep, changes of contents that were not synced are there up to
// that share of their length, and names as they were last.
func (p *powered) reboot(keepNames bool, share float64) *powered {
	p.mu.Lock()
	defer p.mu.Unlock()
	after := newPowered()
	names := p.then
	if keepNames {
		names = p.now
	}
	copies := map[*inode]*inode{}
	for name, i := range names {
		if copies[i] == nil {
			content := slices.Clone(i.then)
			if n := int(share * float64(len(i.now))); n > len(content) {
				content = append(content, i.now[len(content):n]...)
			} else if share == 1 {
				content = slices.Clone(i.now)
			}
			copies[i] = &inode{content, slices.Clone(content)}
		}
		after.now[name], after.then[name] = copies[i], copies[i]
	}
	return after
}

func (p *powered) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.now[name]
	if i == nil && flag&os.O_CREATE == 0 {
		return nil, os.ErrNotExist
	}
	if i == nil || flag&os.O_TRUNC != 0 {
		if err := p.step(); err != nil {
			return nil, err
		}
	}
	if i == nil {
		i = new(inode)
		p.now[name] = i
	}
	if flag&os.O_TRUNC != 0 {
		i.now = nil
	}
	return &poweredFile{p, i}, nil
}

func (p *powered) ReadFile(name string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.now[name]
	if i == nil {
		return nil, os.ErrNotExist
	}
	return slices.Clone(i.now), nil
}

func (p *powered) Rename(from, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	p.now[to] = p.now[from]
	delete(p.now, from)
	return nil
}

func (p *powered) Link(old, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	p.now[name] = p.now[old]
	return nil
}

func (p *powered) SyncDir(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.step(); err != nil {
		return err
	}
	for name := range p.then {
		if filepath.Dir(name) == dir && p.now[name] == nil {
			delete(p.then, name)
		}
	}
	for name, i := range p.now {
		if filepath.Dir(name) == dir {
			p.then[name] = i
		}
	}
	return nil
}

type poweredFile struct {
	p *powered
	i *inode
}

func (f *poweredFile) WriteAt(b []byte, off int64) (int, error) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if f.p.full {
		n := len(b) / 2
		f.write(b[:n], off)
		return n, errors.New("no space left")
	}
	if err := f.p.step(); err != nil {
		return 0, err
	}
	f.write(b, off)
	return len(b), nil
}

func (f *poweredFile) write(b []byte, off int64) {
	if grow := int(off) + len(b) - len(f.i.now); grow > 0 {
		f.i.now = append(f.i.now, make([]byte, grow)...)
	}
	copy(f.i.now[off:], b)
}

func (f *poweredFile) Truncate(size int64) error {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if err := f.p.step(); err != nil {
		return err
	}
	f.i.now = slices.Clone(f.i.now[:min(int(size), len(f.i.now))])
	return nil
}

func (f *poweredFile) Sync() error {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if err := f.p.step(); err != nil {
		return err
	}
	f.i.then = slices.Clone(f.i.now)
	return nil
}

func (f *poweredFile) Close() error { return nil }
