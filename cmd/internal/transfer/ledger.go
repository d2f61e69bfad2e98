package transfer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/cmd/internal/control"
)

// Ledger remembers which versions of which files were moved, beyond the process. One process has it at a time. In memory it takes some
// tens of bytes for each. OpenLedger makes one; on nil nothing is remembered.
type Ledger struct {
	mu    sync.Mutex
	file  *os.File
	keys  map[[16]byte]struct{}
	fresh int // lines that are not synced yet
}

// ledgerLine is one file that was moved: Key is what counts, the rest is for people.
type ledgerLine struct {
	Key  string       `json:"key"`
	Path control.Name `json:"path"`
	Time time.Time    `json:"time"`
}

// LedgerName is where the ledger of one kind of transfer between two places lies below dir.
func LedgerName(dir, kind string, remote control.FileRequest, local string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s", kind, remote.Connection, remote.Environment, remote.Path, local))
	return filepath.Join(dir, "transfers", hex.EncodeToString(sum[:12])+".jsonl")
}

// OpenLedger opens the ledger in a file, which it makes if it is missing.
func OpenLedger(name string) (*Ledger, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &Ledger{file: file, keys: map[[16]byte]struct{}{}}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(control.Errorf(control.Busy, "the same transfer is being made by another process").WithHint("wait for it, or end it"), file.Close())
	}
	if err := l.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", name, err), file.Close())
	}
	return l, nil
}

// read takes the keys in, and cuts off a torn last line. A line that cannot be understood is as if it were not there: its file is moved
// once more.
func (l *Ledger) read() error {
	whole := int64(0)
	for lines := bufio.NewReader(l.file); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return l.file.Truncate(whole)
		}
		if err != nil {
			return err
		}
		whole += int64(len(line))
		var entry ledgerLine
		var key [16]byte
		if json.Unmarshal(bytes.TrimSpace(line), &entry) != nil {
			continue
		}
		if n, err := hex.Decode(key[:], []byte(entry.Key[:min(len(entry.Key), 32)])); err == nil && n == len(key) {
			l.keys[key] = struct{}{}
		}
	}
}

func keyOf(what string) (key [16]byte) {
	sum := sha256.Sum256([]byte(what))
	copy(key[:], sum[:])
	return key
}

func (l *Ledger) empty() bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.keys) == 0
}

func (l *Ledger) has(what string) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.keys[keyOf(what)]
	return ok
}

// syncEach is how many lines may be lost with the power: their files are moved once more then.
const syncEach = 100

func (l *Ledger) add(what, path string) error {
	if l == nil {
		return nil
	}
	key := keyOf(what)
	line, err := json.Marshal(ledgerLine{hex.EncodeToString(key[:]), control.Name(path), time.Now().UTC()})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		return err
	}
	l.keys[key] = struct{}{}
	if l.fresh++; l.fresh < syncEach {
		return nil
	}
	l.fresh = 0
	return l.file.Sync()
}

func (l *Ledger) sync() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Sync()
}

// Close ends it.
func (l *Ledger) Close() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.sync(), l.file.Close())
}
