package archive

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"pierfs/conncfg"
)

const cheap = 4 // work enough for a test

// Row 94: nothing of an encrypted archive can be read without the passphrase, also not the names in it; with it, it is what was packed.
func TestPassphraseHidesNames(t *testing.T) {
	c, _ := conncfg.Parse([]byte("protocol = \"SFTP\"\nhost = \"secret-host.example\"\n"), "x", "Secret_Partner")
	text, err := c.Portable()
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if err := Write(&plain, Package{Connections: []Connection{{Name: c.Name, JSON: text}}}); err != nil {
		t.Fatal(err)
	}
	phrase := conncfg.NewSecret("correct horse")
	sealed, err := encrypt(plain.Bytes(), phrase, cheap)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"Secret_Partner", "secret-host", "manifest", "correct horse"} {
		if bytes.Contains(sealed, []byte(word)) {
			t.Errorf("%q can be read in it", word)
		}
	}
	if !IsEncrypted(sealed) || IsEncrypted(plain.Bytes()) {
		t.Error("it is not known as what it is")
	}
	opened, err := Decrypt(bytes.NewReader(sealed), phrase)
	if err != nil || !bytes.Equal(opened, plain.Bytes()) {
		t.Fatalf("it does not come back: %v", err)
	}
	p, err := Read(bytes.NewReader(opened), int64(len(opened)))
	if err != nil || len(p.Connections) != 1 || p.Connections[0].Name != "Secret_Partner" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := Decrypt(bytes.NewReader(sealed), conncfg.NewSecret("wrong")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("with another passphrase: %v", err)
	}
	if _, err := Encrypt(nil, conncfg.NewSecret("")); err == nil {
		t.Error("an empty passphrase is taken")
	}
}

// Row 94: an encrypted file decides neither what reading it costs nor how much comes out of it, and every change of it is found.
func TestHostileEncryptionIsRefused(t *testing.T) {
	phrase := conncfg.NewSecret("p")
	good, err := encrypt([]byte("PK"), phrase, cheap)
	if err != nil {
		t.Fatal(err)
	}
	costly := bytes.Replace(good, []byte(" 4\n"), []byte(" 30\n"), 1)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var forKeys bytes.Buffer
	w, err := age.Encrypt(&forKeys, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	long, err := encrypt(make([]byte, MaxSize+1), phrase, cheap)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		file []byte
		why  string
	}{
		"work factor 30":   {costly, "work factor too large: 30"},
		"for keys":         {forKeys.Bytes(), "for keys"},
		"too much":         {long, "damaged"}, // it is read no further than any archive goes
		"a bit flipped":    {flipped, "damaged"},
		"cut":              {good[:len(good)-4], "damaged"},
		"a header alone":   {good[:40], "cannot be decrypted"},
		"not even that":    {[]byte("age-encryption.org/v9\n"), "cannot be decrypted"},
		"nothing":          {nil, "cannot be decrypted"},
		"work factor -1":   {bytes.Replace(good, []byte(" 4\n"), []byte(" -1\n"), 1), "cannot be decrypted"},
		"work factor 9999": {bytes.Replace(good, []byte(" 4\n"), []byte(" 9999\n"), 1), "too large"},
	} {
		if _, err := Decrypt(bytes.NewReader(c.file), phrase); !IsRefused(err) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want a refusal with %q", name, err, c.why)
		}
	}
	full, err := encrypt(make([]byte, 1<<20), phrase, cheap)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := Decrypt(bytes.NewReader(full), phrase); err != nil || len(opened) != 1<<20 {
		t.Errorf("%d bytes, %v", len(opened), err)
	}
}

// Whatever comes, Decrypt returns, within its bounds.
// Holds row 94 of the requirements.
func FuzzDecrypt(f *testing.F) {
	phrase := conncfg.NewSecret("p")
	good, err := encrypt([]byte("PK\x03\x04"), phrase, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(" 1\n"), []byte(" 30\n"), 1))
	f.Fuzz(func(t *testing.T, file []byte) {
		if i := bytes.Index(file, []byte("-> scrypt ")); i >= 0 && !bytes.Contains(file[i:], []byte(" 1\n")) && !bytes.Contains(file[i:], []byte(" 30\n")) {
			return // other work is allowed, and slow
		}
		if content, err := Decrypt(bytes.NewReader(file), phrase); err == nil && len(content) > len(file) {
			t.Errorf("%d bytes came out of %d", len(content), len(file))
		}
	})
}
