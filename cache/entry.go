package cache

import (
	"os"
	"path/filepath"

	"pierfs/backends"
	"pierfs/cache/journal"
	"pierfs/cache/spool"
)

// record returns the journal's entry for d.
func (f *File) record(d *debt) journal.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.recordLocked(d)
}

// recordLocked is record for a caller who holds mu.
func (f *File) recordLocked(d *debt) journal.Entry {
	e := journal.Entry{
		Target: journal.Name(f.tree.options.Target), Kind: journal.Put, When: d.began, Name: journal.Name(f.name),
		Staged: filepath.Base(d.staged.Path()), Size: d.size, Missing: d.missing, Tail: d.tail, Appended: !d.placed,
		Show: versionOf(d.info), Attr: attrOf(d.attr), Into: f.owing.into, Held: f.owing.held != nil,
		Ridden: f.riding.on != nil && f.riding.on == d.staged,
	}
	if f.base.Known != 0 {
		base := versionOf(f.tree.kept.asTold(f.name, f.base))
		e.Base = &base
	}
	for _, s := range f.owing.sent {
		e.Sent = append(e.Sent, journal.Content{Staged: filepath.Base(s.staged.Path()), Size: s.size, Tail: s.tail, Missing: s.missing})
	}
	return e
}

// missing returns the parts of d that are to be as its base has them, and are not here.
func missing(d *debt) (ranges []journal.Range) {
	for _, r := range d.staged.Missing(0, d.size) {
		ranges = append(ranges, journal.Range(r))
	}
	return ranges
}

func rangeOf(r journal.Range) spool.Range { return spool.Range(r) }

// versionOf and infoOf lead to the journal's words for what a server said, and back.
func versionOf(i backends.Info) journal.Version {
	return journal.Version{
		Mode: uint32(i.Mode), Size: i.Size, ModTime: i.ModTime, AccTime: i.AccTime, Unit: i.TimeUnit,
		UID: i.UID, GID: i.GID, ID: journal.Name(i.ID), Known: uint16(i.Known),
	}
}

func infoOf(name string, v journal.Version) backends.Info {
	return backends.Info{
		Name: lastElement(name), Mode: os.FileMode(v.Mode), Size: v.Size, ModTime: v.ModTime, AccTime: v.AccTime, TimeUnit: v.Unit,
		UID: v.UID, GID: v.GID, ID: string(v.ID), Known: backends.Fields(v.Known),
	}
}

func attrOf(a backends.Attr) journal.Attr {
	j := journal.Attr{UID: a.UID, GID: a.GID, ModTime: a.ModTime, AccTime: a.AccTime}
	if a.Perm != nil {
		j.Perm = new(uint32(*a.Perm))
	}
	return j
}

func setOf(j journal.Attr) backends.Attr {
	a := backends.Attr{UID: j.UID, GID: j.GID, ModTime: j.ModTime, AccTime: j.AccTime}
	if j.Perm != nil {
		a.Perm = new(os.FileMode(*j.Perm))
	}
	return a
}
