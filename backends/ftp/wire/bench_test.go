package wire

import (
	"crypto/tls"
	"io"
	"os"
	"path/filepath"
	"testing"

	"pierfs/integration/servers"
)

// BenchmarkTransfer moves a file of 64 MiB between two directories of this machine, by vsftpd.
func BenchmarkTransfer(b *testing.B) {
	const size = 64 << 20
	for _, m := range []mode{{servers.Vsftpd, servers.Plain, tls.VersionTLS12}, {servers.Vsftpd, servers.Explicit, tls.VersionTLS13}} {
		server := m.start(b)
		s := logIn(b, options(b, server, m.tls, server.Address()))
		path := filepath.Join(b.TempDir(), "file")
		ok(b, os.WriteFile(path, some(size), 0o600))
		b.Run(m.String()+"/put", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				f, err := os.Open(path)
				ok(b, err)
				u, err := s.Store(b.Context(), "STOR "+server.Root+"/file")
				ok(b, err)
				_, err = u.ReadFrom(f)
				ok(b, err)
				_, _, err = u.End(b.Context())
				ok(b, err)
				f.Close()
			}
		})
		b.Run(m.String()+"/get", func(b *testing.B) {
			b.SetBytes(size)
			piece := make([]byte, 256<<10)
			for b.Loop() {
				d, err := s.Retrieve(b.Context(), server.Root+"/file", 0)
				ok(b, err)
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{d}, piece)
				if err != nil || n != size {
					b.Fatal(n, err)
				}
				_, err = d.End(b.Context())
				ok(b, err)
			}
		})
		b.Run(m.String()+"/small", func(b *testing.B) {
			content := make([]byte, 4096)
			for b.Loop() {
				s.Warm()
				_, err := store(b.Context(), s, "STOR "+server.Root+"/small", content)
				ok(b, err)
			}
		})
	}
}
