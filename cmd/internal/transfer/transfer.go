// Package transfer moves files and whole trees between a daemon's connections and this machine, with the caller's rights.
//
// A file gets its name when all of it is there, and is of one version: what was begun and cut goes on only if the server's file has the
// same size and time of change, and was at rest when it was begun; what is sent is given up if it changes while it is read. With Verify
// both sides are added up and compared before a file that is got gets its name, and after one that is put has it. Everything local
// happens below one directory, whatever names and links a server or another program puts there.
//
// Of a tree only the directory that is being looked at is held in memory, and the names of the directories above it.
package transfer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
)

// Options are what a transfer needs.
type Options struct {
	Client *control.Client
	Remote control.FileRequest // the file or directory at the server
	Local  string

	Verify  Verify
	Workers int            // how many files at a time; 0 is 4
	Filter  control.Filter // files alone that fit; directories are gone through all the same
	First   bool           // with a Filter: one file and no more
	NewOnly bool           // leave out what Done has
	Done    *Ledger        // of what is done, for the next time; nil where nobody remembers
	Mask    os.FileMode    // of the caller: bits that no new file gets
	NoLinks bool           // leave symbolic links out

	// Would makes it a dry run: it is told what would be done, one call at a time, and nothing is.
	Would func(Effect)

	Show func(Totals) // told now and then how far it has come; nil if nobody looks
}

// Verify says how a file is compared with the server's once it has been moved.
type Verify string

const (
	VerifyOff      Verify = ""         // by its size alone, as always
	VerifyHash     Verify = "hash"     // by a checksum that the server computes, and as VerifyReadback where it computes none
	VerifyReadback Verify = "readback" // by reading it again
)

// Effect is one thing that a dry run tells of.
type Effect struct {
	Do       string         `json:"do"`   // mkdir, rm, mv, put, get, link or export
	Path     control.Name   `json:"path"` // at the server
	Type     string         `json:"type,omitempty"`
	Size     int64          `json:"size"`
	To       *control.Name  `json:"to,omitempty"`       // the new name, or the one here
	Replaces *control.File  `json:"replaces,omitempty"` // what would be gone
	Error    *control.Error `json:"error,omitempty"`    // why it cannot be done
}

// Totals is how far a transfer of a tree has come, and at its end what it did.
type Totals struct {
	FoundFiles int   `json:"foundFiles"` // so far: directories are listed meanwhile
	FoundBytes int64 `json:"foundBytes"`
	Files      int   `json:"files"` // that are done now, those that were before among them
	Bytes      int64 `json:"bytes"`
	Here       int   `json:"here"` // files among them that were done before
	Dirs       int   `json:"directories"`
	Links      int   `json:"links"`
	Verified   int   `json:"verified"` // files among them that were read again on both sides
	Failed     int   `json:"failed"`
	// Failures are the first of those, each with the file that it is about.
	Failures []Failure `json:"failures,omitempty"`
}

// Failure is one file, link or directory that could not be moved.
type Failure struct {
	Path  control.Name   `json:"path"`
	Error *control.Error `json:"error"`
}

// maxFailures is how many failures are kept.
const maxFailures = 20

// run is one transfer of a tree.
type run struct {
	o       Options
	workers *errgroup.Group

	mu     sync.Mutex
	totals Totals
}

func newRun(o Options) *run {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	r := &run{o: o, workers: new(errgroup.Group)}
	r.workers.SetLimit(o.Workers)
	return r
}

// at names a file below the directory at the server.
func (r *run) at(rel string) control.FileRequest { return below(r.o.Remote, rel) }

func below(q control.FileRequest, rel string) control.FileRequest {
	if rel != "" {
		q.Path += control.Name("/" + rel)
	}
	return q
}

// add changes the totals and shows them.
func (r *run) add(change func(*Totals)) {
	r.mu.Lock()
	change(&r.totals)
	now := r.totals
	r.mu.Unlock()
	if r.o.Show != nil {
		r.o.Show(now)
	}
}

// dry tells what would be done, and reports whether that is all that is to happen.
func (r *run) dry(e Effect) bool {
	if r.o.Would == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.o.Would(e)
	return true
}

// found counts one more file to be moved.
func (r *run) found(size int64) {
	r.add(func(t *Totals) { t.FoundFiles++; t.FoundBytes += size })
}

// did counts a file that is done.
func (r *run) did(size int64, before, verified bool) {
	r.add(func(t *Totals) {
		t.Files++
		t.Bytes += size
		if before {
			t.Here++
		}
		if verified {
			t.Verified++
		}
	})
}

// failed notes what became of one name, unless it is that everything is to end.
func (r *run) failed(ctx context.Context, rel string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	r.add(func(t *Totals) {
		t.Failed++
		if len(t.Failures) < maxFailures {
			t.Failures = append(t.Failures, Failure{control.Name(rel), told(err)})
		}
	})
}

// told makes every failure one that can travel.
func told(err error) *control.Error {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e
	}
	return control.LocalError(err)
}

// end waits for what is under way, and returns what was done.
func (r *run) end(ctx context.Context, err error) (Totals, error) {
	_ = r.workers.Wait() // what fails is in the totals
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return r.totals, errors.Join(err, r.o.Done.sync())
}

// differs is what Verify finds.
func differs(name, algorithm, ours, theirs string) error {
	return control.Errorf(control.Failed, "%q is not the same on both sides: %s %.16s... here and %.16s... at the server", name, algorithm, ours, theirs).
		WithHint("somebody writes to it, or it was damaged on its way: try again")
}

// inTheWay is something of another kind that bears a name already.
func inTheWay(name string) error {
	return control.Errorf(control.Exists, "%q is there already, and is something else", name).WithHint("move it away")
}

// restless is how long a file must have been left alone so that its size and time tell its version: servers tell times in seconds.
const restless = 6 * time.Second

// settled reports whether a file's version tells its content.
func settled(v control.Version, now time.Time) bool {
	return !v.Time.IsZero() && now.Sub(v.Time).Abs() > restless
}

// list returns what a directory at the server holds.
func list(ctx context.Context, c *control.Client, q control.FileRequest, links bool) ([]control.File, error) {
	var all []control.File
	for f, err := range control.Ls.Call(ctx, c, control.LsRequest{FileRequest: q, Links: links}) {
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// Compare returns an error if a file is not the same on both sides: all of ours, and what the server has now.
func Compare(ctx context.Context, c *control.Client, q control.FileRequest, ours io.ReaderAt, how Verify) error {
	theirs, err := control.Sum.Call(ctx, c, control.SumRequest{FileRequest: q, Read: how == VerifyReadback})
	if err != nil {
		return fmt.Errorf("add up %q at the server: %w", q.Path, err)
	}
	sum := backends.NewSum(theirs.Algorithm)
	if sum == nil {
		return control.Errorf(control.ProtocolError, "the daemon adds %q up by %q, which is not known here", q.Path, theirs.Algorithm).
			WithHint("`pierfs version` and that of the daemon differ: restart it")
	}
	if _, err := io.Copy(sum, io.NewSectionReader(ours, 0, math.MaxInt64)); err != nil {
		return err
	}
	if here := hex.EncodeToString(sum.Sum(nil)); here != theirs.Sum {
		return differs(string(q.Path), theirs.Algorithm, here, theirs.Sum)
	}
	return nil
}
