package conncfg

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Errors of Store, beside those of the file system.
var (
	ErrNameTaken = errors.New("there is a connection of that name")
	ErrLink      = errors.New("the definition is a symbolic link: change the file that it leads to")
	ErrChanged   = errors.New("somebody else changed the definition at the same time: look at it and try again")
)

// Store changes definitions below a configuration directory. Each file is replaced as a whole: written beside, synced,
// renamed, and its directory synced, so that a crash at any moment leaves the old one or the new one. Its methods may be
// called from many goroutines; another program that edits the same file at the same moment is noticed in most cases.
type Store struct {
	dir string

	mu   sync.Mutex
	step func(string) error // tests fail a step here
}

// NewStore returns the store of the configuration below dir.
func NewStore(dir string) *Store {
	return &Store{dir: dir, step: func(string) error { return nil }}
}

// Write makes a file of the configuration hold data in place of was; nil is a file that is not there. It fails with ErrChanged,
// and leaves the file alone, if it holds anything else. A new file is readable by its owner alone, and folders are made.
func (s *Store) Write(name string, was, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := CheckFile(name); err != nil {
		return err
	}
	file := filepath.Join(s.dir, filepath.FromSlash(name))
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, os.ErrNotExist) && was != nil, err == nil && was == nil:
		return fmt.Errorf("%s: %w", file, ErrChanged)
	case errors.Is(err, os.ErrNotExist) && data == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		if err := s.makeDirs(filepath.Dir(file)); err != nil {
			return err
		}
		return s.replace(file, data, nil)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: %w", file, ErrLink)
	}
	now, err := os.ReadFile(file)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(now, was):
		return fmt.Errorf("%s: %w", file, ErrChanged)
	case data != nil && bytes.Equal(now, data):
		return nil
	case data != nil:
		return s.replace(file, data, info)
	}
	if err := s.step("remove"); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

// makeDirs makes the folders between the configuration directory and dir, and dir.
func (s *Store) makeDirs(dir string) error {
	below, err := filepath.Rel(s.dir, dir)
	if err != nil {
		return err
	}
	at := s.dir
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	for part := range strings.SplitSeq(below, string(filepath.Separator)) {
		if part == "." {
			continue
		}
		at = filepath.Join(at, part)
		switch err := os.Mkdir(at, 0o700); {
		case errors.Is(err, os.ErrExist):
		case err != nil:
			return err
		default:
			if err := syncDir(filepath.Dir(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Free returns ErrNameTaken if a new connection could not bear the name: its place is taken, also by one that differs in
// upper and lower case alone or by a project.
func (c *Config) Free(name string) error {
	project, _, inProject := strings.Cut(name, "/")
	for taken := range c.connections {
		other, _, otherInProject := strings.Cut(taken, "/")
		switch {
		case strings.EqualFold(taken, name),
			inProject && strings.EqualFold(taken, project),
			!inProject && otherInProject && strings.EqualFold(other, name),
			inProject && otherInProject && strings.EqualFold(other, project) && other != project:
			return fmt.Errorf("%q: %w: %q", name, ErrNameTaken, taken)
		}
	}
	return nil
}

// replace puts data at the place of file, whose former state was info, or of a file that does not exist yet.
func (s *Store) replace(file string, data []byte, info os.FileInfo) (err error) {
	dir := filepath.Dir(file)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*") // 0600; Load does not look at names with a dot in front
	if err != nil {
		return err
	}
	defer func() {
		temp.Close()
		if err != nil {
			os.Remove(temp.Name()) // what stays behind after a crash is not looked at either
		}
	}()
	if err := s.fill(temp, data, info); err != nil {
		return err
	}
	if err := s.step("rename"); err != nil {
		return err
	}
	if info == nil {
		// link(2) and not rename(2): it fails where somebody else has made the file meanwhile.
		if err := os.Link(temp.Name(), file); err != nil {
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("%s: %w", file, ErrNameTaken)
			}
			return err
		}
		os.Remove(temp.Name())
		return syncDir(dir)
	}
	if now, err := os.Lstat(file); err != nil || !os.SameFile(now, info) || !now.ModTime().Equal(info.ModTime()) || now.Size() != info.Size() {
		return fmt.Errorf("%s: %w", file, ErrChanged)
	}
	if err := os.Rename(temp.Name(), file); err != nil {
		return err
	}
	return syncDir(dir)
}

func (s *Store) fill(temp *os.File, data []byte, info os.FileInfo) error {
	if err := s.step("write"); err != nil {
		return err
	}
	if _, err := temp.Write(data); err != nil {
		return err
	}
	if info != nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && (int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid()) {
			if err := temp.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
				return fmt.Errorf("keep the file's owner: %w", err)
			}
		}
		if err := temp.Chmod(info.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := s.step("sync"); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	return temp.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// WithEnabled returns the definition with enabled = true or false in it, and every other byte as it is.
func WithEnabled(data []byte, enabled bool) ([]byte, error) {
	if e := document(data, func(Finding) {}).byKey["enabled"]; e != nil {
		if _, ok := e.value.(bool); !ok {
			return nil, errors.New("enabled is neither true nor false: correct it first")
		}
	}
	out, err := amend(data, amendment{key: "enabled", value: strconv.FormatBool(enabled)})
	if err != nil {
		return nil, fmt.Errorf("%w: correct the file first; pierfs check tells the line", err)
	}
	return out, nil
}

// lineBreak is what the file ends its lines with.
func lineBreak(body []byte) string {
	if i := bytes.IndexByte(body, '\n'); i > 0 && body[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}
