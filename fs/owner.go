package fs

import (
	"syscall"

	"pierfs/backends"
	"pierfs/cache"
)

// OwnerMode says whose files the mount shows.
type OwnerMode uint8

const (
	// OwnerMap shows what belongs to the login on the server as UID and GID, and gives that to the login again in
	// chown(2); other ids pass as they are. While the server has not told who the login is, all shows as UID and GID.
	OwnerMap   OwnerMode = iota
	OwnerRaw             // ids as the server sends them
	OwnerFixed           // everything shows as UID and GID, and chown(2) to others is EPERM
)

// Owner is how the server's ids become this machine's.
type Owner struct {
	Mode     OwnerMode
	UID, GID uint32
}

// show returns the ids that programs see.
func (o Owner) show(e cache.Entry, caps backends.Caps) (uid, gid uint32) {
	if o.Mode != OwnerFixed && e.Known.Has(cache.OwnerHere) {
		return e.UID, e.GID
	}
	if !e.Known.Has(backends.HasOwner) || o.Mode == OwnerFixed || o.Mode == OwnerMap && !caps.HasLogin {
		return o.UID, o.GID
	}
	uid, gid = e.UID, e.GID
	if o.Mode == OwnerMap {
		if uid == caps.UID {
			uid = o.UID
		}
		if gid == caps.GID {
			gid = o.GID
		}
	}
	return uid, gid
}

// take returns the server's ids for those of a chown(2) to uid and gid; nil leaves an id as it is. A chown to what is
// shown already changes nothing and never fails: archivers do it all the time.
func (o Owner) take(uid, gid *uint32, e cache.Entry, caps backends.Caps) (toUID, toGID *uint32, err error) {
	shownUID, shownGID := o.show(e, caps)
	if uid != nil && *uid == shownUID {
		uid = nil
	}
	if gid != nil && *gid == shownGID {
		gid = nil
	}
	if uid == nil && gid == nil {
		return nil, nil, nil
	}
	if o.Mode != OwnerFixed && !caps.SetOwner { // then they are only remembered, as they are, and both
		return or(uid, shownUID), or(gid, shownGID), nil
	}
	if o.Mode == OwnerFixed || o.Mode == OwnerMap && !caps.HasLogin {
		return nil, nil, syscall.EPERM
	}
	if o.Mode == OwnerMap {
		uid, gid = back(uid, o.UID, caps.UID), back(gid, o.GID, caps.GID)
	}
	return uid, gid, nil
}

func or(id *uint32, other uint32) *uint32 {
	if id == nil {
		return &other
	}
	return id
}

func back(id *uint32, here, there uint32) *uint32 {
	if id != nil && *id == here {
		return &there
	}
	return id
}
