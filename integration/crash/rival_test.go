package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A record that is nowhere is lost, unless the program itself has taken it away, or nobody could know of it; one that is in a file twice is
// doubled; what is in the hoard, beside the name or kept by the daemon is none of that.
func TestCheckerFindsWhatIsLostBesideARival(t *testing.T) {
	aside := func(c *contest, s *said, path string) error {
		return errors.Join(os.Remove(filepath.Join(c.at, s.name)), os.WriteFile(path, s.record, 0o600))
	}
	for _, p := range []struct {
		name string
		ours bool
		late bool
		harm func(c *contest, s *said) error
		want harmKind
	}{
		{name: "none", ours: true, harm: func(*contest, *said) error { return nil }},
		{"ours is gone", true, false, func(c *contest, s *said) error { return os.Remove(filepath.Join(c.at, s.name)) }, lost},
		{"theirs is gone", false, false, func(c *contest, s *said) error { return os.Remove(filepath.Join(c.at, s.name)) }, lost},
		{"ours is there twice", true, false, func(c *contest, s *said) error {
			return os.WriteFile(filepath.Join(c.at, s.name), append(slices.Clone(s.record), s.record...), 0o600)
		}, doubled},
		{"it is in the hoard", true, false, func(c *contest, s *said) error { return aside(c, s, filepath.Join(c.hoard, "1")) }, ""},
		{"it is beside", true, false, func(c *contest, s *said) error {
			return aside(c, s, filepath.Join(c.at, s.name+".conflict-here"))
		}, ""},
		{"it is kept", true, true, func(c *contest, s *said) error { return aside(c, s, filepath.Join(c.state, "1.data")) }, ""},
		{"the program removed it", false, true, func(c *contest, s *said) error {
			return c.do("unlink", s.name, "", func() error { return os.Remove(filepath.Join(c.at, s.name)) })
		}, ""},
		{"the program renamed another to it", false, true, func(c *contest, s *said) error {
			return c.do("rename", "c5", s.name, func() error { return os.Remove(filepath.Join(c.at, s.name)) })
		}, ""},
		{"it was replaced unseen", false, true, func(c *contest, s *said) error {
			c.asked[s.name] = s.begin.Add(-time.Second)
			c.hear("ftp.RNTO.asked", []string{"contested/" + s.name})
			return os.Remove(filepath.Join(c.at, s.name))
		}, ""},
		{"it was replaced behind a question", false, true, func(c *contest, s *said) error {
			c.hear("ftp.SIZE.asked", []string{"contested/" + s.name})
			c.hear("ftp.RNTO.asked", []string{"contested/" + s.name})
			return os.Remove(filepath.Join(c.at, s.name))
		}, lost},
	} {
		t.Run(p.name, func(t *testing.T) {
			c := &contest{
				at: t.TempDir(), hoard: t.TempDir(), state: t.TempDir(), late: p.late, ours: rand.New(rand.NewPCG(1, 1)), theirs: rand.New(rand.NewPCG(1, 2)),
				sum: map[string]int{}, asked: map[string]time.Time{},
			}
			s := c.say("c1", p.ours)
			if err := os.WriteFile(filepath.Join(c.at, s.name), s.record, 0o600); err != nil {
				t.Fatal(err)
			}
			c.isSaid(s)
			if err := p.harm(c, s); err != nil {
				t.Fatal(err)
			}
			harms := c.judge()
			if got := kinds(harms); p.want == "" && len(got) > 0 || p.want != "" && !slices.Equal(got, []string{string(p.want)}) {
				t.Errorf("the checker finds %v, want %q", harms, p.want)
			}
		})
	}
}
