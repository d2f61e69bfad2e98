package conncfg

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Key encrypts the secrets that are set by command, so that a file of definitions can be read, copied and kept without giving
// them away. It is 32 random bytes in base64: the systemd credential pierfs.key if the daemon has one, which may be bound to the
// machine, else the file pierfs.key in the configuration directory, for its owner alone.
type Key struct{ aead cipher.AEAD }

const keyName = "pierfs.key"

// sealVersion is the first byte of what is sealed.
const sealVersion = 1

// OpenKey returns the key of the configuration below dir; the error of a missing one is os.ErrNotExist.
func OpenKey(dir string) (*Key, error) {
	file := filepath.Join(dir, keyName)
	if credentials := os.Getenv("CREDENTIALS_DIRECTORY"); credentials != "" {
		if _, err := os.Stat(filepath.Join(credentials, keyName)); err == nil {
			file = filepath.Join(credentials, keyName)
		}
	}
	text, err := readRegular(file)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %#o, and others may read it: chmod 400 %s", file, info.Mode().Perm(), file)
	}
	return newKey(text, file)
}

func newKey(text, file string) (*Key, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("%s holds no key: 32 bytes in base64", file)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &Key{aead}, err
}

// SealedSample has the form of a sealed secret, for a change that is only tried.
const SealedSample = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// MakeKey is OpenKey, and makes the key file if there is no key yet.
func MakeKey(dir string) (*Key, error) {
	key, err := OpenKey(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	raw := make([]byte, 32)
	rand.Read(raw)
	temp, err := os.CreateTemp(dir, "."+keyName+".*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n")
	err = errors.Join(err, temp.Chmod(0o400), temp.Sync(), temp.Close())
	if err != nil {
		return nil, err
	}
	// link(2) fails where somebody else has made one meanwhile: nothing may be sealed with a key that is not kept.
	if err := os.Link(temp.Name(), filepath.Join(dir, keyName)); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	return OpenKey(dir)
}

// Seal returns text encrypted, as { sealed = "..." } has it.
func (k *Key) Seal(s Secret) string {
	nonce := make([]byte, k.aead.NonceSize())
	rand.Read(nonce)
	out := append([]byte{sealVersion}, nonce...)
	return base64.RawStdEncoding.EncodeToString(k.aead.Seal(out, nonce, []byte(s.Reveal()), []byte{sealVersion}))
}

// Open returns what was sealed with the same key.
func (k *Key) Open(sealed string) (Secret, error) {
	raw, err := base64.RawStdEncoding.DecodeString(sealed)
	n := k.aead.NonceSize()
	switch {
	case err != nil || len(raw) < 1+n:
		return Secret{}, errors.New("is no sealed secret")
	case raw[0] != sealVersion:
		return Secret{}, errors.New("was sealed by another version of this program")
	}
	text, err := k.aead.Open(nil, raw[1:1+n], raw[1+n:], []byte{sealVersion})
	if err != nil {
		return Secret{}, errors.New("was sealed with another key: set it again")
	}
	return NewSecret(string(text)), nil
}

// unseal opens a sealed source with the key of this configuration.
func (c *Config) unseal(s source) (string, error) {
	key, err := OpenKey(c.dir)
	if err != nil {
		return "", fmt.Errorf("the key that it was sealed with: %w", err)
	}
	secret, err := key.Open(s.text)
	return secret.Reveal(), err
}

// checkSealed looks at the form of what is sealed; only its key tells more.
func checkSealed(text string) *problem {
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(raw) < 1+12+16 {
		return invalid("is no sealed secret", "`pierfs vars set --secret NAME` writes one")
	}
	return nil
}
