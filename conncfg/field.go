package conncfg

import (
	"iter"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// kind is the type of a field's value.
type kind int

const (
	text kind = iota
	secret
	whole    // number
	truth    // true or false
	duration // "30s", or a bare number of seconds
	mode     // "0640"
	rate     // "2MiB", or a bare number of bytes a second
	size     // "10GiB", or a bare number of bytes
)

var kindNames = map[kind]string{
	text: "a text", secret: "a text", whole: "a whole number", truth: "true or false",
	duration: `a duration such as "30s"`, mode: `permissions such as "0640"`,
	rate: `a rate such as "2MiB"`, size: `a size such as "10GiB"`,
}

// field is one key of a definition: the only place where it is described. Parsing, overriding, options of the command
// line, showing, comparing and the test of the documentation all go by this table.
type field struct {
	name      string
	kind      kind
	variables bool                              // ${name} is replaced
	common    bool                              // one value for all environments
	protocols []Protocol                        // for which it means something; nil is all
	local     bool                              // names something on this machine: only for those who may configure it
	standard  string                            // the default, as show tells it
	check     func(*setting) *problem           // of a value by itself; may bring it to its canonical form
	apply     func(t *Target, s *setting)       // hands it to the target; nil where evaluation does more
	warn      func(s *setting) (p *problem)     // what is allowed and odd
	depends   func(t *Target) (standard string) // a default that depends on other fields
	mask      func(string) string               // hides what may be a secret in a value that is refused
}

// setting is the value of one field as written.
type setting struct {
	text     string // of a secret field: only a text with references and nothing else but them
	number   int64
	truth    bool
	duration time.Duration
	secret   Secret  // the literal value of a secret field, references included
	source   *source // of a secret field that names where its value is
	line     int
	env      string // the environment in whose table it stands, "" for all
	given    bool   // handed over with SetSecret: nothing in it is replaced
	broken   bool   // has been reported; counts as written, but has no value
}

// problem is a finding without its place.
type problem struct {
	code    Code
	message string
	hint    string
}

func invalid(message, hint string) *problem { return &problem{CodeInvalid, message, hint} }

var (
	onlySFTP = []Protocol{SFTP}
	onlyFTPS = []Protocol{FTPS}
	onlyFTP  = []Protocol{FTP, FTPS}
)

// Defaults of fields that an operator may leave out.
const (
	defaultTimeout     = 30 * time.Second
	defaultRetryCount  = 3
	defaultIdle        = 10 * time.Minute
	defaultDrain       = 60 * time.Second
	defaultMetadataTTL = 2 * time.Second
	defaultNegativeTTL = 1 * time.Second
	maxRetryCount      = 100
	defaultMaxSessions = 4
	maxMaxSessions     = 256
	maxTTL             = 24 * time.Hour
	leastEntries       = 10_000
	mostEntries        = 1_000_000_000
	leastIdle          = time.Minute
	maxIdle            = 24 * time.Hour
	maxDrain           = 24 * time.Hour
	maxTimeout         = 24 * time.Hour
	maxDescription     = 1000
	schemaVersion      = 1
)

// fields is the table, in the order in which definitions are best written.
var fields = []*field{
	{name: "schemaVersion", kind: whole, common: true, standard: "1", check: checkSchema},
	{name: "name", kind: text, common: true},
	{name: "description", kind: text, common: true, check: checkDescription},
	{name: "enabled", kind: truth, common: true, standard: "true"},
	{name: "protected", kind: truth, common: true, standard: "false"},
	{name: "exception", kind: text, check: checkException},

	{name: "protocol", kind: text, check: checkProtocol,
		apply: func(t *Target, s *setting) { t.Protocol = Protocol(s.text) }},
	{name: "host", kind: text, variables: true, check: checkHost,
		apply: func(t *Target, s *setting) { t.Host = s.text }},
	{name: "port", kind: text, variables: true, check: checkPort,
		apply:   func(t *Target, s *setting) { t.Port = int(s.number) },
		depends: func(t *Target) string { return strconv.Itoa(t.Port) }},
	{name: "fallbackHosts", kind: text, variables: true, check: checkFallbackHosts,
		apply: func(t *Target, s *setting) { t.Fallbacks = readPlaces(s.text) }},
	{name: "username", kind: text, variables: true, check: checkUsername,
		apply: func(t *Target, s *setting) { t.Username = s.text }},
	{name: "password", kind: secret, variables: true, check: checkPassword,
		apply: func(t *Target, s *setting) { t.Password = s.secret }},
	{name: "workingDir", kind: text, variables: true, check: checkWorkingDir,
		apply: func(t *Target, s *setting) { t.WorkingDir = s.text }},

	{name: "timeout", kind: duration, standard: "30s",
		apply: func(t *Target, s *setting) { t.ConnectTimeout, t.SocketTimeout = s.duration, s.duration }},
	{name: "connectTimeout", kind: duration,
		apply:   func(t *Target, s *setting) { t.ConnectTimeout = s.duration },
		depends: func(t *Target) string { return t.ConnectTimeout.String() }},
	{name: "socketTimeout", kind: duration,
		apply:   func(t *Target, s *setting) { t.SocketTimeout = s.duration },
		depends: func(t *Target) string { return t.SocketTimeout.String() }},
	{name: "idleTimeout", kind: duration, standard: "10m", check: checkIdle,
		apply: func(t *Target, s *setting) { t.IdleTimeout = s.duration }},
	{name: "allowOddTimeout", kind: truth, standard: "false"},
	{name: "retryCount", kind: whole, standard: "3", check: between(0, maxRetryCount), warn: adviseRetryCount,
		apply: func(t *Target, s *setting) { t.RetryCount = int(s.number) }},
	{name: "retryAuth", kind: truth, standard: "false",
		apply: func(t *Target, s *setting) { t.RetryAuth = s.truth }},

	{name: "via", kind: text, check: checkVia, mask: maskVia,
		apply: func(t *Target, s *setting) { t.Via = readVia(s.text, t.Via) }},
	{name: "viaPassword", kind: secret, check: checkPassword,
		apply: func(t *Target, s *setting) { t.Via.Password = s.secret }},
	{name: "viaKeyFile", kind: text, local: true, check: checkPath,
		apply: func(t *Target, s *setting) { t.Via.KeyFile = s.text }},
	{name: "viaHostKey", kind: text, check: checkHostKey,
		apply: func(t *Target, s *setting) { t.Via.HostKey = s.text }},
	{name: "sourceAddress", kind: text, check: checkSourceAddress,
		apply: func(t *Target, s *setting) { t.SourceAddress = s.text }},
	{name: "rateLimit", kind: rate, check: checkRate,
		apply: func(t *Target, s *setting) { t.RateLimit = s.number }},

	{name: "account", kind: secret, protocols: onlyFTP, check: checkPassword,
		apply: func(t *Target, s *setting) { t.FTP.Account = s.secret }},
	{name: "passive", kind: truth, protocols: onlyFTP, standard: "true",
		apply: func(t *Target, s *setting) { t.FTP.Active = !s.truth }},
	{name: "passivePorts", kind: text, protocols: onlyFTP, check: checkPorts,
		apply: func(t *Target, s *setting) { t.FTP.PassivePorts = readPorts(s.text) }},
	{name: "maxSessions", kind: whole, protocols: onlyFTP, standard: "4", check: between(1, maxMaxSessions),
		apply: func(t *Target, s *setting) { t.MaxSessions = int(s.number) }},

	{name: "sslProtocol", kind: text, variables: true, protocols: onlyFTPS, standard: "TLS1.2", check: checkSSLProtocol},
	{name: "useImplicit", kind: truth, protocols: onlyFTPS, standard: "false"},
	{name: "useExplicit", kind: truth, protocols: onlyFTPS, standard: "true unless useImplicit is"},
	{name: "allowWeakTLS", kind: truth, protocols: onlyFTPS, standard: "false",
		apply: func(t *Target, s *setting) { t.TLS.AllowWeak = s.truth }},
	{name: "caFile", kind: text, protocols: onlyFTPS, local: true, check: checkPath,
		apply: func(t *Target, s *setting) { t.TLS.CAFile = s.text }},
	{name: "trustCert", kind: text, protocols: onlyFTPS, check: checkCertificate,
		apply: func(t *Target, s *setting) { t.TLS.TrustCert = s.text }},
	{name: "clientCertFile", kind: text, protocols: onlyFTPS, local: true, check: checkPath,
		apply: func(t *Target, s *setting) { t.TLS.CertFile = s.text }},
	{name: "clientKeyFile", kind: text, protocols: onlyFTPS, local: true, check: checkPath,
		apply: func(t *Target, s *setting) { t.TLS.KeyFile = s.text }},
	{name: "serverName", kind: text, protocols: onlyFTPS, check: checkHost,
		apply:   func(t *Target, s *setting) { t.TLS.ServerName = s.text },
		depends: func(t *Target) string { return t.Host }},

	{name: "privateKeyFile", kind: text, protocols: onlySFTP, local: true, check: checkPath,
		apply: func(t *Target, s *setting) { t.SSH.PrivateKeyFile = s.text }},
	{name: "privateKey", kind: secret, protocols: onlySFTP, check: checkKeyText,
		apply: func(t *Target, s *setting) { t.SSH.PrivateKey = s.secret }},
	{name: "privateKeyPassphrase", kind: secret, protocols: onlySFTP, check: checkPassword,
		apply: func(t *Target, s *setting) { t.SSH.Passphrase = s.secret }},
	{name: "certificateFile", kind: text, protocols: onlySFTP, local: true, check: checkPath,
		apply: func(t *Target, s *setting) { t.SSH.CertificateFile = s.text }},
	{name: "agent", kind: truth, protocols: onlySFTP, local: true, standard: "false",
		apply: func(t *Target, s *setting) { t.SSH.Agent = s.truth }},
	{name: "agentSocket", kind: text, protocols: onlySFTP, local: true, check: checkPath, standard: "$SSH_AUTH_SOCK of the daemon",
		apply: func(t *Target, s *setting) { t.SSH.AgentSocket = s.text }},
	{name: "hostKey", kind: text, protocols: onlySFTP, check: checkHostKey,
		apply: func(t *Target, s *setting) { t.SSH.HostKey = s.text }},
	{name: "knownHostsFile", kind: text, protocols: onlySFTP, local: true, check: checkPath,
		apply: func(t *Target, s *setting) { t.SSH.KnownHostsFile = s.text }},
	{name: "legacyAlgorithms", kind: truth, protocols: onlySFTP, standard: "false", warn: warnLegacy,
		apply: func(t *Target, s *setting) { t.SSH.LegacyAlgorithms = s.truth }},

	{name: "encoding", kind: text, standard: "utf-8", check: checkEncoding,
		apply: func(t *Target, s *setting) { t.Encoding = s.text }},
	{name: "readOnly", kind: truth, standard: "false",
		apply: func(t *Target, s *setting) { t.ReadOnly = s.truth }},
	{name: "mountPoint", kind: text, standard: "MOUNTROOT/ENV/NAME", check: checkMountPoint,
		apply: func(t *Target, s *setting) { t.MountPoint = s.text }},
	{name: "uid", kind: whole, standard: "the mount point's owner", check: between(0, math.MaxUint32-1),
		apply: func(t *Target, s *setting) { t.UID = new(uint32(s.number)) }},
	{name: "gid", kind: whole, standard: "the mount point's group", check: between(0, math.MaxUint32-1),
		apply: func(t *Target, s *setting) { t.GID = new(uint32(s.number)) }},
	{name: "fileMode", kind: mode, standard: "as the server sends it", check: checkMode,
		apply: func(t *Target, s *setting) { t.FileMode = os.FileMode(s.number) }},
	{name: "dirMode", kind: mode, standard: "as the server sends it", check: checkMode, warn: warnDirMode,
		apply: func(t *Target, s *setting) { t.DirMode = os.FileMode(s.number) }},
	{name: "owner", kind: text, standard: string(OwnerMap), check: oneOf(string(OwnerMap), string(OwnerRaw), string(OwnerFixed)),
		apply: func(t *Target, s *setting) { t.Owner = Owner(s.text) }},
	{name: "commit", kind: text, standard: string(CommitClose), check: oneOf(string(CommitClose), string(CommitBackground)),
		apply: func(t *Target, s *setting) { t.Commit = CommitMode(s.text) }},
	{name: "conflict", kind: text, standard: string(ConflictKeepBoth), check: oneOf(string(ConflictKeepBoth), string(ConflictOverwrite), string(ConflictFail)),
		apply: func(t *Target, s *setting) { t.Conflict = ConflictPolicy(s.text) }},
	{name: "drainTimeout", kind: duration, standard: "60s", check: spanUpTo(maxDrain),
		apply: func(t *Target, s *setting) { t.DrainTimeout = s.duration }},
	{name: "stagingLimit", kind: size, check: checkStagingLimit,
		apply: func(t *Target, s *setting) { t.StagingLimit = s.number }},
	{name: "writePassthrough", kind: truth, standard: "false",
		apply: func(t *Target, s *setting) { t.WritePassthrough = s.truth }},
	{name: "tempName", kind: text, standard: ".NAME.pierfs-XXXX", check: checkTempName, warn: warnTempName,
		apply: func(t *Target, s *setting) { t.TempName = s.text }},
	{name: "doneFile", kind: text, check: checkDoneFile,
		apply: func(t *Target, s *setting) { t.DoneFile = s.text }},
	{name: "update", kind: text, protocols: onlySFTP, standard: string(UpdateReplace), check: oneOf(string(UpdateReplace), string(UpdateInPlace)), warn: warnInPlace,
		apply: func(t *Target, s *setting) { t.Update = UpdateMode(s.text) }},
	{name: "verify", kind: text, standard: string(VerifySize), check: oneOf(string(VerifyOff), string(VerifySize), string(VerifyHash), string(VerifyReadback)),
		apply: func(t *Target, s *setting) { t.Verify = Verify(s.text) }},
	{name: "metadataTTL", kind: duration, standard: "2s", check: spanUpTo(maxTTL),
		apply: func(t *Target, s *setting) { t.MetadataTTL = s.duration }},
	{name: "negativeTTL", kind: duration, standard: "1s", check: spanUpTo(maxTTL),
		apply: func(t *Target, s *setting) { t.NegativeTTL = s.duration }},
	{name: "maxEntries", kind: whole, standard: "5000000", check: between(leastEntries, mostEntries),
		apply: func(t *Target, s *setting) { t.MaxEntries = int(s.number) }},
}

// fieldOf finds a field by its exact name.
var fieldOf = func() map[string]*field {
	byName := make(map[string]*field, len(fields))
	for _, f := range fields {
		byName[f.name] = f
	}
	return byName
}()

func fieldNames(want func(*field) bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, f := range fields {
			if want(f) && !yield(f.name) {
				return
			}
		}
	}
}

// read takes a value out of a document.
func (f *field) read(v any) (*setting, *problem) {
	wrong := &problem{CodeWrongType, "is " + kindOf(v) + "; it takes " + kindNames[f.kind], ""}
	switch f.kind {
	case secret:
		switch v := v.(type) {
		case string:
			return &setting{secret: NewSecret(v)}, nil
		case *table:
			return &setting{source: &source{}}, nil // filled in by whoever can report what is wrong with it
		}
		wrong.hint = "quote it"
		return nil, wrong
	case truth:
		if b, ok := v.(bool); ok {
			return &setting{truth: b, text: strconv.FormatBool(b)}, nil
		}
		wrong.hint = "write " + f.name + " = true or " + f.name + " = false, without quotes"
		return nil, wrong
	}
	switch v := v.(type) {
	case string:
		if f.kind == whole {
			wrong.hint = "leave out the quotes"
			return nil, wrong
		}
		return f.parse(v)
	case number:
		return f.readNumber(v, wrong)
	}
	return nil, wrong
}

func (f *field) readNumber(n number, wrong *problem) (*setting, *problem) {
	i, ok := n.integer()
	switch {
	case f.kind == mode && !strings.HasPrefix(string(n), "0o"):
		return nil, invalid("permissions are octal, and this is a decimal number", `quote it: `+f.name+` = "`+octal(string(n))+`"`)
	case f.kind == mode && ok:
		return &setting{number: i, text: "0" + strconv.FormatInt(i, 8)}, nil
	case f.kind == text && f.name != "port":
		wrong.hint = "quote it"
		return nil, wrong
	case !ok:
		return nil, invalid("is no number that fits", "")
	}
	return f.parse(strconv.FormatInt(i, 10))
}

func octal(digits string) string { return "0" + strings.TrimLeft(digits, "0+-") }

// parse takes a value as the command line and quoted values give it.
func (f *field) parse(v string) (*setting, *problem) {
	s := &setting{text: v}
	switch f.kind {
	case text:
	case secret:
		s.text, s.secret = "", NewSecret(v)
	case truth:
		b, err := strconv.ParseBool(strings.ToLower(v))
		if err != nil {
			return nil, &problem{CodeWrongType, "is neither true nor false", "write " + f.name + "=true or " + f.name + "=false"}
		}
		s.truth, s.text = b, strconv.FormatBool(b)
	case whole:
		i, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, &problem{CodeWrongType, "is no whole number", ""}
		}
		s.number = i
	case duration:
		d, ok := parseDuration(v)
		if !ok {
			return nil, invalid("is no duration", `write "30s", "500ms" or "2m"; a bare number is seconds`)
		}
		s.duration, s.text = d, d.String()
	case rate:
		i, p := parseRate(v)
		if p != nil {
			return nil, p
		}
		s.number = i
	case size:
		i, ok := ParseSize(v)
		if !ok {
			return nil, invalid("is no size", sizeHint)
		}
		s.number = i
	case mode:
		i, err := strconv.ParseUint(strings.TrimPrefix(v, "0o"), 8, 32)
		if err != nil {
			return nil, invalid("is no octal number", `write permissions as "0640"`)
		}
		s.number = int64(i)
	}
	return s, nil
}

// parseDuration reads Go's notation, and bare numbers as seconds.
func parseDuration(v string) (time.Duration, bool) {
	if i, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Duration(i) * time.Second, i >= math.MinInt32 && i <= math.MaxInt32
	}
	d, err := time.ParseDuration(v)
	return d, err == nil
}

// shown is the value for people: a secret as asterisks, or as the references or the source it is made of.
func (f *field) shown(s *setting) string {
	switch {
	case f.kind == secret && s.source != nil:
		return s.source.String()
	case f.kind == secret && !s.given && onlyReferences(s.secret.Reveal()):
		return s.secret.Reveal()
	case f.kind == secret:
		return s.secret.String()
	}
	return s.text
}

// deferred reports whether the value is known only once variables are replaced.
func (f *field) deferred(s *setting) bool {
	return f.variables && !s.given && (strings.Contains(s.text, "${") || strings.Contains(s.secret.Reveal(), "${"))
}

func between(least, most int64) func(*setting) *problem {
	return func(s *setting) *problem {
		if s.number >= least && s.number <= most {
			return nil
		}
		bounds := strconv.FormatInt(least, 10) + " to " + strconv.FormatInt(most, 10)
		return &problem{CodeRange, "is outside " + bounds, "write a number from " + bounds}
	}
}

func spanUpTo(most time.Duration) func(*setting) *problem {
	return func(s *setting) *problem {
		if s.duration >= 0 && s.duration <= most {
			return nil
		}
		return &problem{CodeRange, "is outside 0s to " + most.String(), "write a duration from 0s to " + most.String()}
	}
}

func oneOf(words ...string) func(*setting) *problem {
	return func(s *setting) *problem {
		if slices.Contains(words, s.text) {
			return nil
		}
		list := `"` + strings.Join(words, `", "`) + `"`
		return invalid("is none of "+list, didYouMean(s.text, slices.Values(words), "write one of "+list))
	}
}

func checkSchema(s *setting) *problem {
	switch {
	case s.number < 1:
		return &problem{CodeSchema, "there is no such version", "leave schemaVersion out, or write 1"}
	case s.number > schemaVersion:
		return &problem{CodeSchema, "this program knows versions up to " + strconv.Itoa(schemaVersion), "use the program that wrote it, or a newer one"}
	}
	return nil
}

func checkDescription(s *setting) *problem {
	if n := utf8.RuneCountInString(s.text); n > maxDescription {
		s.text = string([]rune(s.text)[:40]) + "..."
		return &problem{CodeRange, "has " + strconv.Itoa(n) + " characters", "shorten it to " + strconv.Itoa(maxDescription)}
	}
	return nil
}
