package fs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is a shell in the mount that is told line by line what to do.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a shell with its working directory outside the mount ($MNT).
func (r *rig) start() *program {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	p := &program{t: r.t, cmd: exec.CommandContext(ctx, "bash")}
	p.cmd.Env = append(os.Environ(), "MNT="+r.dir)
	p.cmd.WaitDelay = time.Second
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		p.in.Close()
		p.cmd.Process.Kill()
		p.cmd.Wait()
		cancel()
	})
	return p
}

// send gives the shell a line and does not wait.
func (p *program) send(line string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
}

// do gives the shell a line and returns what that printed, one line, and its exit status.
func (p *program) do(line string) string {
	p.t.Helper()
	p.send(`{ ` + line + `; } 2>&1 | tr '\n' ' '; echo "[${PIPESTATUS[0]}]"`)
	return p.read()
}

// here is do in the shell itself, not in a child: for exec of descriptors.
func (p *program) here(line string) {
	p.t.Helper()
	p.send(line + "\necho [$?]")
	if got := p.read(); got != "[0]" {
		p.t.Fatalf("%s: %s", line, got)
	}
}

func (p *program) read() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the shell ended: %v", err)
	}
	return strings.TrimSpace(strings.ReplaceAll(line, " [", "["))
}

func (p *program) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}
