package sftp

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"pierfs/backends"
)

// errHostKey is a host key that is not believed.
type errHostKey struct {
	cause backends.Cause
	text  string
	hint  string
	kind  string // of the key, so that another can be asked for
	other bool   // the server may have a key of another kind that is believed
}

func (e *errHostKey) Error() string { return e.text }

// hostKeys decides which host keys are believed for one address.
type hostKeys struct {
	address string
	pin     string
	known   ssh.HostKeyCallback // of the known_hosts files; nil if there are none
	trusted []TrustedKey
	certs   bool // the files name authorities

	seen ssh.PublicKey // what the server has shown
}

func (o *Options) hostKeys() (*hostKeys, error) {
	h := &hostKeys{address: o.Address, pin: o.HostKey}
	if h.pin != "" {
		return h, nil
	}
	if o.Trusted != nil {
		h.trusted = o.Trusted(o.Address)
	}
	var files []string
	for _, file := range o.KnownHostsFiles {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &errKey{fmt.Errorf("known hosts: %w", err), "check knownHostsFile"}
		}
		h.certs = h.certs || bytes.Contains(text, []byte("@cert-authority"))
		files = append(files, file)
	}
	if len(files) == 0 {
		return h, nil
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, &errKey{err, "correct or remove the line of known_hosts that cannot be read"}
	}
	h.known = known
	return h, nil
}

// algorithms returns the host key algorithms to ask for, those of keys that are known first: a server that has several
// keys would else show one that is not, and look as if it had changed. Without any, the order is OpenSSH's.
func (h *hostKeys) algorithms(legacy bool, without map[string]bool) []string {
	kinds := []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA}
	if legacy {
		kinds = append(kinds, "ssh-dss")
	}
	known := h.knownKinds()
	slices.SortStableFunc(kinds, func(a, b string) int {
		switch x, y := slices.Contains(known, a), slices.Contains(known, b); {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return 0
	})
	var algorithms []string
	if h.certs && !without[certificates] {
		algorithms = append(algorithms, ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01,
			ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01)
	}
	for _, kind := range kinds {
		switch {
		case without[kind]:
		case kind == ssh.KeyAlgoRSA:
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			if legacy {
				algorithms = append(algorithms, ssh.KeyAlgoRSA)
			}
		default:
			algorithms = append(algorithms, kind)
		}
	}
	return algorithms
}

// certificates stands for all kinds of host certificates among the kinds to go without.
const certificates = "certificates"

// knownKinds returns the types of the keys that are known for the address.
func (h *hostKeys) knownKinds() []string {
	var kinds []string
	for _, key := range h.trusted {
		kinds = append(kinds, key.Type)
	}
	for _, key := range h.wanted() {
		kinds = append(kinds, key.Type())
	}
	return kinds
}

// wanted returns the keys that the files have for the address. The library tells them only to who shows a wrong one.
func (h *hostKeys) wanted() []ssh.PublicKey {
	if h.known == nil {
		return nil
	}
	stranger, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	wrong, ok := errors.AsType[*knownhosts.KeyError](h.known(h.address, address(h.address), stranger))
	if !ok {
		return nil
	}
	var keys []ssh.PublicKey
	for _, want := range wrong.Want {
		keys = append(keys, want.Key)
	}
	return keys
}

// address is a net.Addr of nothing but its text.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// check is the ssh.HostKeyCallback.
func (h *hostKeys) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.seen = key
	if h.pin != "" {
		return h.checkPin(key)
	}
	if h.known != nil {
		err := h.known(h.address, address(h.address), key)
		if err == nil {
			return nil
		}
		if revoked, ok := errors.AsType[*knownhosts.RevokedError](err); ok {
			return &errHostKey{
				cause: backends.CauseHostKeyChanged, kind: key.Type(),
				text: fmt.Sprintf("the host key %s of %s is marked as revoked (%s:%d)", fingerprint(key), h.address,
					revoked.Revoked.Filename, revoked.Revoked.Line),
				hint: "do not connect; ask the server's operator, and take the @revoked line out only if he vouches for the key",
			}
		}
		if _, ok := key.(*ssh.Certificate); ok {
			return &errHostKey{cause: backends.CauseHostKeyUnknown, kind: certificates, other: true,
				text: fmt.Sprintf("the host certificate of %s is not accepted: %v", h.address, err),
				hint: "add the authority's key to a known_hosts file as @cert-authority"}
		}
	}
	blob := key.Marshal()
	if slices.ContainsFunc(h.trusted, func(k TrustedKey) bool { return bytes.Equal(k.Blob, blob) }) {
		return nil
	}
	return h.stranger(key)
}

func (h *hostKeys) checkPin(key ssh.PublicKey) error {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	if normalPin(h.pin) == fingerprint(key) {
		return nil
	}
	return &errHostKey{cause: backends.CauseHostKeyChanged, kind: key.Type(), other: true,
		text: fmt.Sprintf("%s shows the %s host key %s, but the definition accepts only %s",
			h.address, key.Type(), fingerprint(key), normalPin(h.pin)),
		hint: "ask the server's operator for the fingerprint; only if he confirms the new one, put it into hostKey"}
}

// normalPin adds the prefix that people leave out and takes away the padding that some tools print.
func normalPin(pin string) string {
	pin = strings.TrimRight(pin, "=")
	if !strings.HasPrefix(pin, "SHA256:") {
		return "SHA256:" + pin
	}
	return pin
}

// stranger is the refusal of a key that nobody has told us to believe: an unknown server, or a known one with another key.
func (h *hostKeys) stranger(key ssh.PublicKey) error {
	var old []string
	for _, k := range h.trusted {
		if known, err := ssh.ParsePublicKey(k.Blob); err == nil {
			old = append(old, k.Type+" "+fingerprint(known))
		}
	}
	for _, known := range h.wanted() {
		old = append(old, known.Type()+" "+fingerprint(known))
	}
	if len(old) == 0 {
		return &errHostKey{cause: backends.CauseHostKeyUnknown, kind: key.Type(),
			text: fmt.Sprintf("the host key of %s is unknown: %s %s", h.address, key.Type(), fingerprint(key)),
			hint: "compare the fingerprint with what the server's operator tells, then run: pierfs trust NAME " + fingerprint(key)}
	}
	return &errHostKey{cause: backends.CauseHostKeyChanged, kind: key.Type(), other: true,
		text: fmt.Sprintf("THE HOST KEY OF %s HAS CHANGED: it shows %s %s, known is %s; somebody may be in between",
			h.address, key.Type(), fingerprint(key), strings.Join(old, ", ")),
		hint: "do not connect before the server's operator has confirmed the new fingerprint; then run: pierfs trust NAME " +
			fingerprint(key)}
}

func fingerprint(key ssh.PublicKey) string {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return ssh.FingerprintSHA256(key)
}

// errScanned ends a handshake that was only to show the host key.
var errScanned = errors.New("the host key has been seen")

// ScanHostKey returns the host key that the server at o.Address shows: its type, its bytes in SSH wire format, and its
// fingerprint. It does not log in, and believes nothing: what it returns is to be confirmed by somebody.
func ScanHostKey(ctx context.Context, o Options) (kind string, blob []byte, print string, err error) {
	return FindHostKey(ctx, o, "")
}

// FindHostKey is ScanHostKey for a server with keys of several types: it returns the one with the fingerprint want, and the one
// that it shows first if none has it. Each type costs a connection.
func FindHostKey(ctx context.Context, o Options, want string) (kind string, blob []byte, print string, err error) {
	o.HostKey, o.KnownHostsFiles, o.Trusted = "", nil, nil
	b, err := New(o)
	if err != nil {
		return "", nil, "", err
	}
	defer b.Close()
	key, err := find(ctx, &b.o, want)
	if err != nil {
		return "", nil, "", seam("scan", "", err)
	}
	return key.Type(), key.Marshal(), fingerprint(key), nil
}

func find(ctx context.Context, o *Options, want string) (ssh.PublicKey, error) {
	first, err := scan(ctx, o, nil)
	if err != nil {
		return nil, err
	}
	shown := map[string]bool{}
	for key := first; !shown[key.Type()]; {
		if want == "" || fingerprint(key) == want {
			return key, nil
		}
		shown[key.Type()] = true
		key, err = scan(ctx, o, shown)
		if backends.CauseOf(err) == backends.CauseAlgorithms { // it has no more
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return first, nil
}
