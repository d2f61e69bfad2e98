package fs

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pierfs/backends/mem"
)

// publications counts how often content was begun to be brought to the server.
type publications struct {
	mu    sync.Mutex
	count int
}

func (p *publications) hook(_ context.Context, op, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if op == "create" || op == "update" {
		p.count++
	}
	return nil
}

func (p *publications) take() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.count
	p.count = 0
	return n
}

func TestClosePublishesOnceWhatProgramsMean(t *testing.T) {
	var sent publications
	r := newRig(t, rigOptions{mem: mem.Options{Fault: sent.hook}})
	for _, c := range []struct {
		what, script, file, content string
		most                        int
	}{
		{"a redirected echo, whose shell closes a copy before it writes", `echo a > f`, "f", "a\n", 1},
		{"the same over an existing file", `echo b > f`, "f", "b\n", 1},
		{"an appending redirection", `echo c >> f`, "f", "b\nc\n", 1},
		{"touch, which closes a copy of what it made", `touch t`, "t", "", 1},
		{"an empty redirection", `: > e`, "e", "", 1},
		{"dd onto a copy of its output", `dd if=/dev/zero of=d bs=3 count=1 status=none`, "d", "\x00\x00\x00", 1},
		{"children that come and go while a shell has written", `{ echo 1; sleep 0; (exit 0); /bin/echo 2; (echo 3); } > g`, "g", "1\n2\n3\n", 1},
		{"a child that writes for a shell which has closed the file", `exec 3> h; bash -c 'while [ -e /proc/$PPID/fd/3 ]; do :; done; echo late >&3' & exec 3>&-; wait`, "h", "late\n", 2},
		{"sort onto its own input", `printf 'b\na\n' > s; sort -o s s`, "s", "a\nb\n", 2},
	} {
		sent.take()
		r.sh(c.script)
		if got := r.onServer(c.file); got != c.content {
			t.Errorf("%s (%s): the server has %q, want %q", c.what, c.script, got, c.content)
		}
		if times := sent.take(); times > c.most {
			t.Errorf("%s (%s): published %d times, want at most %d", c.what, c.script, times, c.most)
		}
	}
}

func TestCloseTellsThatTheServerIsFull(t *testing.T) {
	r := newRig(t, rigOptions{mem: mem.Options{Size: 1 << 20}})
	r.sh(`echo old > f`)
	out, err := r.try(`head -c 2000000 /dev/zero > big; cp big f2; echo "exit $?"`)
	if err == nil || !strings.Contains(out, "No space left on device") {
		t.Errorf("2 MB onto a server of 1 MiB: %v %q, want ENOSPC", err, out)
	}
	out, err = r.try(`head -c 2000000 /dev/zero > f`)
	if err == nil || !strings.Contains(out, "No space left on device") {
		t.Errorf("2 MB over an old file: %v %q, want ENOSPC", err, out)
	}
	if got := r.onServer("f"); got != "old\n" {
		t.Errorf("the old file has become %d bytes", len(got))
	}
	if owed := r.tree.Owed(); owed.Quarantined != 0 {
		t.Errorf("%d contents kept, of whose failure programs were told", owed.Quarantined)
	}
}

func TestReadOnlySendsNoChange(t *testing.T) {
	var sent publications
	r := newRig(t, rigOptions{mem: mem.Options{Fault: sent.hook}, fs: Options{ReadOnly: true}})
	for _, script := range []string{`touch f`, `mkdir d`, `chmod 700 .`, `echo > f`, `ln -s a b`} {
		if out, err := r.try(script); err == nil || !strings.Contains(out, "Read-only file system") {
			t.Errorf("%s: %v %q, want EROFS", script, err, out)
		}
	}
	for op := range r.server.Calls() {
		if op != "stat" && op != "list" && op != "entry" {
			t.Errorf("the server was asked to %s", op)
		}
	}
	r.want(`grep -c " $MNT fuse.pierfs ro," /proc/mounts`, "1")
}

func TestTruncateByPathIsOnTheServerWhenItReturns(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.sh(`echo "0123456789" > f; exec 3< f; truncate -s 4 f; exec 3<&-`)
	if got := r.onServer("f"); got != "0123" {
		t.Errorf("cut while a reader had it open: the server has %q", got)
	}
	r.sh(`python3 -c '
import os
fd = os.open("g", os.O_RDWR|os.O_CREAT)
os.truncate("g", 7)
os.write(1, b"cut")
os.read(0, 1)
' < /dev/zero`)
	if got := r.onServer("g"); len(got) != 7 {
		t.Errorf("stretched by path: the server has %d bytes, want 7", len(got))
	}
}

// TestFailedCloseLeavesNothingOfItself: what a program was told did not arrive is seen by nobody afterwards, neither through
// pages that the kernel kept nor as a name.
func TestFailedCloseLeavesNothingOfItself(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.sh(`echo "old content" > f; cat f`)
	r.server.SetFault(func(_ context.Context, op, _ string) error {
		if op == "create" {
			return syscall.EDQUOT
		}
		return nil
	})
	for _, script := range []string{`head -c 12 /dev/zero > f`, `head -c 1 /dev/zero > made`} {
		if out, err := r.try(script); err == nil || !strings.Contains(out, "quota") {
			t.Errorf("%s: %v %q, want EDQUOT", script, err, out)
		}
	}
	r.want(`cat f`, "old content")
	r.want(`python3 -c '
for i in range(50): # RELEASE follows close(2) some time later
    f = open("f", "w"); f.write("NEW CONTENT")
    try: f.close(); print("closed")
    except OSError: pass
    g = open("f"); c = g.read(); g.close()
    if c != "old content\n": print(i, c)
'`, "")
	r.server.SetFault(nil)
	r.sh(`echo y > made`)
	if got := r.onServer("made"); got != "y\n" {
		t.Errorf("a file created after a failed creation has %q on the server", got)
	}
}
