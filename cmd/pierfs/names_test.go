package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"

	"pierfs/cmd/internal/control"
)

// interrupted runs a command that Ctrl-C ends when ready is closed.
func (s *stand) interrupted(ready <-chan struct{}, args ...string) (status int, errOut string) {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	var waiting sync.WaitGroup
	waiting.Go(func() {
		<-ready
		cancel()
	})
	var stdout, stderr bytes.Buffer
	status = run(ctx, append([]string{"--runtime-dir", s.run}, args...), strings.NewReader(""), &stdout, &stderr)
	waiting.Wait()
	return status, stderr.String()
}

// A removal that is cut short tells how far it came, what is left, and how it goes on: by Ctrl-C, or because the server has gone.
func TestInterruptedRemovalTellsHowFarItCame(t *testing.T) {
	sent := make(chan struct{})
	var once sync.Once
	s := newStand(t, func(s *control.Server) {
		control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
			return control.StatusAnswer{}, nil
		})
		control.Rm.Serve(s, func(ctx context.Context, q control.RmRequest, send func(control.Removal) error) error {
			for _, name := range []control.Name{"/d/a/1", "/d/a/2"} {
				if err := send(control.Removal{Path: name, Type: "file", Size: 5, Found: 6}); err != nil {
					return err
				}
			}
			if err := send(control.Removal{Path: "/d/a", Type: "directory", Found: 6}); err != nil {
				return err
			}
			if q.Connection == "away" {
				return control.Errorf(control.Offline, "the server has gone").WithHint("see `pierfs list`")
			}
			for ctx.Err() == nil { // more than what lies between holds: the hand has read some of it
				for range 20_000 {
					if err := send(control.Removal{Path: "/d/" + control.Name(strings.Repeat("x", 50)), Type: "file", Found: 1_000_000}); err != nil {
						return err
					}
				}
				once.Do(func() { close(sent) })
			}
			return ctx.Err()
		})
	})
	far := "2 files and 1 directory are removed, and at least 3 names are left\n"
	status, text := s.interrupted(sent, "rm", "-r", "bank:/d")
	if status != 74 || !regexp.MustCompile(`interrupted; \d+ files and 1 directory are removed, and at least \d+ names are left\n`).MatchString(text) || !strings.Contains(text, "`pierfs rm -r bank:/d` goes on with it") {
		t.Errorf("an interrupted rm -r ends with %d and says\n%s; want how far it came", status, text)
	}
	status, _, text = s.hand("", "rm", "-r", "away:/d")
	if status != 75 || !strings.Contains(text, "the server has gone; "+far) || !strings.Contains(text, "see `pierfs list`; then `pierfs rm -r away:/d` goes on") {
		t.Errorf("rm -r whose server goes ends with %d and says\n%s; want how far it came", status, text)
	}
}

// A renaming whose answer is lost is looked after: the failure says which name it has.
func TestInterruptedRenamingTellsWhichNameItHas(t *testing.T) {
	for _, c := range []struct{ name, has, want string }{
		{"not made", "from", "; nothing was renamed\n  the same command tries it again\n"},
		{"made", "to", "; all of it has the new name\n  there is nothing left to be done\n"},
		{"not known", "", "; whether it was renamed is not known: a server renames all of it or nothing\n  `pierfs stat bank:from` tells"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := make(chan struct{})
			s := newStand(t, func(s *control.Server) {
				control.Status.Serve(s, func(context.Context, control.StatusRequest) (control.StatusAnswer, error) {
					return control.StatusAnswer{}, nil
				})
				control.Mv.Serve(s, func(ctx context.Context, q control.MvRequest) (control.Done, error) {
					close(sent)
					<-ctx.Done()
					return control.Done{}, ctx.Err()
				})
				control.Stat.Serve(s, func(_ context.Context, q control.FileRequest) (control.File, error) {
					switch {
					case c.has == "":
						return control.File{}, control.Errorf(control.Offline, "the server is away")
					case string(q.Path) == c.has:
						return control.File{Name: q.Path, Type: "directory"}, nil
					}
					return control.File{}, control.Errorf(control.NotFound, "no such file")
				})
			})
			if status, text := s.interrupted(sent, "mv", "bank:from", "bank:to"); status != 74 || !strings.Contains(text, "interrupted"+c.want) {
				t.Errorf("it ends with %d and says\n%s; want %q", status, text, c.want)
			}
		})
	}
}
