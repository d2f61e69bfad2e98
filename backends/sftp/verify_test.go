package sftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/backends"
	"pierfs/integration/servers"
)

// TestUploadsAreVerified has somebody change a byte of what is being uploaded: its size is right, and its name must not be taken.
func TestUploadsAreVerified(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	content := bytes.Repeat([]byte("0123456789abcdef"), 300_000) // more than a flight
	upload := func(verify, name string, meanwhile func(temp string)) error {
		b := connect(t, s, Options{Verify: verify})
		w, err := b.Create(t.Context(), name, backends.WriteMode{TempName: "." + name + ".part"})
		ok(t, err)
		_, err = w.WriteAt(t.Context(), content, 0)
		ok(t, err)
		ok(t, w.Sync(t.Context()))
		meanwhile(filepath.Join(s.Dir, "."+name+".part"))
		asked := false
		_, err = w.Commit(t.Context(), backends.Commit{Size: int64(len(content)), Content: bytes.NewReader(content), Before: func(_ backends.Info, err error) error {
			asked = true
			if backends.Errno(err) != syscall.ENOENT {
				t.Errorf("before the renaming: %v", err)
			}
			return nil
		}})
		if asked != (err == nil) {
			t.Errorf("%s: asked before the renaming: %v, and then %v", verify, asked, err)
		}
		return err
	}
	spoil := func(temp string) {
		f, err := os.OpenFile(temp, os.O_WRONLY, 0)
		ok(t, err)
		defer f.Close()
		_, err = f.WriteAt([]byte("X"), 3_000_001)
		ok(t, err)
	}
	for _, verify := range []string{"hash", "readback"} { // OpenSSH computes no checksums
		ok(t, upload(verify, "good-"+verify, func(string) {}))
		err := upload(verify, "bad-"+verify, spoil)
		if backends.CauseOf(err) != backends.CauseMismatch || backends.Errno(err) != syscall.EIO {
			t.Errorf("%s: %v", verify, err)
		}
		got, err := os.ReadFile(filepath.Join(s.Dir, "good-"+verify))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the server has %d bytes, %v", verify, len(got), err)
		}
	}
	names, err := os.ReadDir(s.Dir)
	ok(t, err)
	for _, entry := range names {
		if name := entry.Name(); strings.Contains(name, "bad") || strings.Contains(name, "part") {
			t.Errorf("the server has %q", name)
		}
	}
	ok(t, upload("size", "spoilt", spoil)) // which the size does not tell
	cut := func(temp string) { ok(t, os.Truncate(temp, 10)) }
	if err := upload("size", "short", cut); backends.CauseOf(err) != backends.CauseMismatch {
		t.Errorf("a content that is short, by its size: %v", err)
	}
	ok(t, upload("off", "converted", cut)) // a server may change what it gets
}

// TestChecksumsOfTheServerAreCompared: a server with check-file is asked for a sum, and nothing is read back.
func TestChecksumsOfTheServerAreCompared(t *testing.T) {
	content := []byte("12345")
	sum := sha256.Sum256(content)
	for name, c := range map[string]struct {
		answer frame
		cause  backends.Cause
		fails  bool
	}{
		"right":              {frame{}.text("sha256"), "", false},
		"in the draft's way": {frame{}.text("check-file").text("sha256"), "", false},
		"another":            {append(frame{}.text("sha256"), 'x'), backends.CauseMismatch, true},
		"of no kind":         {frame{}.text("crc7"), "", true},
		"nothing":            {frame{0, 0}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			b, s := scripted(t, Options{Verify: "hash"}, func(kind byte, p *parser) ([]byte, bool) {
				again := *p
				if kind != typeExtended || again.text() != extCheckFile+"-name" {
					return nil, false
				}
				return append(append([]byte{typeExtReply}, c.answer...), sum[:]...), true
			})
			s.offers = extCheckFile
			w, err := b.Create(context.Background(), "name", backends.WriteMode{TempName: "tmp"})
			ok(t, err)
			_, err = w.WriteAt(t.Context(), content, 0)
			ok(t, err)
			_, err = w.Commit(t.Context(), backends.Commit{Size: 5, Content: bytes.NewReader(content)})
			if (err != nil) != c.fails || backends.CauseOf(err) != c.cause {
				t.Errorf("commit: %v", err)
			}
			if s.heard("read") || s.heard(extPosixRename) == c.fails {
				t.Errorf("the server was asked %q", s.log)
			}
		})
	}
}
