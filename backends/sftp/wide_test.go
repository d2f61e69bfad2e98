package sftp

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pierfs/backends"
	"pierfs/integration/servers"
)

// Long files get channels of their own, where the server allows them, and are the same files where it does not.
func TestLongFilesOnFurtherChannels(t *testing.T) {
	for name, sessions := range map[string]int{"ten sessions": 0, "one session": 1} {
		t.Run(name, func(t *testing.T) {
			s := servers.NewSSHD(t, servers.SSHOptions{Sessions: sessions})
			ok(t, os.Chmod(s.Dir, 0o777))
			b := connect(t, s, Options{})
			content := make([]byte, 9<<20+12345)
			seed := rand.NewChaCha8([32]byte{1})
			seed.Read(content)
			for range 3 {
				_, err := create(t.Context(), b, "big", content, backends.WriteMode{TempName: ".big", Perm: 0o644})
				ok(t, err)
				written, err := os.ReadFile(filepath.Join(s.Dir, "big"))
				ok(t, err)
				if sha256.Sum256(written) != sha256.Sum256(content) {
					t.Fatal("the server has other bytes")
				}
				r, err := b.Open(t.Context(), "big")
				ok(t, err)
				p := make([]byte, len(content)+1)
				n, err := r.ReadAt(t.Context(), p, 0)
				if n != len(content) || err != io.EOF || !bytes.Equal(p[:n], content) {
					t.Fatalf("ReadAt = %d, %v", n, err)
				}
				ok(t, r.Close())
				current := inUse(b)
				current.mu.Lock()
				opening := current.opening
				current.mu.Unlock()
				<-opening // it has the connect timeout
				if got := channelsMore(current) > 0; got != (sessions == 0) {
					t.Fatalf("there are further channels: %v", got)
				}
			}
			if r, err := b.Open(t.Context(), "big"); err != nil {
				t.Error(err)
			} else if own := r.(*reader).m != b.current.meta; own != (sessions == 0) {
				t.Errorf("opened on a channel of its own: %v", own)
			}
			leaves(t, b)
		})
	}
}

// channelsMore counts the channels of a session behind its first.
func channelsMore(s *session) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.channels()) - 1
}

// A file that is known to be long has its channels opened beside its own opening, whatever becomes of that.
func TestChannelsAreOpenedBesideALongFile(t *testing.T) {
	s := servers.NewSSHD(t, servers.SSHOptions{})
	ok(t, os.Chmod(s.Dir, 0o777))
	for size, want := range map[int64]int{0: 0, longFile - 1: 0, longFile: 3} {
		b := connect(t, s, Options{})
		_, err := b.Stat(t.Context(), "")
		ok(t, err)
		current := inUse(b)
		current.worth = 3
		_, err = b.Open(backends.WithSize(t.Context(), size), "missing")
		if backends.Errno(err) != syscall.ENOENT {
			t.Errorf("open of a missing file: %v", err)
		}
		current.mu.Lock()
		opening := current.opening
		current.mu.Unlock()
		if opening != nil {
			<-opening // it has the connect timeout
		}
		if got := channelsMore(current); got != want {
			t.Errorf("%d further channels for a file of %d bytes, want %d", got, size, want)
		}
		leaves(t, b)
	}
}

// Writes in any order, of any size, make the same content.
func TestWritesInAnyOrder(t *testing.T) {
	r := newRig(t, Options{}, nil)
	chance := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 3<<20)
	w, err := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".file"})
	ok(t, err)
	for range 200 {
		off := chance.IntN(len(content))
		n := min(chance.IntN(300<<10), len(content)-off)
		for i := range n {
			content[off+i] = byte(chance.Uint32())
		}
		_, err := w.WriteAt(t.Context(), content[off:off+n], int64(off))
		ok(t, err)
		if chance.IntN(20) == 0 {
			ok(t, w.Sync(t.Context()))
		}
	}
	ok(t, w.Truncate(t.Context(), int64(len(content))))
	_, err = w.Commit(t.Context(), backends.Commit{Size: int64(len(content))})
	ok(t, err)
	if get(t, r.path("file")) != string(content) {
		t.Error("the file holds something else")
	}
}
