package meter_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/mem"
	"pierfs/backends/meter"
)

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		return meter.New(mem.New(mem.Options{}), func(backends.Call) {})
	}, backendtest.Options{Beside: true})
}

func TestEveryCallIsTold(t *testing.T) {
	var mu sync.Mutex
	told := []string{}
	server := mem.New(mem.Options{})
	b := meter.New(server, func(c backends.Call) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, c.Op)
	})
	ctx := t.Context()
	w, err := b.Create(ctx, "file", backends.WriteMode{TempName: ".temp"})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		second(w.WriteAt(ctx, []byte("12345"), 0)), w.Truncate(ctx, 5), w.Sync(ctx), second(w.Commit(ctx, backends.Commit{Size: 5})),
		second(b.Stat(ctx, "file")), second(b.SetAttr(ctx, "file", backends.Attr{})), b.Mkdir(ctx, "dir", 0o755),
		b.Symlink(ctx, "file", "link"), second(b.Readlink(ctx, "link")), b.Link(ctx, "file", "other"),
		b.Rename(ctx, "other", "moved", backends.Replace), b.Remove(ctx, "moved"), b.Rmdir(ctx, "dir"), second(b.StatFS(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.Open(ctx, "file")
	if err != nil {
		t.Fatal(err)
	}
	r.Stat(ctx)
	r.ReadAt(ctx, make([]byte, 3), 0)
	if _, _, err := r.ReadLast(ctx, make([]byte, 10), 3); err != io.EOF {
		t.Errorf("ReadLast: got %v, want EOF", err)
	}
	for range b.List(ctx, "") {
	}
	u, err := b.Update(ctx, "file")
	if err != nil {
		t.Fatal(err)
	}
	u.Abort()
	if _, err := b.Stat(ctx, "nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want ENOENT", err)
	}

	const want = "create writeat truncate sync commit stat setattr mkdir symlink readlink link rename remove rmdir statfs " +
		"open fstat readat readlast list update abort stat"
	if got := strings.Join(told, " "); got != want {
		t.Errorf("told\n%s, want\n%s", got, want)
	}
	if got, want := b.Totals(), (meter.Totals{Calls: 23, Failures: 1, Read: 5, Written: 5}); got != want {
		t.Errorf("totals: got %+v, want %+v", got, want)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAListingIsTimedWithoutItsConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took time.Duration
		server := mem.New(mem.Options{Fault: func(_ context.Context, op, _ string) error {
			if op == "entry" {
				time.Sleep(time.Second)
			}
			return nil
		}})
		server.WriteFile("a", nil)
		server.WriteFile("b", nil)
		b := meter.New(server, func(c backends.Call) { took = c.Took })
		for range b.List(t.Context(), "") {
			time.Sleep(time.Minute)
		}
		if took != 2*time.Second {
			t.Errorf("took %v, want 2 s", took)
		}
	})
}
