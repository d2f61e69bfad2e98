package transfer

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
)

// serve answers for a daemon, and returns a client of it.
func serve(t *testing.T, with func(*control.Server)) *control.Client {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	s := control.NewServer(slog.New(slog.DiscardHandler))
	with(s)
	l, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l, time.Second) }()
	c := control.NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		cancel()
		<-ended
	})
	return c
}

// A server that names files elsewhere, or shows a directory where it had shown a link, reaches nothing beside the directory that was named.
func TestHostileNamesStayBelow(t *testing.T) {
	outside := t.TempDir()
	target := control.Name(outside)
	c := serve(t, func(s *control.Server) {
		control.Ls.Serve(s, func(_ context.Context, q control.LsRequest, send func(control.File) error) error {
			files := []control.File{{Name: "../up", Type: "file"}, {Name: "..", Type: "directory"}, {Name: "/abs", Type: "file"}, {Name: "a/b", Type: "file"},
				{Name: "trap", Type: "symlink", Target: &target}, {Name: "trap", Type: "directory"}, {Name: "good", Type: "file", Size: 3}}
			if q.Path != "/" {
				files = []control.File{{Name: "f", Type: "file", Size: 3}}
			}
			for _, f := range files {
				if err := send(f); err != nil {
					return err
				}
			}
			return nil
		})
		control.Get.Serve(s, func(_ context.Context, q control.GetRequest, start func(control.Got) (io.Writer, error)) error {
			w, err := start(control.Got{File: control.File{Name: "f", Type: "file", Size: 3}})
			if err == nil {
				_, err = io.WriteString(w, "bad")
			}
			return err
		})
	})
	local := filepath.Join(t.TempDir(), "in")
	totals, err := GetTree(t.Context(), Options{Client: c, Remote: control.FileRequest{Path: "/"}, Local: local})
	if err != nil {
		t.Fatal(err)
	}
	if totals.Files != 1 || totals.Failed != 5 || totals.Links != 1 {
		t.Errorf("of seven entries %+v; want one file, one link, and five that are refused", totals)
	}
	for _, dir := range []string{outside, filepath.Dir(local)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "in" {
				t.Errorf("%s was made outside", e.Name())
			}
		}
	}
}

// A local file that changes while it is read is given up before the daemon takes it for whole.
func TestChangedFileIsNotSent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("begun"), 0o644); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	c := serve(t, func(s *control.Server) {
		control.Put.Serve(s, func(_ context.Context, q control.PutRequest, body io.Reader) (control.File, error) {
			if _, err := io.ReadFull(body, make([]byte, 5)); err != nil {
				return control.File{}, err
			}
			if err := os.WriteFile(name, []byte("other"), 0o644); err != nil {
				return control.File{}, err
			}
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(name, old, old); err != nil {
				return control.File{}, err
			}
			_, err := io.ReadAll(body)
			ended <- err
			return control.File{}, err
		})
	})
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	slow := func(r io.Reader, _ int64) io.Reader { return io.MultiReader(io.LimitReader(r, 5), &later{r, name}) }
	_, err = Put(t.Context(), c, control.PutRequest{}, file, slow)
	if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("put of a file that changed ends with %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the daemon takes the file for whole")
	}
}

// later reads on once the file's time shows that somebody has written to it.
type later struct {
	r    io.Reader
	name string
}

func (l *later) Read(p []byte) (int, error) {
	for {
		info, err := os.Stat(l.name)
		if err != nil {
			return 0, err
		}
		if time.Since(info.ModTime()) > time.Minute {
			return l.r.Read(p)
		}
		time.Sleep(time.Millisecond)
	}
}

// What was remembered is there the next time, also behind a line that a crash has torn; and one process has it at a time.
func TestLedgerOutlivesTheProcess(t *testing.T) {
	name := filepath.Join(t.TempDir(), "transfers", "l.jsonl")
	l, err := OpenLedger(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.add("one", "a\nb"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLedger(name); control.CodeOf(err) != control.Busy {
		t.Errorf("a second process gets %v; want it told that the first is at it", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	torn, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"key":"00`); err != nil {
		t.Fatal(err)
	}
	torn.Close()
	if l, err = OpenLedger(name); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.add("two", "c"); err != nil {
		t.Fatal(err)
	}
	if !l.has("one") || !l.has("two") || l.has("three") {
		t.Errorf("it remembers one: %v, two: %v, three: %v", l.has("one"), l.has("two"), l.has("three"))
	}
}
