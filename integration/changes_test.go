package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/servers"
)

// TestChangesThroughTheMountCostTheirFlights counts what a program waits for that works through the names of a directory which it has
// listed: a rename and an unlink cost the flight that does them, a small file three (made, complete, renamed), an append two.
func TestChangesThroughTheMountCostTheirFlights(t *testing.T) {
	t.Parallel()
	const times = 4
	server := servers.NewSSHD(t, servers.SSHOptions{})
	content := random(1, 4096)
	name := func(kind string, i int) string { return fmt.Sprint(kind, "/f", i) }
	for _, kind := range []string{"renamed", "removed", "written", "appended"} {
		if err := os.Mkdir(filepath.Join(server.Dir, kind), 0o777); err != nil {
			t.Fatal(err)
		}
		for i := range times {
			if err := os.WriteFile(filepath.Join(server.Dir, name(kind, i)), content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	sh(t, server.Dir, `chown -R `+"4742:4742"+` .`)
	way := link.New(t, link.Options{})
	s := connect(t, newDaemon(t), server, way.Forward(t, "", server.Address()), daemon.Fields{"metadataTTL": "10m", "negativeTTL": "10m"})
	on := func(kind string, i int) string { return filepath.Join(s.mount, name(kind, i)) }
	for _, test := range []struct {
		kind string
		each int
		do   func(i int) error
	}{
		{"renamed", 1, func(i int) error { return os.Rename(on("renamed", i), on("renamed", i)+".new") }},
		{"removed", 1, func(i int) error { return os.Remove(on("removed", i)) }},
		{"written", 3, func(i int) error { return os.WriteFile(on("written", i)+".new", content, 0o644) }},
		{"appended", 2, func(i int) error {
			f, err := os.OpenFile(on("appended", 0), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			if _, err := f.Write(content[:1024]); err != nil {
				return err
			}
			return f.Close()
		}},
	} {
		way.SetRoundTrip(0)
		sh(t, s.mount, `ls -l "$1" >/dev/null && ls -l "$1" >/dev/null`, test.kind)
		if err := test.do(0); err != nil { // its session has all the channels by now that it is going to have
			t.Fatal(err)
		}
		way.SetRoundTrip(longWay)
		count := way.Meter()
		for i := 1; i < times; i++ {
			if err := test.do(i); err != nil {
				t.Fatalf("%s: %v", test.kind, err)
			}
		}
		counted := count()
		t.Logf("%d %s: %v", times-1, test.kind, counted)
		if want := test.each * (times - 1); counted.Flights > want || counted.Connections > 0 {
			t.Errorf("%d %s: %v; want at most %d flights", times-1, test.kind, counted, want)
		}
	}
	way.SetRoundTrip(0)
	for i := range times {
		has(t, filepath.Join(server.Dir, name("renamed", i)+".new"), content)
		has(t, filepath.Join(server.Dir, name("written", i)+".new"), content)
		if _, err := os.Lstat(filepath.Join(server.Dir, name("removed", i))); !os.IsNotExist(err) {
			t.Errorf("removed, and at the server: %v", err)
		}
	}
	has(t, filepath.Join(server.Dir, name("appended", 0)), append(bytes.Clone(content), bytes.Repeat(content[:1024], times)...))
}

// TestAppendsOfTwoHostsAreAllThere: another host appends to a file that programs here have open, read and append to; what is here then is
// what the server has, for who has it open as for who opens it.
func TestAppendsOfTwoHostsAreAllThere(t *testing.T) {
	t.Parallel()
	onBoth(t, nil, func(t *testing.T, s *stage, _ *link.Link) {
		name, behind := filepath.Join(s.mount, "log"), filepath.Join(s.behind, "log")
		if err := put(name, []byte("one\n")); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := io.ReadAll(f); err != nil || string(got) != "one\n" {
			t.Fatalf("read %q, %v", got, err)
		}
		want := "one\n"
		for i := range 3 {
			if _, err := fmt.Fprintln(f, "ours", i); err != nil {
				t.Fatal(err)
			}
			theirs, err := os.OpenFile(behind, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintln(theirs, "theirs, and longer", i); err != nil {
				t.Fatal(err)
			}
			if err := theirs.Close(); err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatalf("append %d: %v", i, err)
			}
			want += fmt.Sprintln("theirs, and longer", i) + fmt.Sprintln("ours", i)
			has(t, behind, []byte(want))
			await(t, "all lines for who opens it", func() bool {
				got, err := os.ReadFile(name)
				return err == nil && string(got) == want
			})
			await(t, "all lines for who has it open", func() bool {
				got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
				return err == nil && string(got) == want
			})
		}
	})
}
