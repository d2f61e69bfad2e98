package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"pierfs/cmd/internal/control"
)

func TestCacheCommands(t *testing.T) {
	var asked []string
	s := newStand(t, func(s *control.Server) {
		control.CacheStatus.Serve(s, func(_ context.Context, q control.CacheRequest) (control.CacheAnswer, error) {
			asked = append(asked, "status "+q.Name+" "+q.Environment)
			return control.CacheAnswer{Dir: "/c/content", Files: 3, Bytes: 3 << 20, Size: 4 << 30, Connections: []control.Cached{
				{Name: "bank", Environment: "Test", Files: 2, Bytes: 1536, Hits: 3, Misses: 1, FromServer: 100, Wasted: 5 << 30}}}, nil
		})
		control.List.Serve(s, func(context.Context, control.ListRequest) (control.ListAnswer, error) {
			return control.ListAnswer{Connections: []control.Connection{{Name: "no"}, {Name: "a", Dir: "/srv/a"}, {Name: "ab", Dir: "/srv/a/b"}, {Name: "b", Dir: "/srv/ab"}}}, nil
		})
		control.CacheDrop.Serve(s, func(_ context.Context, q control.CacheChange) (control.Dropped, error) {
			asked = append(asked, "drop "+q.Connection+" "+string(q.Path))
			if q.DryRun {
				return control.Dropped{Files: 7, Bytes: 12}, nil
			}
			return control.Dropped{Files: 1, Bytes: 12}, nil
		})
		control.CacheWarm.Serve(s, func(_ context.Context, q control.CacheChange, send func(control.Warming) error) error {
			asked = append(asked, "warm "+q.Connection+" "+string(q.Path))
			if err := send(control.Warming{FoundFiles: 2, Files: 1}); err != nil {
				return err
			}
			if q.Path == "/full" {
				return control.Errorf(control.NoSpace, "the cache is full")
			}
			w := control.Warming{FoundFiles: 2, FoundBytes: 2048, Files: 2, Bytes: 2048, Here: 1}
			if q.DryRun {
				w.Files, w.Bytes = 1, 1024
			}
			if q.Path == "/locked" {
				w.Failed, w.Reason = 1, "open x: \x1b permission denied"
			}
			return send(w)
		})
	})
	for _, c := range []struct {
		line   string
		status int
		out    []string
		errOut string
	}{
		{"cache status", 0, []string{"3.0 MiB of 4.0 GiB in 3 files below /c/content", "bank", "1.5 KiB", "3 of 4 (75%)", "100 B", "5.0 GiB"}, ""},
		{"cache status bank -e Test", 0, []string{"bank"}, ""},
		{"cache drop bank", 0, []string{"dropped 1 file, 12 B"}, ""},
		{"cache drop bank:/in/a", 0, []string{"dropped 1 file"}, ""},
		{"cache warm bank:/in", 0, []string{"2 files are here, 2.0 KiB; 1 were before"}, ""},
		{"cache drop bank:/in -n", 0, []string{"would be dropped: 7 files, 12 B"}, ""},
		{"cache warm bank:/in --dry-run", 0, []string{"would be fetched: 1 file, 1.0 KiB; 1 more are here"}, ""},
		{"cache warm bank:/locked", 74, []string{"2 files are here"}, "1 file or directory could not be read: \"open x: \\x1b permission denied\""},
		{"cache warm bank:/full", 73, nil, "the cache is full"},
		{"cache warm", 64, nil, "cache warm NAME[:/path]|PATH"},
		{"cache drop /srv/a/b/c/", 0, []string{"dropped"}, ""},
		{"cache drop /srv/a", 0, []string{"dropped"}, ""},
		{"cache drop /srv/abc", 0, []string{"dropped"}, ""},
		{"cache bogus", 64, nil, "status, drop and warm"},
	} {
		status, out, errOut := s.hand("", strings.Fields(c.line)...)
		if status != c.status || !strings.Contains(errOut, c.errOut) || c.errOut == "" && errOut != "" {
			t.Errorf("pierfs %s: %d, %q, want %d and %q", c.line, status, errOut, c.status, c.errOut)
		}
		for _, want := range c.out {
			if !strings.Contains(out, want) {
				t.Errorf("pierfs %s lacks %q:\n%s", c.line, want, out)
			}
		}
	}
	if got, want := strings.Join(asked, ","), "status  ,status bank Test,drop bank /,drop bank /in/a,warm bank /in,drop bank /in,warm bank /in,warm bank /locked,warm bank /full,drop /srv/a/b /c/,drop /srv/a /,drop /srv/abc "; got != want {
		t.Errorf("asked %s\nwant  %s", got, want)
	}
	status, out, _ := s.hand("", "cache", "warm", "bank:/locked", "--json")
	var w control.Warming
	if err := json.Unmarshal([]byte(out), &w); err != nil || status != 74 || w.Failed != 1 || w.Files != 2 {
		t.Errorf("as JSON: %d, %q, %v", status, out, err)
	}
}
