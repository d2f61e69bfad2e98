package trust

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func key(kind, body string) HostKey {
	blob := binary.BigEndian.AppendUint32(nil, uint32(len(kind)))
	return HostKey{kind, append(append(blob, kind...), body...)}
}

func open(t *testing.T) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trust")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, filepath.Join(dir, "host_keys")
}

func fingerprints(t *testing.T, s *Store, address string) string {
	t.Helper()
	keys, err := s.HostKeys(address)
	if err != nil {
		t.Fatalf("HostKeys(%q): %v", address, err)
	}
	var all []string
	for _, k := range keys {
		all = append(all, k.Type)
	}
	return strings.Join(all, " ")
}

// The key of github.com, whose fingerprint is published.
func TestFingerprintIsThatOfSSHKeygen(t *testing.T) {
	k, err := ParseHostKey("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl comment")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := k.Fingerprint(), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"; got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
}

func TestPinnedKeyIsBelieved(t *testing.T) {
	s, file := open(t)
	ed, rsa := key("ssh-ed25519", "one"), key("ssh-rsa", "two")
	for _, address := range []string{"Files.example.com:22", "files.example.com:2222", "[2001:db8::1]:22", "[2001:db8::1]:2022"} {
		for _, k := range []HostKey{ed, rsa, ed} {
			if err := s.PinHostKey(address, k); err != nil {
				t.Fatalf("pin %s %s: %v", address, k.Type, err)
			}
		}
		if got := fingerprints(t, s, address); got != "ssh-ed25519 ssh-rsa" {
			t.Errorf("%s: believed %q, want both keys once", address, got)
		}
	}
	again, err := Open(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	if got := fingerprints(t, again, "files.example.com:22"); got != "ssh-ed25519 ssh-rsa" {
		t.Errorf("after opening again %q is believed", got)
	}
	if got := fingerprints(t, s, "files.example.com:23"); got != "" {
		t.Errorf("another port of the host is believed: %q", got)
	}
	data, _ := os.ReadFile(file)
	for _, want := range []string{"\nfiles.example.com ssh-rsa ", "\n[files.example.com]:2222 ssh-ed25519 ", "\n2001:db8::1 ", "\n[2001:db8::1]:2022 "} {
		if !strings.Contains("\n"+string(data), want) {
			t.Errorf("the file has no line as ssh would write it: %q in\n%s", want, data)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestChangedKeyIsRefusedUntilForgotten(t *testing.T) {
	s, file := open(t)
	old, other := key("ssh-ed25519", "old"), key("ssh-ed25519", "other")
	if err := s.PinHostKey("h:22", old); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(file)
	err := s.PinHostKey("h:22", other)
	if !errors.Is(err, ErrOtherKey) || !strings.Contains(err.Error(), old.Fingerprint()) {
		t.Errorf("pinning another key of the same type: %v, want ErrOtherKey with the old fingerprint", err)
	}
	if after, _ := os.ReadFile(file); string(after) != string(before) {
		t.Errorf("the refused key changed the file")
	}
	if err := s.Forget("h:22"); err != nil {
		t.Fatal(err)
	}
	if got := fingerprints(t, s, "h:22"); got != "" {
		t.Errorf("forgotten and still believed: %q", got)
	}
	if err := s.PinHostKey("h:22", other); err != nil {
		t.Errorf("after Forget: %v", err)
	}
}

func TestLinesOfOthersAreKeptAndNotBelieved(t *testing.T) {
	s, file := open(t)
	a, b := key("ssh-ed25519", "a"), key("ssh-ed25519", "b")
	content := "# by hand\n\n|1|abc=|def= " + a.String() + "\n*.example.com " + a.String() + "\n@cert-authority h " + a.String() +
		"\nh ssh-ed25519 torn\nh ssh-rsa " + strings.Fields(a.String())[1] + "\n@revoked h " + b.String() + "\nh " + b.String() + "\ng,i " + a.String() + " comment\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fingerprints(t, s, "h:22"); got != "" {
		t.Errorf("believed for h: %q, want nothing", got)
	}
	if got := fingerprints(t, s, "x.example.com:22"); got != "" {
		t.Errorf("a pattern is believed: %q", got)
	}
	if got := fingerprints(t, s, "i:22"); got != "ssh-ed25519" {
		t.Errorf("the second name of a line has %q", got)
	}
	if err := s.PinHostKey("h:22", b); err == nil {
		t.Error("a revoked key was pinned")
	}
	if err := s.PinHostKey("j:22", a); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget("i:22"); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(content, "g,i "+a.String()+" comment", "g "+a.String(), 1) + "j " + a.String() + "\n"
	if got, _ := os.ReadFile(file); string(got) != want {
		t.Errorf("file is\n%s\nwant\n%s", got, want)
	}
}

func TestUnreadableStoreIsNoUnknownHost(t *testing.T) {
	s, file := open(t)
	if err := os.Mkdir(file, 0o700); err != nil { // root reads everything but a directory
		t.Fatal(err)
	}
	if keys, err := s.HostKeys("h:22"); err == nil {
		t.Errorf("HostKeys answers %v without an error", keys)
	}
	if err := s.PinHostKey("h:22", key("ssh-rsa", "x")); err == nil {
		t.Error("PinHostKey wrote over what it could not read")
	}
	if _, err := Open(filepath.Dir(file)); err == nil {
		t.Error("Open says nothing")
	}
}

func TestBadKeysAndAddressesAreNotPinned(t *testing.T) {
	s, file := open(t)
	good := key("ssh-rsa", "x")
	for _, c := range []struct {
		address string
		key     HostKey
	}{
		{"", good}, {":22", good}, {"a b:22", good}, {"a\nb:22", good}, {"a,b:22", good}, {"*:22", good},
		{"h:22", HostKey{}}, {"h:22", HostKey{"ssh-rsa", []byte("x")}}, {"h:22", HostKey{"ssh-dss", good.Blob}},
		{"h:22", key("a b", "x")}, {"h:22", key("", "x")},
	} {
		if err := s.PinHostKey(c.address, c.key); err == nil {
			t.Errorf("pinned %q %q", c.address, c.key.Type)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file was written: %v", err)
	}
}

// A server that was set up anew: its new key takes the place of all the old ones, and of nobody else's.
func TestReplacedKeysAreForgotten(t *testing.T) {
	s, file := open(t)
	oldEd, oldRSA, newEd, revoked := key("ssh-ed25519", "old"), key("ssh-rsa", "old"), key("ssh-ed25519", "new"), key("ssh-rsa", "leaked")
	text := "# kept\nh,other " + oldEd.String() + "\nh " + oldRSA.String() + "\n@revoked h " + revoked.String() + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReplaceHostKeys("h:22", revoked); err == nil {
		t.Error("a revoked key was believed")
	}
	forgotten, err := s.ReplaceHostKeys("h:22", newEd)
	if err != nil || len(forgotten) != 2 || !forgotten[0].Equal(oldEd) || !forgotten[1].Equal(oldRSA) {
		t.Errorf("forgot %v, %v; want both old keys", forgotten, err)
	}
	if keys, err := s.HostKeys("h:22"); err != nil || len(keys) != 1 || !keys[0].Equal(newEd) {
		t.Errorf("h is known by %v, %v; want the new key alone", keys, err)
	}
	if keys, err := s.HostKeys("other:22"); err != nil || len(keys) != 1 || !keys[0].Equal(oldEd) {
		t.Errorf("another host on the same line is known by %v, %v; want its key", keys, err)
	}
	want := "# kept\nother " + oldEd.String() + "\n@revoked h " + revoked.String() + "\nh " + newEd.String() + "\n"
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("the file is %q, %v; want %q", got, err, want)
	}
	if forgotten, err := s.ReplaceHostKeys("h:22", newEd); err != nil || len(forgotten) != 0 {
		t.Errorf("replacing a key by itself forgot %v, %v", forgotten, err)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("h " + key("ssh-rsa", "x").String() + "\n"))
	f.Add([]byte("@revoked [h]:2,i ssh-rsa AAAA\r\n\n#\n|1|a|b c d"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := parse(data)
		var b strings.Builder
		for _, l := range lines {
			b.WriteString(l.text + "\n")
			for _, h := range l.hosts {
				if err := l.key.check(); err != nil {
					t.Errorf("%q believed for %q: %v", l.text, h, err)
				}
				believed(lines, h)
			}
		}
		if want := strings.TrimSuffix(string(data), "\n") + "\n"; len(data) > 0 && b.String() != want {
			t.Errorf("rewritten as %q, was %q", b.String(), want)
		}
	})
}
