// Package backends is the seam between what a machine knows and what a server has: one interface, Backend, that every
// protocol fills and every wrapper passes on, and the plain values that cross it.
//
// Above the seam nobody knows a protocol; below it nobody knows a kernel, a cache or a definition file. A Backend is bound
// to one login on one server and to one working directory. Names are clean, slash-separated and relative to that
// directory; "" is the directory itself. CheckName says which names may cross.
//
// Every method may be called from many goroutines at once. Every method takes a context and returns promptly when it
// ends, even if a session has to be given up for it. No method waits without a deadline of its own: an implementation
// derives one from the connection's timeout, so that a silent server costs an error and never a hang.
//
// Errors are *Error, filled in where the server's reply was still in hand and passed on unread by every layer above.
// Nobody decides by the text of an error: the kernel reads Code, whoever may repeat a call reads Class, a script reads
// Cause, a person reads the whole.
package backends

import (
	"context"
	"io"
	"iter"
	"os"
	"time"
)

// Backend is one working directory on one server, as one login sees it.
//
// Implementers: backendtest.Run tells whether the contract below is kept.
type Backend interface {
	// Caps tells what this server can do and how it names itself. Before the first session it may be the protocol's
	// best guess; after it, it does not change but for better knowledge of the same server. It never blocks.
	Caps() Caps

	// Stat describes name without following a link in its last element (lstat). ENOENT if it is absent.
	// A name whose parent is a file is ENOTDIR or ENOENT, as far as the server tells them apart.
	Stat(ctx context.Context, name string) (Info, error)

	// List yields the entries of dir one by one as they arrive, in the server's order, without "." and "..", each
	// with Name set to the bare element. Nothing is sent before the iteration starts, and leaving it early frees what
	// it held. An error is yielded once, last, with a zero Info: what came before is then not the whole directory.
	// A List that ends without an error was complete, unless Caps().ListLimit says that the server cuts listings.
	// Names that CheckName would refuse are left out and counted in Caps().Hidden; the first of two equal names wins.
	List(ctx context.Context, dir string) iter.Seq2[Info, error]

	// Open opens the file name for reading. A directory is EISDIR, a link is opened as the server follows it, but only
	// where that stays inside the working directory.
	Open(ctx context.Context, name string) (Reader, error)

	// Create starts a new content for name. What name held before stays as it is until Commit puts the new content in
	// its place, all at once; an Abort, an error or a lost connection leaves it untouched.
	Create(ctx context.Context, name string, mode WriteMode) (Writer, error)

	// Update opens the existing file name to change it in place; readers of the server see every write as it arrives.
	// Caps().RandomWrite says that any offset will do, Caps().Append that writes at the end will; without either it
	// is EOPNOTSUPP.
	Update(ctx context.Context, name string) (Writer, error)

	// Mkdir makes the directory name with the permission bits of mode, as near as the server's umask allows.
	// EEXIST if anything bears the name already.
	Mkdir(ctx context.Context, name string, mode os.FileMode) error

	// Remove removes a file or link. A directory is EISDIR.
	Remove(ctx context.Context, name string) error

	// Rmdir removes an empty directory. ENOTEMPTY if it is not empty, ENOTDIR if it is none.
	Rmdir(ctx context.Context, name string) error

	// Rename gives from the name to. With Replace an existing file at to is replaced in one step where Caps().Replace
	// says so; with NoReplace it is EEXIST and nothing happens. A directory replaces only an empty directory
	// (ENOTEMPTY), a file never a directory (EISDIR), a directory never a file (ENOTDIR).
	Rename(ctx context.Context, from, to string, mode RenameMode) error

	// SetAttr changes what attr names and returns what the server has afterwards. It does not follow a link in the last
	// element. A field that the server cannot change is EOPNOTSUPP, and then nothing was changed.
	SetAttr(ctx context.Context, name string, attr Attr) (Info, error)

	// Symlink makes the link name with the content target, byte for byte.
	Symlink(ctx context.Context, target, name string) error

	// Readlink returns a link's content as the server has it. Wrappers may refuse one that leads out of the working
	// directory. EINVAL if name is no link.
	Readlink(ctx context.Context, name string) (string, error)

	// Link gives the file old the further name name. EEXIST if that exists.
	Link(ctx context.Context, old, name string) error

	// Sum has the server add up the file name; a link is followed only where that stays inside the working directory. Nothing is read in
	// its place: where the server computes no checksum that tells contents apart it is EOPNOTSUPP, whatever Caps().Sums says.
	Sum(ctx context.Context, name string) (Sum, error)

	// StatFS tells the space of the file system that holds the working directory.
	StatFS(ctx context.Context) (Space, error)

	// Close gives up every session. Calls under way end with ESHUTDOWN or their result; later ones with ESHUTDOWN.
	// It does not wait for a server that is silent, and may be called twice.
	Close() error
}

// Reader is one file of the server, open for reading. Its methods may be called from many goroutines at once.
// It reads what was there at Open as far as the server keeps that alive; a server that cannot (FTP) answers ESTALE
// rather than bytes of another version.
type Reader interface {
	// ReadAt follows io.ReaderAt: n < len(p) only with an error, and that is io.EOF at the end of the file. Short
	// replies of a server are asked again, never taken for the end.
	ReadAt(ctx context.Context, p []byte, off int64) (n int, err error)

	// ReadLast is ReadAt by a caller that will not read again. The file's state and its closing are asked for in the
	// same flight; the Info says what the server then told of the open file, so that a caller who knew a size and time
	// can tell a file that changed under the read. Close must still be called and costs nothing.
	ReadLast(ctx context.Context, p []byte, off int64) (n int, info Info, err error)

	// Stat describes the open file, not what bears its name by now.
	Stat(ctx context.Context) (Info, error)

	// Close does not wait for the server. It may be called twice.
	Close() error
}

// Writer is content on its way to the server. Its methods may be called from many goroutines at once, but Commit and
// Abort end it: one of them must be called, once.
type Writer interface {
	// WriteAt takes p at offset off. It may return before the server has answered, p is free for reuse when it
	// returns; what the server then says comes out of a later WriteAt, of Sync or of Commit. Offsets may come in any
	// order if Caps().RandomWrite, else each must be where the last ended (EINVAL). A Writer that has once failed
	// stays failed.
	WriteAt(ctx context.Context, p []byte, off int64) (n int, err error)

	// Truncate sets the size of what is written.
	Truncate(ctx context.Context, size int64) error

	// Sync returns when the server has answered for all that was written, durably where Caps().Fsync says it can.
	Sync(ctx context.Context) error

	// Commit makes the content final and returns what the server then says of the file under its name.
	//
	// It sends what is still held, sets c.Attr, makes it durable where the server can, closes, and asks for the size;
	// only when all of these answered well and the size is c.Size, a Create replaces its name, in a flight of its own:
	// servers run the next pipelined request even when the one before failed. An error means that the name still has
	// its old content, unless Class is Lost: then it has the old or the new, whole, and a Stat tells which.
	Commit(ctx context.Context, c Commit) (Info, error)

	// Abort throws away what was written, its temporary name on the server included, as far as the server still
	// listens; its error says that something may be left. It does not wait longer than the connection's timeout.
	Abort() error

	// TakeOver has the server copy the n bytes from off on of what a former Writer has left under WriteMode.Left. The content ends at off
	// before and at off+n after it, and these bytes are durable then. Nothing of them crosses the wire; n is chosen so that the
	// server is done within the connection's timeout. EOPNOTSUPP where Caps().TakeOver is false. After an error, also one that says that too
	// little was left, the Writer serves for nothing but Abort.
	TakeOver(ctx context.Context, off, n int64) error

	// Acknowledged is how many bytes from the beginning on the server holds for certain, whatever becomes of it, of its machine or of the
	// connection: it has answered for each of them, and for their durability behind that. It may be asked when the Writer has ended as well, for a Create with
	// WriteMode.Left to go on from what is left then. It is 0 wherever there may be a doubt: if anything but onward writes
	// and TakeOver was done, if the server refused something, and from when a content may bear its name.
	Acknowledged() int64
}

// WriteMode says how Create goes about it.
type WriteMode struct {
	// TempName is where the content is gathered, chosen by the caller so that it can be found after a crash; in the
	// same directory as the name. It is made new: what an earlier attempt has left there is removed, and a link is never
	// followed. Empty: the name itself is written, and the old content is gone from the first byte.
	TempName string

	// Perm is the permission bits that a file new on the server shall have before anybody else's umask.
	Perm os.FileMode

	// Size is how long the content is likely to become, so that the way can be made wide enough in time; 0 is not known.
	Size int64

	// Left is the temporary name of a former Writer of the very same content, for Writer.TakeOver. It is only read from, and may be
	// absent. A request of that Writer which the server comes to late finds that file and no other, so that it harms nothing.
	Left string

	// Exclusive makes Create fail with EEXIST if name exists. Where Caps().Exclusive says so, this is decided by the
	// server: an empty file then stands under name from Create on, which Abort removes. What bears ClaimName(TempName) on
	// the way belongs to the caller as TempName does.
	Exclusive bool
}

// Commit says what a Writer's content must be when it is complete.
type Commit struct {
	// Size that the server must report; any other is a failed upload (EIO).
	Size int64

	// Attr is set on the content before it bears its name; a field the server cannot set is passed over, for Commit
	// returns what it has.
	Attr Attr

	// Content is what the content must be, for a Backend that was told to compare more than the size and did not see all of it
	// pass in order. A difference is EIO of CauseMismatch. Nil: the size must do.
	Content io.ReaderAt

	// Before, if not nil, is asked once whether a Create under a temporary name may replace its name: with what the server then
	// tells of that, or with the error (ENOENT if it is free), as late as it costs no further flight, or the last one before the
	// renaming. Its error ends the Commit, and is what that returns; the name keeps what it has. It must not call the Backend.
	Before func(Info, error) error
}

// Attr names the attributes to change; a nil field stays as it is.
type Attr struct {
	Perm     *os.FileMode // permission bits, with os.ModeSetuid, os.ModeSetgid and os.ModeSticky
	UID, GID *uint32
	ModTime  *time.Time
	AccTime  *time.Time
	Size     *int64
}

// Empty reports whether a changes nothing.
func (a Attr) Empty() bool { return a == Attr{} }

// Untimed is a without its times.
func (a Attr) Untimed() Attr {
	a.ModTime, a.AccTime = nil, nil
	return a
}

// RenameMode says what Rename does with a name that exists.
type RenameMode uint8

const (
	Replace   RenameMode = iota // replace it
	NoReplace                   // leave it and return EEXIST
)

// Info is what a server said of one file. Known tells which fields it really sent; the others are zero.
type Info struct {
	Name    string // the last element of the name it was asked by
	Mode    os.FileMode
	Size    int64
	ModTime time.Time
	AccTime time.Time
	UID     uint32
	GID     uint32
	Nlink   uint32
	ID      string // the server's own identity for the file, equal only for the same file; "" if it has none
	Known   Fields

	// TimeUnit is what ModTime was rounded down to, where that is coarser than Caps.TimeUnit: the file was changed at
	// ModTime or less than TimeUnit later. A LIST of FTP tells the minute, of old files the day. 0: as exact as the server is.
	TimeUnit time.Duration
}

// IsDir reports whether i describes a directory.
func (i Info) IsDir() bool { return i.Mode.IsDir() }

// SameVersion reports whether i and j describe the same content, as far as size, time and identity can tell.
// Times are compared as the server gives them, to the second on SFTP version 3; of two that were rounded differently it is
// asked whether they can be the same. What only one of the two knows tells nothing.
func (i Info) SameVersion(j Info) bool {
	return i.Mode.Type() == j.Mode.Type() && i.Size == j.Size && i.sameTime(j) && (i.ID == j.ID || i.ID == "" || j.ID == "")
}

func (i Info) sameTime(j Info) bool {
	switch {
	case i.ModTime.Equal(j.ModTime):
		return true
	case i.Known == 0 || j.Known == 0: // nobody said anything of one of them
		return false
	case !i.Known.Has(HasModTime) || !j.Known.Has(HasModTime):
		return true
	}
	return i.ModTime.Before(j.ModTime.Add(j.TimeUnit)) && j.ModTime.Before(i.ModTime.Add(i.TimeUnit))
}

// Fields is a set of fields of Info.
type Fields uint16

const (
	HasType Fields = 1 << iota
	HasPerm
	HasSize
	HasModTime
	HasAccTime
	HasOwner // UID and GID
	HasNlink
	HasID
)

// Has reports whether all of want are in f.
func (f Fields) Has(want Fields) bool { return f&want == want }

// Space is the room on a server's file system. A zero Total means that the server does not tell.
type Space struct {
	Total, Free, Avail uint64 // bytes; Avail is what the login may use
	Files, FilesFree   uint64 // inodes
	BlockSize, NameMax uint32
}

// Caps is what a server can do. It is a value: a wrapper that takes something away changes its copy.
type Caps struct {
	Protocol string // "SFTP", "FTP", "FTPS", "mem"
	Server   string // how the server names itself, for people

	RandomRead  bool // a jump in Reader.ReadAt costs no more than going on
	RandomWrite bool
	Append      bool
	Replace     bool // Rename and Commit replace an existing name in one step
	Exclusive   bool // WriteMode.Exclusive is decided by the server
	Symlink     bool
	Link        bool
	SetPerm     bool
	SetOwner    bool
	SetTimes    bool
	Truncate    bool
	Fsync       bool
	Sums        bool // it computes checksums of contents
	TakeOver    bool // Writer.TakeOver works
	StatFS      bool
	ReadOnly    bool // every change is EROFS and nothing is sent (jail)

	// FirstTime and LastTime are the earliest and latest time that the server can keep; zero if there is no such bound. A
	// time beyond is refused (EINVAL), never wrapped.
	FirstTime, LastTime time.Time

	TimeUnit  time.Duration // what times are rounded to; 0 if unknown
	ListLimit int           // a listing of exactly so many entries may have been cut; 0 if the server cuts none
	Hidden    uint64        // names left out of listings so far because they may not cross the seam
	Streams   int           // contents that may be on their way at a time; further ones wait. 0 if there is no such bound
	Shorts    int           // contents under WithWhole, or of 64 KiB at most to be written, that may be on their way at a time, if Streams bounds the others; 0 is as many as those
	ManyLists bool          // a List under WithWhole needs no stream: many may be on their way at a time
	MaxRead   int           // bytes that one request may fetch
	MaxWrite  int           // bytes that one request may carry

	// UID and GID are what the server calls our login, if HasLogin.
	UID, GID uint32
	HasLogin bool
}

// WithWhole returns ctx for a List, or an Open and the reading that follows at once, whose caller waits for all of what is likely to be
// short, rather than for its beginning. A Backend may have it come in another way then, which is quicker for many short
// ones at a time; what comes is the same.
func WithWhole(ctx context.Context) context.Context { return context.WithValue(ctx, wholeKey{}, true) }

// WantsWhole reports whether ctx comes from WithWhole.
func WantsWhole(ctx context.Context) bool { return ctx.Value(wholeKey{}) != nil }

type wholeKey struct{}

// WithSize returns ctx for an Open of a file that was known to have size bytes a moment ago, so that a Backend may make ready for
// that much while it opens.
func WithSize(ctx context.Context, size int64) context.Context {
	return context.WithValue(ctx, sizeKey{}, size)
}

// SizeTold returns the size that ctx tells by WithSize, 0 if it tells none.
func SizeTold(ctx context.Context) int64 {
	size, _ := ctx.Value(sizeKey{}).(int64)
	return size
}

type sizeKey struct{}

// Call is one call that crossed the wire, as an Observer is told of it.
type Call struct {
	Op    string // the method's name in lower case: "stat", "list", "readat", "commit" ...
	Name  string
	Took  time.Duration
	Bytes int // of content, read or written
	Err   error
}

// Observer is told of every call when it has ended. It must not block; nil means that nobody listens.
type Observer func(Call)
