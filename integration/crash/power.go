package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/integration/power"
)

// powerFails has the power fail whenever the daemon is killed, which then dies at steps of its disk, too. The daemon must not have
// been started yet.
func (s *stage) powerFails(t *testing.T) {
	t.Helper()
	dir := filepath.Join(s.daemon.Dir, "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.disk = power.New(t, dir, func(step power.Step) bool { return !s.road.now().pass(diskSite(step)) })
	s.daemon.StateDir, s.daemon.CacheDir = filepath.Join(dir, "state"), filepath.Join(dir, "cache")
}

// diskSite is what a step of the disk is called.
func diskSite(step power.Step) string {
	site := "disk." + string(step.Op) + "." + diskName(step.Path) + ".before"
	if step.Made {
		site = strings.TrimSuffix(site, "before") + "after"
	}
	return site
}

// diskName is what kind of file or directory bears the name.
func diskName(path string) string {
	base := filepath.Base(path)
	switch {
	case strings.HasPrefix(path, "cache/"):
		return "cache"
	case base == connection:
		return "staging"
	case filepath.Base(filepath.Dir(path)) == "objects":
		return "object"
	case filepath.Ext(base) == ".data":
		return "content"
	case filepath.Ext(base) == ".json":
		return "note"
	}
	return strings.Trim(base, ".-~0123456789")
}

// blackOut has the power fail, if it does.
func (s *stage) blackOut() {
	if s.disk != nil {
		s.disk.Fail()
	}
}

// powerUp brings the power back, behind a daemon's end.
func (s *stage) powerUp(t *testing.T) {
	t.Helper()
	if s.disk == nil {
		return
	}
	var chance *rand.Rand
	if s.rng.IntN(2) == 0 {
		chance = s.rng
	}
	dropped, err := s.disk.Return(chance)
	if err != nil {
		t.Fatal(err)
	}
	s.sum.dropped += dropped
}

// clearUp removes temporary names from the server. Which ones were in use is not worth a sync for each upload: behind a failure of
// the power they stay until they are a day old.
func (s *stage) clearUp(t *testing.T, temps []string) {
	t.Helper()
	for _, temp := range temps {
		if err := os.Remove(filepath.Join(s.behind, temp)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}
