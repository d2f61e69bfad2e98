package cache

import (
	"context"
	"os"

	"pierfs/backends"
)

// Head is what a listing of names shows of an entry.
type Head struct {
	Name string
	Mode os.FileMode
	Type bool // Mode is known
}

// Heads fills heads with the entries from i on, as far as they have arrived, and returns how many there are. It waits for the
// first as At does, and returns what At would if there is none.
func (l *Listing) Heads(ctx context.Context, i int, heads []Head) (int, error) {
	if _, err := l.At(ctx, i); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	listed := l.list.Len()
	n := min(len(heads), listed+len(l.rest)-i)
	for k := range n {
		heads[k] = headOf(l.info(i+k, listed))
	}
	return n, nil
}

// info returns what entry i shows of itself; the caller holds mu.
func (l *Listing) info(i, listed int) backends.Info {
	if i >= listed {
		return l.rest[i-listed].Info
	}
	if len(l.over) > 0 {
		if over, ok := l.over[i]; ok {
			return over.Info
		}
	}
	return l.list.At(i)
}

func headOf(i backends.Info) Head { return Head{i.Name, i.Mode, i.Known.Has(backends.HasType)} }
