// Package deployments keeps a log of the attempts to bring connections into service, as JSON lines in one file.
//
// What was added is there for the next reader, and outlives the process, when Add returns; it outlives a loss of power a moment later.
// The file is bounded: when it has grown to Limits.Bytes it is written anew, with the latest Limits.Each of every connection, and so few of
// all that half of the room is free. So a connection that fails every minute does not drive out what is known of the others. A last
// line that a crash has torn is left out.
//
// Log.mu is held over local disk.
package deployments

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sync"
	"unicode/utf8"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
)

// Limits bound a Log. The zero value of each field is the usual bound.
type Limits struct {
	Bytes int64 // of the file: 2 MiB
	Each  int   // attempts of one connection in one environment that are kept beyond that: 200
}

const (
	maxReason = 1000 // runes of one reason: servers say much
	maxLine   = 64 << 10
)

// Log is one such file. Open makes one. Its methods may be called from many goroutines at once; on nil nothing is kept.
type Log struct {
	path   string
	limits Limits

	mu     sync.Mutex
	file   *os.File // nil after Close, or where it could not be opened again
	size   int64
	closed bool
	dirty  chan struct{} // holds one when the file is to be synced
	done   chan struct{} // closed when the syncing has ended
}

// Open opens the log at path, which need not be there. failed is told what keeps it from being synced; it must not call the Log.
func Open(path string, limits Limits, failed func(error)) (*Log, error) {
	if limits.Bytes == 0 {
		limits.Bytes = 2 << 20
	}
	if limits.Each == 0 {
		limits.Each = 200
	}
	l := &Log{path: path, limits: limits, dirty: make(chan struct{}, 1), done: make(chan struct{})}
	if err := l.open(); err != nil {
		return nil, err
	}
	go l.sync(failed) // ends with Close, which waits for it
	return l, nil
}

// open opens the file and cuts off a torn last line.
func (l *Log) open() error {
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	size, err := whole(file)
	if err == nil {
		err = file.Truncate(size)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read %s: %w", l.path, err), file.Close())
	}
	l.file, l.size = file, size
	return nil
}

// whole returns the size of file up to its last line end.
func whole(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	from := max(0, info.Size()-2*maxLine)
	tail := make([]byte, info.Size()-from)
	if _, err := file.ReadAt(tail, from); err != nil && err != io.EOF {
		return 0, err
	}
	return from + int64(bytes.LastIndexByte(tail, '\n')+1), nil
}

// Add writes d. Its reason is cut where it is too long.
func (l *Log) Add(d control.Deployment) error {
	if l == nil {
		return nil
	}
	if utf8.RuneCountInString(d.Reason) > maxReason {
		d.Reason = string([]rune(d.Reason)[:maxReason]) + "..."
	}
	line, err := json.Marshal(d)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.file == nil {
		return os.ErrClosed
	}
	if l.size+int64(len(line)) >= l.limits.Bytes {
		if err := l.compact(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(append(line, '\n'))
	l.size += int64(n)
	if err != nil {
		return errors.Join(err, l.cut(int64(n)))
	}
	select {
	case l.dirty <- struct{}{}:
	default: // it will be synced with what came before
	}
	return nil
}

// cut takes the n bytes of a line away that did not get there as a whole. l.mu is held.
func (l *Log) cut(n int64) error {
	l.size -= n
	return l.file.Truncate(l.size)
}

// compact writes the file anew with what is to stay. l.mu is held.
func (l *Log) compact() error {
	lines, err := l.lines()
	if err != nil {
		return err
	}
	var kept [][]byte
	each, room := map[string]int{}, l.limits.Bytes/2
	for _, line := range slices.Backward(lines) { // the latest first
		var d control.Deployment
		if json.Unmarshal(line, &d) != nil {
			continue // damaged from outside: nobody could read it
		}
		of := d.Environment + "/" + d.Name
		if each[of] == l.limits.Each || int64(len(line)) > room {
			continue
		}
		each[of]++
		room -= int64(len(line))
		kept = append(kept, line)
	}
	slices.Reverse(kept)
	if err := dirs.Replace(l.path, bytes.Join(kept, nil), 0o600); err != nil {
		return err
	}
	err = l.file.Close()
	l.file = nil
	return errors.Join(err, l.open())
}

// lines returns the lines of the file with their ends. l.mu is held.
func (l *Log) lines() ([][]byte, error) {
	text := make([]byte, l.size)
	if _, err := io.ReadFull(io.NewSectionReader(l.file, 0, l.size), text); err != nil {
		return nil, fmt.Errorf("read %s: %w", l.path, err)
	}
	return slices.Collect(bytes.Lines(text)), nil
}

// sync brings what was added to the disk, until Close.
func (l *Log) sync(failed func(error)) {
	defer close(l.done)
	for range l.dirty {
		l.mu.Lock()
		path := l.path
		l.mu.Unlock()
		if err := syncFile(path); err != nil {
			failed(fmt.Errorf("sync %s: %w", path, err))
		}
	}
}

// syncFile syncs by a handle of its own, so that nobody who adds waits for the disk.
func syncFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// All yields what is kept, the oldest first. An error is yielded once, last.
func (l *Log) All() iter.Seq2[control.Deployment, error] {
	return func(yield func(control.Deployment, error) bool) {
		if l == nil {
			return
		}
		file, err := os.Open(l.path) // as it is now: what is written anew meanwhile is another file
		if err != nil {
			yield(control.Deployment{}, err)
			return
		}
		defer file.Close()
		for lines := bufio.NewReaderSize(file, maxLine); ; {
			line, err := lines.ReadSlice('\n')
			switch {
			case err == io.EOF: // a line without end is still being written
				return
			case err != nil && !errors.Is(err, bufio.ErrBufferFull):
				yield(control.Deployment{}, err)
				return
			}
			var d control.Deployment
			if json.Unmarshal(line, &d) == nil && !yield(d, nil) {
				return
			}
		}
	}
}

// Close syncs and ends. Nothing is kept after it.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	file := l.file
	l.file = nil
	if !l.closed {
		l.closed = true
		close(l.dirty)
	}
	l.mu.Unlock()
	<-l.done
	if file == nil {
		return nil
	}
	return errors.Join(file.Sync(), file.Close())
}
