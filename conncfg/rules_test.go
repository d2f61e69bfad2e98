package conncfg

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestGoodConfigurationHasNoFindings(t *testing.T) {
	files := with(map[string]string{
		"connections/audit/logs.toml": strings.Replace(good, "/in", "/logs", 1),
		"connections/jump.toml":       strings.Replace(good, "/in", "/jump", 1) + "via = \"ssh://bob@h\"\nagent = true\n",
		"connections/ftps.toml": `schemaVersion = 1
name = "ftps"
description = "two\nlines"
enabled = false
protocol = "ftps"
host = "[2001:db8::1]"
port = 990
username = "u"
password = ""
workingDir = "in"
timeout = 45
connectTimeout = "5s"
socketTimeout = "1m"
retryCount = 4
retryAuth = true
sslProtocol = "TLSv1.3"
useImplicit = true
account = { env = "PATH" }
passive = true
passivePorts = "50000-50100"
verify = "readback"
via = "socks5://[2001:db8::2]"
sourceAddress = "2001:db8::3"
rateLimit = "1.5 MiB/s"
encoding = "Latin-1"
readOnly = true
mountPoint = "/srv/ftps/"
uid = 1000
gid = 0
fileMode = "0640"
dirMode = 0o750
owner = "fixed"
commit = "close"
tempName = "NAME.part"
metadataTTL = 0
negativeTTL = "250ms"
maxSessions = 2
[environments.Test]
host = "192.0.2.7"
port = 2990
via = "none"
passive = false
rateLimit = 0
sourceAddress = "192.0.2.8"
[environments.Development]
trustCert = "sha256 Fingerprint=AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99"
`})
	if got := check(t, files); len(got) > 0 {
		t.Errorf("found%s", printed(got))
	}
}

// rule is a definition with one thing wrong or odd, and the one finding that it must cause.
type rule struct {
	name     string
	write    string // lines that replace those of good with the same key, or are added
	code     Code
	severity Severity
	field    string
	hint     string // a part of it
}

var rules = []rule{
	{"no protocol", `protocol`, CodeMissing, Error, "protocol", `write protocol = "SFTP"`},
	{"no host", `host`, CodeMissing, Error, "host", "write host ="},
	{"no username", `username`, CodeMissing, Error, "username", "write username ="},
	{"no workingDir", `workingDir`, CodeMissing, Error, "workingDir", "after login"},
	{"unknown protocol", `protocol = "SCP"`, CodeInvalid, Error, "protocol", "SFTP"},
	{"misspelt protocol", `protocol = "SFPT"`, CodeInvalid, Error, "protocol", "did you mean SFTP?"},

	{"host is a URL", `host = "sftp://bob@h.example.com:22/x"`, CodeHostInvalid, Error, "host", `host = "h.example.com"`},
	{"host with user", `host = "bob@h"`, CodeHostInvalid, Error, "host", `username = "bob" and host = "h"`},
	{"host with port", `host = "h:2222"`, CodeHostInvalid, Error, "host", `host = "h" and port = 2222`},
	{"IPv6 host with port", `host = "[::1]:2222"`, CodeHostInvalid, Error, "host", `host = "::1" and port = 2222`},
	{"host with path", `host = "h/dir"`, CodeHostInvalid, Error, "host", `workingDir = "/dir"`},
	{"host with space", `host = " h"`, CodeHostInvalid, Error, "host", `host = "h"`},
	{"host of numbers", `host = "10.0.0.256"`, CodeHostInvalid, Error, "host", "0 to 255"},
	{"host with umlaut", `host = "bücher.example"`, CodeHostInvalid, Error, "host", "xn--"},
	{"host with dots", `host = "a..b"`, CodeHostInvalid, Error, "host", "files.example.com"},
	{"host with dash", `host = "-a"`, CodeHostInvalid, Error, "host", "check"},
	{"host with colons", `host = "1::2::3"`, CodeHostInvalid, Error, "host", "colons"},
	{"IPv6 host with a strange zone", `host = "fe80::1%a&b"`, CodeHostInvalid, Error, "host", "ip link"},
	{"bracket left open", `host = "[::1"`, CodeHostInvalid, Error, "host", `"::1"`},
	{"brackets around a name", `host = "[h]"`, CodeHostInvalid, Error, "host", "IPv6 addresses only"},
	{"host with a shell's signs", `host = "h;reboot"`, CodeHostInvalid, Error, "host", "alone"},
	{"empty host", `host = ""`, CodeHostInvalid, Error, "host", "name or address"},

	{"port 0", `port = 0`, CodeRange, Error, "port", "1 to 65535"},
	{"port too high", `port = 65536`, CodeRange, Error, "port", "1 to 65535"},
	{"port no number", `port = "ssh"`, CodeRange, Error, "port", "1 to 65535"},
	{"port of FTP", `port = 21`, CodePortMismatch, Warning, "port", "port = 22"},
	{"explicit on implicit port", "protocol = \"FTPS\"\nport = 990", CodePortMismatch, Warning, "port", "port = 21, or leave it out; or set useImplicit"},
	{"implicit on explicit port", "protocol = \"FTPS\"\nuseImplicit = true\nport = 21", CodePortMismatch, Warning, "port", "port = 990, or leave it out; or set useExplicit"},
	{"FTP on port of SFTP", "protocol = \"FTP\"\nport = 22", CodePortMismatch, Warning, "port", "port = 21"},

	{"anonymous", "protocol = \"FTP\"\nusername = \"Anonymous\"", CodeAnonymous, Warning, "username", "account"},
	{"user ftp", `username = "ftp"`, CodeAnonymous, Warning, "username", "account"},
	{"empty user of FTP", "protocol = \"FTP\"\nusername = \"\"", CodeAnonymous, Warning, "username", "account"},
	{"empty user of SFTP", `username = ""`, CodeMissing, Error, "username", "write username"},
	{"user with line break", `username = "a\r\nDELE x"`, CodeInvalid, Error, "username", "line break"},
	{"password with line break", `password = "a\nb${pw}"`, CodeInvalid, Error, "password", "line break"},
	{"literal password", `password = "geheim"`, CodeLiteralSecret, Warning, "password", `password = "${NAME}"`},
	{"literal part of a password", `password = "geheim${pw}"`, CodeLiteralSecret, Warning, "password", `password = "${NAME}"`},
	{"literal passphrase", "privateKeyFile = \"FILE\"\nprivateKeyPassphrase = \"geheim\"", CodeLiteralSecret, Warning, "privateKeyPassphrase", "{ file ="},
	{"nothing proves who logs in", `password`, CodeNoCredential, Warning, "password", "agent = true"},

	{"whole server", `workingDir = "/"`, CodeWholeServer, Warning, "workingDir", "directory that programs need"},
	{"empty workingDir", `workingDir = ""`, CodeInvalid, Error, "workingDir", `"."`},
	{"workingDir with tilde", `workingDir = "~/in"`, CodeInvalid, Error, "workingDir", `write "in"`},
	{"workingDir with dots", `workingDir = "/a/../b"`, CodeInvalid, Error, "workingDir", "meant"},
	{"workingDir with line break", `workingDir = "/a\nb"`, CodeInvalid, Error, "workingDir", "check"},

	{"short timeout", `timeout = "5s"`, CodeAdvice, Warning, "timeout", "slow servers"},
	{"long timeout", `timeout = 100`, CodeAdvice, Warning, "timeout", "callers wait"},
	{"timeout out of range", `timeout = 121`, CodeRange, Error, "timeout", "allowOddTimeout = true"},
	{"timeout in milliseconds", `timeout = 30000`, CodeRange, Error, "timeout", "1s to 120s"},
	{"timeout zero", `timeout = 0`, CodeRange, Error, "timeout", "1s to 120s"},
	{"negative timeout", `socketTimeout = "-1s"`, CodeRange, Error, "socketTimeout", "1s to 120s"},
	{"odd connectTimeout", `connectTimeout = "0.5s"`, CodeRange, Error, "connectTimeout", "allowOddTimeout"},
	{"no duration", `timeout = "soon"`, CodeInvalid, Error, "timeout", `"30s"`},
	{"timeout with a fraction", `timeout = 1.5`, CodeWrongType, Error, "timeout", ""},
	{"negative retryCount", `retryCount = -1`, CodeRange, Error, "retryCount", "0 to 100"},
	{"few retries", `retryCount = 0`, CodeAdvice, Warning, "retryCount", "interruption"},
	{"many retries", `retryCount = 6`, CodeAdvice, Warning, "retryCount", "wait"},
	{"no sessions", "protocol = \"FTP\"\nmaxSessions = 0", CodeRange, Error, "maxSessions", "1 to 256"},
	{"sessions of SFTP", `maxSessions = 2`, CodeIgnored, Warning, "maxSessions", "leave it out"},

	{"via without a kind", `via = "jump.example.com"`, CodeInvalid, Error, "via", "ssh://user@host:22"},
	{"via an unknown kind", `via = "ftp://h"`, CodeInvalid, Error, "via", "socks5://host:1080"},
	{"via with a password", `via = "ssh://bob:geheim@h"`, CodeInvalid, Error, "via", "viaPassword"},
	{"via torn with a password", `via = "ssh//bob:geheim@h"`, CodeInvalid, Error, "via", "ssh://user@host:22"},
	{"via with a password that is not escaped", `via = "socks5://bob:gehe/im#geheim@h"`, CodeInvalid, Error, "via", "ssh://user@host:22"},
	{"via with a path", `via = "socks5://h:1080/x"`, CodeInvalid, Error, "via", "socks5://host:1080"},
	{"via SSH without user", `via = "ssh://h"`, CodeInvalid, Error, "via", `"ssh://user@h"`},
	{"via HTTP without port", `via = "http://h"`, CodeInvalid, Error, "via", "3128"},
	{"via a bad host", `via = "socks5://a..b"`, CodeInvalid, Error, "via", "socks5://host:1080"},
	{"via a bad port", `via = "socks5://h:0"`, CodeRange, Error, "via", "1 to 65535"},
	{"via bare IPv6", `via = "socks5://::1:1080"`, CodeInvalid, Error, "via", "brackets"},
	{"via SSH without proof", `via = "ssh://bob@h"`, CodeNoCredential, Warning, "via", "viaKeyFile"},
	{"viaPassword without via", `viaPassword = { env = "PATH" }`, CodePair, Warning, "viaPassword", "write via"},
	{"literal viaPassword", "via = \"ssh://bob@h\"\nviaPassword = \"geheim\"", CodeLiteralSecret, Warning, "viaPassword", "{ file ="},
	{"key for a proxy", "via = \"socks5://h\"\nviaKeyFile = \"FILE\"", CodeIgnored, Warning, "viaKeyFile", "leave it out"},
	{"open key for the host in between", "via = \"ssh://bob@h\"\nviaKeyFile = \"OPEN\"", CodeFileMode, Warning, "viaKeyFile", "chmod 600"},
	{"active through a proxy", "protocol = \"FTP\"\nvia = \"socks5://h\"\npassive = false", CodeInvalid, Error, "passive", "leave it out"},
	{"source of names", `sourceAddress = "eth0"`, CodeInvalid, Error, "sourceAddress", "ip address"},
	{"source anywhere", `sourceAddress = "0.0.0.0"`, CodeInvalid, Error, "sourceAddress", "leave the field out"},
	{"source of another kind", "host = \"192.0.2.1\"\nsourceAddress = \"2001:db8::1\"", CodeInvalid, Error, "sourceAddress", "same kind"},
	{"source of another kind than via", "via = \"socks5://[2001:db8::2]\"\nsourceAddress = \"192.0.2.1\"", CodeInvalid, Error, "sourceAddress", "same kind"},
	{"source with a strange zone", `sourceAddress = "fe80::1%a/b"`, CodeInvalid, Error, "sourceAddress", "ip address"},
	{"rate without number", `rateLimit = "fast"`, CodeInvalid, Error, "rateLimit", `"2MiB"`},
	{"rate of small bits", `rateLimit = "10Mbits"`, CodeInvalid, Error, "rateLimit", `"10Mbit"`},
	{"rate too low", `rateLimit = "1KiB"`, CodeRange, Error, "rateLimit", "0 is no limit"},
	{"rate below zero", `rateLimit = -1`, CodeInvalid, Error, "rateLimit", `"2MiB"`},
	{"rate of nothing", `rateLimit = true`, CodeWrongType, Error, "rateLimit", ""},

	{"passive of SFTP", `passive = true`, CodeIgnored, Warning, "passive", "leave it out"},
	{"passive in words", "protocol = \"FTP\"\npassive = \"no\"", CodeWrongType, Error, "passive", "passive = true"},
	{"a host to fall back on that is the host", `fallbackHosts = "b.example.com, FILES.example.com:22"`, CodeInvalid, Error, "fallbackHosts", "once"},
	{"a host to fall back on that is a URL", `fallbackHosts = "sftp://b.example.com"`, CodeHostInvalid, Error, "fallbackHosts", "b.example.com, c.example.com:2222"},
	{"a host to fall back on with a port that is none", `fallbackHosts = "b.example.com:0"`, CodeRange, Error, "fallbackHosts", "b.example.com, c.example.com:2222"},
	{"hosts to fall back on and nobody to turn to them", "fallbackHosts = \"b.example.com\"\nretryCount = 0", CodeAdvice, Warning, "fallbackHosts", "retryCount = 3"},
	{"sessions that end at once", `idleTimeout = "5s"`, CodeRange, Error, "idleTimeout", "0 keeps"},
	{"ports the wrong way round", "protocol = \"FTP\"\npassivePorts = \"50100-50000\"", CodeInvalid, Error, "passivePorts", "50000-50100"},
	{"ports of words", "protocol = \"FTP\"\npassivePorts = \"high\"", CodeRange, Error, "passivePorts", "50000-50100"},
	{"verify nothing", "protocol = \"FTP\"\nverify = \"crc\"", CodeInvalid, Error, "verify", `"off", "size", "hash", "readback"`},
	{"literal account", "protocol = \"FTP\"\naccount = \"geheim\"", CodeLiteralSecret, Warning, "account", "{ file ="},
	{"account with line break", "protocol = \"FTP\"\naccount = \"a\\nb\"", CodeInvalid, Error, "account", "line break"},
	{"FTP without password", "protocol = \"FTP\"\npassword", CodeNoCredential, Warning, "password", `password = ""`},
	{"weak TLS allowed", "protocol = \"FTPS\"\nallowWeakTLS = true", CodeWeakTLS, Warning, "allowWeakTLS", "updated"},
	{"authorities beside a certificate", "protocol = \"FTPS\"\ncaFile = \"FILE\"\ntrustCert = \"SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU\"", CodeIgnored, Warning, "caFile", "one of them"},
	{"no certificate's fingerprint", "protocol = \"FTPS\"\ntrustCert = \"AA:BB\"", CodeInvalid, Error, "trustCert", "openssl x509"},

	{"old TLS", "protocol = \"FTPS\"\nsslProtocol = \"TLS1.0\"", CodeWeakTLS, Error, "sslProtocol", "allowWeakTLS = true"},
	{"SSL", "protocol = \"FTPS\"\nsslProtocol = \"SSLv3\"", CodeWeakTLS, Error, "sslProtocol", "TLS1.2 or TLS1.3"},
	{"old TLS allowed", "protocol = \"FTPS\"\nallowWeakTLS = true\nsslProtocol = \"TLSv1.1\"", CodeWeakTLS, Warning, "sslProtocol", "updated"},
	{"SSL allowed", "protocol = \"FTPS\"\nallowWeakTLS = true\nsslProtocol = \"SSL\"", CodeWeakTLS, Warning, "sslProtocol", "updated"},
	{"unknown TLS", "protocol = \"FTPS\"\nsslProtocol = \"TLS1.4\"", CodeInvalid, Error, "sslProtocol", "did you mean TLS1."},
	{"both handshakes", "protocol = \"FTPS\"\nuseExplicit = true\nuseImplicit = true", CodeTLSMode, Error, "useImplicit", "990"},
	{"no handshake", "protocol = \"FTPS\"\nuseExplicit = false\nuseImplicit = false", CodeTLSMode, Error, "useExplicit", "990"},
	{"no handshake but by default", "protocol = \"FTPS\"\nuseExplicit = false", CodeTLSMode, Error, "useExplicit", "990"},
	{"handshake without TLS", "useExplicit = true", CodeIgnored, Warning, "useExplicit", "leave it out"},
	{"sslProtocol without TLS", `sslProtocol = "TLS1.3"`, CodeIgnored, Warning, "sslProtocol", "leave it out"},
	{"host key without SSH", "protocol = \"FTP\"\nlegacyAlgorithms = true", CodeIgnored, Warning, "legacyAlgorithms", "leave it out"},
	{"certificate without key", "protocol = \"FTPS\"\nclientCertFile = \"FILE\"", CodePair, Error, "clientCertFile", "clientKeyFile"},
	{"key without certificate", "protocol = \"FTPS\"\nclientKeyFile = \"FILE\"", CodePair, Error, "clientKeyFile", "clientCertFile"},
	{"server name with port", "protocol = \"FTPS\"\nserverName = \"h:990\"", CodeHostInvalid, Error, "serverName", "port"},

	{"SSH certificate without key", `certificateFile = "FILE"`, CodePair, Error, "certificateFile", "privateKeyFile"},
	{"passphrase without key", `privateKeyPassphrase = { env = "PATH" }`, CodePair, Warning, "privateKeyPassphrase", "privateKeyFile"},
	{"relative key", `privateKeyFile = "id_rsa"`, CodeInvalid, Error, "privateKeyFile", "absolute"},
	{"key at home", `privateKeyFile = "~/.ssh/id_rsa"`, CodeInvalid, Error, "privateKeyFile", "absolute"},
	{"missing key", `privateKeyFile = "/nonexistent/key"`, CodeFileMissing, Warning, "privateKeyFile", "0600"},
	{"open key", `privateKeyFile = "OPEN"`, CodeFileMode, Warning, "privateKeyFile", "chmod 600"},
	{"no key text", `privateKey = "/etc/key"`, CodeInvalid, Error, "privateKey", "privateKeyFile"},
	{"MD5", `hostKey = "MD5:aa:bb"`, CodeInvalid, Error, "hostKey", "ssh-keygen"},
	{"host key cut", `hostKey = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOq"`, CodeInvalid, Error, "hostKey", "43 characters"},
	{"host key without prefix", `hostKey = "+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"`, CodeInvalid, Error, "hostKey", `write "SHA256:+DiY`},
	{"a whole key", `hostKey = "ssh-ed25519 AAAA"`, CodeInvalid, Error, "hostKey", "ssh-keygen"},
	{"legacy algorithms", `legacyAlgorithms = true`, CodeLegacy, Warning, "legacyAlgorithms", "updated"},

	{"unknown encoding", `encoding = "latin-11"`, CodeInvalid, Error, "encoding", "did you mean iso-8859-1"},
	{"relative mount point", `mountPoint = "mnt"`, CodeInvalid, Error, "mountPoint", "absolute"},
	{"mount point of the system", `mountPoint = "/etc/"`, CodeInvalid, Error, "mountPoint", "/srv/"},
	{"mount point in proc", `mountPoint = "/proc/1"`, CodeInvalid, Error, "mountPoint", "/srv/"},
	{"uid -1", `uid = 4294967295`, CodeRange, Error, "uid", "4294967294"},
	{"gid as a name", `gid = "users"`, CodeWrongType, Error, "gid", "quotes"},
	{"decimal mode", `fileMode = 640`, CodeInvalid, Error, "fileMode", `fileMode = "0640"`},
	{"octal mode without quotes", `dirMode = 0750`, CodeSyntax, Error, "", `"0640"`},
	{"mode with setuid", `fileMode = "4755"`, CodeRange, Error, "fileMode", "nosuid"},
	{"mode of letters", `fileMode = "rw-r--r--"`, CodeInvalid, Error, "fileMode", `"0640"`},
	{"mode of nothing", `fileMode = "0"`, CodeInvalid, Error, "fileMode", "leave"},
	{"directories closed", `dirMode = "0600"`, CodeAdvice, Warning, "dirMode", "0750"},
	{"unknown owner", `owner = "fixd"`, CodeInvalid, Error, "owner", "did you mean fixed?"},
	{"unknown commit", `commit = "later"`, CodeInvalid, Error, "commit", `"close", "background"`},
	{"drain without end", `drainTimeout = "25h"`, CodeRange, Error, "drainTimeout", "24h"},
	{"drain of nothing", `drainTimeout = "soon"`, CodeInvalid, Error, "drainTimeout", "30s"},
	{"staging of nothing", `stagingLimit = "much"`, CodeInvalid, Error, "stagingLimit", "4GiB"},
	{"staging too small", `stagingLimit = "1MiB"`, CodeRange, Error, "stagingLimit", "0 is no limit"},
	{"staging below zero", `stagingLimit = -1`, CodeInvalid, Error, "stagingLimit", "4GiB"},
	{"staging of a kind", `stagingLimit = true`, CodeWrongType, Error, "stagingLimit", ""},
	{"passthrough of what is closed", "commit = \"close\"\nwritePassthrough = true", CodePair, Error, "writePassthrough", `commit = "background"`},
	{"passthrough by itself", "writePassthrough = true", CodePair, Error, "writePassthrough", "leave writePassthrough out"},
	{"passthrough as a text", "writePassthrough = \"on\"", CodeWrongType, Error, "writePassthrough", ""},
	{"temporary name for all", `tempName = "upload.tmp"`, CodeInvalid, Error, "tempName", "XXXX"},
	{"temporary name elsewhere", `tempName = "tmp/NAME"`, CodeInvalid, Error, "tempName", "beside"},
	{"temporary name is the target", `tempName = "NAME"`, CodeInvalid, Error, "tempName", `"none"`},
	{"no temporary name", `tempName = "none"`, CodeInPlace, Warning, "tempName", "leave tempName out"},
	{"long lifetime", `metadataTTL = "48h"`, CodeRange, Error, "metadataTTL", "24h"},
	{"few entries", `maxEntries = 100`, CodeRange, Error, "maxEntries", "10000"},

	{"newer schema", `schemaVersion = 2`, CodeSchema, Error, "schemaVersion", "newer"},
	{"schema zero", `schemaVersion = 0`, CodeSchema, Error, "schemaVersion", "write 1"},
	{"another name", `name = "other"`, CodeNameMismatch, Error, "name", "other.toml"},
	{"long description", `description = "` + strings.Repeat("ü", 1001) + `"`, CodeRange, Error, "description", "1000"},
	{"unknown key", `working_dir = "/x"`, CodeUnknownKey, Error, "working_dir", "did you mean workingDir?"},
	{"unknown key in lower case", `readonly = true`, CodeUnknownKey, Error, "readonly", "did you mean readOnly?"},
	{"strange key", `x = 1`, CodeUnknownKey, Error, "x", "DEFINITIONS.md"},
	{"key twice", "readOnly = true\nreadOnly = false", CodeDuplicateKey, Error, "readOnly", "one of the two"},
	{"text for truth", `readOnly = "yes"`, CodeWrongType, Error, "readOnly", "readOnly = true"},
	{"number for text", `host = 1`, CodeWrongType, Error, "host", "quote"},
	{"list for text", `host = ["a"]`, CodeWrongType, Error, "host", ""},
	{"date for text", `username = 2026-01-01`, CodeWrongType, Error, "username", ""},
	{"table for text", `username = { env = "X" }`, CodeWrongType, Error, "username", ""},
	{"variable elsewhere", `encoding = "${e}"`, CodeVariableMisplaced, Error, "encoding", "[environments.ENV]"},
	{"variable in description", `description = "${e}"`, CodeVariableMisplaced, Error, "description", "text itself"},
	{"variable in passphrase", `privateKeyPassphrase = "${pw}"`, CodeVariableMisplaced, Error, "privateKeyPassphrase", "{ file ="},
	{"context variable", `host = "#{h}"`, CodeVariableSyntax, Error, "host", "${name}"},
	{"variable left open", `host = "${h"`, CodeVariableSyntax, Error, "host", "${name}"},
	{"variable without name", `host = "${}"`, CodeVariableSyntax, Error, "host", "${name}"},
	{"variable with space", `host = "${ h }"`, CodeVariableSyntax, Error, "host", "${name}"},
	{"undefined variable", `host = "${hst}"`, CodeVariableUndefined, Error, "host", "variables.toml"},
	{"misspelt variable", `password = "${PW}"`, CodeVariableUndefined, Error, "password", "did you mean pw?"},
	{"secret in a shown field", `host = "${pw}"`, CodeVariableSecret, Error, "host", "secret = false"},
	{"two sources", `password = { env = "PATH", file = "FILE" }`, CodeInvalid, Error, "password.file", "one of them"},
	{"no source", `password = { secret = true }`, CodeInvalid, Error, "password", "credential"},
	{"unknown source", `password = { vault = "x" }`, CodeUnknownKey, Error, "password.vault", "use one of"},
	{"relative source", `password = { file = "x" }`, CodeInvalid, Error, "password.file", "absolute"},
	{"command as text", `password = { command = "pass x" }`, CodeWrongType, Error, "password.command", "no shell"},
	{"missing source", `password = { file = "/nonexistent/pw" }`, CodeFileMissing, Warning, "password", "0600"},
	{"open source", `password = { file = "OPEN" }`, CodeFileMode, Warning, "password", "chmod 600"},
	{"credential with slash", `password = { credential = "../x" }`, CodeInvalid, Error, "password.credential", "LoadCredential"},

	{"unknown environment", "[environments.Tset]\nport = 2", CodeUnknownEnvironment, Error, "environments.Tset", "did you mean Test?"},
	{"environment with bad name", "[environments.\"a b\"]", CodeNameInvalid, Error, "environments.a b", "environment's name"},
	{"field instead of environment", "[environments]\nport = 2", CodeWrongType, Error, "environments.port", "[environments.Test]"},
	{"enabled in an environment", "[environments.Test]\nport = 23\nenabled = false", CodeWrongPlace, Error, "enabled", "above"},
	{"unknown key in an environment", "[environments.Test]\nhots = \"h\"", CodeUnknownKey, Error, "hots", "did you mean host?"},
	{"list of tables", "[[environments]]", CodeWrongType, Error, "environments", "[environments]"},
	{"no TOML", `host = h`, CodeSyntax, Error, "", "toml.io"},
}

// define puts lines into good: a bare key removes one.
func define(write string) string {
	var out []string
	lines := strings.Split(write, "\n")
	keys := map[string]bool{}
	for _, l := range lines {
		key, _, _ := strings.Cut(l, " =")
		if strings.HasPrefix(l, "[") {
			break
		}
		keys[key] = true
	}
	for l := range strings.Lines(good) {
		if key, _, _ := strings.Cut(l, " ="); !keys[key] {
			out = append(out, l)
		}
	}
	for _, l := range lines {
		if strings.ContainsAny(l, "=[") {
			out = append(out, l+"\n")
		}
	}
	return strings.Join(out, "")
}

// Holds rows 20, 21, 22, 26, 28, 32, 34, 41, 42 and 120 of the requirements.
func TestEveryRuleTellsCodeFieldAndWayOut(t *testing.T) {
	dir := t.TempDir()
	private, open := filepath.Join(dir, "private"), filepath.Join(dir, "open")
	for name, perm := range map[string]os.FileMode{private: 0o600, open: 0o644} {
		if err := os.WriteFile(name, []byte("x"), perm); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			definition := define(strings.NewReplacer("FILE\"", private+"\"", "OPEN", open).Replace(r.write))
			got := check(t, with(map[string]string{"connections/ok.toml": definition}))
			var found []Finding
			for _, f := range got {
				if f.Code == r.code && f.Field == r.field && f.Severity == r.severity && strings.Contains(f.Hint, r.hint) {
					found = append(found, f)
				}
			}
			if len(found) != 1 {
				t.Fatalf("wanted one %s %s of field %q with hint %q, got%s\nfor\n%s", r.code, r.severity, r.field, r.hint, printed(got), definition)
			}
			f := found[0]
			if !strings.HasSuffix(f.File, "connections/ok.toml") || f.Connection != "ok" && r.code != CodeSyntax {
				t.Errorf("it does not say where: %+v", f)
			}
			if f.Line == 0 && f.Code != CodeMissing && f.Code != CodeNoCredential {
				t.Errorf("it has no line: %+v", f)
			}
			if f.Line > 0 && f.Field != "" {
				line := strings.Split(definition, "\n")[f.Line-1]
				last := f.Field[strings.LastIndexByte(f.Field, '.')+1:]
				if !strings.Contains(line, last) {
					t.Errorf("line %d is %q and has nothing of %s", f.Line, line, f.Field)
				}
			}
			for _, secret := range []string{"geheim", "hunter2"} {
				if strings.Contains(printed(got), secret) {
					t.Errorf("a secret is shown:%s", printed(got))
				}
			}
			if r.severity == Error && len(errorsOf(got)) != 1 && r.code != CodeSyntax {
				t.Errorf("one mistake causes several errors:%s", printed(got))
			}
		})
	}
}

// A description may have 1000 characters, however many bytes each takes, and keeps its line breaks.
// Holds row 6 of the requirements.
func TestDescriptionIsCountedInCharacters(t *testing.T) {
	long := "two\nlines" + strings.Repeat("ü", 991)
	for text, fine := range map[string]bool{long: true, long + "ü": false} {
		files := with(map[string]string{"connections/one.toml": good + "description = " + strconv.Quote(text) + "\n"})
		got := errorsOf(check(t, files))
		if fine != (len(got) == 0) {
			t.Errorf("%d characters: found%s", utf8.RuneCountInString(text), printed(got))
		}
	}
}

// Whoever changes the protocol of a definition is told which of the other fields belong to the old one.
// Holds row 27 of the requirements.
func TestAnotherProtocolIsJudgedAnew(t *testing.T) {
	definition := good + "port = 22\nhostKey = \"SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU\"\n"
	found := map[Code]string{}
	for _, f := range check(t, with(map[string]string{"connections/one.toml": strings.Replace(definition, `"SFTP"`, `"FTPS"`, 1)})) {
		if f.Connection == "one" {
			found[f.Code] = f.Field
		}
	}
	if found[CodePortMismatch] != "port" || found[CodeIgnored] != "hostKey" {
		t.Errorf("as FTPS: found %v", found)
	}
	if got := check(t, with(map[string]string{"connections/one.toml": definition})); len(got) > 0 {
		t.Errorf("as SFTP: found%s", printed(got))
	}
}

func TestAllMistakesAreReportedInOneRun(t *testing.T) {
	got := check(t, with(map[string]string{
		"connections/a.toml":     "protocol = \"SFTP\"\nport = 0\nretryCount = \"3\"\nhots = \"x\"\ntimeout = 500\n",
		"connections/b.toml":     "broken\n" + good + "also broken\nmaxSessions = 0\n",
		"environments/Test.toml": "nonsense = 1\n[variables]\n\"a b\" = 1\nx = 1.5\n",
		"pierfs.toml":            "activeEnvironment = [\"Test\"]\n",
	}))
	want := []string{
		"a.toml:0 MISSING host", "a.toml:0 MISSING username", "a.toml:0 MISSING workingDir",
		"a.toml:2 RANGE port", "a.toml:3 WRONG_TYPE retryCount", "a.toml:4 UNKNOWN_KEY hots", "a.toml:5 RANGE timeout",
		"b.toml:1 SYNTAX ", "b.toml:7 SYNTAX ", "b.toml:8 RANGE maxSessions",
		"Test.toml:1 UNKNOWN_KEY nonsense", "Test.toml:3 VARIABLE_SYNTAX variables.a b", "Test.toml:4 WRONG_TYPE variables.x",
		"pierfs.toml:1 UNKNOWN_KEY activeEnvironment", "pierfs.toml:0 ACTIVE_DEFAULT activeEnvironments",
	}
	for _, w := range want {
		found := false
		for _, f := range got {
			found = found || w == filepath.Base(f.File)+":"+strconv.Itoa(f.Line)+" "+string(f.Code)+" "+f.Field
		}
		if !found {
			t.Errorf("no %s", w)
		}
	}
	for _, f := range got {
		if f.Code != CodeAdvice && f.Code != CodeNoCredential && !strings.Contains(f.File, "ok.toml") && len(want) != len(errorsOf(got))+1 {
			t.Fatalf("%d errors, want %d:%s", len(errorsOf(got)), len(want)-1, printed(got))
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"Production_FTP", "Test_X", "Prod_X", "my-ftp-connection", "a", "_x_", "a.b", "7", strings.Repeat("a", 100)} {
		if f := CheckName(name); len(f) > 0 {
			t.Errorf("%q is refused: %s", name, f[0])
		}
	}
	bad := []string{"", " a", "\ta", "\u00a0a", ".a", "-a", "a ", "a.", "a-", "..", "a..b", "a b", "ü", "a\n", "a\x00", strings.Repeat("a", 101)}
	for _, r := range `/\:*?"<>|${}';%#@!,&()[]=+~^` + "`" {
		bad = append(bad, "a"+string(r)+"b")
	}
	for _, name := range bad {
		f := CheckName(name)
		if len(f) != 1 || f[0].Code != CodeNameInvalid || f[0].Field != "name" || f[0].Hint == "" {
			t.Errorf("%q: %v, want one NAME_INVALID with a hint", name, f)
		}
	}
	for name, n := range map[string]int{"p/n": 0, "p/n/m": 1, "/n": 1, "p/": 1, "/": 2, " p/n ": 2} {
		if f := CheckFullName(name); len(f) != n {
			t.Errorf("%q: %d findings, want %d: %v", name, len(f), n, f)
		}
	}
}

// Holds row 22 of the requirements.
func TestAnonymousIsRefusedInProduction(t *testing.T) {
	files := with(map[string]string{"connections/ok.toml": define("protocol = \"FTP\"\nusername = \"anonymous\""), "pierfs.toml": `activeEnvironments = ["Test", "Production"]`})
	got := check(t, files)
	severities := map[string]Severity{}
	for _, f := range got {
		if f.Code == CodeAnonymous {
			severities[f.Environment] = f.Severity
		}
	}
	if severities[""] != Warning || severities["Production"] != Error || len(severities) != 2 {
		t.Errorf("want a warning for Test and an error for Production, got%s", printed(got))
	}
}

func TestFTPInTheClearIsToldInProduction(t *testing.T) {
	active := `activeEnvironments = ["Test", "Production"]`
	got := check(t, with(map[string]string{"connections/ok.toml": define(`protocol = "FTP"`) + "[environments.Test]\nhost = \"test.example.com\"\n", "pierfs.toml": active}))
	if len(got) != 1 || got[0].Code != CodeCleartext || got[0].Severity != Error || got[0].Environment != "Production" || !strings.Contains(got[0].Hint, "FTPS") {
		t.Errorf("want one CLEARTEXT in Production, got%s", printed(got))
	}
	got = check(t, with(map[string]string{"connections/ok.toml": define(`protocol = "FTPS"`) + "[environments.Test]\nhost = \"test.example.com\"\n", "pierfs.toml": active}))
	if len(got) > 0 {
		t.Errorf("FTPS: found%s", printed(got))
	}
}

func TestRates(t *testing.T) {
	for text, want := range map[string]int64{
		"20000": 20000, "2MiB": 2 << 20, "2 mib/s": 2 << 20, "500KB": 500000, "1.5M": 3 << 19, "10Mbit": 1250000, "10 Mbit/s": 1250000, "1Gbps": 0, "10mbps": 0,
		"16k": 16 << 10, "1GB": 1e9, "B": 0, "": 0, "-5MB": 0, "1e9": 0, "0x10": 0, "1.2.3": 0, "inf": 0, "NaN": 0, "99999999999999999999GiB": 1 << 62,
	} {
		got, p := parseRate(text)
		if (p != nil) != (want == 0) || got != want && p == nil {
			t.Errorf("%q: got %d, %v; want %d", text, got, p, want)
		}
	}
}

func TestViaIsReadInOneForm(t *testing.T) {
	for text, want := range map[string]Via{
		"ssh://bob@h":                      {Kind: ViaSSH, Username: "bob", Host: "h", Port: 22},
		"SSH://b%40x@jump.example.com:222": {Kind: ViaSSH, Username: "b@x", Host: "jump.example.com", Port: 222},
		"socks5://h/":                      {Kind: ViaSOCKS, Host: "h", Port: 1080},
		"socks5h://bob@192.0.2.1":          {Kind: ViaSOCKS, Username: "bob", Host: "192.0.2.1", Port: 1080},
		"http://[2001:db8::1]:3128":        {Kind: ViaHTTP, Host: "2001:db8::1", Port: 3128},
		"ssh://bob@[fe80::1%25eth0]":       {Kind: ViaSSH, Username: "bob", Host: "fe80::1%eth0", Port: 22},
	} {
		s := &setting{text: text}
		if p := checkVia(s); p != nil {
			t.Errorf("%s: %s", text, p.message)
			continue
		}
		if got := readVia(s.text, Via{}); got != want {
			t.Errorf("%s, written as %s: got %+v, want %+v", text, s.text, got, want)
		}
	}
}

func TestPasswordInAnOpenVariableIsWarnedAbout(t *testing.T) {
	for vars, warned := range map[string]bool{
		"pw = \"geheim\"\n":                                          true,
		"pw = \"${a}\"\na = \"geheim\"\n":                            true,
		"pw = { value = \"geheim\", secret = true }\n":               false,
		"pw = \"${a}\"\na = { value = \"geheim\", secret = true }\n": false,
		"pw = { env = \"HOME\" }\n":                                  false,
		"pw = \"\"\n":                                                false,
		"[secrets]\npw = \"geheim\"\n":                               false,
	} {
		c, _ := Load(tree(t, with(map[string]string{"variables.toml": vars})))
		resolved, findings := c.Resolve(t.Context(), "ok", "Development")
		for _, got := range [][]Finding{c.Check(), findings} {
			if len(got) > 1 || (len(got) == 1) != warned || warned && (got[0].Code != CodeLiteralSecret || got[0].Field != "password" || got[0].Severity != Warning) {
				t.Errorf("%q: want a warning: %v, got%s", vars, warned, printed(got))
			}
			if strings.Contains(printed(got), "geheim") {
				t.Errorf("the secret is shown:%s", printed(got))
			}
		}
		if resolved.Name != "ok" {
			t.Errorf("%q: not resolved:%s", vars, printed(findings))
		}
	}
}

// What is displayed is read again as the same place.
func TestDisplayOfEveryProtocolIsRead(t *testing.T) {
	c, _ := Load(tree(t, base()))
	for _, raw := range []string{"ftp://u@h:21/in", "ftpes://u@h:21/~/x", "ftps://u@h:990/", "ftps://u@h:2990/", "sftp://u@h:22/~"} {
		conn, _ := ParseURL(raw)
		target, findings := c.ResolveUnsaved(t.Context(), conn, "Test")
		if got := target.Display(); got != raw {
			t.Errorf("%s is displayed as %s; findings%s", raw, got, printed(findings))
		}
	}
}

// What is owed to one server, login, directory or environment must never be taken for what is owed to another.
func TestIdentityTellsTargetsApart(t *testing.T) {
	base := Target{Protocol: SFTP, Username: "u", Host: "h", Port: 22, WorkingDir: "/in", Environment: "Test", Password: NewSecret("hidden")}
	if got, want := base.Identity(), "sftp://u@h:22/in in Test"; got != want {
		t.Errorf("identity %q, want %q", got, want)
	}
	change := func(change func(*Target)) Target { other := base; change(&other); return other }
	seen := map[string]bool{base.Identity(): true}
	for _, other := range []Target{
		change(func(t *Target) { t.Protocol = FTP }),
		change(func(t *Target) { t.Protocol = FTPS }),
		change(func(t *Target) { t.Protocol, t.TLS.Implicit = FTPS, true }),
		change(func(t *Target) { t.Host = "h2" }),
		change(func(t *Target) { t.Port = 2222 }),
		change(func(t *Target) { t.Username = "v" }),
		change(func(t *Target) { t.Username = "u@h:22/in" }),
		change(func(t *Target) { t.Username, t.WorkingDir = "u@h:22", "/x@h:22/in" }),
		change(func(t *Target) { t.Username, t.WorkingDir = "u@h:22/x", "/in" }),
		change(func(t *Target) { t.WorkingDir = "/in in Test" }),
		change(func(t *Target) { t.WorkingDir = "in" }),
		change(func(t *Target) { t.WorkingDir = "~/in" }),
		change(func(t *Target) { t.WorkingDir = "/~/in" }),
		change(func(t *Target) { t.WorkingDir = "/in?a#b%20c" }),
		change(func(t *Target) { t.WorkingDir = "/in\n" }),
		change(func(t *Target) { t.Environment = "Production" }),
		change(func(t *Target) { t.Environment = "" }),
	} {
		id := other.Identity()
		if seen[id] || strings.ContainsAny(id, "\n") {
			t.Errorf("%+v has the identity %q, as another has", other, id)
		}
		seen[id] = true
	}
	for _, same := range []Target{
		change(func(t *Target) { t.Host = "H" }),
		change(func(t *Target) { t.Password, t.Name, t.Encoding = NewSecret("other"), "renamed", "koi8-r" }),
		change(func(t *Target) { t.Via = Via{Kind: ViaSSH, Host: "jump"} }),
	} {
		if got := same.Identity(); got != base.Identity() {
			t.Errorf("%+v has the identity %q, want %q", same, got, base.Identity())
		}
	}
}

func TestDisplayIsAURL(t *testing.T) {
	for dir, want := range map[string]string{"/in": "sftp://u@[::1]:22/in", "in/x": "sftp://u@[::1]:22/~/in/x", ".": "sftp://u@[::1]:22/~", "/": "sftp://u@[::1]:22/"} {
		if got := (Target{Protocol: SFTP, Username: "u", Host: "::1", Port: 22, WorkingDir: dir, Password: NewSecret("x")}).Display(); got != want {
			t.Errorf("%q is displayed as %s, want %s", dir, got, want)
		}
	}
}

// Holds row 28 of the requirements.
func TestAllowOddTimeout(t *testing.T) {
	got := check(t, with(map[string]string{"connections/ok.toml": define("timeout = \"250ms\"\nsocketTimeout = \"10m\"\nallowOddTimeout = true")}))
	if len(got) > 0 {
		t.Errorf("found%s", printed(got))
	}
}

func TestMountPointsKeepApart(t *testing.T) {
	at := func(dir, more string) string { return good + "mountPoint = \"" + dir + "\"\n" + more }
	for name, c := range map[string]struct {
		files map[string]string
		code  Code
		hint  string
	}{
		"twice":                {map[string]string{"connections/a.toml": at("/srv/x", ""), "connections/b.toml": at("/srv/x/", "")}, CodeMountTaken, "another directory"},
		"nested":               {map[string]string{"connections/a.toml": at("/srv/x", ""), "connections/b.toml": at("/srv/x/y/z", "")}, CodeMountNested, "outside"},
		"in two environments":  {map[string]string{"connections/a.toml": at("/srv/x", ""), "pierfs.toml": `activeEnvironments = ["Test", "Development"]`}, CodeMountTaken, "leave mountPoint out"},
		"side by side":         {map[string]string{"connections/a.toml": at("/srv/x", ""), "connections/b.toml": at("/srv/xy", "")}, "", ""},
		"one of them disabled": {map[string]string{"connections/a.toml": at("/srv/x", ""), "connections/b.toml": "enabled = false\n" + at("/srv/x", "")}, "", ""},
		"one elsewhere":        {map[string]string{"connections/a.toml": at("/srv/x", ""), "connections/b.toml": at("/srv/x", "[environments.Development]\nmountPoint = \"/srv/y\"\n")}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := errorsOf(check(t, with(c.files)))
			if c.code == "" {
				if len(got) > 0 {
					t.Errorf("found%s", printed(got))
				}
				return
			}
			if len(got) != 1 || got[0].Code != c.code || got[0].Field != "mountPoint" || got[0].Line == 0 || !strings.Contains(got[0].Hint, c.hint) {
				t.Errorf("want one %s of mountPoint with a line and hint %q, got%s", c.code, c.hint, printed(got))
			}
		})
	}
}

// Holds row 49 of the requirements.
func TestSameEndpointInTwoEnvironmentsIsTold(t *testing.T) {
	files := with(map[string]string{"pierfs.toml": `activeEnvironments = ["Production"]`, "environments/Test.toml": ""})
	files["environments/Test.toml"] = "[variables]\n"
	got := check(t, files)
	if len(got) != 1 || got[0].Code != CodeSameEndpoint || got[0].Environment != "Test" || !strings.Contains(got[0].Message, "ok in Production") || got[0].Severity != Warning {
		t.Errorf("want one SAME_ENDPOINT in Test that names Production, got%s", printed(got))
	}
	files["connections/ok.toml"] = good + "[environments.Test]\nhost = \"test.example.com\"\n"
	if got := check(t, files); len(got) > 0 {
		t.Errorf("with a host of its own: found%s", printed(got))
	}
}
