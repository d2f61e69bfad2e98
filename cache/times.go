package cache

import (
	"os"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"pierfs/backends"
)

// maxKept is how many names have attributes remembered that their server could not keep.
const maxKept = 100_000

// kept remembers what programs set and the server cannot keep: times finer, or further away, than it can (SFTP version 3 has
// whole seconds from 1970 to 2106, some FTP servers minutes, some no times of ours at all), and on servers that cannot change
// permissions or owners, those. While the server still tells what it made of it, programs are told what they set. It is a
// courtesy for as long as this Tree lives, and bounded: what is forgotten is shown as the server has it.
type kept struct{ byName *lru.Cache[string, keptAttrs] }

// keptAttrs are what programs set on one file.
type keptAttrs struct {
	mod, acc rounded

	// What holds beside the times, for as long as the file is the one that size and told describe.
	fields   backends.Fields // HasPerm, and HasOwner for both ids (see OwnerHere)
	perm     os.FileMode
	uid, gid uint32
	size     int64
	told     time.Time
	unit     time.Duration // of told
}

// rounded is a time as it was set and as the server told it afterwards, to unit.
type rounded struct {
	set, told time.Time
	unit      time.Duration
}

// OwnerHere in Info.Known says that UID and GID are ids of this machine, which a program set through this Tree, and that the
// server, which cannot change owners, knows nothing of them.
const OwnerHere backends.Fields = 1 << 15

func newKept() kept {
	byName, err := lru.New[string, keptAttrs](maxKept)
	if err != nil {
		panic(err) // only for a size below one
	}
	return kept{byName}
}

// keep notes that a was set on name, all but refused at the server, and that it then said info. What was kept of the name
// before stays, for the change was ours.
func (k kept) keep(name string, a, refused backends.Attr, info backends.Info) {
	known, _ := k.byName.Peek(name)
	k.remember(name, known, a, refused, info)
}

// published is keep for a content that a publication has put under name: times that were set on the one before count no more.
func (k kept) published(name string, a, refused backends.Attr, info backends.Info) {
	known, _ := k.byName.Peek(name)
	known.mod, known.acc = rounded{}, rounded{}
	k.remember(name, known, a, refused, info)
}

func (k kept) remember(name string, known keptAttrs, a, refused backends.Attr, info backends.Info) {
	if a.ModTime != nil {
		known.mod = rounded{*a.ModTime, info.ModTime, info.TimeUnit}
	}
	if a.AccTime != nil {
		known.acc = rounded{set: *a.AccTime, told: info.AccTime}
	}
	if a.Perm != nil {
		known.fields &^= backends.HasPerm // the server has it, or it is refused
	}
	if refused.Perm != nil {
		known.perm = *refused.Perm & permBits
		known.fields |= backends.HasPerm
	}
	if refused.UID != nil || refused.GID != nil {
		if !known.fields.Has(backends.HasOwner) {
			known.uid, known.gid = info.UID, info.GID
		}
		if refused.UID != nil {
			known.uid = *refused.UID
		}
		if refused.GID != nil {
			known.gid = *refused.GID
		}
		known.fields |= backends.HasOwner
	}
	known.size, known.told, known.unit = info.Size, info.ModTime, info.TimeUnit
	known.fields &^= known.superfluous(info)
	if known.mod.exact() && known.acc.exact() && known.fields == 0 {
		k.byName.Remove(name)
		return
	}
	k.byName.Add(name, known)
}

// superfluous returns the fields that the server itself tells so.
func (k keptAttrs) superfluous(info backends.Info) (same backends.Fields) {
	if info.Known.Has(backends.HasPerm) && k.perm == info.Mode&permBits {
		same |= backends.HasPerm
	}
	return same
}

// shown returns info with what a program set on name, where the server still tells what it made of it.
func (k kept) shown(name string, info backends.Info) backends.Info {
	known, ok := k.byName.Peek(name)
	if !ok || info.Known == 0 {
		return info
	}
	if known.fields != 0 && known.stillOf(info) {
		if known.fields.Has(backends.HasPerm) {
			info.Mode = info.Mode&^permBits | known.perm
			info.Known |= backends.HasPerm
		}
		if known.fields.Has(backends.HasOwner) {
			info.UID, info.GID = known.uid, known.gid
			info.Known |= backends.HasOwner | OwnerHere
		}
	}
	if set, ok := known.acc.of(info.AccTime, 0); ok {
		info.AccTime = set
		info.Known |= backends.HasAccTime
	}
	if set, ok := known.mod.of(info.ModTime, info.TimeUnit); ok {
		info.ModTime, info.TimeUnit = set, 0
		info.Known |= backends.HasModTime
	}
	return info
}

// stillOf reports whether info is of the content that k was set on. A directory's time moves with each change in it.
func (k keptAttrs) stillOf(info backends.Info) bool {
	return info.IsDir() || info.Size == k.size && overlap(k.told, k.unit, info.ModTime, info.TimeUnit)
}

func (r rounded) exact() bool { return r.set.Equal(r.told) && r.unit == 0 }

// of returns the time that was set, if told, of the given unit, may be what the server made of it.
func (r rounded) of(told time.Time, unit time.Duration) (set time.Time, ok bool) {
	return r.set, !r.set.IsZero() && overlap(r.told, r.unit, told, unit)
}

// overlap reports whether two times, rounded down to units, can be the same.
func overlap(a time.Time, aUnit time.Duration, b time.Time, bUnit time.Duration) bool {
	return a.Equal(b) || a.Before(b.Add(bUnit)) && b.Before(a.Add(aUnit))
}

// touched notes that we changed the names in dir: its time is not that which a program set any more, even if the server cannot
// tell the two apart.
func (k kept) touched(dir string) {
	known, ok := k.byName.Peek(dir)
	switch known.mod = (rounded{}); {
	case !ok:
	case known.fields == 0 && known.acc.exact():
		k.byName.Remove(dir)
	default:
		k.byName.Add(dir, known)
	}
}

// asTold returns info as the server itself told it, whose time may be one that a program set.
func (k kept) asTold(name string, info backends.Info) backends.Info {
	if known, ok := k.byName.Peek(name); ok && !known.mod.set.IsZero() && known.mod.set.Equal(info.ModTime) {
		info.ModTime, info.TimeUnit = known.mod.told, known.mod.unit
	}
	return info
}

// forget drops what is remembered of name.
func (k kept) forget(name string) { k.byName.Remove(name) }

// rename carries what is remembered at from, and below it if it may be a directory, to to.
func (k kept) rename(from, to string, directory bool) {
	k.forget(to)
	names := []string{from}
	if directory {
		names = k.byName.Keys()
	}
	for _, name := range names {
		if name == from || strings.HasPrefix(name, from+"/") {
			if known, ok := k.byName.Peek(name); ok {
				k.byName.Remove(name)
				k.byName.Add(to+name[len(from):], known)
			}
		}
	}
}

// sendable returns of a what the server can keep, its times within its bounds, and of the rest what is refused: that is to be
// remembered here.
func sendable(a backends.Attr, c backends.Caps) (send, refused backends.Attr) {
	send = a
	if !c.SetPerm {
		send.Perm, refused.Perm = nil, a.Perm
	}
	if !c.SetOwner {
		send.UID, send.GID = nil, nil
		refused.UID, refused.GID = a.UID, a.GID
	}
	if !c.SetTimes {
		send.ModTime, send.AccTime = nil, nil
		refused.ModTime, refused.AccTime = a.ModTime, a.AccTime
	}
	for _, at := range []**time.Time{&send.ModTime, &send.AccTime} {
		switch {
		case *at == nil:
		case !c.FirstTime.IsZero() && (*at).Before(c.FirstTime):
			*at = &c.FirstTime
		case !c.LastTime.IsZero() && (*at).After(c.LastTime):
			*at = &c.LastTime
		}
	}
	return send, refused
}

// parts returns a as changes that a server may refuse one by one.
func parts(a backends.Attr) (all []backends.Attr) {
	for _, part := range []backends.Attr{{Size: a.Size}, {UID: a.UID, GID: a.GID}, {Perm: a.Perm}, {ModTime: a.ModTime, AccTime: a.AccTime}} {
		if !part.Empty() {
			all = append(all, part)
		}
	}
	return all
}

// finer returns told, with what it does not tell, or only coarsely, taken from an earlier answer of the server, known, if both
// are of the same version: a LIST of FTP tells the minute where MDTM has told the second.
func finer(known, told backends.Info) backends.Info {
	if known.Known == 0 || told.Known == 0 || !told.SameVersion(known) {
		return told
	}
	lacks := known.Known &^ told.Known
	if lacks.Has(backends.HasModTime) || known.Known.Has(backends.HasModTime) && known.TimeUnit < told.TimeUnit {
		told.ModTime, told.TimeUnit = known.ModTime, known.TimeUnit
	}
	if lacks.Has(backends.HasAccTime) {
		told.AccTime = known.AccTime
	}
	if lacks.Has(backends.HasID) {
		told.ID = known.ID
	}
	told = inherit(known, told)
	told.Known |= lacks
	return told
}

// inherit returns told with the permissions and the owner of known, where told has none: a content that we put in the place of
// another has the same, also where the server is not asked for them again.
func inherit(known, told backends.Info) backends.Info {
	lacks := known.Known &^ told.Known
	if lacks.Has(backends.HasPerm) {
		told.Mode |= known.Mode & permBits
	}
	if lacks.Has(backends.HasOwner) {
		told.UID, told.GID = known.UID, known.GID
	}
	if lacks.Has(backends.HasNlink) {
		told.Nlink = known.Nlink
	}
	told.Known |= lacks & (backends.HasPerm | backends.HasOwner | OwnerHere | backends.HasNlink)
	return told
}
