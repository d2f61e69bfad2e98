package conncfg

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The rules for single values. Each takes a value without references, may bring it to its canonical form, and answers
// nil or what is wrong with it and what to write instead.

func checkProtocol(s *setting) *problem {
	switch upper := Protocol(strings.ToUpper(s.text)); upper {
	case FTP, FTPS, SFTP:
		s.text = string(upper)
		return nil
	}
	words := []string{string(FTP), string(FTPS), string(SFTP)}
	return invalid("is none of FTP, FTPS, SFTP", didYouMean(s.text, slices.Values(words), `write "SFTP", "FTPS" or "FTP"`))
}

// checkHost takes IPv4 and IPv6 addresses (bare or in brackets), full names and single labels. What else people put there
// belongs into another field, and the hint says which.
func checkHost(s *setting) *problem {
	refuse := func(message, hint string) *problem { return &problem{CodeHostInvalid, message, hint} }
	host := s.text
	if bare, ok := strings.CutPrefix(host, "["); ok {
		bare, rest, closed := strings.Cut(bare, "]")
		switch {
		case !closed:
			return refuse("has an opening bracket and no closing one", `write host = "`+strings.TrimPrefix(host, "[")+`"`)
		case strings.HasPrefix(rest, ":"):
			return refuse("carries a port", `write host = "`+bare+`" and port = `+rest[1:])
		case rest != "":
			return refuse("goes on after the bracket", `write host = "`+bare+`"`)
		}
		if addr, err := netip.ParseAddr(bare); err != nil || !addr.Is6() {
			return refuse("has no IPv6 address between the brackets", "brackets are for IPv6 addresses only")
		}
		host = bare
	}
	if host == "" {
		return refuse("is empty", "write the server's name or address")
	}
	if scheme, rest, ok := strings.Cut(host, "://"); ok {
		return refuse("is a URL", `write protocol = "`+strings.ToUpper(scheme)+`" and host = "`+hostOfURL(rest)+`"; port, username and workingDir are fields too`)
	}
	if user, rest, ok := strings.Cut(host, "@"); ok {
		user, _, _ = strings.Cut(user, ":")
		return refuse("carries a user name", `write username = "`+user+`" and host = "`+rest+`"`)
	}
	if before, after, ok := strings.Cut(host, "/"); ok {
		return refuse("carries a path", `write host = "`+before+`" and workingDir = "/`+after+`"`)
	}
	if i := strings.IndexFunc(host, unicode.IsSpace); i >= 0 {
		return refuse("contains a space or line break", `write host = "`+strings.Join(strings.Fields(host), "")+`"`)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if !isInterface(addr.Zone()) {
			return refuse("has a zone that is no interface's name", "write the name as ip link shows it, such as fe80::1%eth0")
		}
		s.text = host
		return nil
	}
	if before, after, ok := strings.Cut(host, ":"); ok {
		if _, err := strconv.ParseUint(after, 10, 16); err == nil {
			return refuse("carries a port", `write host = "`+before+`" and port = `+after)
		}
		return refuse("is no IPv6 address", "check the colons")
	}
	return checkLabels(s, host, refuse)
}

// isInterface reports whether a zone may be a network interface; none may be missing.
func isInterface(zone string) bool {
	return strings.IndexFunc(zone, func(r rune) bool { return r > unicode.MaxASCII || !wordRune(r) && !strings.ContainsRune("-.@", r) }) < 0
}

func hostOfURL(rest string) string {
	rest, _, _ = strings.Cut(rest, "/")
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		rest = rest[:i]
	}
	return rest
}

// checkLabels is for names: labels of letters, digits, dashes and (seen in the field) underscores, RFC 1123.
func checkLabels(s *setting, host string, refuse func(string, string) *problem) *problem {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	digits := true
	for _, label := range labels {
		switch {
		case label == "":
			return refuse("has a dot too many", "write the server's name, such as files.example.com")
		case len(label) > 63:
			return refuse("has a part of more than 63 characters", "check the name")
		case label[0] == '-' || label[len(label)-1] == '-':
			return refuse("has a part that begins or ends with a dash", "check the name")
		}
		for _, r := range label {
			switch {
			case r > unicode.MaxASCII:
				return refuse("contains "+strconv.QuoteRune(r), "write the name's ASCII form, which begins with xn--")
			case !wordRune(r) && r != '-':
				return refuse("contains "+strconv.QuoteRune(r), "write the server's name or address alone")
			}
		}
		digits = digits && strings.Trim(label, "0123456789") == ""
	}
	if digits {
		return refuse("is no IPv4 address", "an IPv4 address has four numbers from 0 to 255, without leading zeros")
	}
	if len(host) > 253 {
		return refuse("is longer than 253 characters", "check the name")
	}
	s.text = host
	return nil
}

func checkPort(s *setting) *problem {
	port, err := strconv.ParseInt(s.text, 10, 64)
	if err != nil {
		return &problem{CodeRange, "is no number", "write a number from 1 to 65535"}
	}
	if port < 1 || port > 65535 {
		return &problem{CodeRange, "is outside 1 to 65535", "write a number from 1 to 65535"}
	}
	s.number, s.text = port, strconv.FormatInt(port, 10)
	return nil
}

func checkUsername(s *setting) *problem {
	if i := strings.IndexFunc(s.text, unicode.IsControl); i >= 0 {
		return invalid("contains a control character", "a line break would end the command that carries it")
	}
	return nil
}

func checkPassword(s *setting) *problem {
	if strings.ContainsAny(s.secret.Reveal(), "\r\n\x00") {
		return invalid("contains a line break or NUL", "a line break would end the command that carries it; one at the end of a file is cut, more are not")
	}
	return nil
}

func checkKeyText(s *setting) *problem {
	if !strings.Contains(s.secret.Reveal(), "-----BEGIN ") {
		return invalid("is no private key in PEM form", "it begins with -----BEGIN; a file's name belongs into privateKeyFile")
	}
	return nil
}

func checkWorkingDir(s *setting) *problem {
	switch dir := s.text; {
	case dir == "":
		return invalid("is empty", `write an absolute path, or "." for the directory after login`)
	case strings.IndexFunc(dir, unicode.IsControl) >= 0:
		return invalid("contains a control character", "check the path")
	case !utf8.ValidString(dir): // a URL can say so, a file cannot
		return invalid("is no UTF-8", "write it in UTF-8; encoding says how the server has it")
	case dir == "~" || strings.HasPrefix(dir, "~/"):
		rest := strings.TrimPrefix(strings.TrimPrefix(dir, "~"), "/")
		return invalid("begins with ~, which servers take for a name", `a relative path begins at the login directory: write "`+path.Clean(rest)+`"`)
	case slices.Contains(strings.Split(dir, "/"), ".."):
		return invalid("contains ..", "write the path that is meant")
	default:
		s.text = path.Clean(dir)
		return nil
	}
}

// checkSSLProtocol brings both spellings of the field to TLS1.x. Whether a weak one is allowed depends on another field.
func checkSSLProtocol(s *setting) *problem {
	words := []string{"TLS", "TLS1.2", "TLS1.3"}
	spelling := strings.ToUpper(strings.TrimSpace(s.text))
	spelling = strings.Replace(spelling, "TLSV", "TLS", 1)
	if _, ok := tlsVersions[spelling]; ok {
		s.text = spelling
		return nil
	}
	return invalid("is none of TLS, TLS1.2, TLS1.3", didYouMean(spelling, slices.Values(words), "write one of them"))
}

// tlsVersions is the least version that each value allows. Go speaks no SSL; where it is asked for, TLS 1.0 is the least.
var tlsVersions = map[string]uint16{
	"TLS": tls.VersionTLS12, "TLS1.2": tls.VersionTLS12, "TLS1.3": tls.VersionTLS13,
	"TLS1.1": tls.VersionTLS11, "TLS1.0": tls.VersionTLS10, "TLS1": tls.VersionTLS10,
	"SSL": tls.VersionTLS10, "SSLV3": tls.VersionTLS10, "SSLV2": tls.VersionTLS10,
}

func checkPath(s *setting) *problem {
	switch {
	case s.text == "":
		return invalid("is empty", "leave the field out")
	case strings.ContainsRune(s.text, 0):
		return invalid("contains NUL", "check the path")
	case strings.HasPrefix(s.text, "~"):
		return invalid("begins with ~, which only a shell replaces", "write the absolute path")
	case !filepath.IsAbs(s.text):
		return invalid("is a relative path, and the daemon has no directory to begin at", "write the absolute path")
	}
	s.text = filepath.Clean(s.text)
	return nil
}

func checkMountPoint(s *setting) *problem {
	if p := checkPath(s); p != nil {
		return p
	}
	for _, taken := range []string{"/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var"} {
		if s.text == taken {
			return invalid("is a directory that the system needs", "choose an empty directory of its own, such as /srv/files")
		}
	}
	for _, below := range []string{"/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(s.text, below) {
			return invalid("lies below "+below, "choose an empty directory of its own, such as /srv/files")
		}
	}
	return nil
}

func checkHostKey(s *setting) *problem {
	return checkFingerprint(s, `write "SHA256:" and 43 characters, as ssh-keygen -l -f FILE prints it`)
}

func checkCertificate(s *setting) *problem {
	return checkFingerprint(s, `write it as openssl x509 -noout -fingerprint -sha256 -in FILE prints it, or "SHA256:" and 43 characters`)
}

// checkFingerprint takes what Fingerprint does, but wants base64 to say what it is: it looks like any other text.
func checkFingerprint(s *setting, hint string) *problem {
	if strings.HasPrefix(strings.ToUpper(s.text), "MD5:") {
		return invalid("is an MD5 fingerprint, and MD5 proves nothing", hint)
	}
	sum, ok := Fingerprint(s.text)
	switch {
	case !ok:
		return invalid("is no SHA-256 fingerprint", hint)
	case strings.TrimRight(s.text, "=") == strings.TrimPrefix(sum, "SHA256:"):
		return invalid("lacks SHA256: in front", `write "`+sum+`"`)
	}
	s.text = sum
	return nil
}

// Fingerprint brings a SHA-256 fingerprint to the form "SHA256:" and base64, as ssh-keygen -l prints it. It takes that with
// padding or without its prefix too, and hexadecimal with or without colons as openssl prints it, its "sha256 Fingerprint="
// included.
func Fingerprint(text string) (string, bool) {
	if label, value, ok := strings.Cut(text, "="); ok && strings.EqualFold(label, "sha256 fingerprint") {
		text = value
	}
	if prefix, rest, ok := strings.Cut(text, ":"); ok && strings.EqualFold(prefix, "SHA256") {
		text = rest
	}
	sum, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(sum) != sha256.Size {
		sum, err = base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
	}
	if err != nil || len(sum) != sha256.Size {
		return "", false
	}
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum), true
}

func checkMode(s *setting) *problem {
	if s.number < 0 || s.number > 0o777 {
		return &problem{CodeRange, "has more than the nine permission bits", `write "0000" to "0777"; mounts are nosuid`}
	}
	if s.number == 0 {
		return invalid("allows nobody anything", "leave the field out to show the server's permissions")
	}
	s.text = "0" + strconv.FormatInt(s.number, 8)
	return nil
}

// checkTempName keeps uploads from gathering under the final name or under a name that all of them share.
func checkTempName(s *setting) *problem {
	const hint = `write a name with NAME (the file's) or XXXX (random) in it, such as ".NAME.part-XXXX", or "none"`
	pattern := s.text
	if pattern == tempNone {
		return nil
	}
	if p := checkBeside(pattern, "uploads gather beside their target", hint); p != nil {
		return p
	}
	switch {
	case pattern == "NAME":
		return invalid("is the target itself", `write "none" if that is meant`)
	case !strings.Contains(pattern, "NAME") && !strings.Contains(pattern, "XXXX"):
		return invalid("contains neither NAME nor XXXX: all uploads would have the same name", hint)
	}
	return nil
}

const tempNone = "none"

func warnInPlace(s *setting) *problem {
	if s.text != string(UpdateInPlace) {
		return nil
	}
	return &problem{CodeInPlace, "changes inside large files go straight into them", "readers on the server can see half a change, and one that fails stays half done; leave update out to have files replaced as a whole"}
}

// checkDoneFile keeps the file that tells of an upload apart from the upload itself.
func checkDoneFile(s *setting) *problem {
	const hint = `write a name with NAME (the file's) in it, such as "NAME.done"`
	if p := checkBeside(s.text, "it stands beside the file", hint); p != nil {
		return p
	}
	if strings.Count(s.text, "NAME") != 1 || s.text == "NAME" {
		return invalid("is not a name of its own for each file", hint)
	}
	return nil
}

// checkBeside keeps a pattern to what the name of a file beside another one may be; why is told of one that would lie elsewhere.
func checkBeside(pattern, why, hint string) *problem {
	switch {
	case strings.Contains(pattern, "/"):
		return invalid("contains a slash", why+"; "+hint)
	case strings.IndexFunc(pattern, unicode.IsControl) >= 0:
		return invalid("contains a control character", hint)
	case len(pattern) > 64:
		return &problem{CodeRange, "is longer than 64 characters", hint}
	}
	return nil
}

func warnTempName(s *setting) *problem {
	if s.text != tempNone {
		return nil
	}
	return &problem{CodeInPlace, "uploads go straight to the final name", "readers on the server can see half a file, and a failure costs the old one; leave tempName out if the server allows rename"}
}

func warnLegacy(s *setting) *problem {
	if !s.truth {
		return nil
	}
	return &problem{CodeLegacy, "allows ciphers and keys that are broken or close to it", "set it back once the server has been updated"}
}

// leastStaging is what a file and the list of what is owed need at least.
const leastStaging = 16 << 20

func checkStagingLimit(s *setting) *problem {
	if s.number == 0 || s.number >= leastStaging {
		return nil
	}
	return &problem{CodeRange, "is less than 16 MiB", sizeHint + "; 0 is no limit but the disk's"}
}

func warnDirMode(s *setting) *problem {
	if s.number&0o111 != 0 {
		return nil
	}
	return &problem{CodeAdvice, "lets nobody enter a directory", `permissions of directories need x, such as "0750"`}
}

func adviseRetryCount(s *setting) *problem {
	if s.number >= 3 && s.number <= 5 {
		return nil
	}
	return &problem{CodeAdvice, "is outside the recommended 3 to 5", "fewer attempts give up on a short interruption, more let callers wait"}
}

const (
	leastTimeout   = time.Second
	mostTimeout    = 120 * time.Second
	adviseTimeout  = 30 * time.Second
	adviseTimeouts = 90 * time.Second
)

// checkTimeout is for the three timeouts; odd says that allowOddTimeout is set.
func checkTimeout(s *setting, odd bool) *problem {
	switch {
	case s.duration <= 0 || s.duration > maxTimeout:
		return &problem{CodeRange, "is outside 1s to 2m0s", "write a duration from 1s to 120s"}
	case !odd && (s.duration < leastTimeout || s.duration > mostTimeout):
		return &problem{CodeRange, "is outside 1s to 2m0s", "write a duration from 1s to 120s, or set allowOddTimeout = true"}
	}
	return nil
}

func adviseTimeoutOf(s *setting) *problem {
	if s.duration >= adviseTimeout && s.duration <= adviseTimeouts {
		return nil
	}
	return &problem{CodeAdvice, "is outside the recommended 30s to 90s", "a short one fails on slow servers, a long one lets callers wait"}
}

// encodings maps every accepted spelling, folded to lower case without - and _, to the name that a Target carries.
var encodings = func() map[string]string {
	names := map[string]string{
		"utf8": "utf-8", "latin1": "iso-8859-1", "latin2": "iso-8859-2", "latin5": "iso-8859-9", "latin9": "iso-8859-15",
		"ascii": "utf-8", "usascii": "utf-8",
		"koi8r": "koi8-r", "koi8u": "koi8-u", "macintosh": "macintosh",
		"shiftjis": "shift_jis", "sjis": "shift_jis", "cp932": "shift_jis", "windows31j": "shift_jis",
		"eucjp": "euc-jp", "euckr": "euc-kr", "cp949": "euc-kr",
		"gbk": "gbk", "cp936": "gbk", "gb2312": "gbk", "gb18030": "gb18030", "big5": "big5", "cp950": "big5",
	}
	for _, part := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16} {
		n := strconv.Itoa(part)
		names["iso8859"+n] = "iso-8859-" + n
	}
	for _, page := range []int{1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258, 874} {
		n := strconv.Itoa(page)
		names["cp"+n], names["windows"+n] = "windows-"+n, "windows-"+n
	}
	for _, page := range []int{437, 850, 852, 855, 858, 860, 862, 863, 865, 866} {
		n := strconv.Itoa(page)
		names["cp"+n], names["ibm"+n] = "cp"+n, "cp"+n
	}
	return names
}()

func checkEncoding(s *setting) *problem {
	if canonical, ok := encodings[folded(s.text)]; ok {
		s.text = canonical
		return nil
	}
	hint := "docs/DEFINITIONS.md lists them"
	if near := nearest(s.text, maps.Keys(encodings)); near != "" {
		hint = "did you mean " + encodings[near] + "?"
	}
	return invalid("is no encoding that this program knows", hint)
}

// checkIdle wants time enough that a program's own pauses do not cost it a login each.
func checkIdle(s *setting) *problem {
	if s.duration == 0 || s.duration >= leastIdle && s.duration <= maxIdle {
		return nil
	}
	return &problem{CodeRange, "is outside 1m to 24h", `write "10m"; 0 keeps a session for ever`}
}
