package dial_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"pierfs/backends"
	"pierfs/backends/dial"
	"pierfs/conncfg"
	"pierfs/integration/servers"
)

// Every protocol shows the names of a server in the encoding that its definition says, and sends them in it.
// Holds row 126 of the requirements.
func TestNamesAreTranslated(t *testing.T) {
	ssh, ftp := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewFTP(t, servers.FTPOptions{})
	for encoding, bytes := range map[string][]byte{
		"iso-8859-1": {0xfc}, "windows-1252": {0xfc}, "windows-1254": {0xfc}, "cp437": {0x81},
	} {
		for protocol, place := range map[string]struct {
			target conncfg.Target
			behind string
		}{
			"SFTP": {target(t, ssh, encoding), filepath.Join(ssh.Dir, encoding)},
			"FTP":  {targetFTP(t, ftp, servers.Plain, encoding), filepath.Join(ftp.Dir, encoding)},
		} {
			wire := string(bytes)
			if err := os.MkdirAll(filepath.Join(place.behind, "dir"+wire), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(place.behind, "dir"+wire), 0o777); err != nil { // whatever the umask
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(place.behind, "dir"+wire, "old"+wire), []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
			place.target.Encoding, place.target.WorkingDir = encoding, place.target.WorkingDir+"/dirü"
			b := dialled(t, place.target, dial.Options{})
			if _, err := b.Stat(t.Context(), "oldü"); err != nil {
				t.Errorf("%s in %s: stat: %v", protocol, encoding, err)
			}
			var listed []string
			for info, err := range b.List(t.Context(), "") {
				if err != nil {
					t.Errorf("%s in %s: list: %v", protocol, encoding, err)
				}
				listed = append(listed, info.Name)
			}
			if !slices.Equal(listed, []string{"oldü"}) {
				t.Errorf("%s in %s: lists %q, want oldü", protocol, encoding, listed)
			}
			if err := b.Mkdir(t.Context(), "newü", 0o755); err != nil {
				t.Errorf("%s in %s: mkdir: %v", protocol, encoding, err)
			}
			if _, err := os.Stat(filepath.Join(place.behind, "dir"+wire, "new"+wire)); err != nil {
				t.Errorf("%s in %s: the server has no name in its encoding: %v", protocol, encoding, err)
			}
			if err := b.Mkdir(t.Context(), "kanji漢", 0o755); backends.Errno(err) != syscall.EILSEQ {
				t.Errorf("%s in %s: a name that cannot be written: %v, want EILSEQ", protocol, encoding, err)
			}
		}
	}
}

func TestUnknownEncodingsAreRefusedAtOnce(t *testing.T) {
	place := closed(t)
	place.Encoding = "ebcdic"
	_, dialled := dial.Dial(place, dial.Options{})
	tested := dial.Test(t.Context(), place, dial.Options{}, func(dial.Step) { t.Error("a step was reported") })
	place.Encoding, place.WorkingDir = "iso-8859-1", "/漢"
	_, unwritable := dial.Dial(place, dial.Options{})
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{{dialled, syscall.EINVAL}, {tested, syscall.EINVAL}, {unwritable, syscall.EILSEQ}} {
		if e, ok := errors.AsType[*backends.Error](c.err); !ok || e.Code != c.want || e.Hint == "" {
			t.Errorf("got %v, want %v with a hint", c.err, c.want)
		}
	}
}
