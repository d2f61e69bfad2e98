package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// What is known of names outlives the daemon, where the last known answers hold while the server is away (commit = "background"): in
// Options.Known, a file that begins with what makes these names mean these files, and to which what comes to be known is
// appended a moment later. It is never synced, for nothing depends on it: what is damaged is thrown away from there on, and a
// crash costs what was learned in the last second. What is recalled is older than any bound, so that only who asks nobody believes it.

const (
	rememberAfter = time.Second // what is known is written at most that long after it was learned
	rememberAgain = time.Minute // after the disk has failed

	// mostKnown bounds what is recalled; the file may grow to twice of it. It is some 150,000 names.
	mostKnown = 16 << 20
)

// memory is the file. Only one goroutine at a time uses it.
type memory struct {
	path, head string
	file       *os.File
	size, base int64 // of the file now, and when it was begun
}

func newMemory(path, target string) *memory {
	return &memory{path: path, head: fmt.Sprintf("pierfs names 1 %q\n", target)}
}

// recallKnown makes the tree know what a former daemon knew.
func (t *Tree) recallKnown() *memory {
	if t.options.Known == "" || !t.options.Background {
		return nil
	}
	m := newMemory(t.options.Known, t.options.Target)
	whole, err := m.load(t.attrs.Recall)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.log.Warn("what was known of names before the last restart is not known any more, or in part", "file", m.path, "err", err)
	}
	if !whole {
		m.forget()
	}
	return m
}

// keepStamps forgets which changes are among what is known, but for those that are owed still. It is written down before another change
// can bear the number of one of the former, as in a journal that was begun anew: that one would not be shown by the next daemon.
func (t *Tree) keepStamps(m *memory) {
	owed := map[uint64]bool{}
	if t.journal != nil {
		for _, e := range t.journal.Owed() {
			owed[e.Seq] = true
		}
	}
	if t.attrs.KeepStamps(owed) {
		t.warn("remembering names", t.writeKnown(m))
	}
}

var errDamaged = errors.New("it is damaged")

// load reads the file, and leaves it open to be appended to, if it is whole.
func (m *memory) load(recall func([]byte) error) (whole bool, err error) {
	f, err := os.OpenFile(m.path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	m.file = f
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || int(stat.Uid) != os.Geteuid() || info.Size() > 4*mostKnown {
		return false, errors.New("it is not ours alone")
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return false, err
	}
	if len(text) < len(m.head) || string(text[:len(m.head)]) != m.head {
		return false, errors.New("it is of another target, or of another version")
	}
	m.size = int64(len(text))
	m.base = m.size
	for text = text[len(m.head):]; len(text) > 0; {
		part, rest, ok := unframe(text)
		if !ok || recall(part) != nil {
			return false, errDamaged
		}
		text = rest
	}
	return true, nil
}

// forget lets go of the file; the next write begins a new one.
func (m *memory) forget() {
	if m.file != nil {
		m.file.Close() // nothing of it counts any more
	}
	m.file = nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func frame(text []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(text, castagnoli))
	return append(b, text...)
}

func unframe(b []byte) (text, rest []byte, ok bool) {
	if len(b) < 8 {
		return nil, nil, false
	}
	n, sum := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if b = b[8:]; uint64(n) > uint64(len(b)) || crc32.Checksum(b[:n], castagnoli) != sum {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// keepKnown writes down what comes to be known, until the Tree is closed. It is started by New, alone.
func (t *Tree) keepKnown(m *memory, news <-chan struct{}) {
	defer t.work.Done()
	defer m.forget()
	for {
		select {
		case <-news:
		case <-t.ctx.Done():
			t.warn("remembering names", t.writeKnown(m))
			return
		}
		wait := rememberAfter
		for failed := error(nil); ; {
			t.pauseUnless(nil, wait)
			err := t.writeKnown(m)
			if err == nil || t.ctx.Err() != nil {
				break
			}
			if failed == nil {
				t.log.Warn("what is known of names cannot be written down; after a restart without the server it is not known", "file", m.path, "err", err)
			}
			failed, wait = err, rememberAgain
		}
	}
}

// writeKnown brings the file up to what is known now.
func (t *Tree) writeKnown(m *memory) error {
	text, ok := t.attrs.Memo()
	if ok && len(text) == 0 && m.file != nil {
		return nil
	}
	if ok && m.isThere() && m.size+int64(len(text)) <= max(1<<20, 2*m.base) {
		err := m.add(frame(text))
		if err == nil {
			return nil
		}
		m.forget()
		return err
	}
	return m.begin(frame(t.attrs.WholeMemo(mostKnown)))
}

// isThere reports whether the file is still where it belongs: the cache directory may be deleted at any time.
func (m *memory) isThere() bool {
	if m.file == nil {
		return false
	}
	info, err := m.file.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink > 0
}

func (m *memory) add(text []byte) error {
	_, err := m.file.WriteAt(text, m.size)
	if err == nil {
		m.size += int64(len(text))
	}
	return err
}

// begin puts a new file in the place of the old one, which holds text alone.
func (m *memory) begin(text []byte) error {
	m.forget()
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		return err
	}
	fresh := m.path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	m.file, m.size = f, 0
	if err = m.add(append([]byte(m.head), text...)); err == nil {
		err = os.Rename(fresh, m.path)
	}
	if err != nil {
		m.forget()
		return errors.Join(err, os.Remove(fresh))
	}
	m.base = m.size
	return nil
}
