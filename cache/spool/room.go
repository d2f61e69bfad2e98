package spool

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Room bounds how much disk the Files take that share it, as the file system counts it. Who wants more has ENOSPC, and no byte of
// his is written.
type Room struct {
	limit int64
	used  atomic.Int64
}

// NewRoom returns a Room of limit bytes; nil, which is no bound, for 0.
func NewRoom(limit int64) *Room {
	if limit == 0 {
		return nil
	}
	return &Room{limit: limit}
}

// Used returns how much is taken.
func (r *Room) Used() int64 {
	if r == nil {
		return 0
	}
	return r.used.Load()
}

// giveBack gives back what was reserved and not used.
func (r *Room) giveBack(n int64) {
	if r != nil {
		r.used.Add(-n)
	}
}

// Within has the file take its room from r from now on, and returns the file. It is called once, before others know the file.
func (f *File) Within(r *Room) *File {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = r
	f.settle(0)
	return f
}

// reserve takes room for n bytes at off, or fails with ENOSPC; what it returns is to be given to settle once they are written. The
// caller holds mu.
func (f *File) reserve(off, n int64) (int64, error) {
	r := f.room
	if r == nil {
		return 0, nil
	}
	if r.used.Add(n) <= r.limit {
		return n, nil
	}
	r.used.Add(-n)
	n -= f.allocated(Range{off, off + n}) // what is written over takes no room
	if r.used.Add(n) <= r.limit || n == 0 {
		return n, nil
	}
	r.used.Add(-n)
	return 0, unix.ENOSPC
}

// settle brings up to date what the file is known to take, and gives back what was reserved; the caller holds mu.
func (f *File) settle(reserved int64) {
	if f.room == nil {
		return
	}
	var s unix.Stat_t
	taken := f.taken
	if unix.Fstat(int(f.disk.Fd()), &s) == nil {
		taken = s.Blocks * 512
	}
	f.room.used.Add(taken - f.taken - reserved)
	f.taken = taken
}

// leave gives back all that the file takes, for it is not counted any more.
func (f *File) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.room != nil {
		f.room.used.Add(-f.taken)
		f.room, f.taken = nil, 0
	}
}

// allocated returns how many bytes of r have room on the disk; the caller holds mu.
func (f *File) allocated(r Range) (n int64) {
	for data := range runs(r, f.dataLocked) {
		n += data.Len()
	}
	return n
}
