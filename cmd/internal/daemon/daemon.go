// Package daemon keeps connections mounted.
//
// It reads what operators wrote, mounts every enabled connection in every active environment, keeps it mounted through
// outages of the server and of the mount itself, and takes it down in order. It promises:
//
//   - A connection whose server is away is mounted all the same, and one that cannot be mounted is tried again for ever; no
//     connection's trouble touches another's.
//   - Reading the definitions again touches what changed and nothing else. A definition that became unreadable leaves the
//     mount as it was.
//   - Stopping takes no new calls, publishes what is written, and unmounts, each with a deadline; what could not be published
//     is kept, counted, and told by the error of Run.
//
// One connection in one environment is a mount (mount.go), a goroutine with an explicit state:
//
//	disabled   starting -> ready <-> offline
//	              ^          |         |
//	              |          v         v
//	            failed <-- draining <--+ --> unmounted
//
// Locks, in the order in which they are taken: loose.mu (held while a tree without a mount is made), Daemon.editing (held over a change of definitions and its apply), Daemon.changing (held over starts and stops, which may last), Daemon.mu,
// mount.mu, points.mu, certificates.mu, tests.mu. The latter five are held over memory and local disk only; the locks of the event bus and of the
// log of deployments are leaves, and neither is taken with mount.mu held.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"pierfs/cache"
	"pierfs/cache/spool"
	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/deployments"
	"pierfs/cmd/internal/dirs"
	"pierfs/cmd/internal/events"
	"pierfs/cmd/internal/metrics"
	"pierfs/cmd/internal/registry"
	"pierfs/conncfg"
)

// How long the steps of a start and a stop may take, besides drainTimeout of the definition.
const (
	unmountWithin = 10 * time.Second // until programs let go; then the mount is cut
	settleWithin  = 60 * time.Second // that apply, mount and enable wait for a mount to stand
)

// Options are what New needs.
type Options struct {
	Dirs    dirs.Dirs
	Version string
	Logger  *slog.Logger

	// Plan reads the definitions. Floor is what stands below the daemon. Both are set by Real; tests put their own.
	Plan  func(ctx context.Context) Plan
	Floor Floor

	// Machine is what doctor looks at besides connections; the zero value is the one that this process runs on.
	Machine Machine

	// Notify tells the service manager; nil tells nobody.
	Notify func(state string)
	// ReleasePoints makes every mount point what it was when Run ends; else those of what is defined stay unwritable, so
	// that programs notice.
	ReleasePoints bool
	// LogLevel is the level of what is logged, where Logger takes more than that: then the level of one connection can be set while the daemon
	// runs. nil leaves the level to Logger.
	LogLevel slog.Leveler
	// MetricsAddress is where Prometheus may read the figures, HOST:PORT of the loopback interface; "" is nowhere but the socket.
	MetricsAddress string
	// ExitIdle makes Run return once a mount was there and none is left.
	ExitIdle bool
}

// Plan is what operators want, as read at one moment.
type Plan struct {
	Environments []control.Environment
	Wants        []Want // every connection in every active environment, in the order in which they start
	Findings     []conncfg.Finding
	Config       *conncfg.Config
	// Torn says that something could not be read: what seems to be missing may stand there.
	Torn bool
}

// Want is one connection in one environment, as it should stand.
type Want struct {
	Name        string
	Environment string // "" for an ad-hoc mount
	Enabled     bool
	AdHoc       bool
	Dir         string
	loose       bool   // file verbs alone use it: see loose
	Revision    string // changes with the meaning of the definition

	// Resolve looks up everything that is needed to reach the server, secrets included. It is called at every start. The
	// target is zero if there is an error among the findings.
	Resolve func(ctx context.Context) (conncfg.Target, []conncfg.Finding)
	// Refused is why it can never stand as it is defined.
	Refused error
}

type key struct{ environment, name string }

func (w Want) key() key { return key{w.Environment, w.Name} }

// same reports whether nothing has to be done to make v out of w.
func (w Want) same(v Want) bool {
	return w.Dir == v.Dir && w.Revision == v.Revision && (w.Refused == nil) == (v.Refused == nil)
}

// Daemon keeps connections mounted. New makes one, Run lives its life.
type Daemon struct {
	o       Options
	log     *slog.Logger
	points  *points
	spool   *spool.Store // what was read; nil if there can be none
	ahead   *cache.Budget
	started time.Time
	idle    chan struct{} // closed when ExitIdle has been reached
	news    chan struct{} // holds one when some mount's state has changed and the service manager was not told yet
	planned chan struct{} // closed when the definitions have been read once
	quit    chan struct{} // closed when everything is to stop

	certificates certificates
	oldSecrets   oldSecrets
	tests        tests
	events       *events.Bus
	deployments  *deployments.Log // nil if it cannot be kept
	figures      *metrics.Set
	loose        loose
	levels       sync.Map // of *connectionLevel, by key
	private      bool     // it serves one hand, and mounts nothing

	registry *registry.Registry // nil if it cannot be used
	unitDirs []string           // of systemd
	editing  sync.Mutex         // one change of definitions at a time
	changing sync.Mutex         // one apply, mount or umount at a time

	mu      sync.Mutex
	plan    Plan
	mounts  map[key]*mount
	formers map[*mount]bool    // lead elsewhere now, and are still used
	staging map[string]bool    // directories that trees have for what they owe
	held    map[key]bool       // unmounted by hand
	lost    map[key]*LeftError // what mounts that are gone could neither publish nor leave in their journals
	staying []key              // mounts that are to end, or to lead elsewhere, once their servers have what is owed
	closing bool
	// imported are the names of connections that wait for `pierfs apply`: nothing is mounted because it was imported.
	imported map[string]bool
}

// New returns a Daemon that has claimed nothing yet.
func New(o Options) *Daemon {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Machine.LookPath == nil {
		o.Machine = OfThisMachine(o.Dirs)
	}
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	bus := events.New(keptEvents)
	d := &Daemon{o: o, log: slog.New(telling{next: o.Logger.Handler(), bus: bus, level: o.LogLevel}), events: bus, ahead: cache.NewBudget(cache.DefaultBudget), started: time.Now(), idle: make(chan struct{}), news: make(chan struct{}, 1),
		planned: make(chan struct{}), quit: make(chan struct{}), mounts: map[key]*mount{}, formers: map[*mount]bool{}, staging: map[string]bool{}, unitDirs: unitDirs(), held: map[key]bool{}, lost: map[key]*LeftError{}}
	d.figures = metrics.New(o.Version, d.look)
	return d
}

// Run claims the directories, mounts what is wanted and serves the control socket until ctx ends; reload makes it read the
// definitions again. Its error says what went wrong at the start, or what is still owed at the end.
func (d *Daemon) Run(ctx context.Context, reload <-chan os.Signal) (err error) {
	release, err := d.claim()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	listener, err := control.Listen(d.o.Dirs.Runtime)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	defer os.Remove(control.SocketPath(d.o.Dirs.Runtime))
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	told, err := d.serveMetrics(serving)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	served := make(chan error, 1)
	server := control.NewServer(d.log)
	server.Guard(d.permit)
	d.serve(server)
	go func() { // ends with serving; waited for below
		<-d.planned // who asks before is answered then: nobody shall be told that nothing is defined
		served <- server.Run(serving, listener, 2*time.Second)
	}()

	go d.tick(serving)
	watching, stopWatching := context.WithCancel(ctx)
	changes := d.watch(watching)
	d.apply(ctx, control.ApplyRequest{})
	d.notify("READY=1")
	d.log.Info("ready", "mounts", d.count(), "root", d.o.Dirs.MountRoot, "socket", control.SocketPath(d.o.Dirs.Runtime))

	err = d.live(ctx, reload, changes, served)
	d.o.Notify("STOPPING=1")
	d.log.Info("stopping")
	d.events.Publish(control.Event{Kind: control.EventStopping})
	stopWatching()
	for range changes { // until the watcher has closed it
	}
	err = errors.Join(err, d.close())
	d.events.Close()
	stopServing()
	<-served
	<-told
	d.log.Info("stopped")
	return err
}

// live does what comes up until it is time to stop.
func (d *Daemon) live(ctx context.Context, reload <-chan os.Signal, changes <-chan struct{}, served chan error) error {
	round := time.NewTicker(certificateRound)
	defer round.Stop()
	owing := time.NewTicker(owingRound)
	defer owing.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-round.C:
			d.lookAtCertificates()
			d.lookAtSecrets()
		case <-owing.C:
			if d.mayGoOn() {
				d.reload(ctx, "nothing is owed any more")
			}
		case <-d.idle:
			d.log.Info("nothing is mounted any more")
			return nil
		case err := <-served:
			served <- nil // Run waits for one
			return fmt.Errorf("control socket: %w", err)
		case <-d.news:
			d.o.Notify(d.summary())
		case <-reload:
			d.reload(ctx, "signal")
			d.knock("")
		case _, ok := <-changes:
			if !ok {
				changes = nil
				continue
			}
			d.reload(ctx, "changed files")
		}
	}
}

func (d *Daemon) reload(ctx context.Context, cause string) {
	d.log.Info("reading the definitions again", "cause", cause)
	d.o.Notify(reloading())
	answer := d.apply(ctx, control.ApplyRequest{})
	d.log.Info("read the definitions", "added", len(answer.Added), "changed", len(answer.Changed),
		"removed", len(answer.Removed), "unchanged", answer.Unchanged, "findings", len(answer.Findings))
	d.notify("READY=1")
}

// notify tells the service manager what, and how things stand.
func (d *Daemon) notify(what string) { d.o.Notify(what + "\n" + d.summary()) }

// summary is how things stand, for the service manager.
func (d *Daemon) summary() string {
	total, ready := 0, 0
	for _, m := range d.all() {
		total++
		if m.status().State == control.StateReady {
			ready++
		}
	}
	return fmt.Sprintf("STATUS=%d of %d connections ready", ready, total)
}

// tellState has the service manager told soon. It does not block.
func (d *Daemon) tellState() {
	select {
	case d.news <- struct{}{}:
	default: // it will be told of this too
	}
}

// tick gives signs of life to the service manager until ctx ends, as long as the daemon can be asked anything.
func (d *Daemon) tick(ctx context.Context) {
	every := watchdogEvery()
	if every == 0 {
		return
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			d.all() // returns only if nothing holds the lock for ever
			d.o.Notify("WATCHDOG=1")
		}
	}
}

// claim makes the daemon's directories and locks those that only one daemon may use.
func (d *Daemon) claim() (release func() error, err error) {
	for _, dir := range []string{d.o.Dirs.State, d.o.Dirs.Cache, d.o.Dirs.Runtime} {
		if err := dirs.Make(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	var locks []*lock
	release = func() error {
		var errs []error
		if d.spool != nil {
			d.spool.Close()
		}
		errs = append(errs, d.deployments.Close())
		for _, l := range locks {
			errs = append(errs, l.release())
		}
		return errors.Join(errs...)
	}
	for _, dir := range slices.Compact([]string{d.o.Dirs.Runtime, d.o.Dirs.State}) {
		l, err := takeLock(dir)
		if err != nil {
			return nil, errors.Join(err, release())
		}
		locks = append(locks, l)
	}
	keep := []string{d.o.Dirs.Config, d.o.Dirs.State, d.o.Dirs.Cache, d.o.Dirs.Runtime}
	d.points, err = openPoints(d.o.Dirs.State, d.o.Dirs.MountRoot, keep, d.log)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	for dir := range d.points.each() {
		d.o.Floor.clean(dir, d.log)
	}
	d.openRegistry()
	d.tests.open(d.o.Dirs.State, d.log)
	d.openDeployments()
	d.readWaiting()
	l, err := takeLock(d.o.Dirs.Cache)
	if err == nil {
		locks = append(locks, l)
		d.spool, err = spool.OpenStore(filepath.Join(d.o.Dirs.Cache, "content"), spool.StoreOptions{Logger: d.log})
	}
	if err != nil { // everything works without it, from the server
		d.log.Warn("nothing that is read is kept, and large files are read without reading ahead", "dir", d.o.Dirs.Cache, "err", err)
	}
	return release, nil
}

// apply reads the definitions and makes the mounts agree with them. It returns when all it touched has settled.
func (d *Daemon) apply(ctx context.Context, q control.ApplyRequest) control.ApplyAnswer {
	d.changing.Lock()
	defer d.changing.Unlock()
	d.observe(ctx, "", "")
	plan := d.readPlan(ctx)
	d.logFindings(plan.Findings)
	answer := control.ApplyAnswer{Added: []string{}, Changed: []string{}, Removed: []string{},
		Connections: []control.Connection{}, Findings: nonNil(plan.Findings)}
	d.refuseNested(plan.Wants)
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return answer
	}
	d.plan = plan
	if !d.isPlanned() {
		close(d.planned)
	}
	d.mu.Unlock()
	d.openSocket(plan.Config)
	d.boundSpool(plan)
	todo := d.compare(ctx, plan, q.Keep, &answer)
	touched := d.leadAll(&todo)
	d.stopAll(todo.stop)
	d.forgetFigures(todo.stop, plan)
	d.makeRoom(todo.start)
	if !plan.Torn {
		d.points.forget(d.claimed()) // also what was removed while no daemon ran
	}
	touched = append(touched, d.startAll(todo.start)...)
	d.settle(ctx, touched)
	for _, m := range touched {
		answer.Connections = append(answer.Connections, m.status())
	}
	answer.Checklist = d.checklist(plan, answer)
	d.tellApplied(answer)
	return answer
}

// isPlanned reports whether the definitions have been read before. d.mu is held.
func (d *Daemon) isPlanned() bool {
	select {
	case <-d.planned:
		return true
	default:
		return false
	}
}

// todo is what apply has found to do.
type todo struct {
	lead  []leading // mounts that stay, and show something else
	stop  []*mount  // all that must end before anything starts
	start []Want
}

// compare finds what differs between the mounts and the plan.
func (d *Daemon) compare(ctx context.Context, plan Plan, keep bool, answer *control.ApplyAnswer) todo {
	var t todo
	stays := func(m *mount) bool { return !keep && d.owes(m, answer) }
	defined, wanted, seen := map[key]bool{}, map[key]bool{}, map[*mount]bool{}
	for _, w := range plan.Wants {
		_, held := d.at(w.key())
		defined[w.key()], wanted[w.key()] = true, w.Enabled && !held
	}
	for _, w := range plan.Wants {
		if !wanted[w.key()] {
			continue
		}
		m, _ := d.at(w.key())
		old := m
		if m == nil {
			old = d.follower(w, wanted)
		}
		switch {
		case m == nil && old != nil && d.mayLead(ctx, old, w):
			if seen[old] = true; !stays(old) {
				answer.Changed = append(answer.Changed, label(w))
				t.lead = append(t.lead, leading{old, w})
			}
		case m == nil:
			answer.Added = append(answer.Added, label(w))
			t.start = append(t.start, w)
		case m.failed(): // what it failed of may be mended without another word: a file's mode, a directory in its way
			answer.Changed = append(answer.Changed, label(w))
			t.stop = append(t.stop, m)
			t.start = append(t.start, w)
		case m.want.same(w), m.serving() && !d.differs(ctx, m, w):
			answer.Unchanged++
		case d.leadsElsewhere(ctx, m, w) && stays(m):
		case d.mayLead(ctx, m, w):
			answer.Changed = append(answer.Changed, label(w))
			t.lead = append(t.lead, leading{m, w})
		default:
			answer.Changed = append(answer.Changed, label(w))
			t.stop = append(t.stop, m)
			t.start = append(t.start, w)
		}
	}
	for _, m := range d.all() {
		if m.want.AdHoc || wanted[m.want.key()] || seen[m] || plan.Torn && !defined[m.want.key()] {
			continue
		}
		if stays(m) {
			continue
		}
		answer.Removed = append(answer.Removed, label(m.want))
		t.stop = append(t.stop, m)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.staying = nil
	for _, o := range answer.Owing {
		d.staying = append(d.staying, key{o.Environment, o.Name})
	}
	maps.DeleteFunc(d.held, func(k key, _ bool) bool { return !defined[k] && !plan.Torn })
	return t
}

// differs reports whether m, which serves, must be given up for w. A definition with errors changes nothing, and neither does
// one that is written differently and means the same.
func (d *Daemon) differs(ctx context.Context, m *mount, w Want) bool {
	err := w.Refused
	var target conncfg.Target
	if err == nil {
		var findings []conncfg.Finding
		target, findings = w.Resolve(ctx)
		err = d.refusal(findings)
	}
	if err != nil {
		d.log.Error("the definition cannot be used; the mount stays as it was", "conn", w.Name, "env", w.Environment, "err", err)
		return false
	}
	return w.Dir != m.want.Dir || !reflect.DeepEqual(target, m.reach())
}

// leadsElsewhere reports whether w leads to another place than m, which serves, or may not change anything there.
func (d *Daemon) leadsElsewhere(ctx context.Context, m *mount, w Want) bool {
	if !m.serving() {
		return false
	}
	target, findings := w.Resolve(ctx)
	return d.refusal(findings) == nil && (target.Identity() != m.reach().Identity() || target.ReadOnly)
}

// owes reports whether m owes something to its server, and adds it to the answer then.
func (d *Daemon) owes(m *mount, answer *control.ApplyAnswer) bool {
	o, owes, err := m.debtor().owing()
	if err != nil {
		d.log.Error("nobody can tell what is owed", "conn", m.want.Name, "env", m.want.Environment, "err", err)
	}
	if owes {
		answer.Owing = append(answer.Owing, o)
		d.log.Warn("the definition is changed or gone; the mount stays as it was until its server has what is owed", "conn", m.want.Name,
			"env", m.want.Environment, "owed", o.Changes, "bytes", o.Bytes)
	}
	return owes
}

// owingRound is how often it is looked whether a mount that had to stay as it was owes nothing any more.
const owingRound = time.Second

// mayGoOn reports whether a mount that had to stay as it was owes nothing any more.
func (d *Daemon) mayGoOn() bool {
	d.mu.Lock()
	staying := d.staying
	d.mu.Unlock()
	return slices.ContainsFunc(staying, func(k key) bool {
		m, _ := d.at(k)
		if m == nil {
			return true
		}
		_, owes, err := m.debtor().owing()
		return !owes && err == nil
	})
}

// makeRoom refuses those of wants whose directory a mount still has that had to stay as it was.
func (d *Daemon) makeRoom(wants []Want) {
	var taken []string
	for _, m := range d.all() {
		taken = append(taken, m.want.Dir)
	}
	for i := range wants {
		if err := d.points.check(wants[i].Dir, taken); err != nil && wants[i].Refused == nil {
			wants[i].Refused = err
		}
	}
}

// at returns the mount of k, or nil, and whether it is to stay unmounted: by hand, or because it was imported and not applied yet.
func (d *Daemon) at(k key) (m *mount, held bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mounts[k], d.held[k] || k.environment != "" && d.imported[k.name]
}

// called is how commands name w: its environment is told where it is not the one that they mean without it.
func (d *Daemon) called(w Want) string { return d.known().called(w.Name, w.Environment) }

// label is how answers name a connection in an environment.
func label(w Want) string { return w.Environment + "/" + w.Name }

// refuseNested gives an error to every want whose directory lies within that of one before it, of an ad-hoc mount, or over
// something of the daemon's own.
func (d *Daemon) refuseNested(wants []Want) {
	var taken []string
	for _, m := range d.all() {
		if m.want.AdHoc {
			taken = append(taken, m.want.Dir)
		}
	}
	for i := range wants {
		w := &wants[i]
		if !w.Enabled || w.Dir == "" {
			continue
		}
		if err := d.points.check(w.Dir, taken); err != nil {
			w.Refused = err
			continue
		}
		taken = append(taken, w.Dir)
	}
}

func (d *Daemon) startAll(wants []Want) []*mount {
	d.mu.Lock()
	defer d.mu.Unlock()
	var started []*mount
	for _, w := range wants {
		if d.closing {
			break
		}
		m := newMount(d, w)
		d.mounts[w.key()] = m
		started = append(started, m)
		m.start()
	}
	return started
}

// leadAll leads mounts elsewhere, and returns what they have become. What cannot be led is taken down and made.
func (d *Daemon) leadAll(t *todo) []*mount {
	var led []*mount
	for _, l := range t.lead {
		m, err := d.lead(l.from, l.to)
		if err != nil {
			d.log.Warn("a mount is taken down and made, for it cannot be led elsewhere", "conn", l.to.Name, "env", l.to.Environment, "err", err)
			t.stop, t.start = append(t.stop, l.from), append(t.start, l.to)
			continue
		}
		led = append(led, m)
	}
	return led
}

// stopAll stops mounts side by side and forgets them, with those that lead to the same places before and are still used; what they
// could not publish is remembered.
func (d *Daemon) stopAll(mounts []*mount) {
	for _, m := range mounts {
		m.cancel()
	}
	for _, m := range mounts {
		<-m.done
	}
	for _, f := range d.formerMounts() {
		if slices.ContainsFunc(mounts, func(m *mount) bool { return m.want.Dir == f.want.Dir }) {
			f.cancel()
			<-f.done
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range mounts {
		if d.mounts[m.want.key()] == m {
			delete(d.mounts, m.want.key())
		}
		d.note(m)
	}
}

// note remembers what m, which has ended, could not publish. d.mu is held.
func (d *Daemon) note(m *mount) {
	k := m.want.key()
	delete(d.lost, k)
	if left := m.left(); left != nil {
		d.lost[k] = left
	}
}

// ended is called by an ad-hoc mount that was taken away from outside.
func (d *Daemon) ended(m *mount) {
	d.mu.Lock()
	if d.mounts[m.want.key()] == m {
		delete(d.mounts, m.want.key())
	}
	d.note(m)
	d.mu.Unlock()
	d.restore(m.want.Dir)
	d.checkIdle()
}

// checkIdle notes when nothing is mounted any more.
func (d *Daemon) checkIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.o.ExitIdle || len(d.mounts) > 0 || d.closing {
		return
	}
	select {
	case <-d.idle:
	default:
		close(d.idle)
	}
}

func (d *Daemon) restore(dir string) {
	if err := d.points.restore(dir); err != nil {
		d.log.Warn("the mount point stays as it is", "dir", dir, "err", err)
	}
}

// claimed returns the directories of everything that is defined or mounted.
func (d *Daemon) claimed() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, w := range d.plan.Wants {
		all = append(all, w.Dir)
	}
	for _, m := range d.mounts {
		all = append(all, m.want.Dir)
	}
	return all
}

// close stops everything. Its error is what is still owed.
func (d *Daemon) close() error {
	d.mu.Lock()
	d.closing = true
	close(d.quit)
	d.mu.Unlock()
	d.changing.Lock() // whatever is changing things has ended, and nothing starts any more
	defer d.changing.Unlock()
	all := d.all()
	d.stopAll(all)
	d.loose.close()
	for _, m := range all {
		if m.want.AdHoc {
			d.restore(m.want.Dir)
		}
	}
	if d.o.ReleasePoints {
		d.points.forget(nil)
	}
	return d.left()
}

// left tells what no server has, now that nothing is mounted: what the journals owe, also those of connections that were not mounted,
// and what lies in quarantine of those that were.
func (d *Daemon) left() error {
	d.mu.Lock()
	lost := maps.Clone(d.lost)
	d.mu.Unlock()
	var errs []error
	for _, b := range d.journals() {
		o, owes, err := b.owing()
		errs = append(errs, err)
		if !owes {
			continue
		}
		k := key{b.environment, b.name}
		if lost[k] == nil {
			lost[k] = &LeftError{Connection: b.name, Environment: b.environment}
		}
		lost[k].Changes, lost[k].Bytes = o.Changes, o.Bytes
	}
	for _, k := range slices.SortedFunc(maps.Keys(lost), func(a, b key) int {
		return cmp.Or(strings.Compare(a.environment, b.environment), strings.Compare(a.name, b.name))
	}) {
		errs = append(errs, lost[k])
	}
	return errors.Join(errs...)
}

// all returns the mounts, in the order of environment and name.
func (d *Daemon) all() []*mount {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Values(d.mounts), func(a, b *mount) int {
		return cmp.Or(strings.Compare(a.want.Environment, b.want.Environment), strings.Compare(a.want.Name, b.want.Name))
	})
}

func (d *Daemon) count() int { return len(d.all()) }

// knock has the servers that are known to be away asked at once: those at address, or all without one. It is for when a
// person says that something was mended; files that change by themselves must not repeat logins that were refused.
func (d *Daemon) knock(address string) {
	for _, m := range d.towards(address) {
		m.knock()
	}
}

// knockAndWait is knock, and a wait until the news of all of them are in or had their time for it.
func (d *Daemon) knockAndWait(ctx context.Context, address string) {
	var waiting sync.WaitGroup
	for _, m := range d.towards(address) {
		waiting.Go(func() {
			d.settle(ctx, []*mount{m}) // one that is just starting may not know yet that its server is away
			m.knockAndWait(ctx)
		})
	}
	waiting.Wait()
}

// towards returns the mounts of the server at address, all without one.
func (d *Daemon) towards(address string) []*mount {
	return slices.DeleteFunc(d.all(), func(m *mount) bool { return address != "" && m.reach().Address() != address })
}

// settle waits until every mount stands or has failed once, or the daemon stops.
func (d *Daemon) settle(ctx context.Context, mounts []*mount) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for _, m := range mounts {
		select {
		case <-m.settled:
		case <-d.quit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// logFindings logs what the reading before had not found already.
func (d *Daemon) logFindings(findings []conncfg.Finding) {
	d.mu.Lock()
	before := d.plan.Findings
	d.mu.Unlock()
	for _, f := range findings {
		if !slices.Contains(before, f) {
			logFinding(d.log.With("conn", f.Connection, "env", f.Environment), f)
		}
	}
}

func logFinding(log *slog.Logger, f conncfg.Finding) {
	level := slog.LevelWarn
	if f.Severity == conncfg.Error {
		level = slog.LevelError
	}
	log.Log(context.Background(), level, "definition", "code", f.Code, "file", f.File, "line", f.Line,
		"field", f.Field, "finding", f.Message, "hint", f.Hint)
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
