package model

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// slack is how far the clocks of two machines, and whole seconds, may part a time of change from the true one.
const slack = 2

// differs tells how an answer is not the one that is wanted; "" if it is.
func (w want) differs(a Answer) string {
	switch {
	case a.Hung:
		return "it did not return in time"
	case a.Err != w.err:
		return fmt.Sprintf("got %s, want %s", a, errnoName(w.err))
	case a.Err != 0:
		return ""
	case w.stat != nil:
		return w.differsStat(*a.Stat, a.End)
	case w.names != nil:
		return differsNames(a.Names, w.names)
	case a.Text != w.text:
		return fmt.Sprintf("got %q, want %q", a.Text, w.text)
	case a.N != w.n:
		return fmt.Sprintf("got %d bytes, want %d", a.N, w.n)
	case !bytes.Equal(a.Data, w.data):
		return differsData(a.Data, w.data)
	}
	return ""
}

func (w want) differsStat(got Attributes, now time.Time) string {
	want := *w.stat
	if want.Type == Directory {
		got.Size, got.Nlink = 0, 0 // the file system's own business
	}
	at := got.Mtime
	got.Inode, got.Mtime = 0, 0
	switch {
	case got != want:
		return fmt.Sprintf("got %s, want %s", Answer{Stat: &got}, Answer{Stat: &want})
	case got.Type == File:
		return w.mtime.differs(at, now)
	}
	return ""
}

// differs tells how a time of change cannot be right.
func (m mtime) differs(at int64, now time.Time) string {
	switch {
	case m.kind == exact && at != m.at:
		return fmt.Sprintf("got mtime %d, want %d", at, m.at)
	case m.kind == recent && (at < m.at-slack || at > now.Unix()+slack):
		return fmt.Sprintf("got mtime %d, want one from %d to %d", at, m.at-slack, now.Unix()+slack)
	}
	return ""
}

func differsNames(got, want []Name) string {
	if slices.Equal(got, want) {
		return ""
	}
	var extra, missing []Name
	for _, n := range got {
		if !slices.Contains(want, n) {
			extra = append(extra, n)
		}
	}
	for _, n := range want {
		if !slices.Contains(got, n) {
			missing = append(missing, n)
		}
	}
	return fmt.Sprintf("got %d names, want %d: too many %v, missing %v", len(got), len(want), extra, missing)
}

// differsData tells where two contents part, and from which operations the bytes are.
func differsData(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("got %d bytes, want %d; they part at %d: got %q, want %q", len(got), len(want), at, around(got, at), around(want, at))
}

func around(p []byte, at int) []byte { return p[min(at, len(p)):min(at+2*cell, len(p))] }

func errnoName(e syscall.Errno) string {
	if e == 0 {
		return "ok"
	}
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return e.Error()
}

// outage are the errnos by which an operation may tell that the server is away, or that the connection broke under it.
var outage = []syscall.Errno{
	syscall.EIO, syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ESTALE, syscall.ENOTCONN, syscall.ECONNRESET, syscall.ECONNREFUSED,
}
