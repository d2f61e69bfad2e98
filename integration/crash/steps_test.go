package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pierfs/integration/process"
)

// TestKilledBetweenTheStepsOfAReplacement: on a server that lets no file take the name of another the old content is moved aside first. A
// daemon that dies at any step of that leaves a file that is whole for the next one's programs from the start, and nothing beside it.
func TestKilledBetweenTheStepsOfAReplacement(t *testing.T) {
	t.Parallel()
	for _, commit := range []string{"close", "background"} {
		t.Run(commit, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, programs(t), stepwise, commit, 1, nil)
			s.road.set(newGate(aim{}, func() {}))
			s.daemon.Start(t)
			content := "the first one"
			if err := os.WriteFile(filepath.Join(s.daemon.Mount(connection), "f"), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			if status := s.daemon.Stop(t); status != 0 {
				t.Fatalf("pierfsd ends with status %d", status)
			}
			for _, site := range []string{"ftp.RNTO.asked", "ftp.RNTO.answered"} {
				for nth := 1; nth <= 3; nth++ { // it is refused, the old content goes aside, the new one has its name
					next := fmt.Sprintf("%s %d", site, nth)
					passed := 0
					g := s.begin(t, aim{fresh: func(at string) bool {
						if at == site {
							passed++
						}
						return at == site && passed == nth
					}})
					if err := s.daemon.AwaitReady(); err != nil {
						t.Fatalf("pierfsd does not become ready: %v\n%s", err, s.daemon.Log())
					}
					told := os.WriteFile(filepath.Join(s.daemon.Mount(connection), "f"), []byte(next), 0o644)
					if told == nil { // what it owes is on its way
						select {
						case <-s.daemon.Done():
						case <-time.After(process.Patience):
						}
					}
					if at := s.finish(t, g); at != site {
						t.Fatalf("the daemon was killed at %q, want the %d. %s", at, nth, site)
					}
					content = s.wholeAgain(t, next, told == nil, content)
				}
			}
		})
	}
}

// wholeAgain starts a daemon that is not killed, and returns what f holds then: next, which was acknowledged or not, or else what it held.
func (s *stage) wholeAgain(t *testing.T, next string, acked bool, was string) string {
	t.Helper()
	s.road.set(newGate(aim{}, func() {}))
	s.daemon.Start(t)
	mount := s.daemon.Mount(connection)
	names, err := namesIn(mount)
	if err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("%s: programs see %q, %v; want f alone", next, names, err)
	}
	got, err := os.ReadFile(filepath.Join(mount, "f"))
	if content := string(got); err != nil || content != next && (acked || content != was) {
		t.Errorf("%s: programs read %q, %v", next, got, err)
	}
	for late := time.Now().Add(s.patience); ; time.Sleep(5 * time.Millisecond) {
		if names, err = namesIn(s.behind); err != nil || slices.Equal(names, []string{"f"}) || time.Now().After(late) {
			break
		}
	}
	if err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("%s: the server has %q, %v; want f alone", next, names, err)
	}
	if status := s.daemon.Stop(t); status != 0 && status != somethingKept {
		t.Errorf("pierfsd ends with status %d", status)
	}
	there, err := os.ReadFile(filepath.Join(s.behind, "f"))
	if content := string(there); err != nil || content != next && (acked || content != was) {
		t.Errorf("%s: the server has %q, %v", next, there, err)
	}
	return string(there)
}

func namesIn(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
