package fs

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/backends/mem"
	"pierfs/cache"
)

// TestOpenThatMeetsARenameReadsTheNewFile: the kernel asks for a node whose name the server has just given to another file, of
// the same size and second. Whether or not somebody holds the old one open, the old content is not read any more.
func TestOpenThatMeetsARenameReadsTheNewFile(t *testing.T) {
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprintf("held open %t", held), func(t *testing.T) { openWhileRenamed(t, held) })
	}
}

func openWhileRenamed(t *testing.T, held bool) {
	r := newRig(t, rigOptions{
		mem:   mem.Options{Known: backends.HasType | backends.HasPerm | backends.HasSize | backends.HasModTime},
		cache: cache.Options{MetadataTTL: time.Minute, NegativeTTL: time.Minute},
	})
	r.sh(`printf old > f; printf new > g; touch -d @1000000000 f g; cat f`)
	old := r.start()
	if held {
		old.here(`exec 3< "$MNT/f"`)
	}
	renamed, told := make(chan struct{}), make(chan struct{})
	r.server.SetAfter(func(_ context.Context, op, name string) error {
		if op == "rename" {
			close(renamed)
			<-told
		}
		return nil
	})
	mover, reader := r.start(), r.start()
	mover.send(`mv "$MNT/g" "$MNT/f"; echo moved $?`)
	<-renamed
	before := r.mount.Stats().Requests
	reader.send(`cat "$MNT/f"; echo`)
	for deadline := time.Now().Add(20 * time.Second); r.mount.Stats().Requests == before && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // a poll, bounded: the open is under way
	}
	close(told)
	if got := reader.read(); got != "new" {
		t.Errorf("read %q, want the new content", got)
	}
	if got := mover.read(); got != "moved 0" {
		t.Error(got)
	}
	r.want(`cat f`, "new")
	if held {
		if got := old.do(`cat <&3; cat /proc/self/fd/3`); got != "oldold[0]" {
			t.Errorf("who has the old file open reads %q", got)
		}
	}
}
