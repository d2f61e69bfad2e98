package archive

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"filippo.io/age"

	"pierfs/conncfg"
)

// workFactor is the power of two by which a passphrase is made costly to guess: a second and 256 MiB, what age itself takes. A file
// that wants more is refused, for whoever sends it would decide what reading it costs.
const workFactor = 18

// Extension ends the name of an archive that is encrypted.
const Extension = ".age"

// IsEncrypted reports whether a file that begins with head is encrypted, in the format of age (age-encryption.org/v1).
func IsEncrypted(head []byte) bool { return bytes.HasPrefix(head, []byte("age-encryption.org/")) }

// Encrypt returns an archive encrypted with a passphrase, names and all. It is another text each time.
func Encrypt(content []byte, passphrase conncfg.Secret) ([]byte, error) {
	return encrypt(content, passphrase, workFactor)
}

func encrypt(content []byte, passphrase conncfg.Secret, work int) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(passphrase.Reveal())
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(work)
	var b bytes.Buffer
	w, err := age.Encrypt(&b, recipient)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(content)
	err = errors.Join(err, w.Close()) // which writes the end
	return b.Bytes(), err
}

// ErrPassphrase says that an archive was encrypted with another passphrase.
var ErrPassphrase = errors.New("the passphrase is another one")

// Decrypt returns what Encrypt was given, and never more than MaxSize bytes.
func Decrypt(r io.Reader, passphrase conncfg.Secret) ([]byte, error) {
	identity, err := age.NewScryptIdentity(passphrase.Reveal())
	if err != nil {
		return nil, err
	}
	identity.SetMaxWorkFactor(workFactor)
	plain, err := age.Decrypt(io.LimitReader(r, MaxSize), identity)
	none, unopened := errors.AsType[*age.NoIdentityMatchError](err)
	switch {
	case unopened && !slices.Contains(none.StanzaTypes, "scrypt"):
		return nil, refuse("it is encrypted for keys, not with a passphrase")
	case unopened:
		return nil, ErrPassphrase
	case err != nil:
		return nil, refuse("it cannot be decrypted: %v", err)
	}
	content, err := io.ReadAll(io.LimitReader(plain, MaxSize+1))
	switch {
	case err != nil:
		return nil, refuse("it is damaged: %v", err)
	case len(content) > MaxSize:
		return nil, refuse("it has more than %d bytes", MaxSize)
	}
	return content, nil
}
