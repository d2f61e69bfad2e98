package spool

import (
	"os"
	"time"
)

// sentAt is the time of change that a file bears whose content has arrived where it was meant for. Whoever changes the file, through
// us or through a mapping, gives it another.
var sentAt = time.Unix(1, 0)

// Sent writes down, on the file itself, that its content has arrived where it was meant for. It holds until the next change, beyond
// the process, and costs no sync: a file that a loss of power leaves without it is only taken for more than it is.
func (f *File) Sent() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watched || f.lent {
		return nil
	}
	f.sent = true
	return f.setTime(sentAt)
}

// filled restores what Sent wrote, for a base that is completed is no change; the caller holds mu.
func (f *File) filled() error {
	if !f.sent {
		return nil
	}
	return f.setTime(sentAt)
}

// WasSent reports whether the file path, which a former process has left, is as it was when Sent was called.
func WasSent(path string) bool { return hasTime(path, sentAt) }

func hasTime(path string, at time.Time) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.ModTime().Equal(at)
}
