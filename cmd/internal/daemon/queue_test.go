package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/cmd/internal/control"
)

// refuseUploads has every server that is dialled from now on, and those that were, refuse content, until the func is called.
func (s *stage) refuseUploads() (mend func()) {
	refuse := func(_ context.Context, op, name string) error {
		if op == "create" || op == "commit" || op == "writeat" {
			return &backends.Error{Op: op, Name: name, Code: syscall.EACCES}
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = refuse
	for _, b := range s.servers {
		b.SetFault(refuse)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fault = nil
		for _, b := range s.servers {
			b.SetFault(nil)
		}
	}
}

// put has a content acknowledged.
func (s *stage) put(connection, name, text string) {
	s.t.Helper()
	q := control.PutRequest{FileRequest: control.FileRequest{Connection: connection, Path: control.Name(name)}}
	if _, err := control.Put.Call(s.t.Context(), s.client, q, strings.NewReader(text)); err != nil {
		s.t.Fatalf("put %s: %v", name, err)
	}
}

func (s *stage) queue(q control.QueueRequest) (all []control.Due) {
	s.t.Helper()
	for d, err := range control.Queue.Call(s.t.Context(), s.client, q) {
		if err != nil {
			s.t.Fatalf("queue: %v", err)
		}
		all = append(all, d)
	}
	return all
}

// awaitQueue waits until what is owed is as ok wants it.
func (s *stage) awaitQueue(what string, ok func([]control.Due) bool) []control.Due {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		all := s.queue(control.QueueRequest{})
		if ok(all) {
			return all
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not in the queue: %s\n%+v", what, all)
		}
	}
}

func tried(all []control.Due) bool {
	return len(all) > 0 && !slices.ContainsFunc(all, func(d control.Due) bool { return d.Reason == "" })
}

const inBackground = `commit = "background"`

func TestQueueTellsWhatIsOwedAndWhy(t *testing.T) {
	s := newStage(t)
	s.define("one", inBackground)
	s.define("two", inBackground)
	s.start()
	mend := s.refuseUploads()
	s.put("one", "f", "precious")
	due := s.awaitQueue("a try that was refused", tried)[0]
	if due.Name != "one" || due.Environment != "Test" || due.Kind != "put" || due.Path != "f" || due.Size != 8 || due.Tries < 1 ||
		!strings.Contains(due.Reason, "permission denied") || due.Target != "sftp://batch@files.example:22/data in Test" {
		t.Errorf("owed is %+v", due)
	}
	a, err := control.Status.Call(t.Context(), s.client, control.StatusRequest{})
	if err != nil || a.Connections[0].OwedFiles != 1 || a.Connections[0].OwedBytes != 8 || a.Connections[0].OwedSince.IsZero() ||
		!strings.Contains(a.Connections[0].OwedReason, "permission denied") || a.Connections[1].OwedFiles != 0 {
		t.Errorf("status tells %+v, %v", a.Connections, err)
	}
	if all := s.queue(control.QueueRequest{Name: "two"}); len(all) != 0 {
		t.Errorf("two owes %+v", all)
	}
	for _, err := range control.Queue.Call(t.Context(), s.client, control.QueueRequest{Name: "none"}) {
		wantCode(t, "queue of what is not there", err, control.UnknownConnection)
	}
	mend()
	if _, err := control.QueueRetry.Call(t.Context(), s.client, control.QueueChange{Name: "one"}); err != nil {
		t.Error(err)
	}
	s.awaitQueue("nothing", func(all []control.Due) bool { return len(all) == 0 })
	if got, err := s.server("one").ReadFile("f"); err != nil || string(got) != "precious" {
		t.Errorf("the server has %q, %v", got, err)
	}
}

func TestQueueIsHeldExportedAndDropped(t *testing.T) {
	s := newStage(t)
	s.define("one", inBackground)
	s.start()
	s.refuseUploads()
	s.put("one", "f", "precious")
	due := s.awaitQueue("a try that was refused", tried)[0]
	change := control.QueueChange{Name: "one", IDs: []uint64{due.ID}}
	for verb, call := range map[string]func(context.Context, *control.Client, control.QueueChange) (control.QueueChanged, error){
		"retry": control.QueueRetry.Call, "hold": control.QueueHold.Call, "drop": control.QueueDrop.Call} {
		_, err := call(t.Context(), s.client, control.QueueChange{Name: "one", IDs: []uint64{due.ID, 99}})
		wantCode(t, verb+" of what is not owed", err, control.NotFound)
	}
	if a, err := control.QueueHold.Call(t.Context(), s.client, change); err != nil || a.Changed != 1 {
		t.Errorf("hold: %+v, %v", a, err)
	}
	s.awaitQueue("something held", func(all []control.Due) bool { return all[0].State == control.DueHeld })
	if got, body, err := control.QueueExport.Call(t.Context(), s.client, control.QueueItem{Name: "one", ID: due.ID}); err != nil || got.Path != "f" {
		t.Errorf("export: %+v, %v", got, err)
	} else if text, err := io.ReadAll(body); err != nil || string(text) != "precious" {
		t.Errorf("exported is %q, %v", text, errors.Join(err, body.Close()))
	}
	_, _, err := control.QueueExport.Call(t.Context(), s.client, control.QueueItem{Name: "one", ID: 99})
	wantCode(t, "export of what is not owed", err, control.NotFound)
	a, err := control.QueueDrop.Call(t.Context(), s.client, change)
	if err != nil || a.Changed != 1 || len(a.Kept) != 1 {
		t.Fatalf("drop: %+v, %v", a, err)
	}
	if text, err := os.ReadFile(a.Kept[0]); err != nil || string(text) != "precious" {
		t.Errorf("what was dropped is kept as %q, %v", text, err)
	}
	if all := s.queue(control.QueueRequest{}); len(all) != 0 {
		t.Errorf("after the drop %+v is owed", all)
	}
}

// A connection that owes something is taken away by nobody who does not say what becomes of that.
// Holds row 11 of the requirements.
func TestWhatOwesIsNotTakenAway(t *testing.T) {
	s := newStage(t)
	s.define("one", inBackground)
	s.start()
	mend := s.refuseUploads()
	s.put("one", "f", "precious")
	before := s.fake("one")
	_, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: "one"})
	wantCode(t, "umount", err, control.StillOwed)
	_, err = control.Enable.Call(t.Context(), s.client, control.EnableRequest{Name: "one"})
	wantCode(t, "disable", err, control.StillOwed)
	for what, change := range map[string]func(){
		"another server":          func() { s.define("one", inBackground, `port = 2222`) },
		"read-only":               func() { s.define("one", inBackground, `readOnly = true`) },
		"disabled in an editor":   func() { s.define("one", inBackground, `enabled = false`) },
		"removed":                 func() { s.remove("one") },
		"renamed":                 func() { s.remove("one"); s.define("other", inBackground) },
		"its mount point another": func() { s.remove("one"); s.define("other", inBackground, `mountPoint = "`+s.dir("one")+`"`) },
	} {
		change()
		if a := s.apply(); len(a.Owing) != 1 || a.Owing[0].Name != "one" || a.Owing[0].Changes != 1 || a.Owing[0].Bytes != 8 || slices.Contains(a.Removed, "Test/one") {
			t.Errorf("%s: apply did %+v", what, a)
		}
		s.remove("other")
	}
	if s.fake("one") != before {
		t.Error("the mount was made anew")
	}
	if all := s.queue(control.QueueRequest{Name: "one"}); len(all) != 1 || all[0].State == control.DueUnserved {
		t.Errorf("owed is %+v", all)
	}
	server := s.server("one")
	s.remove("one")
	s.apply()
	mend()
	if _, err := control.QueueRetry.Call(t.Context(), s.client, control.QueueChange{Name: "one"}); err != nil {
		t.Error(err)
	}
	select { // what the definitions say is done by itself when nothing is owed any more
	case <-before.Done():
	case <-time.After(20 * time.Second):
		t.Error("the mount of what is gone stays when it owes nothing")
	}
	if got, err := server.ReadFile("f"); err != nil || string(got) != "precious" {
		t.Errorf("the server has %q, %v", got, err)
	}
}

// What is left in the journal is shown, may be given up, and is sent when the connection is mounted again.
func TestJournalIsKeptForLater(t *testing.T) {
	s := newStage(t)
	s.define("one", inBackground, `drainTimeout = "1s"`)
	s.define("proj/two", inBackground, `drainTimeout = "1s"`)
	s.start()
	mend := s.refuseUploads()
	s.put("one", "f", "precious")
	s.put("proj/two", "g", "dear")
	s.put("proj/two", "h", "cheap")
	for name, n := range map[string]int{"one": 1, "proj/two": 2} {
		a, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: name, Keep: true})
		if err != nil || len(a.Owing) != 1 || a.Owing[0].Changes != n {
			t.Errorf("umount --keep: %+v, %v", a, err)
		}
	}
	all := s.awaitQueue("three that nothing serves", func(all []control.Due) bool { return len(all) == 3 })
	for _, d := range all {
		if d.State != control.DueUnserved || d.Reason != "it is not mounted" {
			t.Errorf("owed is %+v", d)
		}
	}
	a, err := control.Status.Call(t.Context(), s.client, control.StatusRequest{})
	if err != nil || a.Connections[0].OwedFiles != 1 || a.Connections[0].OwedReason != "it is not mounted" || a.Connections[1].OwedFiles != 2 {
		t.Errorf("status tells %+v, %v", a.Connections, err)
	}
	_, err = control.Delete.Call(t.Context(), s.client, control.DeleteRequest{Name: "one"})
	wantCode(t, "delete of what owes something, and is not mounted", err, control.StillOwed)
	for _, d := range s.queue(control.QueueRequest{Name: "proj/two"}) {
		if d.Path != "h" {
			continue
		}
		a, err := control.QueueDrop.Call(t.Context(), s.client, control.QueueChange{Name: "proj/two", IDs: []uint64{d.ID}})
		if err != nil || len(a.Kept) != 1 {
			t.Errorf("drop: %+v, %v", a, err)
		}
	}
	s.remove("one")
	s.apply()
	if all := s.queue(control.QueueRequest{Name: "one"}); len(all) != 1 || !strings.Contains(all[0].Reason, "no definition") {
		t.Errorf("of the connection that is gone %+v is owed", all)
	}
	mend()
	if _, err := control.Mount.Call(t.Context(), s.client, control.MountRequest{Name: "proj/two"}); err != nil {
		t.Error(err)
	}
	s.awaitQueue("one that nothing serves", func(all []control.Due) bool { return len(all) == 1 })
	if got, err := s.server("proj/two").ReadFile("g"); err != nil || string(got) != "dear" {
		t.Errorf("the server has %q, %v", got, err)
	}
	newer, complained := s.newerJournal(), false
	var told []control.Due
	for d, err := range control.Queue.Call(t.Context(), s.client, control.QueueRequest{}) {
		if err == nil {
			told = append(told, d)
		} else if !strings.Contains(err.Error(), "newer version") {
			t.Errorf("queue: %v", err)
		} else {
			complained = true
		}
	}
	if len(told) != 1 || !complained {
		t.Errorf("beside a journal that cannot be read %+v is told; complained of that: %t", told, complained)
	}
	if err := os.RemoveAll(newer); err != nil {
		t.Error(err)
	}
	left, ok := errors.AsType[*LeftError](s.stop())
	if !ok || left.Connection != "one" || left.Changes != 1 || left.Bytes != 8 {
		t.Errorf("the daemon ended with %+v; want what the journal of one owes", left)
	}
}

// newerJournal leaves the journal of a connection that was mounted by a later version.
func (s *stage) newerJournal() string {
	s.t.Helper()
	header := binary.LittleEndian.AppendUint32([]byte("pierfs journal\r\n"), 99)
	header = binary.LittleEndian.AppendUint32(header, crc32.Checksum(header, crc32.MakeTable(crc32.Castagnoli)))
	dir := s.daemon.keep("staging", Want{Name: "newer", Environment: "Test"})
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "journal"), header, 0o600)); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// A definition that leads elsewhere takes nothing along that is owed to where it led.
// Holds row 83 of the requirements.
func TestWhatIsOwedGoesNowhereElse(t *testing.T) {
	s := newStage(t)
	s.define("one", inBackground, `drainTimeout = "1s"`)
	s.start()
	mend := s.refuseUploads()
	s.put("one", "f", "precious")
	s.define("one", inBackground, `drainTimeout = "1s"`, `port = 2222`)
	if a, err := control.Apply.Call(t.Context(), s.client, control.ApplyRequest{Keep: true}); err != nil || len(a.Owing) != 0 {
		t.Fatalf("apply --keep: %+v, %v", a, err)
	}
	s.wantState("one", control.StateReady)
	if s.fake("one").led.Load() != 1 {
		t.Error("the mount was taken away")
	}
	s.awaitQueue("unserved", func(all []control.Due) bool {
		return len(all) == 1 && all[0].State == control.DueUnserved && all[0].Name == "one~2" && strings.Contains(all[0].Reason, "one leads elsewhere")
	})
	mend()
	if names, err := s.server("one").Names(""); err != nil || len(names) != 0 {
		t.Errorf("the other server has %q, %v", names, err)
	}
	s.fault = nil
	s.define("one", inBackground, `drainTimeout = "1s"`)
	s.apply() // back where it is owed to
	s.awaitQueue("sent", func(all []control.Due) bool { return len(all) == 0 })
	if got, err := s.server("one").ReadFile("f"); err != nil || string(got) != "precious" {
		t.Errorf("the server has %q, %v", got, err)
	}
	if _, err := control.Umount.Call(t.Context(), s.client, control.UmountRequest{Name: "one"}); err != nil {
		t.Errorf("umount of what owes its own server nothing: %v", err)
	}
	if left := subdirectories(filepath.Join(s.dirs.State, "staging/env/Test")); !slices.Equal(left, []string{"one"}) {
		t.Errorf("staging directories that are left: %q", left)
	}
}

// remove takes a definition away.
func (s *stage) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.dirs.Config, "connections", name+".toml")); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
}
