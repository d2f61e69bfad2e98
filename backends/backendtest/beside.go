package backendtest

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pierfs/backends"
)

// besideTests hold what is told beside a change to the truth: it is what a question gives afterwards, and nothing is told of a change
// that was refused, of other names, or after the call.
var besideTests = []rule{
	{"a change tells what it touched", func(s *suite) {
		s.mkdir("a")
		s.mkdir("b")
		s.mkdir("besides")
		s.write("a/file", "x")
		long := time.Unix(1_000_000_000, 0)
		for _, change := range []struct {
			did     string
			touched []string // directories, which are told where the Backend tells anything
			also    []string // further names that may be told
			do      func(context.Context) error
		}{
			{"mkdir", []string{"a"}, []string{"a/dir"}, func(ctx context.Context) error { return s.b.Mkdir(ctx, "a/dir", 0o750) }},
			{"mkdir at the top", []string{""}, []string{"top"}, func(ctx context.Context) error { return s.b.Mkdir(ctx, "top", 0o755) }},
			{"rmdir", []string{"a"}, nil, func(ctx context.Context) error { return s.b.Rmdir(ctx, "a/dir") }},
			{"rename", []string{"a", "b"}, []string{"b/moved"}, func(ctx context.Context) error {
				return s.b.Rename(ctx, "a/file", "b/moved", backends.Replace)
			}},
			{"rename to what must be new", []string{"a", "b"}, []string{"a/file"}, func(ctx context.Context) error {
				return s.b.Rename(ctx, "b/moved", "a/file", backends.NoReplace)
			}},
			{"commit", []string{"a"}, []string{"a/new"}, func(ctx context.Context) error {
				w, err := s.b.Create(ctx, "a/new", backends.WriteMode{TempName: temp("a/new"), Perm: 0o644})
				if err == nil {
					_, err = w.Commit(ctx, backends.Commit{})
				}
				return err
			}},
			{"remove", []string{"a"}, nil, func(ctx context.Context) error { return s.b.Remove(ctx, "a/new") }},
		} {
			if s.b.Caps().SetTimes { // so that a time from before the change would show
				for _, dir := range change.touched {
					_, _ = s.b.SetAttr(s.ctx, dir, backends.Attr{ModTime: &long, AccTime: &long})
				}
			}
			heard, ctx := s.listen("besides", "a/nothing")
			s.ok(change.do(ctx), change.did)
			told := heard.all()
			for _, dir := range append(change.touched, "besides") {
				if _, ok := told[dir]; !ok && s.o.Beside {
					s.Errorf("%s: nothing is said of the directory %q", change.did, dir)
				}
			}
			s.allTrue(change.did, told, slices.Concat(change.touched, change.also, []string{"besides"}))
		}
	}},
	{"a change that is refused tells nothing", func(s *suite) {
		s.mkdir("a")
		s.mkdir("a/full")
		s.write("a/full/file", "x")
		for did, change := range map[string]func(context.Context) error{
			"mkdir of what is there":    func(ctx context.Context) error { return s.b.Mkdir(ctx, "a/full", 0o755) },
			"remove of what is not":     func(ctx context.Context) error { return s.b.Remove(ctx, "a/nothing") },
			"rmdir of a full directory": func(ctx context.Context) error { return s.b.Rmdir(ctx, "a/full") },
			"rename of nothing": func(ctx context.Context) error {
				return s.b.Rename(ctx, "a/nothing", "a/new", backends.Replace)
			},
			"rename to what is there": func(ctx context.Context) error {
				return s.b.Rename(ctx, "a/full/file", "a/full", backends.NoReplace)
			},
		} {
			heard, ctx := s.listen()
			if err := change(ctx); err == nil {
				s.Errorf("%s: no error", did)
			}
			if told := heard.all(); len(told) > 0 {
				s.Errorf("%s tells %v", did, told)
			}
		}
	}},
	{"an update tells what is there", func(s *suite) {
		s.write("file", "12345")
		heard, ctx := s.listen()
		w, err := s.b.Update(ctx, "file")
		if backends.Errno(err) == syscall.EOPNOTSUPP {
			return
		}
		s.ok(err, "update")
		told := heard.all()
		if _, ok := told["file"]; !ok && s.o.Beside {
			s.Error("update: nothing is said of the file")
		}
		s.allTrue("update", told, []string{"file"})
		_ = w.Abort()
	}},
}

// hearing is what a Backend tells beside a call.
type hearing struct {
	over atomic.Bool
	mu   sync.Mutex
	said map[string]backends.Info
	late []string
}

// listen returns a context for one call, whose caller wants to know of further names besides.
func (s *suite) listen(besides ...string) (*hearing, context.Context) {
	h := &hearing{said: map[string]backends.Info{}}
	s.Cleanup(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.late) > 0 {
			s.Errorf("%q: told after the call had returned", h.late)
		}
	})
	return h, backends.WithAside(s.ctx, func(name string, info backends.Info) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.over.Load() {
			h.late = append(h.late, name)
		}
		h.said[name] = info
	}, besides...)
}

// all is what was told; the call has returned.
func (h *hearing) all() map[string]backends.Info {
	h.over.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.said
}

// allTrue checks what was told against what the Backend says when it is asked.
func (s *suite) allTrue(did string, told map[string]backends.Info, may []string) {
	s.Helper()
	for name, info := range told {
		asked := s.stat(name)
		same := info.Name == asked.Name && info.Mode == asked.Mode && info.Size == asked.Size && info.ModTime.Equal(asked.ModTime) &&
			info.ID == asked.ID && info.Known == asked.Known && info.UID == asked.UID && info.GID == asked.GID
		if !same {
			s.Errorf("%s tells of %q %+v, and it is %+v", did, name, info, asked)
		}
		if !slices.Contains(may, name) {
			s.Errorf("%s tells of %q, which it has not touched", did, name)
		}
	}
}
