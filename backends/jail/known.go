package jail

import (
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"pierfs/backends"
)

const (
	// knownFor is how long a name is believed to be no link: long enough for what the kernel does after a lookup, and the
	// most that a link made on the server behind our back can go unnoticed.
	knownFor = time.Minute

	knownMost = 8192 // names in a generation; two are kept, about 2 MiB
)

// known remembers which names were no links when the server was last asked. The zero value is ready for use.
type known struct {
	mu       sync.Mutex
	new, old map[string]plain // new fills up, then becomes old
}

type plain struct {
	asked time.Time
	dir   bool
}

// learn remembers what the server said of name.
func (k *known) learn(name string, info backends.Info) {
	if !info.Known.Has(backends.HasType) || info.Mode&os.ModeSymlink != 0 {
		k.forget(name)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.new == nil || len(k.new) >= knownMost {
		k.new, k.old = make(map[string]plain), k.new
	}
	k.new[name] = plain{asked: time.Now(), dir: info.IsDir()}
}

// plain reports whether name was no link within the last minute.
func (k *known) plain(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.find(name)
	return ok && time.Since(p.asked) < knownFor
}

func (k *known) find(name string) (plain, bool) {
	p, ok := k.new[name]
	if !ok {
		p, ok = k.old[name]
	}
	return p, ok
}

// forget is told of a name that changes.
func (k *known) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.new, name)
	delete(k.old, name)
}

// moved is told of a rename. With a directory, everything below it has another name.
func (k *known) moved(from, to string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.find(from)
	for _, names := range []map[string]plain{k.new, k.old} {
		delete(names, from)
		delete(names, to)
		if ok && !p.dir {
			continue
		}
		maps.DeleteFunc(names, func(name string, _ plain) bool {
			return strings.HasPrefix(name, from+"/") || strings.HasPrefix(name, to+"/")
		})
	}
}
