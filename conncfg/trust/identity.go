package trust

import (
	"crypto/x509"
	"slices"
)

// Identity is what a server shows to prove who it is: a host key, or a certificate if that is not nil.
type Identity struct {
	Key         HostKey
	Certificate *x509.Certificate
}

// Kind returns the type of the key, such as ssh-ed25519, or "certificate".
func (i Identity) Kind() string {
	if i.Certificate != nil {
		return "certificate"
	}
	return i.Key.Type
}

// What returns "ssh-ed25519 key" and the like, or "certificate", for sentences.
func (i Identity) What() string {
	if i.Certificate != nil {
		return "certificate"
	}
	return i.Key.Type + " key"
}

// Fingerprint returns SHA256: and the hash of the key or certificate in base64 without padding.
func (i Identity) Fingerprint() string {
	if i.Certificate != nil {
		return Fingerprint(i.Certificate)
	}
	return i.Key.Fingerprint()
}

// Pin believes i for address, which is HOST:PORT as net.Dial takes it, and returns once that is on the disk. It is for
// the first sight of a server: fresh is false if i is believed already, and a server of which anything else is believed is
// an *OtherError.
func (s *Store) Pin(address string, i Identity) (fresh bool, err error) {
	fresh, err = s.Stranger(address, i)
	switch {
	case !fresh:
		return false, err
	case i.Certificate != nil:
		return true, s.PinCertificate(address, i.Certificate)
	}
	return true, s.PinHostKey(address, i.Key)
}

// Stranger reports what Pin would answer, and believes nothing.
func (s *Store) Stranger(address string, i Identity) (fresh bool, err error) {
	known, err := s.Believed(address, i)
	switch {
	case err != nil:
		return false, err
	case slices.Contains(known, i.Fingerprint()):
		return false, nil
	case len(known) > 0:
		return false, &OtherError{Address: address, Believed: known[0], Shown: i}
	}
	return true, nil
}

// Replace believes i for address from now on, and nothing else of its kind: the fingerprints that it returns are forgotten.
func (s *Store) Replace(address string, i Identity) (forgotten []string, err error) {
	if i.Certificate != nil {
		return s.ReplaceCertificates(address, i.Certificate)
	}
	keys, err := s.ReplaceHostKeys(address, i.Key)
	return fingerprintsOf(keys), err
}

// Believed returns the fingerprints that are believed for address: of certificates if i is one, else of host keys.
func (s *Store) Believed(address string, i Identity) ([]string, error) {
	if i.Certificate != nil {
		return s.Certificates(address)
	}
	keys, err := s.HostKeys(address)
	return fingerprintsOf(keys), err
}

func fingerprintsOf(keys []HostKey) []string {
	var prints []string
	for _, k := range keys {
		prints = append(prints, k.Fingerprint())
	}
	return prints
}

// OtherError says that a server shows something else than what is believed of it: it was set up anew, or somebody stands in
// between.
type OtherError struct {
	Address  string
	Believed string // fingerprint
	Shown    Identity
}

func (e *OtherError) Error() string {
	return e.Address + " shows the " + e.Shown.What() + " " + e.Shown.Fingerprint() + ", but " + e.Believed + " is trusted"
}
