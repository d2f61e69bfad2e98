package bench

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/link"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// site is a server and the files that it has. One of sshd and ftp is not nil.
type site struct {
	protocol string
	dir      string // where its files are, as this machine sees it
	root     string // the same directory as a client has to call it
	sshd     *servers.SSHD
	ftp      *servers.FTP
}

func speaks(protocol string) bool {
	return protocol == "sftp" || protocol == "ftp" || protocol == "ftps"
}

// newSite starts a server that speaks protocol.
func newSite(b testing.TB, protocol string) *site {
	b.Helper()
	process.Need(b, "ls", "find")
	if protocol == "sftp" {
		s := servers.NewSSHD(b, servers.SSHOptions{User: "root"})
		return &site{protocol: protocol, dir: s.Dir, root: s.Root, sshd: s}
	}
	o := servers.FTPOptions{Kind: servers.Vsftpd, DataPorts: 400}
	if protocol == "ftps" {
		o.TLS = servers.Explicit
	}
	s := servers.NewFTP(b, o)
	return &site{protocol: protocol, dir: s.Dir, root: s.Root, ftp: s}
}

// reach finds out where clients find the server, and puts a link in the way if there is a round trip.
func (c *cell) reach(b testing.TB) {
	b.Helper()
	var address string
	if c.site.sshd != nil {
		address = c.site.sshd.Address()
	} else {
		address = c.site.ftp.Address()
	}
	if c.trip > 0 {
		c.link = link.New(b, link.Options{RoundTrip: c.trip})
		if c.site.sshd != nil {
			address = c.link.Forward(b, "", address)
		} else {
			address = c.site.ftp.Through(b, c.link)
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		b.Fatal(err)
	}
	if c.host, c.port = host, 0; err == nil {
		c.port, err = strconv.Atoi(port)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// makeFiles makes what a work finds on the server, in a directory that is removed when b ends: "data" is the work's, "idle"
// is for whoever wants to know whether the server is there. All of it has just been written, so that it is in memory, and
// lies on the disk, so that nothing is on its way there while something is measured.
func (s *site) makeFiles(b testing.TB, w *work, n sizes) (dir string) {
	b.Helper()
	dir, err := os.MkdirTemp(s.dir, w.name+"-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	if err := errors.Join(fillDir(dir, w, n), s.own(dir)); err != nil {
		b.Fatal(err)
	}
	syscall.Sync()
	return dir
}

func fillDir(dir string, w *work, n sizes) error {
	data := filepath.Join(dir, "data")
	return errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "idle"), nil, 0o644), os.Mkdir(data, 0o755), w.make(data, n))
}

// haveMemory has the machine bring n bytes of memory for what is measured. The host of a virtual machine may take back what is free,
// and then the first touch of a page costs several times the copy that is made to it: 512 MiB took between 0.07 and 0.86 s to be
// written to the page cache, and the processor seconds of all peers varied as much. So that memory is not taken back one page of each
// piece that could be is kept until b ends.
func haveMemory(b testing.TB, n int) {
	b.Helper()
	pages, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS|syscall.MAP_POPULATE)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := syscall.Munmap(pages); err != nil {
			b.Error(err)
		}
	})
	const piece = 1 << 20
	for piece := range slices.Chunk(pages, piece) {
		if err := syscall.Madvise(piece[os.Getpagesize():], syscall.MADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
	}
}

// own gives dir and all in it to the server's user, who writes there.
func (s *site) own(dir string) error {
	info, err := os.Stat(s.dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(owner.Uid), int(owner.Gid)))
	})
}

// remote returns how a client calls a path of the server that this machine sees as path.
func (s *site) remote(path string) string { return s.root + strings.TrimPrefix(path, s.dir) }

// used returns the processor time that all processes have taken so far whose command line names dir. (That of sshfs is not
// the parent of its ssh.)
func used(dir string) time.Duration {
	if dir == "" {
		return 0
	}
	ticks := 0
	processes, _ := filepath.Glob("/proc/[0-9]*") // the pattern is a good one
	for _, p := range processes {
		// A process that has ended meanwhile has neither file.
		command, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if !strings.Contains(string(command), dir+"/") {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join(p, "stat"))
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		for _, field := range fields[min(11, len(fields)):min(15, len(fields))] { // user, system, and those of ended children
			n, _ := strconv.Atoi(field) // the kernel's own format
			ticks += n
		}
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ
}
