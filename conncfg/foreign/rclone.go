package foreign

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"strings"
)

// rclone reads rclone.conf: sections in brackets, each a remote, with KEY = VALUE.
func (r *reader) rclone(text string) error {
	if strings.Contains(text, "RCLONE_ENCRYPT_V0:") {
		return refuse("it is encrypted: `rclone config show` prints it in the clear, and `pierfs import --from rclone -` reads that")
	}
	var name string
	var values map[string]string
	flush := func() {
		if values != nil {
			r.remote(name, values)
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if section, ok := strings.CutPrefix(line, "["); ok && strings.HasSuffix(section, "]") {
			flush()
			name, values = strings.TrimSuffix(section, "]"), map[string]string{}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if ok && values != nil && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
			values[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
		}
	}
	flush()
	return nil
}

// remote takes one remote over, if it is one of SFTP or FTP.
func (r *reader) remote(name string, v map[string]string) {
	kind := v["type"]
	if kind != "sftp" && kind != "ftp" {
		r.note("%q was left out: its type is %q", clip(name), clip(kind))
		return
	}
	s := r.add(name)
	s.set("protocol", strings.ToUpper(kind))
	s.set("host", v["host"])
	s.set("username", v["user"])
	s.number("port", v["port"])
	s.revealed("password", v["pass"])
	known := []string{"type", "host", "user", "port", "pass"}
	if kind == "sftp" {
		known = append(known, s.rcloneSFTP(v)...)
	} else {
		known = append(known, s.rcloneFTP(v)...)
	}
	for _, key := range known {
		delete(v, key)
	}
	var others []string
	for key := range v {
		others = append(others, key)
	}
	s.leftOut(others)
}

func (s *site) rcloneSFTP(v map[string]string) (known []string) {
	for key, field := range map[string]string{"key_file": "privateKeyFile", "pubkey_file": "certificateFile", "known_hosts_file": "knownHostsFile"} {
		if v[key] != "" {
			s.file(field, v[key])
		}
	}
	if v["key_pem"] != "" {
		s.secret("privateKey", strings.ReplaceAll(v["key_pem"], `\n`, "\n"))
	}
	s.revealed("privateKeyPassphrase", v["key_file_pass"])
	if v["use_insecure_cipher"] == "true" {
		s.fields["legacyAlgorithms"] = true
	}
	if v["key_use_agent"] == "true" {
		s.note("an agent of this machine is named by its owner: pierfs edit NAME --set agent=true")
	}
	return []string{"key_file", "pubkey_file", "known_hosts_file", "key_pem", "key_file_pass", "use_insecure_cipher", "key_use_agent", "shell_type", "md5sum_command", "sha1sum_command"}
}

func (s *site) rcloneFTP(v map[string]string) (known []string) {
	switch {
	case v["tls"] == "true":
		s.fields["protocol"], s.fields["useImplicit"] = "FTPS", true
	case v["explicit_tls"] == "true":
		s.fields["protocol"], s.fields["useExplicit"] = "FTPS", true
	}
	if v["no_check_certificate"] == "true" {
		s.note("its certificate was not checked there, and is checked here: `pierfs trust` believes one that nobody has signed")
	}
	if n := v["concurrency"]; n != "" && n != "0" {
		s.number("maxSessions", n)
	}
	return []string{"tls", "explicit_tls", "no_check_certificate", "concurrency"}
}

// revealed takes over a secret that rclone has obscured.
func (s *site) revealed(field, obscured string) {
	if obscured == "" {
		return
	}
	text, err := reveal(obscured)
	if err != nil {
		s.note("%s could not be read: %v", field, err)
		s.blanks = append(s.blanks, blank(field, "it cannot be revealed: give it again"))
		return
	}
	s.secret(field, text)
}

// rcloneKey is the key that every rclone obscures with (rclone, fs/config/obscure): it hides a password from a glance and from nobody else.
func rcloneKey() []byte {
	return []byte{
		0x9c, 0x93, 0x5b, 0x48, 0x73, 0x0a, 0x55, 0x4d, 0x6b, 0xfd, 0x7c, 0x63, 0xc8, 0x86, 0xa9, 0x2b,
		0xd3, 0x90, 0x19, 0x8e, 0xb8, 0x12, 0x8a, 0xfb, 0xf4, 0xde, 0x16, 0x2b, 0x8b, 0x95, 0xf6, 0x38,
	}
}

// reveal undoes `rclone obscure`: AES-CTR, the counter's beginning in front, in base64 for URLs.
func reveal(obscured string) (string, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(obscured)
	if err != nil || len(sealed) < aes.BlockSize {
		return "", errors.New("it was not obscured by rclone")
	}
	block, err := aes.NewCipher(rcloneKey())
	if err != nil {
		return "", err
	}
	text := sealed[aes.BlockSize:]
	cipher.NewCTR(block, sealed[:aes.BlockSize]).XORKeyStream(text, text)
	return string(text), nil
}
