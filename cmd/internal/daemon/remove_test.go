package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
)

// removed has a directory removed, and returns a line for each name.
func (s *stage) removed(q control.RmRequest) (lines []string, err error) {
	s.t.Helper()
	for r, err := range control.Rm.Call(s.t.Context(), s.client, q) {
		if err != nil {
			return lines, err
		}
		line := fmt.Sprintf("%s %s of %d", r.Type, r.Path, r.Found)
		if r.Error != nil {
			line += " " + string(r.Error.Code)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// fill makes a small tree at the server.
func (s *stage) fill(name string, files ...string) {
	s.t.Helper()
	for _, file := range files {
		q := control.FileRequest{Connection: name, Path: control.Name(file)}
		above := q
		above.Path = control.Name(file[:strings.LastIndexByte(file, '/')])
		if _, err := control.Mkdir.Call(s.t.Context(), s.client, control.MkdirRequest{FileRequest: above, Parents: true}); err != nil {
			s.t.Fatal(err)
		}
		if _, err := control.Put.Call(s.t.Context(), s.client, control.PutRequest{FileRequest: q}, strings.NewReader("x")); err != nil {
			s.t.Fatal(err)
		}
	}
}

// What rm -r removes it tells name by name; a dry run tells the same and removes nothing; one name that stays keeps nothing else, and where
// the server has gone it ends.
func TestRemovalTellsEachName(t *testing.T) {
	s := newStage(t)
	s.define("one", "retryCount = 0")
	s.start()
	q := control.RmRequest{FileRequest: control.FileRequest{Connection: "one", Path: "/d"}, Recursive: true}
	all := []string{"file /d/a/1 of 3", "directory /d/a of 3", "file /d/b of 4", "directory /d of 4"}
	s.fill("one", "/d/a/1", "/d/b")

	dry := q
	dry.DryRun = true
	if got, err := s.removed(dry); err != nil || !slices.Equal(got, all) && !slices.Equal(got, []string{"file /d/a/1 of 3", "directory /d/a of 3", "file /d/b of 4", "directory /d of 4"}) {
		t.Errorf("a dry run tells %q, %v; want %q", got, err, all)
	}
	if names, err := s.server("one").Names("d"); err != nil || len(names) != 2 {
		t.Errorf("after a dry run d holds %q, %v", names, err)
	}

	refuse := func(which string, code syscall.Errno) {
		s.server("one").SetFault(func(_ context.Context, op, name string) error {
			if op == "remove" && name == which {
				return &backends.Error{Op: op, Name: name, Code: code}
			}
			return nil
		})
	}
	refuse("d/a/1", syscall.EACCES)
	want := []string{"file /d/a/1 of 3 PERMISSION", "file /d/b of 4"}
	if got, err := s.removed(q); err != nil || !slices.Equal(got, want) {
		t.Errorf("beside a name that may not be removed it tells %q, %v; want %q", got, err, want)
	}
	refuse("d/a/1", syscall.EHOSTDOWN)
	s.fill("one", "/d/b")
	if got, err := s.removed(q); control.CodeOf(err) != control.Offline || len(got) > 0 {
		t.Errorf("of a server that has gone it tells %q, %v; want the end", got, err)
	}
	refuse("", 0)
	if got, err := s.removed(q); err != nil || !slices.Equal(got, all) {
		t.Errorf("it tells %q, %v; want %q", got, err, all)
	}
}
