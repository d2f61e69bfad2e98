package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// doctor looks for why something does not work though a test succeeds. It asks no server for a login, so that no account is locked
// by it.
func (d *Daemon) doctor(ctx context.Context, q control.DoctorRequest) (control.DoctorAnswer, error) {
	if d.private {
		return d.doctorAlone(ctx, q)
	}
	answer := control.DoctorAnswer{}
	if q.Name != "" {
		checks, err := d.examine(ctx, q)
		if err != nil {
			return answer, err
		}
		answer.Checks = checks
	}
	answer.Checks = append(answer.Checks, d.o.Machine.look()...)
	return answer, nil
}

// doctorAlone is doctor where no daemon runs: the definitions and the machine are all there is to look at.
func (d *Daemon) doctorAlone(ctx context.Context, q control.DoctorRequest) (control.DoctorAnswer, error) {
	down := bad("daemon", "systemctl start pierfsd, or run pierfsd", "no daemon runs, and so nothing is mounted")
	down.Code = control.NotRunning
	answer := control.DoctorAnswer{Checks: []control.Examined{down}}
	if q.Name != "" && !strings.HasPrefix(q.Name, "/") {
		x, err := d.patient(ctx, q)
		if err != nil {
			return answer, err
		}
		answer.Checks = append(answer.Checks, x.definition(ctx), x.enabled(), x.active())
		if c, ok := x.secretAge(); ok {
			answer.Checks = append(answer.Checks, c)
		}
	}
	answer.Checks = append(answer.Checks, d.o.Machine.look()...)
	return answer, nil
}

// patient is a connection that doctor looks at.
type patient struct {
	d           *Daemon
	plan        Plan // as it is written now
	config      *conncfg.Config
	name        string
	environment string
	called      string // as commands name it

	m      *mount // nil if it is not mounted
	held   bool   // and whether by hand, or because it waits for apply
	status control.Connection
	who    string // is to use it; a name or a number
}

// patient finds whom a request is about.
func (d *Daemon) patient(ctx context.Context, q control.DoctorRequest) (*patient, error) {
	plan := d.readPlan(ctx)
	config, environment, err := plan.at(q.Environment)
	if err != nil {
		return nil, err
	}
	if config.Connection(q.Name) == nil {
		_, err := plan.wanted(q.Name, "")
		return nil, err
	}
	x := &patient{d: d, plan: plan, config: config, name: q.Name, environment: environment, called: plan.called(q.Name, environment), who: q.User}
	x.m, x.held = d.at(key{environment, q.Name})
	if x.m != nil {
		x.status = x.m.status()
	}
	if x.who == "" {
		if peer, ok := control.PeerOf(ctx); ok {
			x.who = strconv.Itoa(int(peer.UID))
		}
	}
	return x, nil
}

// examine looks at one connection, or at whatever a path leads to.
func (d *Daemon) examine(ctx context.Context, q control.DoctorRequest) ([]control.Examined, error) {
	var checks []control.Examined
	if strings.HasPrefix(q.Name, "/") {
		c, found := d.belongs(q.Name)
		checks = append(checks, c)
		if !found.Enabled && found.Name == "" {
			return checks, nil
		}
		q.Name, q.Environment = found.Name, found.Environment
		if found.AdHoc {
			m, _ := d.at(found.key())
			x := &patient{d: d, name: found.Name, called: found.Name, m: m, status: m.status(), who: q.User}
			return append(checks, x.standing(ctx)...), nil
		}
	}
	x, err := d.patient(ctx, q)
	if err != nil {
		return nil, err
	}
	checks = append(checks, x.definition(ctx), x.enabled(), x.active(), x.applied(), x.mounted())
	if c, ok := x.secretAge(); ok {
		checks = append(checks, c)
	}
	return append(checks, x.standing(ctx)...), nil
}

// standing is what can be looked at of a connection that is mounted.
func (x *patient) standing(ctx context.Context) []control.Examined {
	if x.m == nil {
		return nil
	}
	checks := []control.Examined{x.alive(), x.server(ctx), x.sessions(), x.access(), x.room(ctx), x.owed(), x.writable(), x.egress(ctx)}
	return append(checks, x.certificates()...)
}

// belongs says to which connection a path belongs.
func (d *Daemon) belongs(path string) (control.Examined, Want) {
	const check = "path"
	path = filepath.Clean(path)
	var best Want
	wants := d.known().Wants
	for _, m := range d.all() {
		wants = append(slices.Clip(wants), m.want)
	}
	for _, w := range wants {
		if w.Dir != "" && within(path, w.Dir) && len(w.Dir) > len(best.Dir) {
			best = w
		}
	}
	if best.Name == "" {
		c := bad(check, "`pierfs list` shows where each connection is mounted", "%s belongs to no connection: what is written there stays on this machine", path)
		c.Of, c.Code = path, control.UnknownConnection
		return c, best
	}
	c := good(check, "%s is %s of %s", path, "/"+strings.TrimPrefix(strings.TrimPrefix(path, best.Dir), "/"), d.called(best))
	c.Of = path
	return c, best
}

func (x *patient) good(check, format string, args ...any) control.Examined {
	c := good(check, format, args...)
	c.Of = x.called
	return c
}

func (x *patient) bad(check string, code control.Code, fix, format string, args ...any) control.Examined {
	c := bad(check, fix, format, args...)
	c.Of, c.Code = x.called, code
	return c
}

func (x *patient) unknown(check, format string, args ...any) control.Examined {
	c := x.good(check, format, args...)
	c.OK, c.Unknown = false, true
	return c
}

func (x *patient) definition(ctx context.Context) control.Examined {
	const check = "definition"
	if _, err := x.d.resolve(ctx, x.config, x.name, x.environment); err != nil {
		return x.bad(check, control.ConfigInvalid, x.d.check(), "%v", err)
	}
	return x.good(check, "it can be used in %s", x.environment)
}

func (x *patient) enabled() control.Examined {
	if !x.config.Connection(x.name).Enabled() {
		return x.bad("enabled", control.Disabled, "pierfs enable "+x.name, "enabled = false in its definition")
	}
	return x.good("enabled", "it is switched on")
}

func (x *patient) active() control.Examined {
	const check = "environment_active"
	active := x.config.Active()
	if !slices.Contains(active, x.environment) {
		return x.bad(check, control.NotMounted, "pierfs env use "+strings.Join(append(active, x.environment), " "), "%s is not active on this machine; active: %s", x.environment, strings.Join(active, ", "))
	}
	return x.good(check, "%s is active on this machine", x.environment)
}

// applied compares what is mounted with what is written.
func (x *patient) applied() control.Examined {
	const check = "applied"
	if x.m == nil {
		if x.d.waits(x.name) {
			return x.bad(check, control.NotMounted, "pierfs apply", "it was imported, and not applied yet")
		}
		return x.good(check, "nothing else is mounted")
	}
	w, err := x.plan.wanted(x.name, x.environment)
	if err != nil || x.m.want.same(w) {
		return x.good(check, "what is mounted is what is written")
	}
	if owed := x.m.treeOwed(); owed.Files > 0 {
		return x.bad(check, control.StillOwed, "pierfs apply --wait", "the definition has changed, and %d changes are owed to the server that it led to", owed.Files)
	}
	return x.bad(check, control.ConfigInvalid, "pierfs apply", "the definition has changed since it was mounted")
}

func (x *patient) mounted() control.Examined {
	const check = "mounted"
	switch {
	case x.m != nil && (x.status.State == control.StateReady || x.status.State == control.StateOffline):
		return x.good(check, "on %s since %s", x.status.Dir, x.status.Since.Local().Format(time.DateTime))
	case x.m != nil:
		return x.bad(check, control.NotMounted, firstOf(x.status.Hint, "pierfs deployments "+x.name), "it is %s: %s", x.status.State, x.status.Reason)
	case x.held:
		return x.bad(check, control.NotMounted, "pierfs mount "+x.called, "it was unmounted by hand")
	}
	return x.bad(check, control.NotMounted, "mend what stands above, then pierfs apply", "it is not mounted")
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// alive asks the mount itself, and looks whether it is the one that programs see.
func (x *patient) alive() control.Examined {
	const check = "mount_alive"
	if err := x.d.o.Machine.Answers(x.m.want.Dir); err != nil {
		return x.bad(check, control.Failed, "pierfs umount --force "+x.called+"; pierfs mount "+x.called, "%v", err)
	}
	mounts, err := x.d.o.Machine.mounts("self")
	if err != nil {
		return x.unknown(check, "%v", err)
	}
	on, ok := covering(mounts, x.m.want.Dir)
	if !ok || !on.Ours || on.Dir != x.m.want.Dir {
		return x.bad(check, control.NotMounted, "umount "+on.Dir, "programs do not see it: a %s at %s lies over %s", on.Type, on.Dir, x.m.want.Dir)
	}
	return x.good(check, "it answers")
}

// askedWithin is how long the server may take to answer doctor.
const askedWithin = 5 * time.Second

// server asks it one thing, over a session that stands or a new one: a connection that nobody uses does not know yet that its server has
// gone. Where it is known to be away it is not asked.
func (x *patient) server(ctx context.Context) control.Examined {
	const check = "server"
	if x.status.State != control.StateReady {
		return x.bad(check, x.status.NotReady(), firstOf(x.status.Hint, "pierfs test "+x.called), "%s is %s: %s (%s)", x.status.Endpoint, x.status.State, x.status.Reason, x.status.Cause)
	}
	ctx, cancel := context.WithTimeout(ctx, askedWithin)
	defer cancel()
	began := time.Now()
	_, err := x.m.ask(ctx)
	if e, ok := errors.AsType[*control.Error](toldOf(x.called, err)); ok {
		return x.bad(check, e.Code, firstOf(e.Hint, "pierfs test "+x.called), "%s: %s (%s)", x.status.Endpoint, e.Text, e.Cause)
	}
	return x.good(check, "%s answers in %.1f ms", x.status.Endpoint, millis(time.Since(began)))
}

// ask has the server describe the working directory, past all that is known here.
func (m *mount) ask(ctx context.Context) (backends.Info, error) {
	m.mu.Lock()
	line := m.line
	m.mu.Unlock()
	if line == nil {
		return backends.Info{}, control.Errorf(control.NotMounted, "%s is not mounted", m.want.Name).WithHint("`pierfs mount %s` mounts it", m.want.Name)
	}
	return line.Stat(ctx, "")
}

func (x *patient) sessions() control.Examined {
	const check = "sessions"
	if x.status.Cause == string(backends.CauseTooManySessions) {
		return x.bad(check, control.Offline, "lower maxSessions, or ask for a login of our own", "the server takes no further session")
	}
	return x.good(check, "the server has refused none")
}

// treeOwed is what is owed to the server; nothing if it is not mounted.
func (m *mount) treeOwed() (owed owedNow) {
	o, _ := m.holds()
	return owedNow{o.Files, o.Held, o.Quarantined, o.Oldest}
}

// owedNow is the part of what is owed that doctor looks at.
type owedNow struct {
	Files, Held, Quarantined int
	Oldest                   time.Time
}

// owedLong is how long a change may be owed before doctor says so, as `pierfs queue --check` does.
const owedLong = 15 * time.Minute

func (x *patient) owed() control.Examined {
	const check = "owed"
	owed := x.m.treeOwed()
	switch {
	case owed.Held > 0:
		return x.bad(check, control.Stuck, "pierfs queue "+x.called, "%d changes wait for a person", owed.Held)
	case owed.Quarantined > 0:
		return x.bad(check, control.Stuck, "look below "+filepath.Join(x.d.o.Dirs.State, "quarantine"), "%d files could not be brought to the server", owed.Quarantined)
	case owed.Files > 0 && !owed.Oldest.IsZero() && time.Since(owed.Oldest) > owedLong:
		return x.bad(check, control.StillOwed, "pierfs queue "+x.called, "%d changes are owed to the server, the oldest since %s", owed.Files, owed.Oldest.Local().Format(time.DateTime))
	}
	return x.good(check, "%d changes are on their way", owed.Files)
}

func (x *patient) writable() control.Examined {
	const check = "writable"
	if x.m.reach().ReadOnly {
		return advice(x.bad(check, control.ReadOnly, "take readOnly out of the definition, if programs shall write", "the definition has readOnly = true: programs that write get EROFS"))
	}
	return x.good(check, "the definition lets programs write")
}

// leastRoom is what a server should have, in bytes.
const leastRoom = 1 << 20

func (x *patient) room(ctx context.Context) control.Examined {
	const check = "server_space"
	tree := x.m.debtor().tree
	if tree == nil || x.status.State != control.StateReady {
		return x.unknown(check, "the server cannot be asked")
	}
	ctx, cancel := context.WithTimeout(ctx, askedWithin)
	defer cancel()
	space, err := tree.StatFS(ctx)
	switch {
	case err != nil || space.Total == 0:
		return x.unknown(check, "the server does not tell its room")
	case space.Avail < leastRoom:
		return x.bad(check, control.NoSpace, "have room made at the server", "%d KiB are left at the server", space.Avail>>10)
	}
	return x.good(check, "%d MiB are left at the server", space.Avail>>20)
}

// certificates say when those end that the connection relies on.
func (x *patient) certificates() (checks []control.Examined) {
	for _, e := range x.d.endings(x.m.reach()) {
		check := map[string]string{"server": "certificate", "client": "client_certificate", "authority": "authority"}[e.Of]
		f, told := fileFinding(e, time.Now())
		if e.Of == "server" {
			f, told = conncfg.ServerCertificate(e.NotAfter, time.Now())
		}
		c := x.good(check, "it ends in %d days, on %s", e.DaysLeft, e.NotAfter.Format(time.DateOnly))
		if told {
			c = x.bad(check, control.CertInvalid, f.Hint, "%s", f.Message)
		}
		if told && time.Now().Before(e.NotAfter) {
			c = advice(c)
		}
		checks = append(checks, c)
	}
	return checks
}

// egress says from which address this machine goes to the server: what a partner has to let through, where nothing on the way
// translates it.
func (x *patient) egress(ctx context.Context) control.Examined {
	const check = "source_address"
	t := x.m.reach()
	to, through := t.Address(), ""
	if t.Via.Host != "" {
		to, through = t.Via.Address(), ", by way of "+t.Via.Host+", whose address the server sees"
	}
	dialer := &net.Dialer{}
	if t.SourceAddress != "" {
		dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(t.SourceAddress)}
	}
	conn, err := dialer.DialContext(ctx, "udp", to) // sends nothing
	if err != nil {
		return x.unknown(check, "%v", err)
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return x.unknown(check, "%v", err)
	}
	if through != "" {
		return x.good(check, "this machine goes there from %s%s", host, through)
	}
	return x.good(check, "this machine goes there from %s; the server sees that, or the address that a gateway gives it", host)
}

// access says whether a user may enter and list the mount.
func (x *patient) access() control.Examined {
	const check = "user_access"
	u, err := lookUp(x.who)
	if err != nil {
		return x.unknown(check, "%v", err)
	}
	dir := x.m.want.Dir
	mounts, err := x.d.o.Machine.mounts("self")
	if err != nil {
		return x.unknown(check, "%v", err)
	}
	on, _ := covering(mounts, dir)
	if !on.AllowOther && u.uid != x.d.o.Machine.UID {
		return x.bad(check, control.NotAllowed, "run the daemon as root, or the program as the daemon's user", "%s is not the user of the daemon, and its mounts are for that one alone", u.name)
	}
	for above := filepath.Dir(dir); ; above = filepath.Dir(above) {
		if st, err := statSoon(above); err == nil && !u.may(st, 0o1) {
			return x.bad(check, control.PermissionDenied, "chmod a+x "+above, "%s may not pass through %s (mode %04o)", u.name, above, st.Mode&0o7777)
		}
		if above == "/" {
			break
		}
	}
	st, err := statSoon(dir)
	if err != nil {
		return x.unknown(check, "%v", err)
	}
	if !u.may(st, 0o5) {
		return x.bad(check, control.PermissionDenied, "set uid, gid, dirMode or fileMode in the definition", "%s may not list %s, which is %04o of user %d and group %d", u.name, dir, st.Mode&0o7777, st.Uid, st.Gid)
	}
	if !u.may(st, 0o2) && !x.m.reach().ReadOnly {
		return advice(x.bad(check, control.PermissionDenied, "set uid, gid, dirMode or fileMode in the definition", "%s may list and not write in %s, which is %04o of user %d and group %d",
			u.name, dir, st.Mode&0o7777, st.Uid, st.Gid))
	}
	return x.good(check, "%s may list it", u.name)
}

// account is who uses a mount.
type account struct {
	name   string
	uid    int
	groups []string
}

// lookUp finds a user by name or number. One that nobody has written down has no groups.
func lookUp(who string) (account, error) {
	u, err := user.LookupId(who)
	if err != nil {
		u, err = user.Lookup(who)
	}
	if err != nil {
		uid, numberErr := strconv.Atoi(who)
		if numberErr != nil {
			return account{}, fmt.Errorf("user %q: %w", who, err)
		}
		return account{name: "user " + who, uid: uid}, nil
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, err
	}
	groups, _ := u.GroupIds() // his own counts all the same
	return account{name: u.Username, uid: uid, groups: append(groups, u.Gid)}, nil
}

// may reports whether the modes of a file allow all of want, as one digit of them has it.
func (a account) may(st unix.Stat_t, want uint32) bool {
	mode := st.Mode
	switch {
	case a.uid == 0:
		return true
	case uint32(a.uid) == st.Uid:
		mode >>= 6
	case slices.Contains(a.groups, strconv.Itoa(int(st.Gid))):
		mode >>= 3
	}
	return mode&want == want
}
