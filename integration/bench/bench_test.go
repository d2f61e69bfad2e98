// Package bench measures mounts of pierfs beside those of its peers: on the same server, over the same way, in the same run.
//
//	go test ./integration/bench -bench . -benchtime 1x -timeout 2h
//
// prints the tables of docs/BENCHMARKS.md. It is never part of the tests: a figure is no pass or failure.
package bench

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

const (
	bigFile    = 512 << 20
	block      = 1 << 20
	listed     = 10_000
	smallFiles = 1_000
	smallSize  = 4 << 10

	// limit bounds one measurement; what was done until then is what is measured.
	limit = 20 * time.Second
)

// mounted is one file system under test.
type mounted struct {
	name string
	dir  string
}

// BenchmarkBesideSSHFS is all of it.
func BenchmarkBesideSSHFS(b *testing.B) {
	process.Need(b, "sshfs", "ls")
	programs := build(b)
	server := servers.NewSSHD(b, servers.SSHOptions{User: "root"})
	prepare(b, server.Dir, "sshfs")
	compare(b, "sshfs", func(roundTrip time.Duration) (peer, ours mounted) {
		address := server.Address()
		if roundTrip > 0 {
			address = link.New(b, link.Options{RoundTrip: roundTrip}).Forward(b, "", address)
		}
		return mounted{"sshfs", mountSSHFS(b, server, address)}, mounted{"pierfs", mountPierfs(b, programs, server, address)}
	})
}

func build(b *testing.B) daemon.Programs {
	b.Helper()
	programs, err := daemon.Build()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(programs.Dir); err != nil {
			b.Error(err)
		}
	})
	return programs
}

// compare prints what each workload gives on the two mounts, cell by cell in turn, near and far.
func compare(b *testing.B, peer string, mount func(roundTrip time.Duration) (peer, ours mounted)) {
	b.Helper()
	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 1, ' ', tabwriter.Debug)
	fmt.Fprintf(out, "|round trip\t what\t %s\t pierfs\t pierfs/%s\t\n", peer, peer)
	fmt.Fprintln(out, "|---\t ---\t ---\t ---\t ---\t")
	for _, roundTrip := range []time.Duration{0, 40 * time.Millisecond} {
		theirs, ours := mount(roundTrip)
		for _, w := range workloads {
			t, o := w.rate(b, theirs, roundTrip), w.rate(b, ours, roundTrip)
			fmt.Fprintf(out, "|%v\t %s\t %s\t %s\t %.2f\t\n", roundTrip, w.name, w.show(t), w.show(o), o/t)
		}
	}
	if err := out.Flush(); err != nil {
		b.Fatal(err)
	}
	fmt.Println(table.String())
}

// prepare makes what is read. Each file system reads files of its own, so that neither finds them warm.
func prepare(b *testing.B, dir, peer string) {
	b.Helper()
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	content := make([]byte, block)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	for _, way := range []string{"0s", "40ms"} {
		for _, name := range []string{peer, "pierfs"} {
			d := filepath.Join(dir, name+way)
			must(os.MkdirAll(filepath.Join(d, "listed"), 0o755))
			must(os.MkdirAll(filepath.Join(d, "small"), 0o755))
			must(os.MkdirAll(filepath.Join(d, "written"), 0o755))
			f, err := os.Create(filepath.Join(d, "big"))
			must(err)
			for range bigFile / block {
				_, err := f.Write(content)
				must(err)
			}
			must(f.Close())
			for i := range listed {
				must(os.WriteFile(filepath.Join(d, "listed", strconv.Itoa(i)), nil, 0o644))
			}
			for i := range smallFiles {
				must(os.WriteFile(filepath.Join(d, "small", strconv.Itoa(i)), content[:smallSize], 0o644))
			}
		}
	}
}

// workload is one thing that programs do. It returns how many units it did before the deadline.
type workload struct {
	name string
	unit string
	run  func(dir string, deadline time.Time) (done float64, err error)
}

func (w workload) show(rate float64) string { return fmt.Sprintf("%.4g %s/s", rate, w.unit) }

// rate runs w on m once and returns units a second.
func (w workload) rate(b *testing.B, m mounted, roundTrip time.Duration) float64 {
	b.Helper()
	dir := filepath.Join(m.dir, m.name+roundTrip.String())
	start := time.Now()
	done, err := w.run(dir, start.Add(limit))
	took := time.Since(start)
	if err != nil {
		b.Errorf("%s, %s at %v: %v", m.name, w.name, roundTrip, err)
	}
	rate := done / took.Seconds()
	fmt.Printf("# %s at %v: %s %s in %v\n", w.name, roundTrip, m.name, w.show(rate), took.Round(time.Millisecond))
	return rate
}

var workloads = []workload{
	{"ls -l of 10,000 entries", "entries", func(dir string, _ time.Time) (float64, error) {
		out, err := exec.Command("ls", "-l", filepath.Join(dir, "listed")).Output()
		if lines := strings.Count(string(out), "\n"); err == nil && lines != listed+1 {
			err = fmt.Errorf("%d lines", lines)
		}
		return listed, err
	}},
	{"the same again", "entries", func(dir string, _ time.Time) (float64, error) {
		_, err := exec.Command("ls", "-l", filepath.Join(dir, "listed")).Output()
		return listed, err
	}},
	{"read 4 KiB files, one after another", "files", func(dir string, deadline time.Time) (float64, error) {
		for i := range smallFiles {
			if time.Now().After(deadline) {
				return float64(i), nil
			}
			if got, err := os.ReadFile(filepath.Join(dir, "small", strconv.Itoa(i))); err != nil || len(got) != smallSize {
				return float64(i), fmt.Errorf("%d bytes, %w", len(got), err)
			}
		}
		return smallFiles, nil
	}},
	{"write 4 KiB files, one after another", "files", func(dir string, deadline time.Time) (float64, error) {
		content := make([]byte, smallSize)
		for i := range smallFiles {
			if time.Now().After(deadline) {
				return float64(i), nil
			}
			if err := os.WriteFile(filepath.Join(dir, "written", strconv.Itoa(i)), content, 0o644); err != nil {
				return float64(i), err
			}
		}
		return smallFiles, nil
	}},
	{"read 512 MiB", "MB", func(dir string, deadline time.Time) (float64, error) {
		f, err := os.Open(filepath.Join(dir, "big"))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		done := 0
		for buffer := make([]byte, block); !time.Now().After(deadline); {
			n, err := f.Read(buffer)
			done += n
			if err == io.EOF {
				break
			}
			if err != nil {
				return 0, err
			}
		}
		return float64(done) / 1e6, nil
	}},
	{"write 512 MiB, close included", "MB", func(dir string, deadline time.Time) (float64, error) {
		f, err := os.Create(filepath.Join(dir, "written", "big"))
		if err != nil {
			return 0, err
		}
		done := 0
		buffer := make([]byte, block)
		for done < bigFile && !time.Now().After(deadline) {
			n, err := f.Write(buffer)
			done += n
			if err != nil {
				return 0, err
			}
		}
		return float64(done) / 1e6, f.Close()
	}},
}

// mountSSHFS mounts with sshfs as it is after installing.
func mountSSHFS(b *testing.B, s *servers.SSHD, address string) string {
	b.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	key := s.NewKey(b, servers.KeyOptions{})
	known := filepath.Join(b.TempDir(), "known_hosts")
	line := strings.Replace(s.KnownHosts(b), "["+s.Host+"]", "["+host+"]", 1)
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		b.Fatal(err)
	}
	point := filepath.Join(dir, "mnt")
	if err := os.Mkdir(point, 0o755); err != nil {
		b.Fatal(err)
	}
	p := process.Start(b, exec.Command("sshfs", "-f", "-F", "/dev/null", "-p", port, "-o", "IdentityFile="+key.File+",UserKnownHostsFile="+known,
		s.User+"@"+host+":"+s.Root, point))
	awaitMount(b, dir, p)
	return point
}

// awaitMount returns when p has mounted something below dir, which is unmounted when the benchmark ends.
func awaitMount(b *testing.B, dir string, p *process.Process) {
	b.Helper()
	b.Cleanup(func() {
		if err := daemon.Clear(dir); err != nil {
			b.Error(err)
		}
	})
	for deadline := time.Now().Add(process.Patience); ; time.Sleep(10 * time.Millisecond) {
		mounts, err := daemon.MountsBelow(dir)
		if err != nil {
			b.Fatal(err)
		}
		if len(mounts) == 1 {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("it does not mount: %s", p.Log)
		}
	}
}

// mountPierfs mounts with a definition that says nothing but where the server is.
func mountPierfs(b *testing.B, programs daemon.Programs, s *servers.SSHD, address string) string {
	b.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		b.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		b.Fatal(err)
	}
	key := s.NewKey(b, servers.KeyOptions{})
	return mountDefined(b, programs, daemon.To(b, s, daemon.Fields{"host": host, "port": number, "password": nil, "privateKeyFile": key.File}))
}

func mountDefined(b *testing.B, programs daemon.Programs, fields daemon.Fields) string {
	b.Helper()
	d := daemon.New(b, programs)
	d.Define(b, "bench", fields)
	d.Start(b)
	d.AwaitState(b, "bench", "ready", process.Patience)
	return d.Mount("bench")
}
