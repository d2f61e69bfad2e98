package spool

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// left is what a former process left in one directory.
type left struct {
	shelf *Shelf
	files []os.DirEntry
}

// list lists what a former process left, and removes what cannot be a part of a Store.
func (s *Store) list() (found []left) {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		s.log.Warn("the cache cannot be read", "err", err)
	}
	for _, d := range dirs {
		path := filepath.Join(s.dir, d.Name())
		info, err := d.Info()
		if id, hexErr := hex.DecodeString(d.Name()); err != nil || hexErr != nil || len(id) != 16 || !isOurs(info, os.ModeDir|0o700) {
			s.throwAway(path, err)
			continue
		}
		files, err := os.ReadDir(path)
		if err != nil {
			s.log.Warn("the cache cannot be read", "err", err)
		}
		s.mu.Lock()
		found = append(found, left{s.shelfLocked(d.Name()), files})
		s.mu.Unlock()
	}
	return found
}

// survey looks into what was listed, and removes what is not whole, or not ours. Meanwhile the Store is in use: what was taken
// anew or dropped since counts more.
func (s *Store) survey(all []left) {
	var found []aged
	for _, l := range all {
		found = append(found, s.look(l)...)
	}
	slices.SortFunc(found, func(a, b aged) int { return b.used.Compare(a.used) }) // latest first
	s.mu.Lock()
	defer s.unlock()
	for _, a := range found {
		overtaken := slices.ContainsFunc(s.missed, func(d dropped) bool { return d.has(a.entry) })
		if now := a.shelf.entries[a.name]; overtaken || now != nil && (now.id != "" || now.content != nil) {
			s.discard(a.entry)
			continue
		}
		s.insert(a.entry)
		a.place = s.closed.PushBack(a.entry)
	}
	s.missed = nil
	s.makeRoom()
	close(s.ready)
}

// aged is an entry and when it was used last.
type aged struct {
	*entry
	used time.Time
}

func (s *Store) look(l left) (found []aged) {
	h, wanted := l.shelf, map[string]bool{}
	for _, d := range l.files {
		id, small := strings.CutSuffix(d.Name(), smallSuffix)
		if !small {
			var ok bool
			if id, ok = strings.CutSuffix(d.Name(), noteSuffix); !ok {
				continue
			}
		}
		a, err := s.read(&entry{shelf: h, id: id, small: small})
		if err != nil {
			s.log.Warn("a damaged file of the cache is thrown away", "dir", h.dir, "file", d.Name(), "err", err)
			continue
		}
		found = append(found, a)
		wanted[d.Name()] = true
		if !small {
			wanted[id+dataSuffix] = true
		}
	}
	for _, d := range l.files {
		if !wanted[d.Name()] {
			s.throwAway(filepath.Join(h.dir, d.Name()), nil)
		}
	}
	if len(found) == 0 {
		_ = os.Remove(h.dir) // for the sake of order; Take makes it anew
	}
	return found
}

func (s *Store) throwAway(path string, why error) {
	s.log.Debug("thrown away", "path", path, "err", why)
	if err := os.RemoveAll(path); err != nil {
		s.log.Warn("cleaning up the cache", "err", err)
	}
}

// read fills e with what its files say.
func (s *Store) read(e *entry) (aged, error) {
	path := e.path(noteSuffix)
	if e.small {
		path = e.path(smallSuffix)
	}
	disk, now, err := openOurs(path, os.O_RDONLY)
	if err != nil {
		return aged{}, err
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		return aged{}, err
	}
	text := make([]byte, min(now.Size, maxNote))
	if _, err := disk.ReadAt(text, 0); err != nil {
		return aged{}, err
	}
	n, length, err := decodeNote(text)
	if err != nil {
		return aged{}, err
	}
	e.name, e.version, e.seen = string(n.Name), n.Version, info.ModTime()
	if e.small {
		if now.Size != int64(length)+n.Version.Size || len(n.Sum) == 0 {
			return aged{}, errNote
		}
		e.whole, e.bytes = true, n.Version.Size+overhead
		return aged{e, info.ModTime()}, nil
	}
	data, dataNow, err := openOurs(e.path(dataSuffix), os.O_RDONLY)
	if err != nil {
		return aged{}, err
	}
	defer data.Close()
	if int64(length) != now.Size || dataNow != n.Stamp || dataNow.Size != n.Version.Size || len(n.Ranges) == 0 {
		return aged{}, errors.New("the content was changed after it was noted")
	}
	ranges := Ranges{n.Ranges}
	e.stamp, e.noted, e.whole, e.bytes = n.Stamp, true, ranges.Has(Range{0, n.Version.Size}), ranges.Len()+overhead
	e.keepRanges(ranges)
	return aged{e, info.ModTime()}, nil
}

// keepRanges keeps the ranges in memory unless they are many and noted.
func (e *entry) keepRanges(ranges Ranges) {
	e.ranges = Ranges{}
	if len(ranges.list) <= fewRanges || !e.noted {
		e.ranges = Ranges{slices.Clip(ranges.list)}
	}
}

// schedule has e written down soon; the caller holds mu.
func (s *Store) schedule(e *entry) {
	if e.queued {
		return
	}
	e.queued = true
	s.todo = append(s.todo, e)
	s.ring()
}

// write is the scribe: it writes down what is scheduled until the Store is closed and nothing is left.
func (s *Store) write() {
	for {
		e, last := s.nextToWrite()
		switch {
		case e != nil && e.small:
			s.writeSmall(e)
		case e != nil:
			s.writeNote(e)
		case last:
			return
		default:
			<-s.bell
		}
	}
}

func (s *Store) nextToWrite() (e *entry, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.todo) == 0 {
		return nil, s.ended
	}
	e = s.todo[0]
	s.todo = s.todo[1:]
	e.queued = false
	return e, false
}

// writeSmall writes a small content with its note before it. Its checksum tells a part from the whole, so nothing is synced.
func (s *Store) writeSmall(e *entry) {
	sum := sha256.Sum256(e.content)
	text, err := note{Name: []byte(e.name), Version: e.version, Sum: sum[:]}.encode()
	id := rand.Text()
	if err == nil {
		err = s.writeFile(e.shelf, filepath.Join(e.shelf.dir, id+smallSuffix), false, text, e.content)
	}
	s.mu.Lock()
	defer s.unlock()
	s.pending -= int64(len(e.content))
	if err != nil {
		s.log.Warn("a content is not kept", "err", err)
		s.drop(e)
		return
	}
	e.id, e.content = id, nil
	if e.gone {
		s.discard(e)
	}
}

// writeNote writes down what is real of e, once that is on the disk, unless somebody has taken it meanwhile.
func (s *Store) writeNote(e *entry) {
	s.mu.Lock()
	if e.gone || e.file != nil {
		s.mu.Unlock()
		return
	}
	if e.noted { // nothing but when it was used last
		path, now := e.path(noteSuffix), s.now()
		s.mu.Unlock()
		_ = os.Chtimes(path, now, now) // else it is evicted sooner than it should be
		return
	}
	taken, n := e.taken, note{Name: []byte(e.name), Version: e.version, Ranges: slices.Clone(e.ranges.list), Stamp: e.stamp}
	s.mu.Unlock()
	temp := e.path(tempSuffix)
	text, err := n.encode()
	if err == nil {
		err = syncData(e.path(dataSuffix), n.Stamp)
	}
	if err == nil {
		err = s.writeFile(e.shelf, temp, true, text)
	}
	s.mu.Lock()
	defer s.unlock()
	if err == nil && !e.gone && e.taken == taken {
		if err = os.Rename(temp, e.path(noteSuffix)); err == nil {
			e.noted = true
			e.keepRanges(e.ranges)
			return
		}
	}
	if err != nil {
		s.log.Warn("a content is not kept", "err", err)
		if e.file == nil {
			s.drop(e)
		}
	}
	s.trash = append(s.trash, temp)
}

// syncData returns when the file of that stamp is on the disk, the time of its last change included.
func syncData(path string, want stamp) error {
	disk, now, err := openOurs(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer disk.Close()
	if now != want {
		return errors.New("somebody else changed the content")
	}
	return disk.Sync()
}

// writeFile makes the file path in h of parts.
func (s *Store) writeFile(h *Shelf, path string, sync bool, parts ...[]byte) error {
	create := func() (*os.File, error) {
		return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	}
	disk, err := create()
	if errors.Is(err, os.ErrNotExist) {
		s.mu.Lock()
		s.vanished(h)
		s.unlock()
		if err = os.MkdirAll(h.dir, 0o700); err == nil {
			disk, err = create()
		}
	}
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err == nil {
			_, err = disk.Write(p)
		}
	}
	if err == nil && sync {
		err = disk.Sync()
	}
	if err = cmp.Or(err, disk.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
