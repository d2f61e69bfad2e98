// Package failover makes one Backend of several hosts that serve the same files: the first that can be reached.
//
// It promises to its callers:
//
//   - A call goes to the host in use, once. If that cannot be reached, the call's error says so as ever, and the next call
//     goes to the next host, after the last one to the first again: whoever repeats calls comes round to each of them.
//   - Only what keeps a session from coming about moves on: a name that is not known, no route, a refused or unanswered
//     connection, silence. A refused login, an unknown host key and every answer about a file stay where they are.
//   - While a later host is in use, the ones before it are looked at again, at most once in Options.Rest and only when there
//     are calls, so that an idle connection stays idle. The first that answers is in use from then on. What is open stays with the host
//     it was opened at.
//   - Options.Moved is told when a host has answered that was not in use before, and never of one that only was tried.
//
// Whether the hosts really have the same files nobody can tell from here; it is for whoever names them.
//
// Locks: Backend.mu guards fields only and is not held across a call or a callback.
package failover

import (
	"context"
	"errors"
	"iter"
	"os"
	"slices"
	"sync"
	"time"

	"pierfs/backends"
)

// Host is one server.
type Host struct {
	Name string // host:port, for people
	backends.Backend
}

// Options are how a Backend watches over its hosts. The zero value works.
type Options struct {
	Rest    time.Duration // between looks at the hosts before the one in use; 0 means 30 s
	Timeout time.Duration // of one look at one host; 0 means 30 s

	// Moved is told that to answers now where from did before. It must not call the Backend; nil if nobody listens.
	Moved func(from, to string)
}

const usual = 30 * time.Second

// Backend is the host in use.
type Backend struct {
	hosts []Host
	o     Options
	ctx   context.Context // ends with Close
	end   context.CancelFunc

	mu       sync.Mutex
	at       int // the host in use
	answered int // the last one that answered
	looked   time.Time
	looking  bool
}

// New returns the Backend of the hosts, of which there must be one at least, in order of preference. Closing it closes them.
func New(hosts []Host, o Options) *Backend {
	if o.Rest <= 0 {
		o.Rest = usual
	}
	if o.Timeout <= 0 {
		o.Timeout = usual
	}
	b := &Backend{hosts: slices.Clone(hosts), o: o}
	b.ctx, b.end = context.WithCancel(context.Background())
	return b
}

// use returns the host for a call and its place, and has the ones before it looked at if it is time.
func (b *Backend) use() (int, backends.Backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at > 0 && !b.looking && b.ctx.Err() == nil && time.Since(b.looked) >= b.o.Rest {
		b.looking = true
		go b.look(b.at)
	}
	return b.at, b.hosts[b.at].Backend
}

// look goes back to the first of the hosts before the n-th that answers.
func (b *Backend) look(n int) {
	better := slices.IndexFunc(b.hosts[:n], func(h Host) bool {
		ctx, cancel := context.WithTimeout(b.ctx, b.o.Timeout)
		defer cancel()
		_, err := h.Stat(ctx, "")
		return err == nil
	})
	b.mu.Lock()
	b.looking, b.looked = false, time.Now()
	if better >= 0 && better < b.at {
		b.at = better
	}
	b.mu.Unlock()
}

// heard learns from how a call at the n-th host ended.
func (b *Backend) heard(n int, err error) {
	b.mu.Lock()
	away := isAway(err)
	from := b.answered
	switch {
	case away && b.at == n:
		b.at, b.looked = (n+1)%len(b.hosts), time.Now()
	case !away && err == nil && b.at == n:
		b.answered = n
	}
	to := b.answered
	b.mu.Unlock()
	if from != to && b.o.Moved != nil {
		b.o.Moved(b.hosts[from].Name, b.hosts[to].Name)
	}
}

// isAway reports whether err says that no session could be had.
func isAway(err error) bool {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || e.Class != backends.Transient && e.Class != backends.Lost {
		return false
	}
	switch e.Cause {
	case backends.CauseDNS, backends.CauseNoRoute, backends.CauseConnRefused, backends.CauseConnTimeout, backends.CauseSilent:
		return true
	}
	return false
}

// ask makes one call that returns a value.
func ask[T any](b *Backend, call func(backends.Backend) (T, error)) (T, error) {
	n, host := b.use()
	value, err := call(host)
	b.heard(n, err)
	return value, err
}

// do makes one call that returns only an error.
func (b *Backend) do(call func(backends.Backend) error) error {
	_, err := ask(b, func(host backends.Backend) (struct{}, error) { return struct{}{}, call(host) })
	return err
}

// InUse returns the name of the host that the next call goes to.
func (b *Backend) InUse() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hosts[b.at].Name
}

// Caps are those of the host in use. What a Writer leaves is at its host, and what bears that name at another may be a copy that was made
// meanwhile: nothing is taken over.
func (b *Backend) Caps() backends.Caps {
	b.mu.Lock()
	host := b.hosts[b.at]
	b.mu.Unlock()
	caps := host.Caps()
	caps.TakeOver = caps.TakeOver && len(b.hosts) == 1
	return caps
}

// Stat asks the host in use.
func (b *Backend) Stat(ctx context.Context, name string) (backends.Info, error) {
	return ask(b, func(host backends.Backend) (backends.Info, error) { return host.Stat(ctx, name) })
}

// List lists at the host that is in use when the iteration starts.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		n, host := b.use()
		var failed error
		defer func() { b.heard(n, failed) }()
		for info, err := range host.List(ctx, dir) {
			failed = err
			if !yield(info, err) {
				return
			}
		}
	}
}

// Open opens at the host in use, where the Reader stays.
func (b *Backend) Open(ctx context.Context, name string) (backends.Reader, error) {
	return ask(b, func(host backends.Backend) (backends.Reader, error) { return host.Open(ctx, name) })
}

// Create starts at the host in use, where the Writer stays.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	if len(b.hosts) > 1 {
		mode.Left = ""
	}
	return ask(b, func(host backends.Backend) (backends.Writer, error) { return host.Create(ctx, name, mode) })
}

// Update opens at the host in use, where the Writer stays.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	return ask(b, func(host backends.Backend) (backends.Writer, error) { return host.Update(ctx, name) })
}

// Mkdir asks the host in use.
func (b *Backend) Mkdir(ctx context.Context, name string, mode os.FileMode) error {
	return b.do(func(host backends.Backend) error { return host.Mkdir(ctx, name, mode) })
}

// Remove asks the host in use.
func (b *Backend) Remove(ctx context.Context, name string) error {
	return b.do(func(host backends.Backend) error { return host.Remove(ctx, name) })
}

// Rmdir asks the host in use.
func (b *Backend) Rmdir(ctx context.Context, name string) error {
	return b.do(func(host backends.Backend) error { return host.Rmdir(ctx, name) })
}

// Rename asks the host in use.
func (b *Backend) Rename(ctx context.Context, from, to string, mode backends.RenameMode) error {
	return b.do(func(host backends.Backend) error { return host.Rename(ctx, from, to, mode) })
}

// SetAttr asks the host in use.
func (b *Backend) SetAttr(ctx context.Context, name string, attr backends.Attr) (backends.Info, error) {
	return ask(b, func(host backends.Backend) (backends.Info, error) { return host.SetAttr(ctx, name, attr) })
}

// Symlink asks the host in use.
func (b *Backend) Symlink(ctx context.Context, target, name string) error {
	return b.do(func(host backends.Backend) error { return host.Symlink(ctx, target, name) })
}

// Readlink asks the host in use.
func (b *Backend) Readlink(ctx context.Context, name string) (string, error) {
	return ask(b, func(host backends.Backend) (string, error) { return host.Readlink(ctx, name) })
}

// Link asks the host in use.
func (b *Backend) Link(ctx context.Context, old, name string) error {
	return b.do(func(host backends.Backend) error { return host.Link(ctx, old, name) })
}

// Sum asks the host in use.
func (b *Backend) Sum(ctx context.Context, name string) (backends.Sum, error) {
	return ask(b, func(host backends.Backend) (backends.Sum, error) { return host.Sum(ctx, name) })
}

// StatFS asks the host in use.
func (b *Backend) StatFS(ctx context.Context) (backends.Space, error) {
	return ask(b, func(host backends.Backend) (backends.Space, error) { return host.StatFS(ctx) })
}

// Close closes all hosts, and returns what they say.
func (b *Backend) Close() error {
	b.end()
	errs := make([]error, len(b.hosts))
	for i, host := range b.hosts {
		errs[i] = host.Close()
	}
	return errors.Join(errs...)
}
