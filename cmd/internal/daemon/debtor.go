package daemon

import (
	"cmp"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"pierfs/backends"
	"pierfs/cache"
	"pierfs/cmd/internal/control"
)

// debtor is whatever owes something to a server: the tree of a mount, or the journal of one that does not stand now. That one
// must not be mounted while it is changed.
type debtor struct {
	name        string
	environment string
	staging     string
	quarantine  string

	tree   *cache.Tree // nil for a journal alone
	why    trouble     // why its server is away, or why it is not mounted
	target string      // that it leads to
	mount  *mount      // nil where there is none at all
}

// debtor returns m as it stands.
func (m *mount) debtor() debtor {
	m.mu.Lock()
	defer m.mu.Unlock()
	return debtor{name: m.want.Name, environment: m.want.Environment, tree: m.tree, why: m.why, target: m.target.Identity(), mount: m,
		staging: cmp.Or(m.staging, m.d.keep("staging", m.want)), quarantine: m.d.keep("quarantine", m.want)}
}

// debtors returns all that may owe something, mounted or not, and filter lets through.
func (d *Daemon) debtors(filter func(name, environment string) bool) []debtor {
	var all []debtor
	standing := map[string]bool{}
	for _, m := range append(d.all(), d.formerMounts()...) {
		b := m.debtor()
		standing[b.staging] = true
		if filter(b.name, b.environment) {
			all = append(all, b)
		}
	}
	for _, b := range d.journals() {
		if !standing[b.staging] && filter(b.name, b.environment) {
			all = append(all, b)
		}
	}
	return all
}

func debtorsOf(mounts []*mount) []debtor {
	var all []debtor
	for _, m := range mounts {
		all = append(all, m.debtor())
	}
	return all
}

// journals returns a debtor for each staging directory that there is: it has the name of the connection in its path.
func (d *Daemon) journals() []debtor {
	var all []debtor
	root := filepath.Join(d.o.Dirs.State, "staging")
	for _, environment := range subdirectories(filepath.Join(root, "env")) {
		below := filepath.Join(root, "env", environment)
		for _, name := range subdirectories(below) {
			all = append(all, d.journalOf(Want{Name: name, Environment: environment}))
			for _, inProject := range subdirectories(filepath.Join(below, name)) {
				all = append(all, d.journalOf(Want{Name: name + "/" + inProject, Environment: environment}))
			}
		}
	}
	for _, name := range subdirectories(filepath.Join(root, "adhoc")) {
		if dir, err := url.PathUnescape(name); err == nil {
			all = append(all, d.journalOf(Want{Name: dir, Dir: dir, AdHoc: true}))
		}
	}
	return all
}

func (d *Daemon) journalOf(w Want) debtor {
	why := "it is not mounted"
	if !w.AdHoc {
		first, _, further := strings.Cut(w.Name, furtherStaging)
		switch known, err := d.wanted(w.Name, w.Environment); {
		case further:
			why = first + " leads elsewhere since"
		case err != nil:
			why = "no definition in an active environment has its name"
		case !known.Enabled:
			why = "it is disabled"
		}
	}
	return debtor{name: w.Name, environment: w.Environment, why: trouble{reason: why}, staging: d.keep("staging", w), quarantine: d.keep("quarantine", w)}
}

// subdirectories returns the names of the directories in dir; none if it cannot be read.
func subdirectories(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, _ := f.ReadDir(-1) // what was read before an error is all there is to go by
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names
}

// owes returns what b owes, the oldest first.
func (b debtor) owes() ([]cache.Due, error) {
	if b.tree != nil {
		return b.tree.Queue(), nil
	}
	return cache.Left(b.staging)
}

// due is d as the hand is told of it.
func (b debtor) due(d cache.Due) control.Due {
	why := troubleOf(d.Reason)
	if b.why.reason != "" && (b.tree == nil || d.Reason == nil || why.cause == string(backends.CauseOffline)) {
		why = b.why
	}
	due := control.Due{Name: b.name, Environment: b.environment, ID: d.Seq, Kind: d.Kind, Path: control.Name(d.Name), Size: d.Size,
		Since: d.Since, Tries: d.Tries, Reason: why.reason, Cause: why.cause, Target: d.Target}
	if d.To != "" {
		to := control.Name(d.To)
		due.To = &to
	}
	switch {
	case b.tree == nil:
		due.State = control.DueUnserved
	case d.Foreign:
		due.State, due.Reason, due.Cause = control.DueUnserved, "the connection leads to "+b.target+" now", ""
	case d.Held:
		due.State = control.DueHeld
	case d.Sending:
		due.State = control.DueSending
	default:
		due.State = control.DueWaiting
	}
	return due
}

func (b debtor) hold(seq uint64) error {
	if b.tree != nil {
		return b.tree.Hold(seq)
	}
	return cache.HoldLeft(b.staging, seq)
}

func (b debtor) retry(seq uint64) error {
	if b.tree != nil {
		return b.tree.Retry(seq)
	}
	return cache.RetryLeft(b.staging, seq)
}

func (b debtor) drop(seq uint64) (kept string, err error) {
	if b.tree != nil {
		return b.tree.Drop(seq, true)
	}
	return cache.DropLeft(b.staging, b.quarantine, seq, true)
}

func (b debtor) open(seq uint64) (io.ReadCloser, cache.Due, error) {
	if b.tree != nil {
		return b.tree.OpenDue(seq)
	}
	return cache.OpenLeft(b.staging, seq)
}

// filter lets through what a request names: everything without a name, and every environment without one.
func filter(name, environment string) func(string, string) bool {
	if strings.HasPrefix(name, "/") {
		name, environment = filepath.Clean(name), ""
	}
	return func(n, e string) bool {
		return (name == "" || n == name) && (environment == "" || e == environment)
	}
}

// oneDebtor returns who is meant by a name, and in the first active environment, or the only one, without an environment.
func (d *Daemon) oneDebtor(name, environment string) (debtor, error) {
	all := d.debtors(filter(name, environment))
	if w, err := d.wanted(name, environment); err == nil {
		all = append(slices.DeleteFunc(slices.Clone(all), func(b debtor) bool { return b.environment != w.Environment }), all...)
	}
	if len(all) > 0 {
		return all[0], nil
	}
	if strings.HasPrefix(name, "/") {
		return debtor{}, control.Errorf(control.UnknownConnection, "nothing is mounted on %q", name).WithHint("`pierfs queue` shows who owes what")
	}
	if _, err := d.wanted(name, environment); err != nil {
		return debtor{}, err
	}
	return debtor{}, control.Errorf(control.NotMounted, "%s is not mounted, and owes nothing", name).WithHint("`pierfs queue` shows who owes what; `pierfs mount %s` mounts it", name)
}

// owing tells how much b owes to the place where it leads; false if nothing.
func (b debtor) owing() (control.Owing, bool, error) {
	all, err := b.owes()
	o := control.Owing{Name: b.name, Environment: b.environment}
	for _, d := range all {
		if d.Foreign {
			continue
		}
		o.Changes++
		o.Bytes += d.Size
		if o.Since.IsZero() || d.Since.Before(o.Since) {
			o.Since = d.Since
		}
	}
	return o, o.Changes > 0, err
}

// tell completes s with what the journal of a connection owes that is not mounted.
func (b debtor) tell(s *control.ConnectionStatus) {
	o, owes, err := b.owing()
	if s.LastError = text(err); owes {
		s.OwedFiles, s.OwedBytes, s.OwedSince, s.OwedReason = o.Changes, o.Bytes, o.Since, b.why.reason
	}
}

// refuseOwing returns why connections may not be taken away: they owe something to their servers.
func refuseOwing(all []debtor) error {
	for _, b := range all {
		switch o, owes, err := b.owing(); {
		case err != nil:
			return told(err)
		case owes:
			return control.Errorf(control.StillOwed, "%s owes its server %s, %d bytes", b.name, changes(o.Changes), o.Bytes).
				WithHint("--wait waits until the server has them; --keep leaves them here, and they are sent when it is mounted again; `pierfs queue %s` shows them", b.name)
		}
	}
	return nil
}

func changes(n int) string {
	if n == 1 {
		return "1 change"
	}
	return strconv.Itoa(n) + " changes"
}
