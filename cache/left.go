package cache

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"pierfs/cache/journal"
)

// What follows is for the staging directory of a tree that nobody has open: of a connection that is not mounted, or is gone. It is
// for the caller to see to that.

// Left returns what the directory owes, and changes nothing in it.
func Left(staging string) ([]Due, error) {
	entries, _, err := journal.Read(filepath.Join(staging, journalFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var all []Due
	for _, e := range entries {
		all = append(all, dueOf(e))
	}
	return all, err
}

// OpenLeft is Tree.OpenDue.
func OpenLeft(staging string, seq uint64) (io.ReadCloser, Due, error) {
	entries, _, err := journal.Read(filepath.Join(staging, journalFile))
	if err != nil {
		return nil, Due{}, err
	}
	for _, e := range entries {
		if e.Seq == seq {
			return openDue(staging, e)
		}
	}
	return nil, Due{}, noSuchDue(seq)
}

// HoldLeft keeps an entry from being sent when the tree is opened again, until RetryLeft or Tree.Retry.
func HoldLeft(staging string, seq uint64) error {
	return changeLeft(staging, seq, func(j *journal.Journal, _ journal.Entry) error {
		return j.Write(&journal.Change{Hold: []uint64{seq}})
	})
}

// RetryLeft undoes HoldLeft.
func RetryLeft(staging string, seq uint64) error {
	return changeLeft(staging, seq, func(j *journal.Journal, _ journal.Entry) error {
		return j.Write(&journal.Change{Release: []uint64{seq}})
	})
}

// DropLeft is Tree.Drop.
func DropLeft(staging, quarantine string, seq uint64, backup bool) (kept string, err error) {
	err = changeLeft(staging, seq, func(j *journal.Journal, e journal.Entry) error {
		if kept, err = dropEntry(staging, quarantine, e, backup); err != nil {
			return err
		}
		if err := j.Write(&journal.Change{Done: []uint64{seq}}); err != nil {
			return err
		}
		return removeStaged(staging, e.Staged)
	})
	return kept, err
}

// changeLeft has change make something of the entry seq.
func changeLeft(staging string, seq uint64, change func(*journal.Journal, journal.Entry) error) error {
	path := filepath.Join(staging, journalFile)
	if _, err := os.Stat(path); err != nil {
		return err
	}
	j, _, err := journal.Open(path, journal.Options{})
	if err != nil {
		return err
	}
	e, ok := j.Entry(seq)
	if !ok {
		return errors.Join(noSuchDue(seq), j.Close())
	}
	return errors.Join(change(j, e), j.Close())
}
