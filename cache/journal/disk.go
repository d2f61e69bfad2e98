package journal

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// FS is what a Journal wants of a file system. Tests have one that loses its power.
type FS interface {
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	ReadFile(name string) ([]byte, error)
	Rename(from, to string) error
	Link(old, name string) error
	SyncDir(name string) error // returns when the names in it are on the disk
}

// File is an open file of an FS.
type File interface {
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error // returns when content and size are on the disk
	Close() error
}

// reserver is what a File can be besides: it takes room on the disk before it is written to.
type reserver interface {
	Reserve(off, n int64) error
}

// The steps on the disk, as Options.Hook is told of them.
const (
	siteAppend    = "journal.append"    // a record is about to be written
	siteSync      = "journal.sync"      // it is written, and about to be synced
	siteSynced    = "journal.synced"    // it is on the disk, and nobody knows it yet
	siteCut       = "journal.cut"       // a torn end is about to be cut off
	siteAside     = "journal.aside"     // a damaged file is about to be kept
	siteNew       = "journal.new"       // a new file is about to be written
	siteNewSynced = "journal.newSynced" // it is on the disk, beside the old one
	siteRenamed   = "journal.renamed"   // it has taken the old one's place
	siteDirSynced = "journal.dirSynced" // and keeps it
)

// Sites returns all words that Options.Hook may be told.
func Sites() []string {
	return []string{siteAppend, siteSync, siteSynced, siteCut, siteAside, siteNew, siteNewSynced, siteRenamed, siteDirSynced}
}

// disk is the real file system.
type disk struct{}

func (disk) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return synced{f}, nil
}

func (disk) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }
func (disk) Rename(from, to string) error         { return os.Rename(from, to) }
func (disk) Link(old, name string) error          { return os.Link(old, name) }

func (disk) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// synced is an os.File whose Sync leaves out what nobody needs to know of a list: its times.
type synced struct{ *os.File }

func (s synced) Sync() error { return unix.Fdatasync(int(s.Fd())) }

// Reserve takes the n bytes at off of the disk, behind the end of the file or not.
func (s synced) Reserve(off, n int64) error {
	for {
		err := unix.Fallocate(int(s.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
		if err != unix.EINTR { // tmpfs breaks off for any signal, and the runtime sends itself some
			return err
		}
	}
}
