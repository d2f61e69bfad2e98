package fs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"pierfs/cache"
)

// Options say how a tree is shown. The zero value shows it to the caller's user alone, read and write.
type Options struct {
	Name       string // of the connection, for logs
	Source     string // what /proc/mounts shows as the device: the server, without secrets
	AllowOther bool   // other users than the daemon's may enter; file modes then decide
	ReadOnly   bool   // every change is EROFS

	Owner             Owner
	FileMode, DirMode os.FileMode // shown in place of the server's permission bits; 0 shows the server's

	// ReadAhead is what the kernel reads ahead of a program, and around a page of a mapping, in bytes; 0 is 512 KiB, one request.
	// The tree fetches further ahead, of those who read on. Only root can set it: others get the kernel's 128 KiB.
	ReadAhead int

	Logger *slog.Logger // has the connection's name in it; nil logs nothing
}

// fsType is the second half of the file system type in /proc/mounts.
const (
	fsType     = "pierfs"
	fsTypeFull = "fuse." + fsType
)

const (
	// defaultReadAhead is one request. With more, each page that is touched in a mapping brings several in a row, which the tree
	// takes for a reader who goes on: 12 pages of 64 MiB brought 13 MB with 512 KiB, 48 with 1 MiB and all of it with 4 MiB,
	// and reading from one end to the other was no faster.
	defaultReadAhead = maxRequest
	// maxRequest bounds what one READ or WRITE carries. The largest that kernels take is 1 MiB; with many mounts half of
	// it saves more memory than the other half saves time.
	maxRequest = 512 << 10
	// maxBackground is how many read-aheads the kernel has under way at once.
	maxBackground = 64
	// maxRequestMemory bounds the buffers of all requests under way of one mount.
	maxRequestMemory = 64 << 20
)

// Server is one mount.
type Server struct {
	dir     string
	fs      *fileSystem
	fuse    *fuse.Server
	minor   uint32        // names the connection to fusectl
	done    chan struct{} // the kernel let go
	settled chan struct{} // and what programs had left open is closed
	stop    sync.Once     // closes fs.stop
}

// Mount shows tree at dir, which must be an existing directory and no mount point of ours (Clean takes dead ones away).
// It returns when the mount answers, and asks the server
// nothing. The Server ends by Unmount or when somebody else unmounts dir; the tree is the caller's to close after that.
func Mount(dir string, tree *cache.Tree, o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := realDir(dir)
	if err != nil {
		return nil, err
	}
	if err := vacant(dir); err != nil {
		return nil, err
	}
	s := &Server{dir: dir, fs: newFileSystem(tree, o), done: make(chan struct{}), settled: make(chan struct{})}
	s.fuse, err = attach(s.fs, dir, o)
	if err != nil {
		return nil, fmt.Errorf("mount %q: %w", dir, err)
	}
	s.fs.notifier.start(func(n notice) { s.fs.tell(s.fuse, n) })
	go s.serve()
	if err := s.identify(); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), abortPatience)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("mount %q: %w", dir, err), s.Unmount(ctx))
	}
	if err := setReadAhead(s.minor, cmp.Or(o.ReadAhead, defaultReadAhead)); err != nil {
		o.Logger.Debug("the kernel reads ahead as little as it always does", "err", err)
	}
	return s, nil
}

// vacant returns an error if a mount of ours lies at dir already. To touch it could take for ever, so it is asked for in
// the table of mounts.
func vacant(dir string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	if m, ok := topmost(mounts, dir); ok && m.fsType == fsTypeFull {
		return fmt.Errorf("something is mounted at %q already: unmount that first: %w", dir, syscall.EBUSY)
	}
	return nil
}

// realDir returns dir as the kernel will name it. Links are followed above it, but it is no link itself, and it is not
// touched: a dead mount may lie there.
func realDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(dir)), nil
}

// attach mounts: as root by mount(2), else by the setuid helper fusermount3. The INIT exchange is over when it returns, so
// that the mount answers as soon as it is served.
func attach(s *fileSystem, dir string, o Options) (*fuse.Server, error) {
	options := fuse.MountOptions{
		Name:                    fsType,
		FsName:                  o.Source,
		AllowOther:              o.AllowOther,
		Options:                 []string{"default_permissions"},
		MaxWrite:                maxRequest,
		MaxBackground:           maxBackground,
		MaxInflightRequestBytes: maxRequestMemory,
		DisableXAttrs:           true,
		// A link's text is asked for each time: kept by the kernel while a directory above the link is moved, a relative
		// one would lead elsewhere, even out of the mount, and nobody would be asked whether it may.
		EnableSymlinkCaching: false,
		// Replies come from memory; splicing them costs three system calls and gains nothing.
		DisableSplice: true,
		// O_TRUNC arrives in OPEN, or every overwrite would publish an empty file first. Plus is used where it pays.
		// Nothing is setuid on a nosuid mount, so that there is no privilege to kill and no question to ask before each
		// write. Not WRITEBACK_CACHE: the kernel would own sizes and times.
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		PanicHandler:      s.panicked,
		Logger:            log.New(debugWriter{o.Logger}, "", 0),
	}
	if options.FsName == "" {
		options.FsName = fsType
	}
	if os.Geteuid() == 0 {
		direct := options
		direct.DirectMountStrict = true
		direct.DirectMountFlags = syscall.MS_NOSUID | syscall.MS_NODEV
		if o.ReadOnly {
			direct.DirectMountFlags |= syscall.MS_RDONLY
		}
		server, err := fuse.NewServer(s, dir, &direct)
		if err == nil {
			return server, nil
		}
		o.Logger.Debug("no direct mount", "dir", dir, "err", err)
	}
	options.Options = append(options.Options, "nosuid", "nodev")
	if o.ReadOnly {
		options.Options = append(options.Options, "ro")
	}
	return fuse.NewServer(s, dir, &options)
}

// panicked is told by go-fuse of a handler's panic; the request ends with what it returns.
func (s *fileSystem) panicked(what any) fuse.Status {
	s.log().Error("panic in a request", "err", fmt.Sprint(what), "stack", string(debug.Stack()))
	return fuse.EIO
}

// debugWriter takes go-fuse's lines. Most tell of replies to requests that were given up meanwhile.
type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug("fuse", "line", strings.TrimSpace(string(p)))
	return len(p), nil
}

// serve ends when the kernel has let go.
func (s *Server) serve() {
	s.fuse.Serve()
	s.fs.ended.Store(true)
	s.fs.notifier.end() // a notice under way ended with the connection
	close(s.done)
	s.releaseAll()
	close(s.settled)
}

// releaseAll closes what programs left open when the mount was taken from them, or whose RELEASE the kernel threw away
// when it was unmounted right after a close.
func (s *Server) releaseAll() {
	var all sync.WaitGroup
	lanes := make(chan struct{}, 4)
	for _, h := range s.fs.handles.files() {
		lanes <- struct{}{}
		all.Go(func() {
			defer func() { <-lanes }()
			if s.fs.handles.remove(h.id) != nil {
				s.fs.release(h)
			}
		})
	}
	all.Wait()
	s.fs.endMapped()
	s.fs.releasing.Wait()
}

// identify learns what the kernel calls the mount.
func (s *Server) identify() error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	m, ok := topmost(mounts, s.dir)
	if !ok || m.fsType != fsTypeFull {
		return errors.New("somebody mounted over it, or unmounted it, at once")
	}
	s.minor = m.minor
	s.fs.mountID.Store(m.id)
	return nil
}

// Dir returns the mount point.
func (s *Server) Dir() string { return s.dir }

// Done is closed when the kernel has let go of the mount, whoever unmounted it.
func (s *Server) Done() <-chan struct{} { return s.done }

// Changed tells the kernel that name was changed by other ways than this mount. It does not wait.
func (s *Server) Changed(name string) { s.fs.notifier.add(notice{name: name}) }

// Stats is what a mount has at hand.
type Stats struct {
	OpenFiles int // handles that programs have open
	Requests  int // being answered
	Nodes     int // that the kernel remembers
	Listings  int // requests for names in directories so far, by some of them at a time
	Lookups   int // and one by one
}

// Stats counts.
func (s *Server) Stats() Stats {
	return Stats{
		OpenFiles: len(s.fs.handles.files()),
		Requests:  int(s.fs.inFlight.Load()),
		Nodes:     s.fs.nodes.count(),
		Listings:  int(s.fs.listings.Load()),
		Lookups:   int(s.fs.lookups.Load()),
	}
}

const (
	unmountRetry = 50 * time.Millisecond
	// abortPatience is what the kernel gets to let go of an aborted connection.
	abortPatience = 5 * time.Second
)

// Unmount takes the mount away. Nothing new is opened from now on. If files are open, or a process stands in it, the name
// disappears at once and they may go on until ctx ends; then the connection is aborted, and every call on it is ENOTCONN.
// It returns when what was left open is closed, or with the reason why not soon after ctx ended, and never waits longer.
func (s *Server) Unmount(ctx context.Context) error {
	s.fs.draining.Store(true)
	err := s.detach(ctx)
	select {
	case <-s.settled:
		return nil
	case <-ctx.Done():
	}
	return s.abort(err)
}

// detach takes the name away.
func (s *Server) detach(ctx context.Context) error {
	var err error
	tick := time.NewTicker(unmountRetry)
	defer tick.Stop()
	for {
		if !s.mounted() {
			return nil // somebody else was faster, and what lies there now is his
		}
		if err = unmount(s.dir, 0); err == nil {
			return nil
		}
		if canAbort(s.minor) {
			return unmount(s.dir, syscall.MNT_DETACH)
		}
		// Without fusectl only the name leads to the connection: keep it, to abort it by.
		select {
		case <-s.done:
			return nil
		case <-ctx.Done():
			return errors.Join(err, unmount(s.dir, syscall.MNT_FORCE|syscall.MNT_DETACH))
		case <-tick.C:
		}
	}
}

// mounted reports whether the mount is what one finds at its mount point.
func (s *Server) mounted() bool {
	mounts, err := readMounts()
	if err != nil {
		return true // the attempt to unmount will tell
	}
	m, ok := topmost(mounts, s.dir)
	return ok && m.fsType == fsTypeFull && (m.minor == s.minor || s.minor == 0)
}

// abort ends the connection whoever holds a copy of the mount: another namespace's keeps it alive for ever.
func (s *Server) abort(why error) error {
	select {
	case <-s.done:
	default:
		why = errors.Join(why, abort(s.minor))
	}
	s.stop.Do(func() { close(s.fs.stop) })
	patience := time.NewTimer(abortPatience)
	defer patience.Stop()
	select {
	case <-s.settled:
		return nil
	case <-patience.C:
	}
	select {
	case <-s.done:
		return fmt.Errorf("unmount %q: %d files left open by programs are not yet closed", s.dir, s.Stats().OpenFiles)
	default:
		return fmt.Errorf("unmount %q: the kernel does not let go: %w", s.dir, errors.Join(why, context.DeadlineExceeded))
	}
}
