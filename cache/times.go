package cache

import (
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"pierfs/backends"
)

// maxTimes is how many names have times remembered that their server could not keep.
const maxTimes = 100_000

// times remembers what programs set more finely, or further away, than the server can keep: SFTP version 3 has whole
// seconds from 1970 to 2106. While the server still tells what it made of it, programs are told what they set. It is a
// courtesy for as long as this Tree lives, and what is forgotten costs nothing but fractions.
type times struct{ byName *lru.Cache[string, bothTimes] }

// bothTimes are a file's two times.
type bothTimes struct{ mod, acc rounded }

// rounded is a time as it was set and as the server told it afterwards.
type rounded struct{ set, told time.Time }

func newTimes() times {
	byName, err := lru.New[string, bothTimes](maxTimes)
	if err != nil {
		panic(err) // only for a size below one
	}
	return times{byName}
}

// keep notes that a was set on name and that the server then said info.
func (t times) keep(name string, a backends.Attr, info backends.Info) {
	if a.ModTime == nil && a.AccTime == nil {
		return
	}
	both, _ := t.byName.Peek(name)
	if a.ModTime != nil {
		both.mod = rounded{*a.ModTime, info.ModTime}
	}
	if a.AccTime != nil {
		both.acc = rounded{*a.AccTime, info.AccTime}
	}
	if both.mod.exact() && both.acc.exact() {
		t.byName.Remove(name)
		return
	}
	t.byName.Add(name, both)
}

// shown returns info with the times that a program set on name, where the server still tells what it made of them.
func (t times) shown(name string, info backends.Info) backends.Info {
	if both, ok := t.byName.Peek(name); ok {
		info.ModTime = both.mod.of(info.ModTime)
		info.AccTime = both.acc.of(info.AccTime)
	}
	return info
}

func (r rounded) exact() bool { return r.set.Equal(r.told) }

func (r rounded) of(told time.Time) time.Time {
	if !r.set.IsZero() && r.told.Equal(told) {
		return r.set
	}
	return told
}

// forget drops what is remembered of name.
func (t times) forget(name string) { t.byName.Remove(name) }

// rename carries what is remembered at from, and below it if it may be a directory, to to.
func (t times) rename(from, to string, directory bool) {
	t.forget(to)
	names := []string{from}
	if directory {
		names = t.byName.Keys()
	}
	for _, name := range names {
		if name == from || strings.HasPrefix(name, from+"/") {
			if both, ok := t.byName.Peek(name); ok {
				t.byName.Remove(name)
				t.byName.Add(to+name[len(from):], both)
			}
		}
	}
}

// sendable returns a with its times within what the server can keep.
func sendable(a backends.Attr, c backends.Caps) backends.Attr {
	for _, at := range []**time.Time{&a.ModTime, &a.AccTime} {
		switch {
		case *at == nil:
		case !c.FirstTime.IsZero() && (*at).Before(c.FirstTime):
			*at = &c.FirstTime
		case !c.LastTime.IsZero() && (*at).After(c.LastTime):
			*at = &c.LastTime
		}
	}
	return a
}
