package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// register is a file that all workers write to, each through a descriptor of its own: in one call, at the same place, and as much. It holds
// what one of them wrote, and none that another one followed.
type register struct {
	dir string // as programs see it

	mu     sync.Mutex
	clock  int
	base   []byte // what it held when the daemon came
	there  bool   // it was there then
	writes []*registered
}

// registered is one writing of a register.
type registered struct {
	content    []byte
	start, end int // end is 0 until the program is told
}

const registerName, registerSize = "register", 512

func newRegister(mount string) *register { return &register{dir: filepath.Join(mount, logbookDir)} }

// found says that the file was found so, or not at all.
func (r *register) found(n node, there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.base, r.there, r.writes = n.content, there, nil
}

// set writes content.
func (r *register) set(content []byte) error {
	w := r.begin(content)
	f, err := os.OpenFile(filepath.Join(r.dir, registerName), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err := closing(f, err); err != nil {
		return err
	}
	r.isTold(w)
	return nil
}

func (r *register) begin(content []byte) *registered {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	w := &registered{content: content, start: r.clock}
	r.writes = append(r.writes, w)
	return w
}

func (r *register) isTold(w *registered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	w.end = r.clock
}

// explain returns how what was found is not as it may be.
func (r *register) explain(n node, there bool) (harms []harm) {
	r.mu.Lock()
	defer r.mu.Unlock()
	harmed := func(kind harmKind, text string) []harm {
		return []harm{{filepath.Join(logbookDir, registerName), kind, text + ": it is " + tell(n)}}
	}
	told := 0 // the last beginning of what a program was told is there
	for _, w := range r.writes {
		if w.end > 0 {
			told = max(told, w.start)
		}
	}
	switch {
	case !there && (r.there || told > 0):
		return harmed(lost, "is not there")
	case !there, told == 0 && r.there && bytes.Equal(n.content, r.base):
		return nil
	}
	for _, w := range r.writes {
		if !bytes.Equal(w.content, n.content) {
			continue
		}
		if w.end > 0 && w.end < told {
			return harmed(lost, fmt.Sprintf("holds what was written at %d to %d, and another at %d", w.start, w.end, told))
		}
		return nil
	}
	if bytes.Equal(n.content, r.base) {
		return harmed(lost, "holds what it held at first")
	}
	return harmed(strange, "holds what nobody wrote")
}
