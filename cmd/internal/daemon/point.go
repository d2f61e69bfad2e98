package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
)

// points makes and guards the directories that connections are mounted on.
//
// A program that writes into the bare directory while its mount is away believes that its data is at the server. So the
// directory itself is made unwritable: immutable where we are root and the file system can, else without write permission.
// What was done to which directory is written down under the state directory, so that it is undone when the connection is
// gone, by this daemon or by the next.
type points struct {
	file   string // the list
	root   string // MOUNTROOT: what lies below it may be made and removed
	keep   []string
	logger *slog.Logger

	mu   sync.Mutex
	list map[string]point // by directory
}

// point is what was done to one directory.
type point struct {
	Made      bool        `json:"made,omitempty"` // by us, and so ours to remove
	Mode      os.FileMode `json:"mode"`           // permission bits before
	Immutable bool        `json:"immutable,omitempty"`
	AdHoc     bool        `json:"adHoc,omitempty"`
}

// openPoints reads the list in stateDir. keep names directories of the daemon that no mount may cover. A list that cannot
// be understood is set aside: it is made anew as directories are taken, and no mount shall wait for a person because of it.
func openPoints(stateDir, root string, keep []string, logger *slog.Logger) (*points, error) {
	p := &points{file: filepath.Join(stateDir, "mountpoints.json"), root: root, keep: keep, logger: logger}
	text, err := os.ReadFile(p.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		if err := json.Unmarshal(text, &p.list); err != nil {
			aside := p.file + ".damaged"
			if renameErr := os.Rename(p.file, aside); renameErr != nil {
				return nil, fmt.Errorf("read %s: %w", p.file, errors.Join(err, renameErr))
			}
			logger.Warn("the list of mount points was damaged and is made anew; those of connections that are gone stay unwritable until `chattr -i` and `chmod`",
				"file", p.file, "kept", aside, "err", err)
			p.list = nil // what was understood before the damage may be half of it
		}
	}
	if p.list == nil {
		p.list = map[string]point{}
	}
	return p, nil
}

// save writes the list; p.mu is held.
func (p *points) save() error {
	text, err := json.MarshalIndent(p.list, "", "\t")
	if err != nil {
		return err
	}
	return dirs.Replace(p.file, append(text, '\n'), 0o600)
}

// check refuses a directory that would cover another mount or something of the daemon's own. others are the directories
// of all other mounts.
func (p *points) check(dir string, others []string) error {
	for _, other := range others {
		if dir == other {
			return control.Errorf(control.ConfigInvalid, "%s is a mount already", dir).
				WithHint("choose another directory, or unmount that one first: pierfs umount %s", dir)
		}
		if within(dir, other) || within(other, dir) {
			return control.Errorf(control.ConfigInvalid, "%s and %s lie one within the other", dir, other).
				WithHint("give one of the two connections another mountPoint")
		}
	}
	for _, own := range p.keep {
		if within(own, dir) {
			return control.Errorf(control.ConfigInvalid, "a mount on %s would cover the daemon's own %s", dir, own).
				WithHint("choose another directory")
		}
	}
	return nil
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// spot is one mount point in use: a handle on the bare directory, which reaches it also from behind the mount.
type spot struct {
	p    *points
	dir  string
	bare *os.File
}

// take makes dir if it is missing, checks it and gives a handle on it. Whatever it is now, it is not reached through a
// symbolic link, and its owner is us.
func (p *points) take(dir string, adHoc bool) (*spot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	bare, err := openPlain(dir)
	made := false
	if errors.Is(err, os.ErrNotExist) && !adHoc {
		if err := p.create(dir); err != nil {
			return nil, control.Errorf(control.CannotCreate, "make the mount point: %v", err).WithHint("make it yourself, or check who may write above it")
		}
		made = true
		bare, err = openPlain(dir)
	}
	if err != nil {
		return nil, err
	}
	s := &spot{p: p, dir: dir, bare: bare}
	if err := s.admit(adHoc); err != nil {
		return nil, errors.Join(err, bare.Close())
	}
	if _, ok := p.list[dir]; !ok {
		entry, err := p.find(s, made)
		if err != nil {
			return nil, errors.Join(err, bare.Close())
		}
		entry.AdHoc = adHoc
		p.list[dir] = entry
		if err := p.save(); err != nil {
			return nil, errors.Join(err, bare.Close())
		}
	}
	return s, nil
}

// guarded is the mode of a directory that was made unwritable.
const guarded os.FileMode = 0o500

// find returns what is to be written down of a directory that is not in the list. One that has all the marks of ours
// already was ours before the list was lost, and what it was before that is gone: it becomes what we would have made.
func (p *points) find(s *spot, made bool) (point, error) {
	info, err := s.bare.Stat()
	if err != nil {
		return point{}, err
	}
	entry := point{Made: made, Mode: info.Mode().Perm()}
	if entry.Mode == guarded && !made && (isImmutable(s.bare) || within(s.dir, p.root)) {
		entry = point{Made: within(s.dir, p.root), Mode: 0o755, Immutable: isImmutable(s.bare)}
	}
	return entry, nil
}

// create makes dir and what is missing above it. Only below the mount root, or the one last element elsewhere: a mountPoint
// with a typing error shall not grow a tree.
func (p *points) create(dir string) error {
	if !within(dir, p.root) {
		return makeOpen(dir)
	}
	return makeOpenAll(dir)
}

// makeOpenAll makes dir and what is missing above it.
func makeOpenAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := makeOpenAll(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := makeOpen(dir); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// makeOpen makes a directory. Root's everybody may pass through, whatever the umask: that of a service is for its own files, and a mount that
// programs of others cannot reach is none.
// It follows no link, nor one that somebody who may write above puts in the new directory's place.
func makeOpen(dir string) error {
	above, err := openPlain(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer above.Close()
	if err := unix.Mkdirat(int(above.Fd()), filepath.Base(dir), 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	fd, err := unix.Openat(int(above.Fd()), filepath.Base(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	made := os.NewFile(uintptr(fd), dir)
	if os.Geteuid() != 0 { // whose own it is, and his umask says who may see it
		return made.Close()
	}
	return errors.Join(made.Chmod(0o755), made.Close())
}

// removePlain removes an empty directory that no link leads to.
func removePlain(dir string) error {
	above, err := openPlain(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer above.Close()
	if err := unix.Unlinkat(int(above.Fd()), filepath.Base(dir), unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// openPlain opens a directory whose path has no symbolic link in it (openat2(2), RESOLVE_NO_SYMLINKS).
func openPlain(dir string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &how)
	if errors.Is(err, unix.ENOSYS) {
		fd, err = openByElement(dir)
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, control.Errorf(control.NotAllowed, "%s is reached through a symbolic link", dir).
			WithHint("name the directory by its real path: realpath %s", dir)
	case errors.Is(err, unix.ENOTDIR):
		return nil, control.Errorf(control.CannotCreate, "%s is not a directory", dir).WithHint("name an empty directory")
	case errors.Is(err, unix.ENOTCONN):
		return nil, control.Errorf(control.CannotCreate, "a dead mount hangs on %s", dir).WithHint("umount -l %s", dir)
	case err != nil:
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// openByElement does what openat2(2) does, where that is not there: before Linux 5.6, and below filters of system calls that cannot look into its
// argument (RestrictSUIDSGID= of systemd, containers). dir is absolute.
func openByElement(dir string) (int, error) {
	const way = unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open("/", way|unix.O_PATH, 0)
	if err != nil {
		return -1, err
	}
	elements := strings.FieldsFunc(filepath.Clean(dir), func(r rune) bool { return r == '/' })
	for i, element := range elements {
		flags := way | unix.O_PATH
		if i == len(elements)-1 {
			flags = way | unix.O_RDONLY
		}
		next, err := unix.Openat(fd, element, flags, 0)
		if err != nil && isLink(fd, element) { // of O_DIRECTORY with O_NOFOLLOW the kernel says ENOTDIR
			err = unix.ELOOP
		}
		if err := errors.Join(unix.Close(fd), err); err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

func isLink(dir int, name string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFLNK
}

// admit checks what is only known of an open directory.
func (s *spot) admit(adHoc bool) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(s.bare.Fd()), &stat); err != nil {
		return err
	}
	if int(stat.Uid) != os.Geteuid() && (adHoc || os.Geteuid() != 0) {
		return control.Errorf(control.NotAllowed, "%s belongs to user %d, not to user %d", s.dir, stat.Uid, os.Geteuid()).
			WithHint("mount on a directory of your own")
	}
	names, err := s.bare.Readdirnames(1)
	if len(names) > 0 {
		return control.Errorf(control.CannotCreate, "%s is not empty", s.dir).
			WithHint("what it holds would be hidden: move it away, or mount elsewhere")
	}
	if err != nil && err != io.EOF {
		return err
	}
	return nil
}

// unguard lets fusermount3 mount on the directory, for it asks the user's right to write there. Root needs no such thing.
func (s *spot) unguard() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return s.bare.Chmod(0o700)
}

// guard makes the bare directory unwritable. Root calls it before the mount, so that there is no moment without; a user
// after it. One that is immutable is so already, whoever did it.
func (s *spot) guard() error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if isImmutable(s.bare) {
		return nil
	}
	if err := s.bare.Chmod(guarded); err != nil {
		return fmt.Errorf("make the bare mount point unwritable: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	entry := s.p.list[s.dir]
	if !entry.Immutable { // written down first: a crash in between must not leave what nobody knows of
		entry.Immutable = true
		s.p.list[s.dir] = entry
		if err := s.p.save(); err != nil {
			return err
		}
	}
	if err := setImmutable(s.bare, true); err != nil {
		s.p.logger.Warn("the bare mount point is unwritable by its mode alone, which does not hold root back", "dir", s.dir, "err", err)
	}
	return nil
}

func (s *spot) close() error { return s.bare.Close() }

// isImmutable reports whether f is; where the file system cannot tell, it is not.
func isImmutable(f *os.File) bool {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	return err == nil && flags&unix.STATX_ATTR_IMMUTABLE != 0
}

// setImmutable sets or clears FS_IMMUTABLE_FL (0x10, the same bit as STATX_ATTR_IMMUTABLE), as chattr +i does.
func setImmutable(f *os.File, on bool) error {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	want := flags &^ unix.STATX_ATTR_IMMUTABLE
	if on {
		want = flags | unix.STATX_ATTR_IMMUTABLE
	}
	if want == flags {
		return nil
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(want))
}

// restore undoes what was done to a directory that is no longer mounted on.
func (p *points) restore(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	entry, ok := p.list[dir]
	if !ok {
		return nil
	}
	if err := p.undo(dir, entry); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restore the bare mount point: %w", err)
	}
	delete(p.list, dir)
	return p.save()
}

func (p *points) undo(dir string, entry point) error {
	bare, err := openPlain(dir)
	if err != nil {
		return err
	}
	defer bare.Close()
	switch {
	case !isImmutable(bare):
	case !entry.Immutable:
		return nil // an operator's doing, and his to undo
	default:
		if err := setImmutable(bare, false); err != nil {
			return err
		}
	}
	if err := bare.Chmod(entry.Mode); err != nil || !entry.Made {
		return err
	}
	if err := removePlain(dir); err != nil {
		return err
	}
	// The environment's and the project's directory go with their last connection. Others' files keep them.
	for above := filepath.Dir(dir); above != p.root && within(above, p.root); above = filepath.Dir(above) {
		if removePlain(above) != nil {
			break
		}
	}
	return nil
}

// each yields the directories of the list.
func (p *points) each() iter.Seq[string] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Values(slices.Sorted(maps.Keys(p.list)))
}

// forget restores all directories that are not in wanted: those of connections removed while no daemon ran, and of the
// ad-hoc mounts of a daemon that died.
func (p *points) forget(wanted []string) {
	for dir := range p.each() {
		if slices.Contains(wanted, dir) {
			continue
		}
		if err := p.restore(dir); err != nil {
			p.logger.Warn("a former mount point stays as it is", "dir", dir, "err", err)
		}
	}
}
