package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
)

// lostAppend is an append of which a client never hears what became of it: a step at site does not happen. The server may have the
// bytes or not.
type lostAppend struct {
	protocol protocol
	commit   string
	site     string
	others   bool // somebody else appends at that moment
}

// TestAnswerToAnAppendIsLost: what was appended is on the server once, or in quarantine if nobody can tell, and never twice.
func TestAnswerToAnAppendIsLost(t *testing.T) {
	t.Parallel()
	for p, sites := range map[protocol][]string{sftp: {"sftp.write.asked", "sftp.write.answered"}, ftp: {"ftp.APPE.asked", "ftp.APPE.answered"}} {
		for _, site := range sites {
			for _, others := range []bool{false, true} {
				for _, commit := range []string{"close", "background"} {
					l := lostAppend{p, commit, site, others}
					t.Run(fmt.Sprint(commit, " ", site, " others ", others), func(t *testing.T) {
						t.Parallel()
						l.run(t)
					})
				}
			}
		}
	}
}

const ours, theirs = "ours\n", "theirs\n"

func (l lostAppend) run(t *testing.T) {
	s := newStage(t, programs(t), l.protocol, l.commit, 1, daemon.Fields{"timeout": 1})
	served := filepath.Join(s.behind, "log")
	if err := os.WriteFile(served, []byte("one\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(served, 0o666); err != nil { // it is not the login's
		t.Fatal(err)
	}
	var lost atomic.Bool
	g := newGate(aim{fresh: func(site string) bool { return site == l.site }}, func() {
		lost.Store(true)
		if l.others {
			if err := addTo(served, theirs); err != nil {
				t.Error(err)
			}
		}
	})
	s.road.set(g)
	s.daemon.Start(t)
	told := addTo(filepath.Join(s.daemon.Mount(connection), "log"), ours)
	status := s.daemon.Stop(t) // which sends what is owed
	content, err := os.ReadFile(served)
	if err != nil {
		t.Fatal(err)
	}
	kept := s.keeps(t, ours)
	t.Logf("the server has %q, quarantine %v, close: %v", content, kept, told)

	if !lost.Load() {
		t.Errorf("nothing was lost at %s", l.site)
	}
	rest, ok := strings.CutPrefix(string(content), "one\n")
	if times(rest) > 1 || !ok || times(rest) == 0 && !kept {
		t.Errorf("the server has %q, quarantine %v: want it once, or kept", content, kept)
	}
	if others := strings.Count(rest, theirs); others != 0 != l.others || len(rest) != others*len(theirs)+times(rest)*len(ours) {
		t.Errorf("the server has %q: want theirs, if there is any, untouched", content)
	}
	if kept && !l.others && times(rest) == 0 {
		t.Error("nobody else wrote, and it is in quarantine alone")
	}
	want := 0
	if kept {
		want = somethingKept
	}
	if status != want {
		t.Errorf("pierfsd ends with status %d, want %d", status, want)
	}
	if refused := kept && l.commit == "close"; refused != errors.Is(told, syscall.ESTALE) || !refused && told != nil {
		t.Errorf("close: %v, want ESTALE: %v", told, refused)
	}
}

// times counts how often a content has what was appended.
func times(content string) int { return strings.Count(content, ours) }

// addTo appends text to the file name.
func addTo(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return closing(f, err)
}

// keeps reports whether a content that ends with text is in quarantine.
func (s *stage) keeps(t *testing.T, text string) bool {
	t.Helper()
	kept, err := filepath.Glob(filepath.Join(s.daemon.StateDir, "quarantine", "env", daemon.Environment, connection, "*.data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range kept {
		if content, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		} else if bytes.HasSuffix(content, []byte(text)) {
			return true
		}
	}
	return false
}
