// Package trust is what this machine believes about servers: which host key or certificate a server showed when somebody
// said that it was the right one.
//
// The store is two files. host_keys is in the form of OpenSSH's known_hosts: "HOST TYPE BASE64" a line, HOST being a name or
// address for port 22 and [name]:port for others. certificates has "HOST:PORT SHA256:BASE64" a line, and behind it what the
// certificate said of itself, for people. Each is read anew at each question, so that what an operator edits counts at once,
// and replaced as a whole at each change. Lines it does not understand (comments, hashed names, patterns, certificate
// authorities) are kept byte for byte and believed in nothing; a line marked @revoked takes its key or certificate out.
//
// Pinning is for the first sight of a server and refuses one that has changed; replacing is for an operator who has been
// told the new fingerprint.
//
// A file that cannot be read is an error and never an unknown host: else a bad disk would have a stranger's key pinned at
// "first" sight.
package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ErrOtherKey is returned for a key that would stand beside another one of the same type: the host has changed its key,
// or somebody stands in between. Only Forget and ReplaceHostKeys make room.
var ErrOtherKey = errors.New("another key of this type is believed already")

// HostKey is a server's public key as the SSH protocol carries it.
type HostKey struct {
	Type string // such as ssh-ed25519
	Blob []byte // RFC 4253 section 6.6, which begins with the type again
}

// Fingerprint returns SHA256: and the hash in base64 without padding, as ssh-keygen -l prints it.
func (k HostKey) Fingerprint() string {
	sum := sha256.Sum256(k.Blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// String returns the key as a line of known_hosts has it.
func (k HostKey) String() string { return k.Type + " " + base64.StdEncoding.EncodeToString(k.Blob) }

// Equal reports whether both are the same key.
func (k HostKey) Equal(o HostKey) bool { return k.Type == o.Type && bytes.Equal(k.Blob, o.Blob) }

// ParseHostKey reads "TYPE BASE64", with or without a comment behind it, as in the .pub files of a server.
func ParseHostKey(text string) (HostKey, error) {
	words := strings.Fields(text)
	if len(words) < 2 {
		return HostKey{}, errors.New("a host key is written as TYPE BASE64")
	}
	blob, err := base64.StdEncoding.DecodeString(words[1])
	if err != nil {
		return HostKey{}, errors.New("the key is no base64")
	}
	k := HostKey{words[0], blob}
	return k, k.check()
}

// check wants the blob to name the type that stands before it, so that a torn line is no key.
func (k HostKey) check() error {
	if len(k.Blob) < 4 {
		return errors.New("the key is too short")
	}
	n := binary.BigEndian.Uint32(k.Blob)
	if uint64(n)+4 >= uint64(len(k.Blob)) || string(k.Blob[4:4+n]) != k.Type || k.Type == "" {
		return fmt.Errorf("the key is not of type %q", k.Type)
	}
	if strings.ContainsFunc(k.Type, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%q is no type of a key", k.Type)
	}
	return nil
}

// Store is the host keys and certificates believed. Its methods may be called from many goroutines at once.
type Store struct {
	file  string     // of host keys
	certs string     // of certificates
	mu    sync.Mutex // held while a file is read and replaced
}

// Open returns the store in dir, which it makes (0700). It fails if the files that are there cannot be read.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Store{file: filepath.Join(dir, "host_keys"), certs: filepath.Join(dir, "certificates")}
	_, keys := s.read()
	_, certs := s.readCertificates()
	return s, errors.Join(keys, certs)
}

// HostKeys returns the keys believed for address, which is HOST:PORT as net.Dial takes it; none if it is unknown.
func (s *Store) HostKeys(address string) ([]HostKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, err := s.read()
	if err != nil {
		return nil, err
	}
	return believed(lines, pattern(address)), nil
}

func believed(lines []line, host string) []HostKey {
	var keys, revoked []HostKey
	for _, l := range lines {
		switch {
		case !slices.Contains(l.hosts, host):
		case l.revoked:
			revoked = append(revoked, l.key)
		case !slices.ContainsFunc(keys, l.key.Equal):
			keys = append(keys, l.key)
		}
	}
	return slices.DeleteFunc(keys, func(k HostKey) bool { return slices.ContainsFunc(revoked, k.Equal) })
}

// PinHostKey believes key for address from now on, and returns once that is on the disk. A key that is believed already
// changes nothing; ErrOtherKey if one of the same type is.
func (s *Store) PinHostKey(address string, key HostKey) error {
	host, err := hostOf(address, key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, err := s.read()
	if err != nil {
		return err
	}
	for _, known := range believed(lines, host) {
		if known.Equal(key) {
			return nil
		}
		if known.Type == key.Type {
			return fmt.Errorf("%s: %w: %s", address, ErrOtherKey, known.Fingerprint())
		}
	}
	if err := s.notRevoked(lines, host, key); err != nil {
		return err
	}
	return s.write(append(lines, line{text: host + " " + key.String()}))
}

// ReplaceHostKeys believes key for address from now on, and no other: those that it returns are forgotten. The file has
// the old keys or the new one, whatever happens. It is for who knows that the server has been set up anew.
func (s *Store) ReplaceHostKeys(address string, key HostKey) (forgotten []HostKey, err error) {
	host, err := hostOf(address, key)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, err := s.read()
	if err != nil {
		return nil, err
	}
	if err := s.notRevoked(lines, host, key); err != nil {
		return nil, err
	}
	forgotten = slices.DeleteFunc(believed(lines, host), key.Equal)
	return forgotten, s.write(append(without(lines, host), line{text: host + " " + key.String()}))
}

// hostOf returns how lines call the host that key is to be believed for, if both can stand in a line.
func hostOf(address string, key HostKey) (string, error) {
	host := pattern(address)
	if unfit(host) {
		return "", fmt.Errorf("%q is no address of a host", address)
	}
	return host, key.check()
}

// unfit reports whether host would break the line that it stands in, or be taken for a pattern.
func unfit(host string) bool { return host == "" || strings.ContainsAny(host, " \t\r\n,*?!#|@\x00") }

func (s *Store) notRevoked(lines []line, host string, key HostKey) error {
	for _, l := range lines {
		if l.revoked && l.key.Equal(key) && slices.Contains(l.hosts, host) {
			return fmt.Errorf("%s: the key %s is marked @revoked in %s", host, key.Fingerprint(), s.file)
		}
	}
	return nil
}

// Forget takes every key of address out of the store. Lines marked @revoked stay.
func (s *Store) Forget(address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, err := s.read()
	if err != nil {
		return err
	}
	kept := without(lines, pattern(address))
	if slices.EqualFunc(kept, lines, func(a, b line) bool { return a.text == b.text }) {
		return nil
	}
	return s.write(kept)
}

// without returns lines with every key of host taken out of them.
func without(lines []line, host string) []line {
	kept := make([]line, 0, len(lines)+1)
	for _, l := range lines {
		if l.revoked || !slices.Contains(l.hosts, host) {
			kept = append(kept, l)
			continue
		}
		if others := slices.DeleteFunc(slices.Clone(l.hosts), func(h string) bool { return h == host }); len(others) > 0 {
			kept = append(kept, line{text: strings.Join(others, ",") + " " + l.key.String()})
		}
	}
	return kept
}

// line is one line of the file; without hosts it is one that means nothing here.
type line struct {
	text    string // without its line break
	hosts   []string
	key     HostKey
	revoked bool
}

func (s *Store) read() ([]line, error) {
	data, err := load(s.file)
	return parse(data), err
}

// load returns a file's content; one that does not exist is empty.
func load(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// parse takes the file apart. It has no errors: what is no line of ours believes in nothing.
func parse(data []byte) []line {
	var lines []line
	for text := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n") {
		lines = append(lines, parseLine(text))
	}
	if len(data) == 0 {
		return nil
	}
	return lines
}

func parseLine(text string) line {
	l := line{text: text}
	words := strings.Fields(text)
	revoked := len(words) > 0 && words[0] == "@revoked"
	if revoked {
		words = words[1:]
	}
	if len(words) < 3 || strings.ContainsAny(words[0], "*?!#|@") {
		return l
	}
	key, err := ParseHostKey(words[1] + " " + words[2])
	if err != nil {
		return l
	}
	for host := range strings.SplitSeq(strings.ToLower(words[0]), ",") {
		if host != "" {
			l.hosts = append(l.hosts, host)
		}
	}
	l.key, l.revoked = key, revoked
	return l
}

// pattern is how a line calls an address: OpenSSH writes port 22 without its number.
func pattern(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.Trim(address, "[]"), "22"
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if port == "22" || host == "" {
		return host
	}
	return "[" + host + "]:" + port
}

func (s *Store) write(lines []line) error {
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l.text + "\n")
	}
	return replace(s.file, b.Bytes())
}

// replace puts content in a file's place: a crash leaves the old one or the new one.
func replace(file string, content []byte) (err error) {
	dir := filepath.Dir(file)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		temp.Close()
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	if _, err := temp.Write(content); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
