package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/link"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// BenchmarkFTPBesideRclone compares mounts of vsftpd, and gives a plain client's figures for the same work: those of curl,
// which does one thing a connection and promises nothing to a program.
func BenchmarkFTPBesideRclone(b *testing.B) {
	process.Need(b, "rclone", "curl", "ls")
	programs := build(b)
	for _, mode := range []servers.TLSMode{servers.Plain, servers.Explicit} {
		b.Run(mode.String(), func(b *testing.B) {
			server := servers.NewFTP(b, servers.FTPOptions{Kind: servers.Vsftpd, TLS: mode, DataPorts: 200})
			prepare(b, server.Dir, "rclone")
			own(b, server)
			compare(b, "rclone", func(roundTrip time.Duration) (peer, ours mounted) {
				f := ftp{server, mode, server.Host}
				if roundTrip > 0 {
					host, _, err := net.SplitHostPort(server.Through(b, link.New(b, link.Options{RoundTrip: roundTrip})))
					if err != nil {
						b.Fatal(err)
					}
					f.host = host
				}
				f.plain(b, roundTrip)
				return mounted{"rclone", f.mountRclone(b)}, mounted{"pierfs", f.mountPierfs(b, programs)}
			})
		})
	}
}

// own gives what was prepared to the server's user, who must write there.
func own(b *testing.B, s *servers.FTP) {
	b.Helper()
	if out, err := exec.Command("chown", "-R", "--reference="+s.Dir, s.Dir).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

// ftp is a way to a server.
type ftp struct {
	*servers.FTP
	mode servers.TLSMode
	host string
}

// mountRclone mounts as rclone is after installing: a file is sent while it is written, and close waits for the server.
func (f ftp) mountRclone(b *testing.B) string {
	b.Helper()
	obscured, err := exec.Command("rclone", "obscure", f.Password).Output()
	if err != nil {
		b.Fatal(err)
	}
	text := fmt.Sprintf("[bench]\ntype = ftp\nhost = %s\nport = %d\nuser = %s\npass = %s\n", f.host, f.Port, f.User, obscured)
	if f.mode == servers.Explicit {
		text += "explicit_tls = true\nno_check_certificate = true\n"
	}
	dir := b.TempDir()
	config, point := filepath.Join(dir, "rclone.conf"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Mkdir(point, 0o755); err != nil {
		b.Fatal(err)
	}
	p := process.Start(b, exec.Command("rclone", "mount", "--config", config, "--cache-dir", filepath.Join(dir, "cache"), "bench:"+f.Root, point))
	awaitMount(b, dir, p)
	return point
}

func (f ftp) mountPierfs(b *testing.B, programs daemon.Programs) string {
	b.Helper()
	fields := daemon.Fields{
		"protocol": "FTP", "host": f.host, "port": f.Port, "username": f.User, "password": f.Password, "workingDir": f.Root,
	}
	if f.mode != servers.Plain {
		fields["protocol"], fields["caFile"], fields["serverName"] = "FTPS", f.Authority.File, f.Host
	}
	return mountDefined(b, programs, fields)
}

// plain prints what curl does in the same time.
func (f ftp) plain(b *testing.B, roundTrip time.Duration) {
	b.Helper()
	dir := b.TempDir()
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, make([]byte, smallSize), 0o600); err != nil {
		b.Fatal(err)
	}
	url := fmt.Sprintf("ftp://%s/%%2f%s/", net.JoinHostPort(f.host, strconv.Itoa(f.Port)), strings.Trim(f.Root, "/"))
	ours := filepath.Join(f.Dir, "pierfs"+roundTrip.String())
	remote := url + "pierfs" + roundTrip.String() + "/"
	var fetch, send strings.Builder
	files := smallFiles
	if roundTrip > 0 {
		files /= 10
	}
	for i := range files {
		fmt.Fprintf(&fetch, "url = %q\noutput = /dev/null\n", remote+"small/"+strconv.Itoa(i))
		fmt.Fprintf(&send, "url = %q\nupload-file = %q\n", remote+"written/curl"+strconv.Itoa(i), small)
	}
	for _, w := range []struct {
		name, unit string
		units      float64
		config     string
	}{
		{"list 10,000 entries", "entries", listed, fmt.Sprintf("url = %q\noutput = /dev/null\n", remote+"listed/")},
		{"read 4 KiB files", "files", float64(files), fetch.String()},
		{"write 4 KiB files", "files", float64(files), send.String()},
		{"read 512 MiB", "MB", bigFile / 1e6, fmt.Sprintf("url = %q\noutput = /dev/null\n", remote+"big")},
		{"write 512 MiB", "MB", bigFile / 1e6, fmt.Sprintf("url = %q\nupload-file = %q\n", remote+"written/curl-big", filepath.Join(ours, "big"))},
	} {
		config := fmt.Sprintf("silent\nshow-error\nmax-time = 120\nuser = \"%s:%s\"\ninsecure\n", f.User, f.Password)
		if f.mode == servers.Explicit {
			config += "ssl-reqd\n"
		}
		cmd := exec.Command("curl", "--disable", "--noproxy", "*", "--config", "-")
		cmd.Stdin = strings.NewReader(config + w.config)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Logf("curl, %s: %v: %s", w.name, err, out)
		}
		took := time.Since(start)
		fmt.Printf("# %s at %v: curl %.4g %s/s in %v\n", w.name, roundTrip, w.units/took.Seconds(), w.unit, took.Round(time.Millisecond))
	}
}
