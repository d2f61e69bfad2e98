package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/dirs"
	"pierfs/conncfg"
)

// serve gives every verb its handler.
func (d *Daemon) serve(s *control.Server) {
	control.Apply.Serve(s, func(ctx context.Context, q control.ApplyRequest) (control.ApplyAnswer, error) {
		if q.DryRun {
			return d.wouldApply(ctx), nil
		}
		d.waitNoMore(nil)
		d.o.Notify(reloading())
		defer d.notify("READY=1")
		answer := d.apply(ctx, q)
		d.knock("")
		return answer, nil
	})
	control.List.Serve(s, d.listFor)
	control.Status.Serve(s, d.statusFor)
	control.Show.Serve(s, d.show)
	control.Enable.Serve(s, d.enable)
	control.Test.Serve(s, d.test)
	control.Doctor.Serve(s, d.doctor)
	control.Mount.Serve(s, d.mountNamed)
	control.MountURL.Serve(s, d.mountURL)
	control.Umount.Serve(s, d.umount)
	control.Trust.Serve(s, d.trust)
	d.serveFiles(s)
	control.Queue.Serve(s, d.queue)
	control.QueueRetry.Serve(s, d.queueRetry)
	control.QueueHold.Serve(s, d.queueHold)
	control.QueueDrop.Serve(s, d.queueDrop)
	control.QueueExport.Serve(s, d.queueExport)
	control.Metrics.Serve(s, d.metrics)
	control.CacheStatus.Serve(s, d.cacheStatus)
	control.CacheDrop.Serve(s, d.cacheDrop)
	control.CacheWarm.Serve(s, d.cacheWarm)
	control.Events.Serve(s, d.tellEvents)
	control.Log.Serve(s, d.setLevel)
	control.Trace.Serve(s, d.tellTrace)
	control.Deployments.Serve(s, d.tellDeployments)
	control.Watch.Serve(s, d.tellStatus)
	d.serveChanges(s)
}

// serveFiles gives the verbs their handlers that need the tree of a connection and no mount.
func (d *Daemon) serveFiles(s *control.Server) {
	control.Ls.Serve(s, d.ls)
	control.Stat.Serve(s, d.stat)
	control.Get.Serve(s, d.get)
	control.Sum.Serve(s, d.sum)
	control.Put.Serve(s, d.put)
	control.PutPlan.Serve(s, d.putPlan)
	control.Rm.Serve(s, d.rm)
	control.Mv.Serve(s, d.mv)
	control.Mkdir.Serve(s, d.mkdir)
	control.Symlink.Serve(s, d.symlink)
}

// connections returns everything that is defined in an active environment or mounted.
func (d *Daemon) connections() []control.Connection {
	d.mu.Lock()
	wants := d.plan.Wants
	d.mu.Unlock()
	all := []control.Connection{}
	seen := map[key]bool{}
	for _, w := range wants {
		seen[w.key()] = true
		all = append(all, d.standing(w))
	}
	for _, m := range d.all() {
		if !seen[m.want.key()] {
			all = append(all, m.withEndings(m.status()))
		}
	}
	return all
}

// standing tells of w as it stands, mounted or not.
func (d *Daemon) standing(w Want) control.Connection {
	m, held := d.at(w.key())
	if m != nil {
		return d.aged(m.withEndings(m.status()))
	}
	c := control.Connection{Name: w.Name, Environment: w.Environment, State: control.StateDisabled, Since: d.started, Dir: w.Dir}
	switch {
	case !w.Enabled:
		c.Reason = "enabled = false in its definition"
	case held:
		c.State, c.Reason = control.StateUnmounted, "by hand; `pierfs mount "+d.called(w)+"` mounts it"
		if d.waits(w.Name) {
			c.Reason = "imported; `pierfs apply` mounts it"
		}
	default:
		c.State = control.StateStarting // apply comes to it at once
	}
	return d.aged(d.tests.mark(c, w.Revision))
}

func (d *Daemon) environments() []control.Environment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return nonNil(d.plan.Environments)
}

func (d *Daemon) list() control.ListAnswer {
	return control.ListAnswer{Environments: d.environments(), Connections: d.connections()}
}

func (d *Daemon) status() control.StatusAnswer {
	answer := control.StatusAnswer{
		Version: d.o.Version, PID: os.Getpid(), UID: os.Geteuid(), Started: d.started,
		ConfigDir: d.o.Dirs.Config, StateDir: d.o.Dirs.State, CacheDir: d.o.Dirs.Cache,
		RuntimeDir: d.o.Dirs.Runtime, MountRoot: d.o.Dirs.MountRoot,
		Environments: d.environments(), Connections: []control.ConnectionStatus{},
	}
	d.mu.Lock()
	answer.Findings = len(d.plan.Findings)
	d.mu.Unlock()
	answer.Pending = len(d.proposed())
	for _, c := range d.connections() {
		s := control.ConnectionStatus{Connection: c}
		if m, _ := d.at(key{c.Environment, c.Name}); m != nil {
			owed, server := m.holds()
			s.Server, s.OpenFiles = server, m.openFiles()
			s.Conflicts, s.Weaker = owed.Conflicts, m.weaker()
			s.OwedFiles, s.OwedBytes, s.Quarantined, s.LastError = owed.Files, owed.Bytes, owed.Quarantined, text(owed.LastError)
			why := m.whyOwed()
			s.OwedSince, s.OwedReason, s.OwedCause, s.Held = owed.Oldest, why.reason, why.cause, owed.Held
		} else {
			d.journalOf(Want{Name: c.Name, Environment: c.Environment}).tell(&s)
		}
		answer.Connections = append(answer.Connections, s)
	}
	return answer
}

// mountOf returns the mount that a name and an environment mean: without an environment, that in the first active one.
func (d *Daemon) mountOf(name, environment string) (*mount, error) {
	if strings.HasPrefix(name, "/") {
		if m := d.mountedOn(name); m != nil {
			return m, nil
		}
		return nil, control.Errorf(control.UnknownConnection, "nothing is mounted on %q", name).WithHint("`pierfs list` shows what is")
	}
	w, err := d.wanted(name, environment)
	if err != nil {
		return nil, err
	}
	m, held := d.at(w.key())
	switch {
	case m != nil:
		return m, nil
	case !w.Enabled:
		return nil, control.Errorf(control.Disabled, "%s is disabled", name).WithHint("switch it on with `pierfs enable %s`", name)
	case held:
		return nil, control.Errorf(control.NotMounted, "%s was unmounted by hand", name).WithHint("mount it again with `pierfs mount %s`", name)
	}
	return nil, control.Errorf(control.NotMounted, "%s is not mounted yet", name).WithHint("try again in a moment")
}

func (d *Daemon) mountedOn(dir string) *mount {
	dir = filepath.Clean(dir)
	for _, m := range d.all() {
		if m.want.Dir == dir {
			return m
		}
	}
	return nil
}

// wanted returns what is defined under a name, mounted or not, as last read.
func (d *Daemon) wanted(name, environment string) (Want, error) {
	return d.known().wanted(name, environment)
}

// known returns the plan as last read.
func (d *Daemon) known() Plan {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.plan
}

func (d *Daemon) show(ctx context.Context, q control.ShowRequest) (control.ShowAnswer, error) {
	if strings.HasPrefix(q.Name, "/") {
		m, err := d.mountOf(q.Name, "")
		if err != nil {
			return control.ShowAnswer{}, err
		}
		return shown(m.status(), m.reach()), nil
	}
	plan := d.readPlan(ctx) // as it is written now, also where the daemon has not come to it yet
	config, environment, err := plan.at(q.Environment)
	if err != nil {
		return control.ShowAnswer{}, err
	}
	c := config.Connection(q.Name)
	if c == nil {
		_, err := plan.wanted(q.Name, "")
		return control.ShowAnswer{}, err
	}
	standing := control.Connection{Name: q.Name, Environment: environment, State: control.StateDisabled, Since: d.started,
		Reason: "its environment is not active on this machine"}
	if w, err := plan.wanted(q.Name, environment); err == nil {
		standing = d.standing(w)
	}
	target, err := d.resolve(ctx, config, q.Name, environment)
	if err != nil {
		return control.ShowAnswer{}, err
	}
	standing.Protocol, standing.Endpoint, standing.ReadOnly = string(target.Protocol), endpoint(target), target.ReadOnly
	answer := shown(standing, target)
	for _, field := range c.Show(environment) {
		f := control.ShownField{Shown: field}
		if strings.Contains(field.Value, "${") {
			f.Resolved = resolved(field.Field, target)
		}
		answer.Definition = append(answer.Definition, f)
	}
	return answer, nil
}

// resolved returns what a field with variables has become; "" where that is a secret. conncfg lets none into the others.
func resolved(field string, t conncfg.Target) string {
	switch field {
	case "host":
		return t.Host
	case "port":
		return strconv.Itoa(t.Port)
	case "username":
		return t.Username
	case "workingDir":
		return t.WorkingDir
	case "sslProtocol":
		return strings.ReplaceAll(tls.VersionName(t.TLS.MinVersion), " ", "")
	}
	return ""
}

func shown(c control.Connection, t conncfg.Target) control.ShowAnswer {
	return control.ShowAnswer{
		Connection: c, Host: t.Host, Port: t.Port, Username: t.Username, HasPassword: !t.Password.Empty(),
		WorkingDir: t.WorkingDir, ConnectTimeout: t.ConnectTimeout.String(), SocketTimeout: t.SocketTimeout.String(),
		RetryCount: t.RetryCount, Encoding: t.Encoding, Owner: string(t.Owner), Commit: string(t.Commit), HostKey: t.SSH.HostKey,
	}
}

// resolve is Config.Resolve with its findings as one error.
func (d *Daemon) resolve(ctx context.Context, c *conncfg.Config, name, environment string) (conncfg.Target, error) {
	target, findings := c.Resolve(ctx, name, environment)
	return target, d.refusal(findings)
}

// check is the command that shows everything that is wrong with the definitions: also where the hand would look elsewhere.
func (d *Daemon) check() string {
	usual := dirs.Default(os.Geteuid(), func(variable string) string {
		if variable == "CONFIGURATION_DIRECTORY" { // the hand has not got it from systemd
			return ""
		}
		return os.Getenv(variable)
	})
	if d.o.Dirs.Config == usual.Config {
		return "pierfs check"
	}
	return "pierfs check --config-dir " + d.o.Dirs.Config
}

// mend is the way out of errors in definitions.
func (d *Daemon) mend(wrong []conncfg.Finding) string {
	for _, f := range wrong {
		if f.File == "" {
			continue
		}
		if _, err := os.Stat(f.File); err != nil { // it is a change that was refused
			return "nothing was written; the same command with what is named there set right does it"
		}
	}
	return "mend what is named there; `" + d.check() + "` shows everything that is wrong"
}

// refusal is the errors among findings as one *control.Error; nil if there is none.
func (d *Daemon) refusal(findings []conncfg.Finding) error {
	wrong := slices.DeleteFunc(slices.Clone(findings), func(f conncfg.Finding) bool { return f.Severity != conncfg.Error })
	if len(wrong) == 0 {
		return nil
	}
	first := wrong[0]
	text := strings.TrimPrefix(first.Field+": "+first.Message, ": ")
	if len(wrong) > 1 {
		text += fmt.Sprintf(", and %s", more(len(wrong)-1))
	}
	if first.Connection != "" {
		text = "the definition of " + first.Connection + " cannot be used: " + text
	}
	e := control.Errorf(control.ConfigInvalid, "%s", text).WithHint("%s", d.mend(wrong))
	e.Findings = wrong
	return e
}

func more(n int) string {
	if n == 1 {
		return "1 more error"
	}
	return strconv.Itoa(n) + " more errors"
}

func (d *Daemon) mountNamed(ctx context.Context, q control.MountRequest) (control.MountAnswer, error) {
	w, err := d.wanted(q.Name, q.Environment)
	if control.CodeOf(err) == control.UnknownConnection { // it may have been written a moment ago
		d.apply(ctx, control.ApplyRequest{})
		w, err = d.wanted(q.Name, q.Environment)
	}
	if err != nil {
		return control.MountAnswer{}, err
	}
	if !w.Enabled {
		return control.MountAnswer{}, control.Errorf(control.Disabled, "%s is disabled", q.Name).WithHint("switch it on with `pierfs enable %s`", q.Name)
	}
	d.waitNoMore(map[string]bool{q.Name: true})
	d.changing.Lock()
	defer d.changing.Unlock()
	d.mu.Lock()
	delete(d.held, w.key())
	d.mu.Unlock()
	m, _ := d.at(w.key())
	if m != nil && m.status().State == control.StateFailed { // now, and not when its pause is over
		d.stopAll([]*mount{m})
		m = nil
	}
	known := m != nil
	if !known {
		started := d.startAll([]Want{w})
		if len(started) == 0 {
			return control.MountAnswer{}, errStopping()
		}
		m = started[0]
	}
	d.settle(ctx, []*mount{m})
	if _, err := m.use(); err != nil {
		return control.MountAnswer{}, err
	}
	if known { // else it has just been asked, and a second login that is refused may lock the account
		m.knockAndWait(ctx)
	}
	return control.MountAnswer{Connections: []control.Connection{m.status()}}, nil
}

func errStopping() error {
	return control.Errorf(control.Stopping, "the daemon is stopping").WithHint("try again when it runs again")
}

func (d *Daemon) umount(ctx context.Context, q control.UmountRequest) (control.MountAnswer, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	mounts, err := d.meant(q)
	if err != nil {
		return control.MountAnswer{}, err
	}
	for _, m := range mounts {
		if n := m.openSoon(); n > 0 && !q.Force {
			return control.MountAnswer{}, control.Errorf(control.Busy, "programs have files open on %s: %d", m.want.Dir, n).
				WithHint("see who has them with `fuser -vm %s`; --force gives programs %v and then cuts them", m.want.Dir, unmountWithin)
		}
	}
	if !q.Keep {
		if err := refuseOwing(debtorsOf(mounts)); err != nil {
			return control.MountAnswer{}, err
		}
	}
	if q.DryRun {
		would := control.MountAnswer{Connections: []control.Connection{}}
		for _, m := range mounts {
			would.Connections = append(would.Connections, m.status())
		}
		return would, nil
	}
	d.mu.Lock()
	for _, m := range mounts {
		if !m.want.AdHoc {
			d.held[m.want.key()] = true
		}
	}
	d.mu.Unlock()
	d.stopAll(mounts)
	answer := control.MountAnswer{Connections: []control.Connection{}}
	var left error
	for _, m := range mounts {
		if m.want.AdHoc {
			d.restore(m.want.Dir)
		}
		c := m.status()
		c.State = control.StateUnmounted
		answer.Connections = append(answer.Connections, c)
		if l := m.left(); l != nil {
			left = errors.Join(left, l)
		}
		o, owes, err := d.journalOf(m.want).owing()
		if left = errors.Join(left, err); owes {
			answer.Owing = append(answer.Owing, o)
		}
	}
	d.checkIdle()
	if left != nil {
		return answer, control.Errorf(control.Failed, "unmounted, but %s", oneLine(left.Error())).WithHint("it lies under %s", d.keep("quarantine", mounts[0].want))
	}
	return answer, nil
}

// meant returns the mounts that an umount is about.
func (d *Daemon) meant(q control.UmountRequest) ([]*mount, error) {
	if strings.HasPrefix(q.Name, "/") || q.Environment != "" {
		m, err := d.mountOf(q.Name, q.Environment)
		if err != nil {
			return nil, err
		}
		return []*mount{m}, nil
	}
	var all []*mount
	for _, m := range d.all() {
		if m.want.Name == q.Name {
			all = append(all, m)
		}
	}
	if len(all) == 0 {
		_, err := d.mountOf(q.Name, "")
		if err == nil {
			err = control.Errorf(control.NotMounted, "%s is not mounted", q.Name).WithHint("`pierfs list` shows what is; there is nothing to be done")
		}
		return nil, err
	}
	return all, nil
}

// mountURL mounts a server without a definition, and only if it can be reached: a failed login leaves nothing behind.
func (d *Daemon) mountURL(ctx context.Context, q control.MountURLRequest) (_ control.MountAnswer, err error) {
	defer func() {
		if err != nil {
			d.checkIdle() // a daemon that was started for this alone has nothing to do
		}
	}()
	dir := filepath.Clean(q.Dir)
	if !filepath.IsAbs(dir) {
		return control.MountAnswer{}, control.Errorf(control.Usage, "%q is not an absolute path", q.Dir).WithHint("write it from the root: /mnt/partner")
	}
	if err := checkOwner(ctx, dir); err != nil {
		return control.MountAnswer{}, err
	}
	target, warnings, err := d.targetOf(ctx, q)
	if err != nil {
		return control.MountAnswer{}, err
	}
	target.MountPoint = dir
	answer := control.MountAnswer{Findings: warnings}
	if answer.Trusted, err = d.reachable(ctx, target, q.TrustNew); err != nil {
		return control.MountAnswer{}, unnamed(target, err)
	}
	m, err := d.startAdHoc(Want{Name: dir, Enabled: true, AdHoc: true, Dir: dir,
		Resolve: func(context.Context) (conncfg.Target, []conncfg.Finding) { return target, warnings }})
	if err != nil {
		return control.MountAnswer{}, err
	}
	d.settle(ctx, []*mount{m})
	if !m.serving() {
		d.stopAll([]*mount{m})
		d.restore(dir)
		return control.MountAnswer{}, m.ending()
	}
	answer.Connections = []control.Connection{m.status()}
	return answer, nil
}

// unnamed gives the way out of a host key or certificate that is not believed, and of TLS that is not what the server speaks,
// for a server that no definition names.
func unnamed(target conncfg.Target, err error) error {
	e, ok := errors.AsType[*control.Error](err)
	if !ok {
		return err
	}
	hostKey := "--host-key FINGERPRINT"
	if target.Via.Kind == conncfg.ViaSSH {
		hostKey += ", or -o viaHostKey=FINGERPRINT if it is the host in between"
	}
	switch backends.Cause(e.Cause) {
	case backends.CauseTLSRequired:
		return e.WithHint("the server refuses the user before any password was sent: it may want TLS (mount ftpes://), or not allow this user")
	case backends.CauseTLSMode:
		if target.TLS.Implicit {
			return e.WithHint("the server begins in the clear: mount ftpes://, explicit FTPS, which has port 21 as a rule")
		}
		return e.WithHint("the server begins with TLS: mount ftps://, implicit FTPS, which has port 990 as a rule")
	}
	switch e.Code {
	case control.HostKeyUnknown:
		return e.WithHint("compare the fingerprint with what the server's operator tells, then mount with %s; --trust-new trusts whatever it shows", hostKey)
	case control.HostKeyChanged:
		return e.WithHint("do not connect before the server's operator has confirmed the new fingerprint; then mount with %s", hostKey)
	case control.CertUnknown:
		if target.TLS.OnlyAuthorities {
			return e.WithHint("mount with --ca FILE of the authority that signed it; this environment believes none by its fingerprint (requireAuthority): " +
				"if it must be, compare that with what the server's operator tells, and mount with --trust-cert FINGERPRINT -o exception='why, and until when'")
		}
		return e.WithHint("mount with --ca FILE of the authority that signed it; or compare the fingerprint with what the server's operator tells, then mount with --trust-cert FINGERPRINT; --trust-new trusts whatever it shows")
	case control.CertChanged:
		return e.WithHint("do not connect before the server's operator has confirmed the new fingerprint; then mount with --trust-cert FINGERPRINT")
	}
	return err
}

// maxStrangers is how many are trusted at first sight for one mount: the host in between, and the server.
const maxStrangers = 2

// reachable logs in once, and trusts the server's key at first sight if it may: only a key of which nobody knows anything,
// never a changed one. A key is trusted before the login, so that the password reaches nobody else, and stays so where the
// login fails: the error says that too.
func (d *Daemon) reachable(ctx context.Context, target conncfg.Target, trustNew bool) (trusted *control.TrustAnswer, err error) {
	log := d.log.With("conn", target.MountPoint)
	test := func() error { return d.o.Floor.Test(ctx, target, dial.Tries{}, log, func(control.Step) {}) }
	err = test()
	for met := 0; trustNew && met < maxStrangers && isStranger(err); met++ {
		pinned, pinErr := d.o.Floor.Pin(ctx, target, "")
		if pinErr != nil {
			return nil, told(pinErr)
		}
		if !pinned.Already {
			d.logTrusted(ctx, target.MountPoint, *pinned)
			trusted = pinned
		}
		err = test()
	}
	err = told(err)
	if e, ok := errors.AsType[*control.Error](err); ok && trusted != nil {
		e := *e
		e.Text += fmt.Sprintf("; the %s %s of %s is trusted from now on", trusted.What(), trusted.Fingerprint, trusted.Address)
		return nil, &e
	}
	return trusted, err
}

// isStranger reports whether a login was given up because nobody vouched for the server.
func isStranger(err error) bool {
	cause := backends.CauseOf(err)
	return cause == backends.CauseHostKeyUnknown || cause == backends.CauseCertUnknown
}

// targetOf reads the URL and its options, with what there is to warn about.
func (d *Daemon) targetOf(ctx context.Context, q control.MountURLRequest) (conncfg.Target, []conncfg.Finding, error) {
	c, findings := conncfg.ParseURL(q.URL, q.Options...)
	if q.HostKey != "" {
		findings = append(findings, c.Set("hostKey", q.HostKey)...)
	}
	if !q.Password.IsZero() {
		findings = append(findings, c.SetSecret("password", conncfg.NewSecret(q.Password.Open()))...)
	}
	if err := d.refusal(findings); err != nil {
		e := *err.(*control.Error)
		e.Code, e.Hint = control.Usage, "`pierfs mount --help` shows how it is written"
		return conncfg.Target{}, nil, &e
	}
	config, environment, err := d.known().at("")
	if err != nil {
		return conncfg.Target{}, nil, err
	}
	target, warnings, err := d.resolveUnsaved(ctx, config, c, environment)
	if err == nil {
		err = refuseUnheeded(warnings)
	}
	return target, warnings, err
}

// refuseUnheeded wants whoever says whom to believe to be heeded: a fingerprint that means nothing for the protocol would
// protect nobody.
func refuseUnheeded(warnings []conncfg.Finding) error {
	for _, f := range warnings {
		if f.Code == conncfg.CodeIgnored && slices.Contains([]string{"hostKey", "trustCert", "caFile"}, f.Field) {
			return control.Errorf(control.Usage, "%s %s", f.Field, f.Message).WithHint("--host-key is for sftp://, --trust-cert and --ca are for ftpes:// and ftps://")
		}
	}
	return nil
}

// checkOwner wants dir to belong to the caller, and its path to have no symbolic link in it.
func checkOwner(ctx context.Context, dir string) error {
	file, err := openPlain(dir)
	if isAbsent(err) {
		return control.Errorf(control.CannotCreate, "%s does not exist", dir).WithHint("mkdir %s", dir)
	}
	if err != nil {
		return told(err)
	}
	defer file.Close()
	owner, err := ownerOf(file)
	if err != nil {
		return err
	}
	if peer, ok := control.PeerOf(ctx); !ok || owner != peer.UID {
		return control.Errorf(control.NotAllowed, "%s belongs to user %d", dir, owner).WithHint("mount on a directory of your own")
	}
	return nil
}

func (d *Daemon) startAdHoc(want Want) (*mount, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	var others []string
	for _, m := range d.all() {
		others = append(others, m.want.Dir)
	}
	if err := d.points.check(want.Dir, others); err != nil {
		e := *err.(*control.Error)
		e.Code = control.CannotCreate
		return nil, &e
	}
	started := d.startAll([]Want{want})
	if len(started) == 0 {
		return nil, errStopping()
	}
	return started[0], nil
}

// trust believes the server's host key or certificate: the one with the fingerprint, or without one that of a server of which
// nothing is believed yet.
func (d *Daemon) trust(ctx context.Context, q control.TrustRequest) (control.TrustAnswer, error) {
	fingerprint, ok := conncfg.Fingerprint(q.Fingerprint)
	if !ok && q.Fingerprint != "" {
		return control.TrustAnswer{}, control.Errorf(control.Usage, "%q is no SHA-256 fingerprint", q.Fingerprint).
			WithHint("ask the server's operator for it: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, or openssl x509 -noout -fingerprint -sha256 -in FILE")
	}
	target, err := d.testTarget(ctx, control.TestRequest{Name: q.Name, Environment: q.Environment})
	if err != nil {
		return control.TrustAnswer{}, err
	}
	if err := pinnedByDefinition(q.Name, target); err != nil {
		return control.TrustAnswer{}, err
	}
	pin := d.o.Floor.Pin
	if q.DryRun {
		pin = d.o.Floor.Look
	}
	pinned, err := pin(ctx, target, fingerprint)
	if err != nil {
		return control.TrustAnswer{}, toldOf(d.called(Want{Name: q.Name, Environment: target.Environment}), err)
	}
	if q.DryRun {
		for _, m := range d.towards(pinned.Address) {
			pinned.Affects = append(pinned.Affects, d.called(m.want))
		}
		return *pinned, nil
	}
	if !pinned.Already {
		d.logTrusted(ctx, q.Name, *pinned)
	}
	d.knockAndWait(ctx, pinned.Address)
	return *pinned, nil
}

// pinnedByDefinition refuses to trust where the definition itself says whom: that would change nothing.
func pinnedByDefinition(name string, t conncfg.Target) error {
	switch {
	case t.SSH.HostKey != "":
		return control.Errorf(control.HostKeyChanged, "the definition of %s accepts the host key %s alone", name, t.SSH.HostKey).
			WithHint("write the fingerprint that the server's operator confirms as hostKey in its definition, or take hostKey out of it")
	case t.TLS.OnlyAuthorities:
		return control.Errorf(control.NotAllowed, "environment %s believes no certificate by its fingerprint: its policy has requireAuthority", t.Environment).
			WithHint("have an authority sign it, and name that as caFile; or say why %s is excepted: pierfs edit %s --set trustCert=FINGERPRINT --set exception='why'", name, name)
	case t.TLS.TrustCert != "":
		return control.Errorf(control.CertChanged, "the definition of %s accepts the certificate %s alone", name, t.TLS.TrustCert).
			WithHint("write the fingerprint that the server's operator confirms as trustCert in its definition, or take trustCert out of it")
	}
	return nil
}

// logTrusted tells whom this machine believes from now on, and who said so. One that took the place of another is a
// warning: that is also how somebody in between would look.
func (d *Daemon) logTrusted(ctx context.Context, name string, a control.TrustAnswer) {
	level := slog.LevelInfo
	if len(a.Forgotten) > 0 {
		level = slog.LevelWarn
	}
	if d.registry != nil {
		change := conncfg.Difference{File: "trust", Connection: name, Field: a.Address, Before: strings.Join(a.Forgotten, ", "), After: a.Fingerprint}
		e, err := d.registry.Note(author(ctx), "trust", name, []conncfg.Difference{change})
		if err != nil {
			d.log.Error("a change could not be entered in the log", "err", err)
		} else {
			d.logEntry(e)
		}
	}
	d.log.Log(ctx, level, trustedMessage(a), "conn", name, "address", a.Address, "type", a.KeyType, "fingerprint", a.Fingerprint,
		"forgotten", a.Forgotten, "peer", fmt.Sprint(uidOf(ctx)))
}

func trustedMessage(a control.TrustAnswer) string {
	if a.Certificate != nil {
		return "certificate trusted"
	}
	return "host key trusted"
}

func uidOf(ctx context.Context) uint32 {
	peer, _ := control.PeerOf(ctx)
	return peer.UID
}
