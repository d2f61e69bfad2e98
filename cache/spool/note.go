package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Version tells the contents that a name had one after the other apart, as far as the server tells them apart.
type Version struct {
	Size    int64         `json:"size"`
	ModTime time.Time     `json:"modTime,omitzero"` // zero if the server tells none, and then nothing is kept
	Unit    time.Duration `json:"unit,omitempty"`   // what ModTime was rounded down to, where that is coarser than a second
	ID      string        `json:"id,omitempty"`     // the server's own identity of the file, "" if it tells none
}

// Same reports whether v and w are one content: what is equal as far as it may be, and not what merely can be the same.
func (v Version) Same(w Version) bool {
	return v.Size == w.Size && v.Unit == w.Unit && v.ModTime.Equal(w.ModTime) && !v.ModTime.IsZero() &&
		(v.ID == w.ID || v.ID == "" || w.ID == "")
}

// note is what is written down of a content: of which version of which name it is, and which parts of it are real. It is
// one line with a format version and a checksum, and one of JSON.
type note struct {
	Name    []byte // any bytes but NUL
	Version Version
	Ranges  []Range `json:",omitempty"` // of a large content; sorted, apart, within the size
	Stamp   stamp   `json:",omitzero"`  // of the file that holds a large content
	Sum     []byte  `json:",omitempty"` // SHA-256 of a small content
}

// stamp is what a local file system says of a file as long as nobody writes to it.
type stamp struct {
	Inode   uint64
	Changed int64 // st_ctime in nanoseconds; every write, cut and change of attributes moves it
	Size    int64
}

const (
	noteMagic = "pierfs-content-1"
	// maxNote is the longest note that is read or written.
	maxNote = 256 << 10
	// maxRanges is in how many pieces a content may be that is kept.
	maxRanges = 4096
	// maxName is the longest name that something is kept under.
	maxName = 16 << 10
)

var errNote = errors.New("no note of a content")

// encode returns n as it is written down.
func (n note) encode() ([]byte, error) {
	if len(n.Name) > maxName || len(n.Ranges) > maxRanges {
		return nil, fmt.Errorf("%d pieces of a name of %d bytes are too much to be noted", len(n.Ranges), len(n.Name))
	}
	text, err := json.Marshal(n)
	if err != nil {
		return nil, err // a time beyond the year 9999
	}
	sum := sha256.Sum256(text)
	head := fmt.Sprintf("%s %s %d\n", noteMagic, hex.EncodeToString(sum[:]), len(text)+1)
	whole := append(append([]byte(head), text...), '\n')
	if len(whole) > maxNote {
		return nil, fmt.Errorf("a note of %d bytes", len(whole))
	}
	return whole, nil
}

// decodeNote reads the note that p begins with, and returns how long it is. What holds in what it returns: the name may be
// one, the size and the ranges can be those of a file. Anything else is an error.
func decodeNote(p []byte) (n note, length int, err error) {
	end := bytes.IndexByte(p[:min(len(p), 128)], '\n')
	if end < 0 {
		return note{}, 0, errNote
	}
	head := bytes.Split(p[:end], []byte{' '})
	if len(head) != 3 || string(head[0]) != noteMagic {
		return note{}, 0, errNote
	}
	size, err := strconv.Atoi(string(head[2]))
	if err != nil || size < 1 || size > maxNote || size > len(p)-end-1 {
		return note{}, 0, errNote
	}
	length = end + 1 + size
	text, last := p[end+1:length-1], p[length-1]
	if sum := sha256.Sum256(text); last != '\n' || hex.EncodeToString(sum[:]) != string(head[1]) {
		return note{}, 0, errNote
	}
	if err := json.Unmarshal(text, &n); err != nil {
		return note{}, 0, errNote
	}
	if err := n.check(); err != nil {
		return note{}, 0, err
	}
	return n, length, nil
}

// check returns an error unless n can be true.
func (n note) check() error {
	if len(n.Name) == 0 || len(n.Name) > maxName || bytes.IndexByte(n.Name, 0) >= 0 || n.Version.Size < 0 || len(n.Ranges) > maxRanges {
		return errNote
	}
	at := int64(-1)
	for _, r := range n.Ranges {
		if r.Off <= at || r.Len() <= 0 || r.Off > math.MaxInt64/2 || r.End > n.Version.Size {
			return errNote
		}
		at = r.End
	}
	if len(n.Sum) != 0 && (len(n.Sum) != sha256.Size || len(n.Ranges) != 0) {
		return errNote
	}
	return nil
}
