package sftp

import (
	"context"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"pierfs/backends"
	"pierfs/integration/servers"
)

const benchSize = 64 << 20

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	ok(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measured runs f for each round and reports seconds of CPU per GiB.
func measured(b *testing.B, f func()) {
	b.SetBytes(benchSize)
	b.ReportAllocs()
	begun := cpu(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric((cpu(b)-begun).Seconds()/float64(b.N)*(1<<30)/benchSize, "cpu-s/GiB")
}

func BenchmarkRead(b *testing.B) {
	s := servers.NewSSHD(b, servers.SSHOptions{})
	put(b, filepath.Join(s.Dir, "big"), make([]byte, benchSize))
	b.Run("ours", func(b *testing.B) {
		c := connect(b, s, Options{})
		p := make([]byte, 1<<20)
		measured(b, func() {
			r, err := c.Open(b.Context(), "big")
			ok(b, err)
			for off := int64(0); off < benchSize; off += int64(len(p)) {
				_, err := r.ReadAt(b.Context(), p, off)
				ok(b, err)
			}
			ok(b, r.Close())
		})
	})
	b.Run("pkg", func(b *testing.B) {
		c := plainLibrary(b, s)
		measured(b, func() {
			f, err := c.Open(s.Root + "/big")
			ok(b, err)
			_, err = f.WriteTo(discard{})
			ok(b, err)
			ok(b, f.Close())
		})
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkWrite(b *testing.B) {
	s := servers.NewSSHD(b, servers.SSHOptions{User: "root"})
	block := make([]byte, 128<<10)
	b.Run("ours", func(b *testing.B) {
		c := connect(b, s, Options{})
		measured(b, func() {
			w, err := c.Create(b.Context(), "up", backends.WriteMode{TempName: ".up"})
			ok(b, err)
			for off := int64(0); off < benchSize; off += int64(len(block)) {
				_, err := w.WriteAt(b.Context(), block, off)
				ok(b, err)
			}
			_, err = w.Commit(b.Context(), backends.Commit{Size: benchSize})
			ok(b, err)
		})
	})
	b.Run("pkg", func(b *testing.B) {
		c := plainLibrary(b, s)
		measured(b, func() {
			f, err := c.Create(s.Root + "/up")
			ok(b, err)
			for off := int64(0); off < benchSize; off += int64(len(block)) {
				_, err := f.WriteAt(block, off)
				ok(b, err)
			}
			ok(b, f.Close())
		})
	})
}

// plainLibrary is pkg/sftp by itself, at its best: large packets, concurrent writes.
func plainLibrary(b *testing.B, s *servers.SSHD) *sftp.Client {
	b.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", s.Address())
	ok(b, err)
	c, channels, requests, err := ssh.NewClientConn(conn, s.Address(), &ssh.ClientConfig{User: s.User,
		Auth: []ssh.AuthMethod{ssh.Password(s.Password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	ok(b, err)
	client, err := sftp.NewClient(ssh.NewClient(c, channels, requests), sftp.MaxPacketUnchecked(bestPayload), sftp.UseConcurrentWrites(true))
	ok(b, err)
	b.Cleanup(func() { conn.Close() })
	return client
}
