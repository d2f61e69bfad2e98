package retry

import (
	"context"
	"hash/maphash"
	"iter"
	"math"
	"syscall"
	"time"

	"pierfs/backends"
)

// Options are what New may be told besides the policy.
type Options struct {
	// State is told when the server answers for the first time, when it goes offline and when it is back, one news after
	// the other and in order. It must not block; nil means that nobody listens.
	State func(State)
}

// Backend is another Backend whose failures are repeated.
type Backend struct {
	backends.Backend // the one whose calls are repeated; Caps goes straight to it
	policy           Policy
	line             *line
}

// New returns b behind p. Closing it closes b.
func New(b backends.Backend, p Policy, o Options) *Backend {
	return &Backend{Backend: b, policy: p, line: newLine(b, p, o.State)}
}

// Knock has a server that is known to be away asked now, once, also where its login was refused: somebody has reason to
// believe that it works again. It does not wait; State is told what comes of it, and then what Knock returns is closed. It is
// closed at once where the server is not known to be away.
func (b *Backend) Knock() <-chan struct{} { return b.line.knock() }

// Greet asks for the working directory once, within one Timeout. If that fails the connection is offline, or refused, as
// after a call that has spent its whole budget: of a server that was never heard, one attempt tells as much as many, and
// whoever calls next need not find out again. Calls that are under way keep their own budget.
func (b *Backend) Greet(ctx context.Context) error {
	once := newBudget(Policy{Timeout: b.policy.Timeout})
	_, err := b.Stat(context.WithValue(ctx, budgetKey{}, once), "")
	return err
}

// How much content an attempt moves, where it is no number of bytes.
const (
	nothing = -1
	endless = math.MaxInt64 // the attempt watches its time itself
)

// run makes attempts until one succeeds or no further one is due, and notes that the server answered. n is how many bytes of
// content an attempt moves.
func (b *Backend) run(ctx context.Context, op, name string, n int64, attempt func(context.Context) error) error {
	u := b.budget(ctx)
	err := b.repeat(ctx, u, op, name, n, attempt)
	if err == nil || backends.ClassOf(err) == backends.Final && backends.Errno(err) == syscall.ENOENT {
		u.answered()
		b.line.answer()
	}
	return err
}

// budget is that of the Do that ctx comes from, or one for this call.
func (b *Backend) budget(ctx context.Context) *budget {
	u := budgetOf(ctx)
	if u == nil {
		return newBudget(b.policy)
	}
	u.use(b.line)
	return u
}

// repeat is run for a call that need not have asked the server to succeed.
func (b *Backend) repeat(ctx context.Context, u *budget, op, name string, n int64, attempt func(context.Context) error) error {
	var last error // of the attempt before
	for {
		if err := b.line.admit(ctx, u, op, name); err != nil {
			if last != nil && backends.CauseOf(err) == backends.CauseOffline {
				return u.spent(last)
			}
			return err
		}
		began := time.Now()
		err := b.once(ctx, u, op, name, n, attempt)
		class := backends.ClassOf(err)
		if class != backends.Final {
			u.broke()
		}
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case class == backends.Refused && !b.policy.Auth:
			b.line.refuse(err)
			return err
		case !b.policy.mayRepeat(err):
			return err
		}
		ours := isTimeout(err)
		if last != nil && ours {
			err = last // it tells why, where the end of our patience does not
		}
		last = err
		pause, ok := u.failed(n >= 0 && !ours)
		if !ok {
			b.line.giveUp(began, err)
			return u.spent(err)
		}
		if !b.line.pause(ctx, floor(u.attempts()), pause) && ctx.Err() != nil {
			return err
		}
	}
}

// once makes one attempt under the budget's deadline. An attempt that the deadline ends is Lost.
func (b *Backend) once(ctx context.Context, u *budget, op, name string, n int64, attempt func(context.Context) error) error {
	limited, cancel := context.WithDeadline(ctx, u.deadline(n))
	defer cancel()
	began := time.Now()
	err := attempt(limited)
	if err == nil || limited.Err() == nil || ctx.Err() != nil {
		return err
	}
	if code := backends.Errno(err); code != syscall.EINTR && code != syscall.ETIMEDOUT {
		return err // an answer that came at the last moment
	}
	return failure(op, name, syscall.ETIMEDOUT, backends.Lost, backends.CauseSilent, &silence{time.Since(began), err})
}

// silence is an attempt that had to end, told to a person.
type silence struct {
	lasted time.Duration
	err    error
}

func (s *silence) Error() string {
	return "no answer within " + s.lasted.Round(100*time.Millisecond).String()
}
func (s *silence) Unwrap() error { return s.err }

// isTimeout reports whether err is what once makes of an attempt that had to end.
func isTimeout(err error) bool {
	return backends.CauseOf(err) == backends.CauseSilent && isContext(err)
}

// ask is run for a call that returns a value and moves no content.
func ask[T any](ctx context.Context, b *Backend, op, name string, call func(context.Context) (T, error)) (value T, err error) {
	err = b.run(ctx, op, name, nothing, keep(&value, call))
	return value, err
}

// recall is ask for a call that a backend may answer from memory: its success does not show that the server is there.
func recall[T any](ctx context.Context, b *Backend, op, name string, call func(context.Context) (T, error)) (value T, err error) {
	err = b.repeat(ctx, b.budget(ctx), op, name, nothing, keep(&value, call))
	return value, err
}

// keep has an attempt put what call returns into value, which stays zero where it fails.
func keep[T any](value *T, call func(context.Context) (T, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		found, err := call(ctx)
		if err == nil {
			*value = found
		}
		return err
	}
}

// Stat repeats.
func (b *Backend) Stat(ctx context.Context, name string) (backends.Info, error) {
	return ask(ctx, b, "stat", name, func(ctx context.Context) (backends.Info, error) { return b.Backend.Stat(ctx, name) })
}

// Readlink repeats.
func (b *Backend) Readlink(ctx context.Context, name string) (string, error) {
	return recall(ctx, b, "readlink", name, func(ctx context.Context) (string, error) { return b.Backend.Readlink(ctx, name) })
}

// Sum repeats.
func (b *Backend) Sum(ctx context.Context, name string) (backends.Sum, error) {
	return ask(ctx, b, "sum", name, func(ctx context.Context) (backends.Sum, error) { return b.Backend.Sum(ctx, name) })
}

// StatFS repeats.
func (b *Backend) StatFS(ctx context.Context) (backends.Space, error) {
	return ask(ctx, b, "statfs", "", b.Backend.StatFS)
}

// Update repeats: nothing is changed before the first write.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	w, err := ask(ctx, b, "update", name, func(ctx context.Context) (backends.Writer, error) { return b.Backend.Update(ctx, name) })
	if err != nil {
		return nil, err
	}
	return &writer{Writer: w, backend: b, name: name}, nil
}

// List repeats, and leaves out what it has yielded before. Every entry that arrives renews the budget's time.
func (b *Backend) List(ctx context.Context, dir string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		u := newBudget(b.policy)
		l := listing{backend: b, budget: u, dir: dir, yield: yield, seed: maphash.MakeSeed()}
		err := b.run(context.WithValue(ctx, budgetKey{}, u), "list", dir, endless, l.attempt)
		if err != nil && !l.left {
			yield(backends.Info{}, err)
		}
	}
}

// listing is one List on its way through its attempts.
type listing struct {
	backend *Backend
	budget  *budget
	dir     string
	yield   func(backends.Info, error) bool
	left    bool // the consumer has gone
	seed    maphash.Seed
	hashes  []uint64 // of the names yielded: 8 bytes an entry, for a repetition that rarely comes
}

// attempt lists once, watched: the budget may pass between two entries, and the consumer's own time does not count.
func (l *listing) attempt(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	heard := time.Now() // or began
	watch := time.AfterFunc(time.Until(l.budget.deadline(0)), func() { cancel(context.DeadlineExceeded) })
	defer watch.Stop()

	seen := l.yielded()
	for info, err := range l.backend.Backend.List(ctx, l.dir) {
		if err != nil && context.Cause(ctx) == context.DeadlineExceeded {
			return failure("list", l.dir, syscall.ETIMEDOUT, backends.Lost, backends.CauseSilent,
				&silence{time.Since(heard), context.DeadlineExceeded})
		}
		if err != nil {
			return err
		}
		hash := maphash.String(l.seed, info.Name)
		if _, before := seen[hash]; before {
			continue
		}
		watch.Stop()
		l.hashes = append(l.hashes, hash)
		if !l.yield(info, nil) {
			l.left = true
			return nil
		}
		l.budget.progress()
		heard = time.Now()
		watch.Reset(l.backend.policy.budget())
	}
	return nil
}

// yielded returns the set of what was yielded by former attempts; nil if nothing was.
func (l *listing) yielded() map[uint64]struct{} {
	if len(l.hashes) == 0 {
		return nil
	}
	seen := make(map[uint64]struct{}, len(l.hashes))
	for _, hash := range l.hashes {
		seen[hash] = struct{}{}
	}
	return seen
}

// Close ends the probe, the pauses and the backend below.
func (b *Backend) Close() error {
	b.line.close()
	err := b.Backend.Close()
	b.line.probes.Wait()
	return err
}
