package servers

import (
	"os"
	"path/filepath"
	"testing"
)

// Fetched returns the directory below which integration/test.sh has unpacked the FTP servers, and fails the test if they are
// not there.
func Fetched(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "pierfs", "servers")
	for _, program := range []string{"vsftpd", "pure-ftpd", "proftpd"} {
		if _, err := os.Stat(filepath.Join(dir, "usr", "sbin", program)); err != nil {
			t.Fatalf("this test needs FTP servers (%v): run integration/test.sh, which fetches them", err)
		}
	}
	return dir
}
