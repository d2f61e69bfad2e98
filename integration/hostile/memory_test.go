package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"pierfs/backends"
)

// most is what a process may have in memory, whatever a server sends (row four of the threat table).
const most = 512 << 20

// The tests of this file measure the memory of this process, server included, and so do not run beside others.

// peak calls f and returns the largest resident size that the process had meanwhile.
func peak(t *testing.T, f func()) int64 {
	t.Helper()
	debug.FreeOSMemory()                                                          // of tests before
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // proc(5): reset the peak
		t.Fatal(err)
	}
	f()
	return highWater(t, "self")
}

// highWater returns VmHWM of a process.
func highWater(t *testing.T, pid string) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte(" kB"))), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no VmHWM in\n%s", status)
	return 0
}

// mostNames is how many entries one listing may have, whatever a server sends.
const mostNames = 1 << 20

var errTooMany = errors.New("more names than one listing may have")

// TestEndlessListing: a listing without an end is an error, after a million names, 30 seconds or half a gigabyte at most.
func TestEndlessListing(t *testing.T) {
	for _, length := range []int{10, 255} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			s := New(t, Manner{})
			furnish(s)
			connect(t, s, func(c *connection) {
				c.warm()
				s.Behave(Manner{Rules: []Rule{ListsForEver(length)}})
				n := 0
				var err error
				size := peak(t, func() {
					err = c.within(30*time.Second, "list", func(ctx context.Context) error {
						for _, err := range c.List(ctx, "dir") {
							if err != nil {
								return err
							}
							if n++; n > mostNames {
								return errTooMany
							}
						}
						return nil
					})
				})
				if err == nil || errors.Is(err, errTooMany) {
					t.Errorf("%d names of an endless listing: %v", n, err)
				}
				if size > most {
					t.Errorf("%d names took %d MiB", n, size>>20)
				}
				t.Logf("%d names, %d MiB, %v", n, size>>20, err)
				s.Behave(Manner{})
				c.recovers()
			})
		})
	}
}

// TestListingIsLeftAtOnce: who leaves an endless listing after one name, or whose context ends, is not held up by it, and
// other calls go on beside it.
func TestListingIsLeftAtOnce(t *testing.T) {
	s := New(t, Manner{})
	furnish(s)
	connect(t, s, func(c *connection) {
		c.warm()
		s.Behave(Manner{Rules: []Rule{ListsForEver(100)}})
		for range 50 {
			if err := c.within(time.Second, "the first name", func(ctx context.Context) error {
				for _, err := range c.List(ctx, "dir") {
					return err
				}
				return nil
			}); err != nil {
				t.Fatalf("the first name: %v", err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		begun := make(chan struct{})
		ended := make(chan error, 1)
		go func() { // ends with ctx
			n := 0
			for _, err := range c.List(ctx, "dir") {
				if n++; n == 1000 {
					close(begun)
				}
				if err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
		<-begun
		if err := c.bounded("stat beside it", func(ctx context.Context) error { return stat(ctx, c) }); err != nil {
			t.Errorf("stat beside an endless listing: %v", err)
		}
		cancel()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the listing ended without an error when its context had")
			}
		case <-time.After(time.Second):
			t.Error("the listing goes on when its context has ended")
		}
		if err := c.bounded("stat after it", func(ctx context.Context) error { return stat(ctx, c) }); err != nil {
			t.Errorf("stat after an endless listing: %v", err)
		}
	})
}

// TestBombs: what else a server can send without an end, or say that it will, costs no memory.
func TestBombs(t *testing.T) {
	for name, m := range map[string]Manner{
		"greeting":       {Wire: SaysForEver("hello\r\n")},
		"line":           {Wire: SaysForEver("A")},
		"4 GiB packet":   {Rules: []Rule{Sends(append(number(1<<32-1), bytes.Repeat([]byte{kindStatus}, 1<<20)...), allOps()...)}},
		"256 KiB status": {Rules: []Rule{Answers(kindStatus, append(number(4), text(string(make([]byte, 255<<10)))...), allOps()...)}},
		"2^32-1 names":   {Rules: []Rule{Answers(kindName, number(1<<32-1), allOps()...)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(t, m)
			furnish(s)
			connect(t, s, func(c *connection) {
				size := peak(t, func() {
					for range 3 {
						for _, call := range calls {
							err := c.does(call, call.name)
							if err == nil {
								t.Errorf("%s succeeded", call.name)
							}
							if e, ok := errors.AsType[*backends.Error](err); ok && len(e.Error()) > 4096 {
								t.Errorf("the error of %s is %d bytes long", call.name, len(e.Error()))
							}
						}
					}
				})
				if size > most/2 {
					t.Errorf("it took %d MiB", size>>20)
				}
				if n := c.log.size(); n > 1<<20 {
					t.Errorf("the log has %d bytes of it", n)
				}
			})
		})
	}
}
