package bench

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/integration/process"
)

// target is what pierfs is to reach: seconds, or a peer's time divided by ratio.
type target struct {
	protocols, work string
	trip            time.Duration
	peer            string // who is to reach it
	seconds         float64
	beside          string
	ratio           float64
}

const far = 40 * time.Millisecond

var targets = []target{
	{"sftp", "read_64", far, "pierfs", 0.6, "", 0},
	{"sftp", "rand_4k", far, "pierfs", 1.5, "", 0},
	{"sftp", "ls_10k", far, "pierfs", 0.4, "", 0},
	{"sftp", "find_tree", far, "pierfs", 1.2, "", 0},
	{"sftp", "cat_small", far, "pierfs", 1.5, "", 0},
	{"sftp", "cat_small_16", far, "pierfs", 0.8, "", 0},
	{"sftp", "missing", far, "pierfs", 0.3, "", 0},
	{"sftp", "deep", far, "pierfs", 0.6, "", 0},
	{"sftp", "write_small", far, "pierfs", 12.6, "", 0},
	{"sftp", "write_small", far, "pierfs-bg", 0.8, "", 0},
	{"sftp", "append", far, "pierfs", 1.8, "", 0},
	{"sftp", "rename", far, "pierfs", 4.3, "", 0},
	{"sftp", "unlink", far, "pierfs", 4.3, "", 0},
	{"sftp", "write_64", far, "pierfs", 0.8, "", 0},

	// A round trip more each.
	{"ftp ftps", "read_64", far, "pierfs", 0.64, "", 0},
	{"ftp ftps", "ls_10k", far, "pierfs", 0.44, "", 0},
	{"ftp ftps", "find_tree", far, "pierfs", 1.24, "", 0},
	{"ftp ftps", "cat_small", far, "pierfs", 4.8, "", 0},
	{"ftp ftps", "cat_small", far, "pierfs-16", 1.8, "", 0},
	{"ftp ftps", "write_small", far, "pierfs-bg", 3.5, "", 0},
	{"ftp ftps", "write_small", far, "pierfs-bg-16", 1.2, "", 0},

	{"sftp", "read_512", 0, "pierfs", 0, "sshfs", 1},
	{"sftp ftp ftps", "read_512", 0, "pierfs", 0, "rclone", 1.5},
	{"sftp", "write_512", 0, "pierfs", 0, "sshfs", 1},
	{"sftp", "write_512", 0, "pierfs", 0, "rclone", 2},
	{"sftp", "stage_512", 0, "pierfs", 0, "disk", 0.5},
	{"sftp", "warm_read", 0, "pierfs", 0, "disk", 0.9},
	{"sftp", "warm_rand", 0, "pierfs", 0, "disk", 0.8},
	{"sftp", "warm_ls", 0, "pierfs", 0, "disk", 0.8},
}

// says returns what is wanted, as the table has it.
func (t target) says() string {
	text := fmt.Sprintf("%g s", t.seconds)
	if t.beside != "" {
		text = fmt.Sprintf("%gx %s", t.ratio, t.beside)
	}
	if t.peer != "pierfs" {
		text = strings.TrimPrefix(t.peer, "pierfs-") + " " + text
	}
	return text
}

// row is one work on one way to one server.
type row struct {
	work     *work
	protocol string
	trip     time.Duration
}

// result is what a peer has reached in a row: the round with the median time. One wrong answer makes all wrong.
type result struct {
	figure
	rounds int
}

func (r *run) results() map[row]map[string]result {
	all := map[row]map[string][]figure{}
	for _, f := range r.figures {
		key := row{f.work, f.protocol, f.trip}
		if all[key] == nil {
			all[key] = map[string][]figure{}
		}
		all[key][f.peer.name] = append(all[key][f.peer.name], f)
	}
	results := map[row]map[string]result{}
	for key, peers := range all {
		results[key] = map[string]result{}
		for name, figures := range peers {
			slices.SortFunc(figures, func(a, b figure) int { return cmp.Compare(a.rank(), b.rank()) })
			median := figures[(len(figures)-1)/2]
			if last := figures[len(figures)-1]; last.wrong != nil {
				median = last
			}
			results[key][name] = result{median, len(figures)}
		}
	}
	return results
}

// rank orders figures by how bad they are.
func (f figure) rank() time.Duration {
	switch {
	case f.wrong != nil:
		return 1000 * time.Hour
	case f.over:
		return 100 * time.Hour
	}
	return f.took
}

func (f figure) String() string {
	switch {
	case f.wrong != nil:
		return "wrong"
	case f.over && f.of > 0:
		return fmt.Sprintf(">%.0f (%d %%)", f.took.Seconds(), 100*f.done/f.of)
	case f.over:
		return fmt.Sprintf(">%.0f", f.took.Seconds())
	}
	return seconds(f.took)
}

// seconds writes d with three digits that count.
func seconds(d time.Duration) string {
	s := d.Seconds()
	switch {
	case s >= 100:
		return fmt.Sprintf("%.0f", s)
	case s >= 10:
		return fmt.Sprintf("%.1f", s)
	case s >= 0.1:
		return fmt.Sprintf("%.2f", s)
	}
	return fmt.Sprintf("%.4f", s)
}

// met reports whether the target is met by what was measured beside it, and whether that can be said.
func (t target) met(results map[string]result) (met, known bool) {
	ours, ok := results[t.peer]
	if !ok {
		return false, false
	}
	good := ours.wrong == nil && !ours.over
	if t.beside == "" {
		return good && ours.took.Seconds() <= t.seconds, true
	}
	theirs, ok := results[t.beside]
	return good && ours.took.Seconds()*t.ratio <= theirs.took.Seconds(), ok && theirs.wrong == nil
}

// tables writes all that was measured, one table for each way to each server.
func (r *run) tables(p plan) string {
	results := r.results()
	var text strings.Builder
	for _, protocol := range p.protocols {
		for _, trip := range p.trips {
			r.table(&text, results, protocol, trip)
		}
	}
	return text.String()
}

func (r *run) table(text *strings.Builder, results map[row]map[string]result, protocol string, trip time.Duration) {
	var names []string
	for _, e := range peers {
		if slices.ContainsFunc(works, func(w *work) bool { _, ok := results[row{w, protocol, trip}][e.name]; return ok }) {
			names = append(names, e.name)
		}
	}
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(text, "### %s, %v\n\n", title(protocol), trip)
	head := append([]string{"seconds", "target"}, names...)
	fmt.Fprintf(text, "| %s | best peer / pierfs |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)+1))
	for _, w := range works {
		cells, ok := results[row{w, protocol, trip}]
		if !ok {
			continue
		}
		wants, missed := judge(w, protocol, trip, cells)
		line := []string{w.says(r.size), wants}
		for _, name := range names {
			f, ok := cells[name]
			switch {
			case !ok:
				line = append(line, "")
			case missed[name]:
				line = append(line, "**"+f.String()+"**")
			default:
				line = append(line, f.String())
			}
		}
		fmt.Fprintf(text, "| %s | %s |\n", strings.Join(line, " | "), ratio(cells))
	}
	fmt.Fprintf(text, "\n| crossed and used | %s |\n|---|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, w := range works {
		cells, ok := results[row{w, protocol, trip}]
		if !ok {
			continue
		}
		line := []string{w.says(r.size)}
		for _, name := range names {
			if f, ok := cells[name]; ok && f.wrong == nil {
				line = append(line, f.costs())
			} else {
				line = append(line, "")
			}
		}
		fmt.Fprintf(text, "| %s |\n", strings.Join(line, " | "))
	}
	text.WriteString("\n")
}

// costs tells what crossed the link and what the peer's processes took.
func (f figure) costs() string {
	cpu := fmt.Sprintf("%.2f cpu-s", f.cpu.Seconds())
	if f.peer.does != nil {
		cpu = ""
	}
	if f.trip == 0 {
		return cpu
	}
	return strings.TrimSuffix(fmt.Sprintf("%d trips, %.1f down, %.1f up, %d conn, %s", f.crossed.Flights, float64(f.crossed.ToClient)/(1<<20),
		float64(f.crossed.ToServer)/(1<<20), f.crossed.Connections, cpu), ", ")
}

func title(protocol string) string {
	return map[string]string{"sftp": "SFTP, OpenSSH", "ftp": "FTP, vsftpd", "ftps": "FTPS (explicit TLS), vsftpd"}[protocol]
}

// judge returns the targets of a row as text, and which peers have missed theirs.
func judge(w *work, protocol string, trip time.Duration, cells map[string]result) (wants string, missed map[string]bool) {
	missed = map[string]bool{}
	var texts []string
	for _, t := range targets {
		if t.work != w.name || t.trip != trip || !slices.Contains(strings.Fields(t.protocols), protocol) {
			continue
		}
		texts = append(texts, t.says())
		if met, known := t.met(cells); known && !met {
			missed[t.peer] = true
		}
	}
	return strings.Join(texts, ", "), missed
}

// ratio compares pierfs with the best of those who are not pierfs.
func ratio(cells map[string]result) string {
	ours, ok := cells["pierfs"]
	if !ok || ours.wrong != nil || ours.over {
		return ""
	}
	best := ""
	for _, e := range peers {
		f, ok := cells[e.name]
		if !ok || strings.HasPrefix(e.name, "pierfs") || f.wrong != nil || f.over {
			continue
		}
		if best == "" || f.took < cells[best].took {
			best = e.name
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("%.2f (%s)", cells[best].took.Seconds()/ours.took.Seconds(), best)
}

// everything tells which works and peers there are.
func everything() string {
	var text strings.Builder
	text.WriteString("works:\n")
	for _, w := range works {
		fmt.Fprintf(&text, "  %-14s %s\n", w.name, w.says(full))
	}
	text.WriteString("peers:\n")
	for _, e := range peers {
		fmt.Fprintf(&text, "  %-14s %s\n", e.name, e.says)
	}
	return text.String()
}

// lookAround describes the machine and the programs, and how busy it is before anything is measured.
func lookAround(r *run, version string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s; %d x %s, %s, %s; load %s; pierfs %s; %d rounds, at most %v each\n\n", time.Now().UTC().Format("2 January 2006 15:04 UTC"),
		runtime.NumCPU(), processor(), firstLine("uname", "-sr"), fileSystem(), load(), version, *flagRounds, r.limit)
	for _, c := range [][]string{{"sshfs", "--version"}, {"rclone", "version"}, {"ssh", "-V"}, {"curl", "--version"}, {"lftp", "--version"}} {
		fmt.Fprintf(&text, "%s; ", firstLine(c[0], c[1:]...))
	}
	versions := strings.TrimSuffix(text.String(), "; ") + "\n\n"
	text.Reset()
	for _, e := range peers {
		fmt.Fprintf(&text, "- %s: %s\n", e.name, e.says)
	}
	return versions + text.String() + "\n"
}

func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return name + " is missing"
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "fusermount") { // sshfs speaks of others first
			continue
		}
		words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\n' || r == '|' })
		return strings.Join(words[:min(3, len(words))], " ")
	}
	return name
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // without it there is no name to tell
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return runtime.GOARCH
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg") // as above
	return strings.Join(strings.Fields(string(text))[:1], "")
}

func fileSystem() string { return firstLine("stat", "-f", "-c", "%T", os.TempDir()) }

// name is that of files that tell of the cell.
func (c *cell) name() string {
	return fmt.Sprintf("%s-%v-%s-%s", c.site.protocol, c.trip, c.work.name, c.peer.name)
}

// profile lets perf look at the process that serves m until the returned func is called.
func (c *cell) profile(b testing.TB, m mounted) (stop func()) {
	b.Helper()
	if c.profiles == "" || m.pid == 0 {
		return func() {}
	}
	process.Need(b, "perf")
	p := process.Start(b, exec.Command("perf", "record", "-q", "-F", "499", "-g", "-o", filepath.Join(c.profiles, c.name()+".perf"), "-p", fmt.Sprint(m.pid)))
	time.Sleep(300 * time.Millisecond) // it tells nobody when it has begun
	return func() {
		p.Signal(os.Interrupt)
		p.Wait(b, process.Patience)
	}
}
