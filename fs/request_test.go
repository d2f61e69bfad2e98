package fs

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends/mem"
)

// block makes every question about a name wait until it is let go or its context ends.
type block struct {
	name    string
	entered chan struct{}
	letGo   chan struct{}
	ended   chan error
}

func newBlock(name string) *block {
	return &block{name: name, entered: make(chan struct{}, 16), letGo: make(chan struct{}), ended: make(chan error, 16)}
}

func (b *block) hook(ctx context.Context, op, name string) error {
	if name != b.name {
		return nil
	}
	b.entered <- struct{}{}
	select {
	case <-b.letGo:
		return nil
	case <-ctx.Done():
		b.ended <- ctx.Err()
		return ctx.Err()
	}
}

func TestInterruptEndsWhatAProgramWaitsFor(t *testing.T) {
	b := newBlock("f")
	r := newRig(t, rigOptions{mem: mem.Options{Fault: b.hook}})
	p := r.start()
	p.send(`exec stat "$MNT/f"`)
	<-b.entered
	p.signal(syscall.SIGINT)
	select {
	case <-b.ended:
	case <-time.After(5 * time.Second):
		t.Fatal("a stat(2) that waits for the server is not ended by SIGINT")
	}
	if err := p.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("stat ended with %v, want the signal", err)
	}
}

func TestSignalThatAProgramHandlesInterruptsNothing(t *testing.T) {
	b := newBlock("f")
	r := newRig(t, rigOptions{mem: mem.Options{Fault: b.hook}})
	p := r.start()
	p.here(`trap 'echo handled' WINCH`)
	p.send(`[ -e "$MNT/f" ]; echo "answer $?"`)
	<-b.entered
	p.signal(syscall.SIGWINCH)
	select {
	case err := <-b.ended:
		t.Fatalf("the request was ended by SIGWINCH: %v", err)
	case <-time.After(3 * interruptPoll): // it looks at once, and every interruptPoll
	}
	close(b.letGo)
	if first, second := p.read(), p.read(); first != "answer 1" && second != "answer 1" {
		t.Errorf("the program got %q and %q, want the answer that there is no such file", first, second)
	}
}

func TestKilledProgramDoesNotWaitForItsUpload(t *testing.T) {
	b := newBlock("f")
	r := newRig(t, rigOptions{mem: mem.Options{}})
	p := r.start()
	p.here(`exec 3> "$MNT/f"; echo content >&3`)
	r.sh(`echo full > f`) // the name exists
	r.server.SetFault(func(ctx context.Context, op, name string) error {
		if op == "create" || op == "update" {
			return b.hook(ctx, op, name)
		}
		return nil
	})
	p.here(`echo more >&3 & wait`)
	p.send(`exec 3>&-`)
	<-b.entered
	p.signal(syscall.SIGKILL)
	p.cmd.Wait()
	close(b.letGo)
	if err := r.unmount(10 * time.Second); err != nil {
		t.Errorf("unmount: %v", err)
	}
	if got := r.onServer("f"); !strings.Contains(got, "more") {
		t.Errorf("the server has %q: the upload of a killed program was given up", got)
	}
}

func TestSlowServerDoesNotHoldUpDf(t *testing.T) {
	b := newBlock("")
	r := newRig(t, rigOptions{mem: mem.Options{Fault: func(ctx context.Context, op, name string) error {
		if op == "statfs" {
			return b.hook(ctx, op, name)
		}
		return nil
	}}})
	begun := time.Now()
	out := strings.Fields(r.sh(`stat -f -c '%b %f %c %d %l' .`))
	if took := time.Since(begun); took > 3*spacePatient {
		t.Errorf("statfs took %v", took)
	}
	for _, field := range out {
		if field == "0" {
			t.Errorf("statfs shows %v; nothing may be zero", out)
		}
	}
	close(b.letGo)
}

func TestPendingSignalsAreReadFromProc(t *testing.T) {
	self, err := readProcStatus(uint32(os.Getpid()))
	if err != nil || self.tgid != uint32(os.Getpid()) {
		t.Errorf("of ourselves: %+v, %v", self, err)
	}
	if wantedToStop(uint32(os.Getpid())) || wantedToStop(0) {
		t.Error("nobody wants us to stop")
	}
}
