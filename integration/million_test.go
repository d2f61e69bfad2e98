package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// bench starts a daemon with mounts of one server, for a benchmark.
func bench(b *testing.B, server *servers.SSHD, names ...string) *daemon.Daemon {
	b.Helper()
	programs, err := built()
	if err != nil {
		b.Fatal(err)
	}
	d := daemon.New(b, programs)
	for _, name := range names {
		d.Define(b, name, daemon.To(b, server, nil))
	}
	d.Start(b)
	for _, name := range names {
		d.AwaitState(b, name, "ready", process.Patience)
	}
	return d
}

// memory returns what a process has in memory, and what it once had, in MB.
func memory(b *testing.B, pid int) (now, peak float64) {
	b.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	of := map[string]float64{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[2] == "kB" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				b.Fatal(err)
			}
			of[fields[0]] = float64(n) / 1000
		}
	}
	return of["VmRSS:"], of["VmHWM:"]
}

// BenchmarkMillionEntries uses a directory of a million files on sshd as people do, and tells what the daemon takes for it.
func BenchmarkMillionEntries(b *testing.B) {
	const n = 1_000_000
	server := servers.NewSSHD(b, servers.SSHOptions{})
	dir := filepath.Join(server.Dir, "million")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		name := filepath.Join(dir, fmt.Sprintf("file-%07d.txt", i))
		if err := syscall.Mknod(name, syscall.S_IFREG|0o644, 0); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		d := bench(b, server, connection)
		mounted := filepath.Join(d.Mount(connection), "million")
		for _, step := range []struct{ unit, command, want string }{
			{"s-stat", `stat -c %s file-0765432.txt`, "0"},
			{"s-head", `ls -f . | head -3 | wc -l`, "3"},
			{"s-find", `find . -name file-0999999.txt`, "./file-0999999.txt"},
			{"s-again", `find . -name file-0999998.txt`, "./file-0999998.txt"},
			{"s-ls", `ls . | wc -l`, strconv.Itoa(n)},
		} {
			began := time.Now()
			command := exec.Command("bash", "-c", step.command)
			command.Dir = mounted
			out, err := command.CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != step.want {
				b.Fatalf("%s: %q, %v; want %q", step.command, got, err, step.want)
			}
			b.ReportMetric(time.Since(began).Seconds(), step.unit)
			now, peak := memory(b, d.Pid())
			b.Logf("%-32s %6.2f s, %4.0f MB resident, %4.0f MB at most", step.command, time.Since(began).Seconds(), now, peak)
		}
		_, peak := memory(b, d.Pid())
		b.ReportMetric(peak, "MB-at-most")
		if peak > 400 {
			b.Errorf("the daemon had %.0f MB resident, want at most 400", peak)
		}
		d.Stop(b)
	}
}

// BenchmarkHundredMounts tells what a daemon with 100 idle mounts takes.
func BenchmarkHundredMounts(b *testing.B) {
	server := servers.NewSSHD(b, servers.SSHOptions{})
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("%s%d", connection, i))
	}
	for b.Loop() {
		d := bench(b, server, names...)
		for _, name := range names {
			if _, err := os.ReadDir(d.Mount(name)); err != nil {
				b.Fatal(err)
			}
		}
		now, _ := memory(b, d.Pid())
		b.ReportMetric(now, "MB")
		if now > 150 {
			b.Errorf("the daemon has %.0f MB resident, want at most 150", now)
		}
		d.Stop(b)
	}
}
