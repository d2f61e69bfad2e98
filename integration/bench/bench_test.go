// Package bench measures mounts of pierfs beside those of its peers: on the same server, over the same way, at the same work.
//
//	integration/bench/run.sh                                                     everything; hours
//	integration/bench/run.sh -protocol sftp -rtt 40ms -work 'cat*' -peer pierfs  some of it; seconds
//	integration/bench/run.sh -h                                                  the flags
//	integration/bench/run.sh -list                                               works and peers
//
// A cell of its tables is one peer that does one work on one way to one server. Each cell has a fresh mount with nothing in
// its caches, of files that the server's own machine holds in memory; the peers take turns at one work, n times, and the
// median counts (a cell of more than 5 s is measured once). What a work reads, lists or leaves at the server is compared
// with what it must be: a wrong answer is no figure. Writes take until the server has everything. A cell that takes longer
// than the limit shows ">60" and how far it came.
//
// Ways with a round trip are links of integration/link without a bound on bandwidth, which count round trips and bytes. The
// way without one is loopback itself.
//
// A figure is no pass or failure, so this is never part of the tests. They only see that works can be done, and that none
// of them takes a wrong answer for a right one.
package bench

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
)

var (
	flagProtocols = flag.String("protocol", "sftp,ftp,ftps", "`servers` to measure on: OpenSSH, vsftpd, vsftpd with explicit TLS")
	flagTrips     = flag.String("rtt", "0,40ms", "round `trips` of the ways")
	flagWorks     = flag.String("work", "", "`patterns` of works, as in 'cat*,read_64'; those that have no target on a way are done only if named")
	flagPeers     = flag.String("peer", "", "`patterns` of peers, as in 'pierfs*,sshfs'; default all that can do a work")
	flagRounds    = flag.Int("n", 1, "rounds; the median is shown")
	flagLimit     = flag.Duration("limit", time.Minute, "`time` for one cell")
	flagFields    = flag.String("o", "", "`fields` of pierfs's definition besides, as in 'maxSessions=16,metadataTTL=1m'")
	flagPrograms  = flag.String("programs", "", "`directory` with pierfs and pierfsd to measure")
	flagCommit    = flag.String("commit", "", "`commit` of pierfs to build and measure; without it and -programs, the checkout as it lies")
	flagTables    = flag.String("tables", "", "`file` to write the tables to as well")
	flagProfile   = flag.String("profile", "", "`directory` for a CPU profile of pierfsd for each cell, taken by perf")
	flagTrace     = flag.String("trace", "", "`directory` for pierfsd's log of every wire call, for each cell")
	flagList      = flag.Bool("list", false, "only show what there is")
)

// BenchmarkFigures measures what the flags select.
func BenchmarkFigures(b *testing.B) {
	if *flagList {
		fmt.Print(everything())
		return
	}
	plan, err := newPlan(*flagProtocols, *flagTrips, *flagWorks, *flagPeers)
	if err != nil {
		b.Fatal(err)
	}
	more, err := parseFields(*flagFields)
	if err != nil {
		b.Fatal(err)
	}
	r := &run{limit: *flagLimit, programs: daemon.Programs{Dir: *flagPrograms}, more: more, profiles: *flagProfile, traces: *flagTrace, size: full}
	version := *flagPrograms
	if version == "" {
		r.programs, version = build(b, *flagCommit)
	}
	for _, dir := range []string{r.profiles, r.traces} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	haveMemory(b, 8*int(r.size.big))
	machine := lookAround(r, version)
	for _, protocol := range plan.protocols {
		b.Run(protocol, func(b *testing.B) {
			site := newSite(b, protocol)
			for _, trip := range plan.trips {
				for _, w := range works {
					if !plan.wants(w, protocol, trip) {
						continue
					}
					b.Run(fmt.Sprintf("%v/%s", trip, w.name), func(b *testing.B) { r.compare(b, plan, site, w, trip) })
					if err := keep(*flagTables, machine+r.tables(plan)); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
	fmt.Println("\n" + machine + r.tables(plan))
}

// keep writes the tables to a file, if one is wanted, as far as they have come.
func keep(name, tables string) error {
	if name == "" {
		return nil
	}
	return os.WriteFile(name, []byte(tables), 0o644)
}

// build builds the programs of a commit, or of the checkout as it lies, and returns what that is called.
func build(b testing.TB, commit string) (programs daemon.Programs, version string) {
	b.Helper()
	version = firstLine("git", "rev-parse", "--short", cmp.Or(commit, "HEAD"))
	if commit == "" {
		programs, err := daemon.Build()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := os.RemoveAll(programs.Dir); err != nil {
				b.Error(err)
			}
		})
		if out, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no").Output(); err != nil || len(out) > 0 {
			version += " with changes"
		}
		return programs, version
	}
	dir := temp(b)
	const script = `git -C "$(git rev-parse --show-toplevel)" archive "$1" | tar -x -C "$2" && cd "$2" && go build -buildvcs=false -o bin/ ./cmd/pierfs ./cmd/pierfsd`
	if out, err := exec.Command("bash", "-o", "pipefail", "-c", script, "build", commit, dir).CombinedOutput(); err != nil {
		b.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	return daemon.Programs{Dir: filepath.Join(dir, "bin")}, version
}

// plan is what was selected.
type plan struct {
	protocols    []string
	trips        []time.Duration
	works, peers []string // patterns; none is whatever there is a reason for
}

func newPlan(protocols, trips, works, peers string) (plan, error) {
	p := plan{protocols: split(protocols), works: split(works), peers: split(peers)}
	for _, protocol := range p.protocols {
		if !speaks(protocol) {
			return plan{}, fmt.Errorf("-protocol %q: there are sftp, ftp and ftps", protocol)
		}
	}
	for _, text := range split(trips) {
		if text == "0" {
			text = "0s"
		}
		trip, err := time.ParseDuration(text)
		if err != nil {
			return plan{}, fmt.Errorf("-rtt: %w", err)
		}
		p.trips = append(p.trips, trip)
	}
	for _, pattern := range append(p.works[:len(p.works):len(p.works)], p.peers...) {
		if _, err := filepath.Match(pattern, ""); err != nil {
			return plan{}, fmt.Errorf("%q: %w", pattern, err)
		}
	}
	for _, pattern := range p.works {
		if !anyMatch(pattern, workNames()) {
			return plan{}, fmt.Errorf("-work %q: no work is called so; see -list", pattern)
		}
	}
	for _, pattern := range p.peers {
		if !anyMatch(pattern, peerNames()) {
			return plan{}, fmt.Errorf("-peer %q: no peer is called so; see -list", pattern)
		}
	}
	return p, nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// wants reports whether w is to be done on this way: because it was named, or because it has something to tell there.
func (p plan) wants(w *work, protocol string, trip time.Duration) bool {
	if len(p.works) > 0 {
		return matches(p.works, w.name)
	}
	return w.near && trip == 0 || w.far && trip > 0 || w.ftp && protocol != "sftp"
}

// takes reports whether e is to be measured at w.
func (p plan) takes(e *peer, w *work, protocol string) bool {
	return e.can(w, protocol) && (len(p.peers) == 0 && !e.onDemand || matches(p.peers, e.name))
}

func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, _ := filepath.Match(pattern, name); ok { // newPlan has looked at the pattern
			return true
		}
	}
	return false
}

func anyMatch(pattern string, names []string) bool {
	for _, name := range names {
		if matches([]string{pattern}, name) {
			return true
		}
	}
	return false
}

// run is one run of the command.
type run struct {
	limit    time.Duration
	programs daemon.Programs
	more     daemon.Fields // of pierfs's definition
	profiles string        // directory for profiles, "" for none
	traces   string        // directory for logs of wire calls, "" for none
	size     sizes
	figures  []figure
}

// compare lets each peer do w, in turns.
func (r *run) compare(b *testing.B, p plan, s *site, w *work, trip time.Duration) {
	shared := ""
	if !w.writes {
		shared = s.makeFiles(b, w, r.size)
	}
	long := map[*peer]bool{}
	for round := range *flagRounds {
		for i := range peers {
			e := peers[(i+round)%len(peers)] // who begins has the coldest machine
			if !p.takes(e, w, s.protocol) || long[e] {
				continue
			}
			b.Run(e.name, func(b *testing.B) {
				c := &cell{run: r, site: s, work: w, peer: e, trip: trip, top: shared}
				if w.writes {
					c.top = s.makeFiles(b, w, r.size)
				}
				f := c.measure(b)
				r.figures = append(r.figures, f)
				long[e] = f.took > 5*time.Second
				if f.wrong != nil {
					b.Error(f.wrong)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(f.took.Seconds(), "s")
				b.ReportMetric(f.cpu.Seconds(), "cpu-s")
				if c.link != nil {
					b.ReportMetric(float64(f.crossed.Flights), "flights")
					b.ReportMetric(float64(f.crossed.ToClient)/1e6, "MB-down")
					b.ReportMetric(float64(f.crossed.ToServer)/1e6, "MB-up")
					b.ReportMetric(float64(f.crossed.Connections), "connections")
				}
			})
		}
	}
}

// cell is one peer at one work. Works see what they need of it: where the program finds its files, and how many there are.
type cell struct {
	*run
	site *site
	work *work
	peer *peer
	trip time.Duration

	top    string // the directory of this work on the server that is mounted, as this machine sees it
	server string // "data" in it, which is the work's
	dir    string // the same as the program sees it

	link *link.Link // nil without a round trip
	host string     // by which clients reach the server
	port int

	ctx      context.Context // ends when the time is over
	done, of int             // how far the work has come
	told     func() error    // compares what the program was told, where that takes long; nil without
	closing  func() error    // ends what was staged; nil without
}

// figure is what a cell has shown.
type figure struct {
	work     *work
	peer     *peer
	protocol string
	trip     time.Duration
	took     time.Duration
	over     bool  // the limit came first
	done, of int   // how far it came
	wrong    error // the answer was wrong, or there was none
	cpu      time.Duration
	crossed  link.Counts
}

// measure does the cell's work once.
func (c *cell) measure(b testing.TB) figure {
	b.Helper()
	c.reach(b)
	m := c.peer.mount(b, c)
	c.server, c.dir = filepath.Join(c.top, "data"), filepath.Join(m.dir, "data")
	if c.peer.here {
		c.server = c.dir
	}
	f := figure{work: c.work, peer: c.peer, protocol: c.site.protocol, trip: c.trip}
	if f.wrong = c.prepare(b.Context(), m); f.wrong != nil {
		return f
	}
	do := c.work.do
	if c.peer.does != nil {
		do = c.peer.does[c.work.name]
	}
	stop := c.profile(b, m)
	crossed := func() link.Counts { return link.Counts{} }
	if c.link != nil {
		crossed = c.link.Meter()
	}
	before, start := used(m.within), time.Now()
	err := c.within(b.Context(), c.limit, m, func() error {
		if err := do(c); err != nil || c.work.staged {
			return err
		}
		return c.awaitArrival()
	})
	f.took = time.Since(start)
	f.cpu = used(m.within) - before
	f.crossed = crossed()
	stop()
	f.done, f.of = c.done, c.of
	f.over = errors.Is(err, errOver)
	if err == nil && c.closing != nil {
		err = c.within(b.Context(), c.limit, m, func() error { return errors.Join(c.closing(), c.awaitArrival()) })
	}
	if err == nil {
		err = c.check()
	}
	if !f.over {
		f.wrong = err
	}
	return f
}

// prepare looks at the mount once, so that every peer is logged in when the clock starts, and does what comes before.
func (c *cell) prepare(ctx context.Context, m mounted) error {
	if _, err := os.Lstat(filepath.Join(m.dir, "idle")); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond) // for what a mount goes on to do by itself
	if c.work.first == nil {
		return nil
	}
	err := c.within(ctx, 2*c.limit, m, func() error { return c.work.first(c) })
	if err == nil && c.told != nil {
		err = c.told()
	}
	syscall.Sync() // what is kept of it is on its way to the disk, which is nobody's work any more
	return err
}

// errOver is returned for what takes longer than it may.
var errOver = errors.New("the time is over")

// within does something with a mount, and aborts the mount when limit has passed, for a call may hang in it.
func (c *cell) within(ctx context.Context, limit time.Duration, m mounted, do func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errOver)
	defer cancel()
	c.ctx = ctx
	result := make(chan error, 1)
	go func() { result <- do() }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	for {
		m.abort()
		select {
		case err := <-result:
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// steps does something n times unless the time is over first.
func (c *cell) steps(n int, do func(i int) error) error {
	c.of = n
	for i := range n {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := do(i); err != nil {
			return err
		}
		c.done++
	}
	return nil
}
