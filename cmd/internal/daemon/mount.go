package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/backends/trace"
	"pierfs/cache"
	"pierfs/cache/spool"
	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
	"pierfs/fs"
)

// Pauses between attempts to mount what could not be mounted.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// firstAnswer is how long a mount that stands waits for its server before it is told as offline.
const firstAnswer = 5 * time.Second

// Floor is what stands below the daemon.
type Floor struct {
	// Dial makes a Backend without touching the network.
	Dial func(t conncfg.Target, log *slog.Logger, o Link) (Backend, error)
	// Mount shows tree at dir.
	Mount func(dir string, tree *cache.Tree, o fs.Options) (Mounted, error)
	// Clean takes a mount of a dead daemon away from dir, if there is one.
	Clean func(dir string) error
	// Test tries t step by step, and what is to be tried beyond logging in and listing.
	Test func(ctx context.Context, t conncfg.Target, tries dial.Tries, log *slog.Logger, report func(control.Step)) error
	// Pin trusts the host key or certificate that t's server shows: the one with this fingerprint, in place of any other, or
	// with none given whatever it shows, if nothing is trusted of the server yet.
	Pin func(ctx context.Context, t conncfg.Target, fingerprint string) (*control.TrustAnswer, error)
	// Look asks the same and tells what Pin would do, and does not do it.
	Look func(ctx context.Context, t conncfg.Target, fingerprint string) (*control.TrustAnswer, error)
	// Believed returns the fingerprints of the host keys or certificates that somebody has said to trust of a server. Nil knows of none.
	Believed func(s conncfg.Server) ([]string, error)
}

// Link is what a Backend and its mount tell each other.
type Link struct {
	Heard   func(up bool, reason error) // told when the server goes away and comes back
	Secrets func() conncfg.Target       // asked at each login for the secrets as they are now
	// Certificate is told at each login which certificate the server at address has shown.
	Certificate func(address, fingerprint string, notAfter time.Time)
	// Login is told each step of each login: its name, how long it took, and what was wrong.
	Login func(step string, took time.Duration, err error)
	// Trace keeps what is said to and from the server.
	Trace *trace.Ring
	// Called is told of each call to the server.
	Called backends.Observer
}

// Backend is one that can be told to look for its server.
type Backend interface {
	backends.Backend
	// Greet asks the server once, before anybody uses it. If it is away, calls fail at once from then on.
	Greet(ctx context.Context) error
	// Knock has a server that is known to be away asked now. It does not wait; what it returns is closed when all that came of
	// it has been told.
	Knock() <-chan struct{}
}

func (f Floor) clean(dir string, log *slog.Logger) {
	if f.Clean == nil {
		return
	}
	if err := f.Clean(dir); err != nil {
		log.Warn("a stale mount stays", "dir", dir, "err", err)
	}
}

// Mounted is a tree that the kernel shows; tests have one without a kernel.
type Mounted interface {
	// Unmount lets programs finish until ctx ends, then cuts them off.
	Unmount(ctx context.Context) error
	// OpenFiles counts what programs have open.
	OpenFiles() int
	// Done is closed when the mount is gone, whoever took it away.
	Done() <-chan struct{}
	// Lead shows another tree from now on. What it returns is closed when nobody uses the one before any more.
	Lead(tree *cache.Tree, o fs.Options) (gone <-chan struct{})
}

// mount is one connection in one environment, on its way up, up, or on its way down.
type mount struct {
	d       *Daemon
	want    Want
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc // asks it to end
	done    chan struct{}      // closed when it has
	settled chan struct{}      // closed when it has been up, or failed, or waited in vain for the server once
	led     chan struct{}      // closed when it leads elsewhere: what it had belongs to another mount

	inherited *standing // what it has taken over of another mount, before it is started; nil of one that mounts by itself

	mu      sync.Mutex
	state   control.State
	since   time.Time
	why     trouble        // that it is not ready
	target  conncfg.Target // as resolved when it was mounted
	latest  conncfg.Target // as last resolved, for its secrets
	asked   time.Time      // when that was
	line    Backend        // nil as tree is
	tree    *cache.Tree    // nil but while it is mounted: in ready and offline, and at the end of starting
	server  Mounted        // the same
	owed    cache.Owed     // what was left when it ended
	err     error          // of the end
	once    bool           // settled is closed
	weighed bool           // it was told which promises do not hold
	attempt attempt        // that is under way, or was the last
	trace   trace.Ring

	staging  string          // of the tree
	spot     *spot           // as tree is
	readOnly bool            // the kernel was told so
	leaving  chan struct{}   // made when it begins to lead elsewhere, closed when the kernel has been told
	gone     <-chan struct{} // closed when nobody uses the tree any more; set before leaving is closed
}

func newMount(d *Daemon, w Want) *mount {
	ctx, cancel := context.WithCancel(context.Background())
	return &mount{d: d, want: w, ctx: ctx, cancel: cancel,
		log:  d.logOf(w),
		done: make(chan struct{}), settled: make(chan struct{}), led: make(chan struct{}),
		state: control.StateStarting, since: time.Now()}
}

// start runs m in a goroutine that ends when m.cancel was called, or when an ad-hoc mount was taken away.
func (m *mount) start() {
	go func() {
		m.run()
		m.settle()
		close(m.done)
	}()
}

func (m *mount) run() {
	defer m.cancel()
	pause, last := firstPause, ""
	for {
		began := time.Now()
		err := m.serve()
		if m.ctx.Err() != nil || m.away() != nil {
			return
		}
		if m.want.AdHoc {
			m.end(err)
			return
		}
		m.become(control.StateFailed, troubleOf(err))
		m.attempted(err)
		m.settle()
		if text := err.Error(); text != last {
			m.log.Error("not mounted, and tried again", "dir", m.want.Dir, "err", err)
			last = text
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// end is what becomes of an ad-hoc mount that failed or was taken away: nothing tries it again.
func (m *mount) end(err error) {
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	m.become(control.StateFailed, troubleOf(err))
	m.attempted(err)
	m.log.Info("gone", "dir", m.want.Dir, "err", err)
	m.d.ended(m)
}

// errTaken says that somebody else unmounted it.
var errTaken = errors.New("the mount was taken away from outside")

// serve mounts, and returns when the mount is gone again.
func (m *mount) serve() error {
	m.become(control.StateStarting, trouble{})
	m.begin(control.PhaseResolve)
	s, err := m.take()
	if err != nil {
		return err
	}
	m.reached(control.PhaseConnect)
	m.stand(s)
	m.log.Info("mounted", "dir", m.want.Dir, "endpoint", m.reach().Display())
	asking, stopAsking := context.WithCancel(m.ctx)
	var asker sync.WaitGroup
	asker.Go(func() { m.greet(asking, s.line, s.tree) })
	select {
	case <-m.ctx.Done():
	case <-m.led:
	case <-s.server.Done():
		err = errTaken
	}
	gone := m.away()
	if gone == nil {
		m.become(control.StateDraining, trouble{})
		gone = m.away()
	}
	stopAsking()
	asker.Wait()
	if gone != nil {
		return m.outlast(s.tree, gone)
	}
	m.begin(ending(err))
	err = errors.Join(err, m.hide(s.server), m.fell(s.tree)) // the tree last: what programs close until then is published
	s.spot.close()                                           // reading only; nothing to lose
	if m.ctx.Err() != nil {
		m.attempted(err)
	}
	return err
}

// take returns what m stands on: what it took over from another mount, or a mount of its own.
func (m *mount) take() (*standing, error) {
	if s := m.inherited; s != nil {
		m.inherited = nil
		return s, nil
	}
	target, err := m.resolve()
	if err != nil {
		return nil, err
	}
	m.reached(control.PhasePoint)
	m.d.o.Floor.clean(m.want.Dir, m.log)
	spot, err := m.d.points.take(m.want.Dir, m.want.AdHoc)
	if err != nil {
		return nil, err
	}
	m.reached(control.PhasePrepare)
	tree, line, err := m.plant(target)
	if err != nil {
		spot.close()
		return nil, err
	}
	m.reached(control.PhaseMount)
	server, err := m.show(spot, tree, target)
	if err != nil {
		spot.close()
		return nil, errors.Join(err, m.fell(tree))
	}
	return &standing{spot: spot, tree: tree, line: line, server: server, readOnly: target.ReadOnly}, nil
}

// resolve returns what to reach, asking for secrets anew.
func (m *mount) resolve() (conncfg.Target, error) {
	if m.want.Refused != nil {
		return conncfg.Target{}, m.want.Refused
	}
	target, findings := m.want.Resolve(m.ctx)
	if err := m.d.refusal(findings); err != nil {
		return conncfg.Target{}, err
	}
	for _, f := range findings { // only warnings are left, and each mount is warned about
		logFinding(m.log, f)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.target, m.latest, m.asked = target, target, time.Now()
	return target, nil
}

// secretsAge is how long secrets are believed: several sessions that log in together ask their sources once.
const secretsAge = 10 * time.Second

// secrets resolves the target anew, for what its secrets are now. Where a source fails, those from before are tried.
func (m *mount) secrets() conncfg.Target {
	m.mu.Lock()
	latest, age := m.latest, time.Since(m.asked)
	m.mu.Unlock()
	if age < secretsAge {
		return latest
	}
	target, findings := m.want.Resolve(m.ctx)
	if err := m.d.refusal(findings); err != nil {
		m.log.Warn("the secrets cannot be read anew; those from before are used", "err", err)
		return latest
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latest, m.asked = target, time.Now()
	return target
}

// plant makes the tree of target, with the backend below it.
func (m *mount) plant(target conncfg.Target) (*cache.Tree, Backend, error) {
	backend, err := m.d.o.Floor.Dial(target, m.log, Link{Heard: m.heard, Secrets: m.secrets, Certificate: m.d.certified, Login: m.loggedIn, Trace: &m.trace,
		Called: m.d.figures.Meter(m.want.Name, m.want.Environment).Count})
	if err != nil {
		return nil, nil, err
	}
	staging := m.d.takeStaging(m.want, target.Identity())
	tree, err := cache.New(backend, cache.Options{
		Staging:      staging,
		Quarantine:   m.d.keep("quarantine", m.want),
		Spool:        m.d.shelf(target),
		Known:        m.d.namesFile(m.want),
		Ahead:        m.d.ahead,
		TempName:     target.TempName,
		Conflict:     conflicts[target.Conflict],
		DoneFile:     target.DoneFile,
		CompareEnds:  target.Verify == conncfg.VerifyHash || target.Verify == conncfg.VerifyReadback,
		InPlace:      target.Update == conncfg.UpdateInPlace,
		Host:         hostname(),
		MetadataTTL:  target.MetadataTTL,
		NegativeTTL:  target.NegativeTTL,
		MaxEntries:   target.MaxEntries,
		Background:   target.Commit == conncfg.CommitBackground,
		Target:       target.Identity(),
		StagingLimit: target.StagingLimit,
		Passthrough:  target.WritePassthrough,
		Retry:        dial.Policy(target),
		Hook:         steps(),
		Logger:       m.log,
	})
	if err != nil {
		m.d.giveStaging(staging, m.want)
		return nil, nil, errors.Join(err, backend.Close())
	}
	m.mu.Lock()
	m.staging = staging
	m.mu.Unlock()
	return tree, backend, nil
}

// conflicts are the policies of definitions in cache's words.
var conflicts = map[conncfg.ConflictPolicy]cache.Conflict{
	conncfg.ConflictKeepBoth:  cache.KeepBoth,
	conncfg.ConflictOverwrite: cache.Overwrite,
	conncfg.ConflictFail:      cache.Fail,
}

// hostname is this machine's name up to the first dot, as names of conflicts bear it.
func hostname() string {
	name, err := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	if err != nil || name == "" || strings.Contains(name, "/") {
		return "unknown"
	}
	return name
}

// shelf returns the part of the spool where content of target is kept: that of all mounts by which the same names are the
// same files, whatever they are called. An environment keeps its own.
func (d *Daemon) shelf(t conncfg.Target) *spool.Shelf {
	if d.spool == nil {
		return nil
	}
	via := fmt.Sprintf("%q %q %d", t.Via.Kind, t.Via.Host, t.Via.Port) // behind another one the host may be another
	return d.spool.Shelf(fmt.Sprintf("%q %q %d %q %q %q %q %s", t.Protocol, t.Host, t.Port, t.Username, t.WorkingDir, t.Encoding, t.Environment, via))
}

// namesFile returns the file in which a mount remembers names; "" if the cache directory cannot be used.
func (d *Daemon) namesFile(w Want) string {
	if d.spool == nil {
		return ""
	}
	return filepath.Join(d.o.Dirs.Cache, "known", d.corner(w), "names")
}

// keep returns a directory of one mount alone below the state directory.
func (d *Daemon) keep(kind string, w Want) string {
	dir := d.o.Dirs.State
	if d.private {
		dir = d.o.Dirs.Runtime
	}
	return filepath.Join(dir, kind, d.corner(w))
}

// corner is a mount's own relative path below the directories of the daemon. No name in it can leave it: conncfg allows
// no dots alone and no slash but the project's. A project may not bear a connection's name, so none lies within another.
func (d *Daemon) corner(w Want) string {
	if w.AdHoc {
		return filepath.Join("adhoc", url.PathEscape(w.Dir))
	}
	if w.loose {
		return filepath.Join("loose", w.Environment, w.Name)
	}
	return filepath.Join("env", w.Environment, w.Name)
}

// show mounts tree with the bare directory unwritable below it.
func (m *mount) show(spot *spot, tree *cache.Tree, target conncfg.Target) (Mounted, error) {
	before, after := spot.guard, func() error { return nil }
	if !privileged() {
		before, after = spot.unguard, spot.guard
	}
	if err := before(); err != nil {
		return nil, err
	}
	server, err := m.d.o.Floor.Mount(m.want.Dir, tree, mountOptions(m.want, target, spot, m.log))
	if err != nil {
		return nil, errors.Join(err, after())
	}
	if err := after(); err != nil {
		return nil, errors.Join(err, m.hide(server))
	}
	return server, nil
}

// stand makes the tree reachable, for the file verbs too. Whether the server answers is not known yet.
func (m *mount) stand(s *standing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tree, m.line, m.server, m.spot, m.readOnly = s.tree, s.line, s.server, s.spot, s.readOnly
	if m.state == control.StateStarting {
		m.why = trouble{reason: "mounted; the server has not answered yet"}
	}
}

// greet asks the server once, so that nobody has to run into one that is away to learn of it. What comes after the first
// answer the backend tells by itself.
func (m *mount) greet(ctx context.Context, line Backend, tree *cache.Tree) {
	err := m.await(ctx, line.Greet)
	m.answered(ctx, err)
	m.settle()
	if backends.CauseOf(err) == backends.CauseTooManySessions { // it is there: once more, with the definition's whole patience
		_, err = tree.Refresh(ctx, "")
		m.answered(ctx, err)
	}
}

// answered notes what came of a question. Any answer is one, also a no.
func (m *mount) answered(ctx context.Context, err error) {
	if ctx.Err() == nil {
		m.learn(err == nil || backends.ClassOf(err) == backends.Final, err, false)
	}
}

// errLate says that the first answer takes its time. It is not final: the question stands.
var errLate error = &backends.Error{Op: "connect", Code: syscall.ETIMEDOUT, Class: backends.Transient, Cause: backends.CauseSilent,
	Err: fmt.Errorf("no answer within %v; it is asked again", firstAnswer)}

// await returns what ask does. It does not keep others waiting for longer than firstAnswer: then the server is told as
// away for the time being.
func (m *mount) await(ctx context.Context, ask func(context.Context) error) error {
	answer := make(chan error, 1)
	go func() { answer <- ask(ctx) }() // ends with ctx; waited for here
	late := time.NewTimer(firstAnswer)
	defer late.Stop()
	select {
	case err := <-answer:
		return err
	case <-late.C:
		m.learn(false, errLate, false)
		m.settle()
	}
	return <-answer
}

// fell closes the tree: what is written is published or quarantined, and counted.
func (m *mount) fell(tree *cache.Tree) error {
	ctx, cancel := context.WithTimeout(context.Background(), m.reach().DrainTimeout)
	defer cancel()
	err := tree.Close(ctx)
	owed := tree.Owed()
	m.mu.Lock()
	m.owed, m.err, m.tree = owed, errors.Join(m.err, err), nil
	staging := m.staging
	m.mu.Unlock()
	m.d.giveStaging(staging, m.want)
	if err != nil || owed.Files > 0 || owed.Quarantined > 0 {
		m.log.Error("closed with something left", "owed", owed.Files, "bytes", owed.Bytes, "quarantined", owed.Quarantined,
			"quarantine", m.d.keep("quarantine", m.want), "err", err)
	}
	return err
}

func (m *mount) hide(server Mounted) error {
	ctx, cancel := context.WithTimeout(context.Background(), unmountWithin)
	defer cancel()
	if err := server.Unmount(ctx); err != nil {
		m.log.Warn("unmount", "dir", m.want.Dir, "err", err)
		return fmt.Errorf("unmount %s: %w", m.want.Dir, err)
	}
	m.log.Info("unmounted", "dir", m.want.Dir)
	return nil
}

// heard is told by the backend when the server goes away or comes back. It must not block.
func (m *mount) heard(up bool, reason error) { m.learn(up, reason, true) }

// learn notes that the server is up, or for which reason it is not. Bad news of one call is less than what the backend knows
// of all: without overrule it does not count where another call was answered meanwhile.
func (m *mount) learn(up bool, reason error, overrule bool) {
	why := troubleOf(reason)
	m.mu.Lock()
	before := m.state
	stands := m.tree != nil
	switch {
	case up && stands:
		m.state, m.why = control.StateReady, trouble{}
	case before == control.StateReady && !overrule:
	case !up && (stands || before == control.StateStarting):
		m.state, m.why = control.StateOffline, why
	}
	after := m.state
	if after == control.StateReady && !m.weighed {
		m.weighed = true
		for _, weaker := range dial.Weaker(m.target, m.line.Caps()) {
			m.log.Warn("a promise does not hold here", "what", weaker)
		}
	}
	if before != after {
		m.since = time.Now()
	}
	m.mu.Unlock()
	if before == after {
		return
	}
	m.d.tellState()
	m.tellState(before, after, why)
	m.stood(before, up, reason)
	switch {
	case !up:
		m.log.Warn("server is away; the mount stays and it is being probed", "err", reason)
	case before == control.StateOffline:
		m.log.Info("server is back")
		m.wake()
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (m *mount) become(state control.State, why trouble) {
	m.mu.Lock()
	before := m.state
	if before != state {
		m.since = time.Now()
		m.d.tellState()
	}
	m.state, m.why = state, why
	if state != control.StateReady && state != control.StateOffline {
		m.tree, m.line, m.server, m.spot = nil, nil, nil, nil
	}
	m.mu.Unlock()
	m.tellState(before, state, why)
}

func (m *mount) settle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.once {
		m.once = true
		close(m.settled)
	}
}

// use returns the tree for one call, or why there is none.
func (m *mount) use() (*cache.Tree, error) {
	called := m.d.called(m.want)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tree != nil {
		return m.tree, nil
	}
	if m.state != control.StateFailed {
		return nil, control.Errorf(control.NotMounted, "%s is %s", m.want.Name, m.state).WithHint("try again in a moment")
	}
	e := control.Errorf(control.NotMounted, "%s is not mounted: %s", m.want.Name, m.why.reason)
	e.Findings = m.why.findings
	return nil, e.WithHint("%s", named(cmp.Or(m.why.hint, "it is tried again; `pierfs test NAME` shows what is wrong"), called))
}

// knock has the server asked at once if it is known to be away: whoever calls has reason to believe that it is back, or that
// what it refused is mended. What it returns is closed when that was done; nil where nobody can be asked.
func (m *mount) knock() <-chan struct{} {
	m.mu.Lock()
	line := m.line
	m.asked = time.Time{} // secrets too may have changed a moment ago
	m.mu.Unlock()
	if line == nil {
		return nil
	}
	m.wake()
	return line.Knock()
}

// wake has what is owed tried now.
func (m *mount) wake() {
	m.mu.Lock()
	tree := m.tree
	m.mu.Unlock()
	if tree != nil {
		tree.Wake()
	}
}

// knockAndWait is knock, and a wait until the server is back, is away for another reason, has said the same again, or had its
// time for it.
func (m *mount) knockAndWait(ctx context.Context) {
	before := m.status()
	if before.State != control.StateOffline {
		return
	}
	asked := m.knock()
	ctx, cancel := context.WithTimeout(ctx, firstAnswer)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for now := before; now.State == control.StateOffline && now.Reason == before.Reason; now = m.status() {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			return
		case <-tick.C:
		}
	}
}

// reach returns the target as resolved when it was mounted.
func (m *mount) reach() conncfg.Target {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.target
}

// ending returns what ended an ad-hoc mount, for the hand.
func (m *mount) ending() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		return control.Errorf(control.Timeout, "%s was not mounted in time", m.want.Dir).WithHint("the daemon's log tells more")
	}
	return toldOf(m.want.Name, m.err)
}

// openFiles counts what programs have open.
func (m *mount) openFiles() int {
	m.mu.Lock()
	server := m.server
	m.mu.Unlock()
	if server == nil {
		return 0
	}
	return server.OpenFiles()
}

// closePatience is how long the kernel may take to tell of a close: RELEASE follows close(2) by itself.
const closePatience = time.Second

// openSoon is openFiles once what programs have closed already is told as closed.
func (m *mount) openSoon() int {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(closePatience); ; <-tick.C {
		if n := m.openFiles(); n == 0 || time.Now().After(deadline) {
			return n
		}
	}
}

// holds returns what the mount owes now, and to which server.
func (m *mount) holds() (owed cache.Owed, server string) {
	m.mu.Lock()
	tree := m.tree
	owed = m.owed
	m.mu.Unlock()
	if tree == nil {
		return owed, ""
	}
	return tree.Owed(), tree.Caps().Server
}

// serving reports whether programs can use it now.
func (m *mount) serving() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tree != nil
}

// failed reports whether m could not be mounted, and waits to be tried again.
func (m *mount) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state == control.StateFailed
}

// whyOwed is why the server does not have what is owed; the zero value where it is just on its way.
func (m *mount) whyOwed() trouble {
	b := m.debtor()
	if b.tree == nil {
		return trouble{}
	}
	for _, d := range b.tree.Queue() { // the oldest goes first
		if told := b.due(d); told.Reason != "" {
			return trouble{reason: told.Reason, cause: told.Cause}
		}
	}
	return trouble{}
}

// status returns m as it stands.
func (m *mount) status() control.Connection {
	called := m.d.called(m.want)
	m.mu.Lock()
	defer m.mu.Unlock()
	findings := m.why.findings
	if f, ok := m.d.certificates.finding(m.target.Address(), time.Now()); ok {
		f.Connection, f.Environment = m.want.Name, m.want.Environment
		findings = append(slices.Clip(findings), f)
	}
	return m.d.tests.mark(control.Connection{
		Name: m.want.Name, Environment: m.want.Environment, State: m.state, Since: m.since,
		Reason: m.why.reason, Cause: m.why.cause, Code: m.why.code, Hint: named(m.why.hint, called), Findings: findings,
		Protocol: string(m.target.Protocol), Endpoint: endpoint(m.target), Dir: m.want.Dir,
		ReadOnly: m.target.ReadOnly, AdHoc: m.want.AdHoc,
	}, m.want.Revision)
}

func endpoint(t conncfg.Target) string {
	if t.Host == "" {
		return ""
	}
	return t.Display()
}

// left tells what a mount that has ended could neither bring to its server nor leave in the journal; nil if nothing.
func (m *mount) left() *LeftError {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.owed.Quarantined == 0 {
		return nil
	}
	return &LeftError{Connection: m.want.Name, Environment: m.want.Environment, Quarantined: m.owed.Quarantined}
}

// LeftError says that a connection ended with something that its server does not have.
type LeftError struct {
	Connection, Environment string
	Changes                 int // in the journal: they are sent when it is mounted again
	Bytes                   int64
	Quarantined             int // contents that wait for a person
}

func (e *LeftError) Error() string {
	var left []string
	if e.Changes > 0 {
		left = append(left, fmt.Sprintf("%s (%d bytes) owed to the server, to be sent when it is mounted again", changes(e.Changes), e.Bytes))
	}
	if e.Quarantined > 0 {
		left = append(left, fmt.Sprintf("%d in quarantine", e.Quarantined))
	}
	name := e.Connection
	if e.Environment != "" {
		name += " in " + e.Environment
	}
	return name + ": " + strings.Join(left, ", ")
}
