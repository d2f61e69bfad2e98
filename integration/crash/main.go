// Command crash kills daemons, with SIGKILL, while programs create, overwrite, append to, rename and unlink files through their
// mounts, and looks at what the servers are left with: a real sshd, and a real vsftpd.
//
// Whatever a program was told is done must be there, once and whole. What it was not told of may be there or not, but no file
// is to be seen by its name that is not whole; only an append in place, which is added to the file itself, may have arrived in part, and
// an exclusive creation may leave the empty file by which the server decided it. After the next daemon's start the same is still
// true, programs see exactly what the server has, and no temporary name is left.
//
// Every request and every answer passes a gate, on a way that leads through this program (tap.go for SFTP, control.go for
// FTP): the daemons know nothing of it. A daemon is killed right at a step, which the server then never hears of, or has taken without
// the daemon hearing of it, or some moment after one. The tests kill at every site that there is, and 40 times by chance;
//
//	go run ./integration/crash -n 1000
//
// kills as often as one likes and prints a line of figures; with -power everything that the daemon keeps lies on a disk that loses its power
// with each kill (power.go), with -outages servers die and come back in mid-load (outage.go), and with -rival somebody else changes some of the
// names at the server (rival.go). The same seed has the same programs do the same things and kills after
// as many steps; what the kernel, the daemon and the server make of that in between is theirs.
//
// Locks: gate.mu is held while a daemon is killed, so that nothing passes after it.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pierfs/integration/daemon"
)

func main() {
	if tapping() || isStoring() {
		return
	}
	var o options
	flag.IntVar(&o.kills, "n", 1000, "kills in all")
	flag.Uint64Var(&o.seed, "seed", 1, "where chance begins")
	flag.StringVar(&o.commit, "commit", "close", "commit of the connections")
	flag.IntVar(&o.stages, "stages", 4, "servers at a time")
	flag.StringVar(&o.programs, "programs", "", "directory with pierfs and pierfsd; the default is to build them")
	flag.StringVar(&o.only, "only", "", "sftp, ftp (vsftpd), ftps, proftpd, pure-ftpd, pyftpdlib or stepwise; the default is to take turns with the first two")
	flag.Func("set", "KEY=VALUE of the connections' definition; may be given more than once", o.set)
	flag.BoolVar(&o.mixed, "mixed", false, "give the connections each value of verify, conflict and update, and not the defaults")
	flag.BoolVar(&o.power, "power", false, "have the power fail with each kill: what the daemon has not synced is dropped, or chance keeps some of it")
	flag.BoolVar(&o.passthrough, "passthrough", false, "with -commit background: have the kernel write new files by itself (writePassthrough)")
	flag.BoolVar(&o.outages, "outages", false, "have the server die and come back in mid-load, alone, before a kill or with it")
	flag.BoolVar(&o.rival, "rival", false, "have somebody else change some of the names at the server")
	flag.BoolVar(&o.debug, "debug", false, "have the daemons log each call on the wire")
	flag.BoolVar(&o.table, "sites", false, "list all sites, with how often each was passed and a daemon was killed at it")
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "Crash", F: func(t *testing.T) { crash(t, o) }}}, nil, nil)
}

// options are those of a run by chance.
type options struct {
	kills  int
	seed   uint64
	commit string
	stages int
	only   string
	table  bool
	mixed  bool
	more   daemon.Fields
	power  bool

	outages bool
	rival   bool
	debug   bool

	passthrough bool

	programs string
}

// fields are what the connection of the i-th stage has set besides.
func (o options) fields(i int) daemon.Fields {
	fields := daemon.Fields{}
	if o.passthrough {
		fields["writePassthrough"] = true
	}
	maps.Copy(fields, o.more)
	if !o.mixed {
		return fields
	}
	n := int(o.seed) + i/2 // of each protocol one after the other
	maps.Copy(fields, daemon.Fields{"verify": []string{"hash", "readback", "size"}[n%3], "conflict": []string{"overwrite", "fail", "keep-both"}[n%3]})
	if n%2 == 0 {
		fields["update"] = "inPlace"
	}
	maps.Copy(fields, o.more)
	return fields
}

// set sets a field of all definitions.
func (o *options) set(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%q is not KEY=VALUE", text)
	}
	if o.more == nil {
		o.more = daemon.Fields{}
	}
	o.more[key] = value
	if n, err := strconv.Atoi(value); err == nil {
		o.more[key] = n
	} else if truth, err := strconv.ParseBool(value); err == nil {
		o.more[key] = truth
	}
	return nil
}

// crash kills o.kills daemons at moments of chance and prints what came of it.
func crash(t *testing.T, o options) {
	programs := daemon.Programs{Dir: o.programs}
	if o.programs == "" {
		var err error
		if programs, err = daemon.Build("-tags", "crash"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(programs.Dir) })
	}
	start := time.Now()
	sum := byChance(t, programs, o)
	if o.table {
		fmt.Print(sum.table())
	}
	fmt.Printf("commit = %q, seed %d, %v: %v\n", o.commit, o.seed, time.Since(start).Round(time.Second), sum)
}

// byChance is crash with programs that are built, and returns the figures.
func byChance(t *testing.T, programs daemon.Programs, o options) figures {
	t.Helper()
	var mu sync.Mutex
	sum := newFigures()
	t.Run("by chance", func(t *testing.T) {
		for i := range o.stages {
			p := protocol(cmp.Or(o.only, []string{"sftp", "ftp"}[i%2]))
			t.Run(fmt.Sprintf("%s %d", p, i), func(t *testing.T) {
				t.Parallel()
				s := newStage(t, programs, p, o.commit, o.seed+uint64(i), o.fields(i))
				if o.power {
					s.powerFails(t)
				}
				s.outages = o.outages
				if o.rival {
					s.newContest(t, o.seed+uint64(i))
				}
				if o.debug {
					s.daemon.Args = append(s.daemon.Args, "--log-level", "debug")
				}
				kills := (o.kills + i) / o.stages
				for k := 0; k < kills && s.survives(t, fmt.Sprint(k), s.chance()); k++ {
				}
				s.end(t)
				mu.Lock()
				defer mu.Unlock()
				sum.add(s.sum)
			})
		}
	})
	return sum
}
