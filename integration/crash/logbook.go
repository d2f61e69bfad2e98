package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// logbook is a file that all workers add lines to, each through a descriptor of its own.
type logbook struct {
	dir string // as programs see it
	rel string // below the mount

	mu   sync.Mutex
	base []byte              // what it held when the daemon came
	told map[string][][]byte // since then, by worker: what he was told is there
	open map[string][]byte   // what a worker is about to add
}

const logbookDir, logbookName = "together", "log"

func newLogbook(mount string) *logbook {
	l := &logbook{dir: filepath.Join(mount, logbookDir), rel: filepath.Join(logbookDir, logbookName)}
	l.found(nil)
	return l
}

// found says that the file was found so.
func (l *logbook) found(content []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base, l.told, l.open = content, map[string][][]byte{}, map[string][]byte{}
}

// add appends line on behalf of the worker.
func (l *logbook) add(worker string, line []byte) error {
	l.begin(worker, line)
	f, err := os.OpenFile(filepath.Join(l.dir, logbookName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	if err := closing(f, err); err != nil {
		return err
	}
	l.isTold(worker)
	return nil
}

func (l *logbook) begin(worker string, line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[worker] = line
}

func (l *logbook) isTold(worker string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[worker] = append(l.told[worker], l.open[worker])
	delete(l.open, worker)
}

// explain returns how the content that was found is not as it may be: what was there, then each line that a worker was told of,
// once and in his order, and one more of each, or of one only its beginning, at the end.
func (l *logbook) explain(found []byte) (harms []harm) {
	l.mu.Lock()
	defer l.mu.Unlock()
	harmed := func(kind harmKind, format string, args ...any) {
		harms = append(harms, harm{l.rel, kind, fmt.Sprintf(format, args...)})
	}
	rest, ok := bytes.CutPrefix(found, l.base)
	if !ok {
		harmed(lost, "begins no more with the %d bytes that it had", len(l.base))
		return harms
	}
	var seen [][]byte
	next := map[string]int{}
	for len(rest) > 0 {
		worker, line := l.first(rest, next)
		if line == nil {
			break
		}
		rest = rest[len(line):]
		seen = append(seen, line)
		next[worker]++
	}
	if len(rest) > 0 && !l.isBegun(rest, next) {
		kind := strange
		if slices.ContainsFunc(seen, func(line []byte) bool { return bytes.HasPrefix(rest, line) }) {
			kind = doubled
		}
		harmed(kind, "holds, behind what is in order, %d bytes that begin with %.60q", len(rest), rest)
	}
	for _, worker := range slices.Sorted(maps.Keys(l.told)) {
		for _, line := range l.told[worker][min(next[worker], len(l.told[worker])):] {
			harmed(lost, "lacks %.60q", line)
		}
	}
	return harms
}

// first returns whose line text begins with, of those that may come next; nil if it is nobody's.
func (l *logbook) first(text []byte, next map[string]int) (worker string, line []byte) {
	for worker, lines := range l.lines() {
		if i := next[worker]; i < len(lines) && bytes.HasPrefix(text, lines[i]) {
			return worker, lines[i]
		}
	}
	return "", nil
}

// isBegun reports whether text is the beginning of a line that nobody was told of.
func (l *logbook) isBegun(text []byte, next map[string]int) bool {
	for worker, line := range l.open {
		if next[worker] == len(l.told[worker]) && bytes.HasPrefix(line, text) {
			return true
		}
	}
	return false
}

// lines returns what each worker has added, or is about to.
func (l *logbook) lines() map[string][][]byte {
	all := map[string][][]byte{}
	for worker, lines := range l.told {
		all[worker] = slices.Clone(lines)
	}
	for worker, line := range l.open {
		all[worker] = append(all[worker], line)
	}
	return all
}
