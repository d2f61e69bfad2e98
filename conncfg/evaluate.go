package conncfg

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// evaluation puts one connection together in one environment: its fields, what the environment overrides, the variables,
// and the rules that join fields. Check runs it offline for every environment, Resolve online for one.
type evaluation struct {
	c        *Connection
	env      string
	x        *expander
	target   Target
	unknown  map[string]bool // fields that wait for a source outside
	rules    Policy
	findings []Finding
}

func (c *Connection) evaluate(env string, x *expander) *evaluation {
	e := &evaluation{c: c, env: env, x: x, target: *c.defaults(env), unknown: map[string]bool{}}
	if of := x.config.environments[env]; of != nil {
		e.rules = of.Policy
	}
	for _, f := range fields {
		if s := c.merged(env, f.name); s != nil && !s.broken {
			e.field(f, s)
		}
	}
	e.required()
	e.timeouts()
	e.login()
	e.tls()
	e.port()
	e.way()
	e.fallbacks()
	e.passthrough()
	e.policy()
	return e
}

// defaults is the target of a definition that says nothing but its protocol and what the defaults hang on.
func (c *Connection) defaults(env string) *Target {
	t := &Target{
		Name: c.Name, Environment: env,
		ConnectTimeout: defaultTimeout, SocketTimeout: defaultTimeout, RetryCount: defaultRetryCount,
		Encoding: "utf-8", Owner: OwnerMap, Commit: CommitClose, Conflict: ConflictKeepBoth, Verify: VerifySize, DrainTimeout: defaultDrain, IdleTimeout: defaultIdle, MetadataTTL: defaultMetadataTTL, NegativeTTL: defaultNegativeTTL,
	}
	if s := c.merged(env, "protocol"); s != nil && !s.broken {
		t.Protocol = Protocol(s.text)
	}
	if s := c.merged(env, "host"); s != nil {
		t.Host = s.text
	}
	if s := c.merged(env, "timeout"); s != nil && !s.broken {
		t.ConnectTimeout, t.SocketTimeout = s.duration, s.duration
	}
	t.TLS.Implicit = t.Protocol == FTPS && c.truth(env, "useImplicit")
	t.Port = usualPort(t.Protocol, t.TLS.Implicit)
	if t.Protocol == FTPS {
		t.TLS.MinVersion = tls.VersionTLS12
	}
	if t.Protocol == FTPS || t.Protocol == FTP {
		t.MaxSessions = defaultMaxSessions
	}
	if t.Protocol == SFTP {
		t.Update = UpdateReplace
	}
	return t
}

func usualPort(p Protocol, implicit bool) int {
	switch {
	case p == SFTP:
		return 22
	case p == FTPS && implicit:
		return 990
	case p == FTP, p == FTPS:
		return 21
	}
	return 0
}

func (c *Connection) truth(env, name string) bool {
	s := c.merged(env, name)
	return s != nil && s.truth
}

// find adds a finding about a field. It names the environment if the value, or one of the values that it was judged by,
// holds only there.
func (e *evaluation) find(severity Severity, name string, p *problem, value string, with ...string) {
	f := Finding{Severity: severity, File: e.c.File, Connection: e.c.Name, Field: name}
	if s := e.c.merged(e.env, name); s != nil {
		f.Line = s.line
	}
	for _, other := range append(with, name) {
		if s := e.c.merged(e.env, other); s != nil && (s.env != "" || fieldOf[other].deferred(s)) {
			f.Environment = e.env
		}
	}
	e.findings = append(e.findings, f.with(p, value))
}

// field replaces the references in one field, applies its rule to what comes out, and hands it to the target.
func (e *evaluation) field(f *field, s *setting) {
	value, p := *s, (*problem)(nil)
	switch {
	case f.kind == secret && s.source != nil:
		p = e.fetchSecret(f, &value)
	case f.deferred(s):
		p = e.replace(f, &value)
	}
	if p != nil {
		e.find(Error, f.name, p, f.shownIfOpen(s))
		if i := len(e.findings) - 1; p.code == CodeVariableUndefined || p.code == CodeVariableCycle || p.code == CodeSource {
			e.findings[i].Environment = e.env
		}
		e.unknown[f.name] = true
		return
	}
	if e.unknown[f.name] {
		return
	}
	if f.warn != nil {
		if p := f.warn(&value); p != nil {
			e.find(Warning, f.name, p, f.shownIfOpen(&value))
		}
	}
	if s.literal() && f.kind == secret {
		e.literal(f, "stands in the definition itself", literalHint(f), "")
	}
	if f.apply != nil && f.speaks(e.target.Protocol) {
		f.apply(&e.target, &value)
	}
	if f.name == "sslProtocol" && e.target.Protocol == FTPS {
		e.sslProtocol(&value)
	}
}

// literal tells of a secret that stands in the open.
func (e *evaluation) literal(f *field, message, hint, value string) {
	if e.rules.ForbidLiteralSecrets {
		e.against(f.name, CodeLiteralSecret, message, hint+"; `pierfs vars extract "+e.c.Name+"` does it", value)
		return
	}
	e.find(Warning, f.name, &problem{CodeLiteralSecret, message, hint}, value)
}

func literalHint(f *field) string {
	if f.variables {
		return f.name + ` = "${NAME}", with NAME in environments/ENV.toml, keeps it apart`
	}
	return f.name + ` = { file = "/path" } or { credential = "NAME" } keeps it apart`
}

// shownIfOpen is the value for findings, empty for secrets but for references.
func (f *field) shownIfOpen(s *setting) string {
	if f.kind == secret && (s.source != nil || s.given || !onlyReferences(s.secret.Reveal())) {
		return ""
	}
	return clip(f.shown(s))
}

// replace puts the variables' values into s and judges the outcome, which a rule may not have seen before.
func (e *evaluation) replace(f *field, s *setting) *problem {
	written := s.text
	if f.kind == secret {
		written = s.secret.Reveal()
	}
	out := e.x.expand(written)
	switch {
	case out.problem != nil:
		return out.problem
	case out.secret && f.kind != secret:
		return &problem{CodeVariableSecret, "refers to a variable marked secret, and lists and logs show this field", "mark the variable secret = false, or use another one"}
	case out.unknown:
		e.unknown[f.name] = true
		return nil
	}
	if f.kind == secret {
		if s.secret = NewSecret(out.text); !out.secret && !s.secret.Empty() && onlyReferences(written) && e.x.literal(written) {
			e.literal(f, "refers to a variable that is not marked secret, and whose value stands in its file", "mark it: { value = \"...\", secret = true }, in a file with mode 0600", written)
		}
	} else {
		s.text = out.text
	}
	p := f.check(s)
	if p == nil {
		return nil
	}
	message := p.message
	if f.kind != secret {
		message = fmt.Sprintf("becomes %q in environment %q, which %s", clip(out.text), e.env, p.message)
	}
	return &problem{p.code, message, p.hint}
}

// fetchSecret asks the source of a secret field itself.
func (e *evaluation) fetchSecret(f *field, s *setting) *problem {
	if e.x.fetch == nil {
		e.unknown[f.name] = true
		if p := s.source.offline(); p != nil {
			e.find(Warning, f.name, p, "")
		}
		return nil
	}
	value, err := e.x.fetch(*s.source)
	if err != nil {
		return &problem{CodeSource, string(s.source.kind) + ": " + err.Error(), "check the source"}
	}
	s.secret = NewSecret(value)
	return f.check(s)
}

// required wants the fields without which there is nothing to connect to.
func (e *evaluation) required() {
	for _, r := range []struct{ name, hint string }{
		{"protocol", `write protocol = "SFTP", "FTPS" or "FTP"`},
		{"host", `write host = "files.example.com"`},
		{"username", `write username = "..."`},
		{"workingDir", `write workingDir = "/path", the directory to show; "." is the one after login`},
	} {
		if e.c.merged(e.env, r.name) != nil || e.c.torn {
			continue
		}
		e.find(Error, r.name, &problem{CodeMissing, "is required", r.hint}, "")
		if slices.ContainsFunc(e.c.Environments(), func(env string) bool { return e.c.envs[env][r.name] != nil }) {
			e.findings[len(e.findings)-1].Environment = e.env // others have it
		}
	}
}

func (e *evaluation) timeouts() {
	odd := e.c.truth(e.env, "allowOddTimeout")
	for _, name := range []string{"timeout", "connectTimeout", "socketTimeout"} {
		s := e.c.merged(e.env, name)
		if s == nil || s.broken {
			continue
		}
		if p := checkTimeout(s, odd); p != nil {
			e.find(Error, name, p, s.text, "allowOddTimeout")
		} else if p := adviseTimeoutOf(s); p != nil && !odd && name == "timeout" {
			e.find(Warning, name, p, s.text)
		}
	}
}

// login looks at who logs in, how, and where.
func (e *evaluation) login() {
	t := &e.target
	if s := e.c.merged(e.env, "username"); s != nil && !s.broken && !e.unknown["username"] {
		switch {
		case t.Username == "" && t.Protocol == SFTP:
			e.find(Error, "username", &problem{CodeMissing, "is empty, and SFTP knows no anonymous login", `write username = "..."`}, "", "protocol")
		case isAnonymous(t.Username):
			e.anonymous()
		}
	}
	if s := e.c.merged(e.env, "workingDir"); s != nil && t.WorkingDir == "/" {
		e.find(Warning, "workingDir", &problem{CodeWholeServer, "is the whole server", "write the directory that programs need"}, "/")
	}
	switch t.Protocol {
	case SFTP:
		e.sshKeys()
	case FTP, FTPS:
		if !e.written("password", "clientCertFile") && !isAnonymous(t.Username) && !e.unknown["username"] {
			e.find(Warning, "password", &problem{CodeNoCredential, "is missing: the server is told an empty one", `write password = "${NAME}", or password = "" if that is meant`}, "", "protocol", "username")
		}
	}
}

// written reports whether one of the fields is.
func (e *evaluation) written(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return e.c.merged(e.env, name) != nil })
}

func isAnonymous(username string) bool {
	name := strings.ToLower(username)
	return name == "" || name == "anonymous" || name == "ftp"
}

// sshKeys looks at what proves who logs in over SSH.
func (e *evaluation) sshKeys() {
	written := e.written
	if !written("password", "privateKeyFile", "privateKey") && !e.c.truth(e.env, "agent") {
		e.find(Warning, "password", &problem{CodeNoCredential, "is missing, and so are privateKeyFile and agent: nothing proves who logs in", `write password = "${NAME}", privateKeyFile = "/path" or agent = true`}, "", "agent")
	}
	if s := e.c.merged(e.env, "certificateFile"); s != nil && !written("privateKeyFile", "privateKey") && !e.c.truth(e.env, "agent") {
		e.find(Error, "certificateFile", &problem{CodePair, "needs the private key that it certifies", `write privateKeyFile = "/path"`}, s.text)
	}
	if s := e.c.merged(e.env, "privateKeyPassphrase"); s != nil && !written("privateKeyFile", "privateKey") {
		e.find(Warning, "privateKeyPassphrase", &problem{CodePair, "opens nothing without a private key", `write privateKeyFile = "/path", or leave it out`}, "")
	}
}

func (e *evaluation) anonymous() {
	if e.target.Username == "" {
		e.target.Username = "anonymous"
	}
	if e.rules.ForbidAnonymous {
		e.against("username", CodeAnonymous, "is an anonymous login", "ask the server's owner for an account", e.target.Username)
		return
	}
	e.find(Warning, "username", &problem{CodeAnonymous, "is an anonymous login", "ask the server's owner for an account"}, e.target.Username)
}

func (e *evaluation) sslProtocol(s *setting) {
	e.target.TLS.MinVersion = tlsVersions[s.text]
	switch {
	case e.target.TLS.MinVersion >= tls.VersionTLS12:
	case !e.c.truth(e.env, "allowWeakTLS"):
		e.find(Error, "sslProtocol", &problem{CodeWeakTLS, "is broken and refused", "write TLS1.2 or TLS1.3, or set allowWeakTLS = true if the server cannot be updated"}, s.text, "allowWeakTLS")
	case strings.HasPrefix(s.text, "SSL"):
		e.find(Warning, "sslProtocol", &problem{CodeWeakTLS, "is broken, and this program does not speak it: TLS 1.0 is the least it offers", "have the server updated"}, s.text, "allowWeakTLS")
	default:
		e.find(Warning, "sslProtocol", &problem{CodeWeakTLS, "is broken: others can read and change what it carries", "have the server updated"}, s.text, "allowWeakTLS")
	}
}

// tls joins the two switches of the handshake, and the client's certificate with its key.
func (e *evaluation) tls() {
	t := &e.target
	if t.Protocol != FTPS {
		t.TLS = TLS{}
		return
	}
	implicit, explicit := e.c.merged(e.env, "useImplicit"), e.c.merged(e.env, "useExplicit")
	switch {
	case implicit != nil && explicit != nil && implicit.truth && explicit.truth:
		e.find(Error, "useImplicit", &problem{CodeTLSMode, "excludes useExplicit, and both are true", "keep useExplicit (port 21) or useImplicit (port 990)"}, "true", "useExplicit")
	case explicit != nil && !explicit.broken && !explicit.truth && !t.TLS.Implicit:
		e.find(Error, "useExplicit", &problem{CodeTLSMode, "is false, and so is useImplicit: FTPS needs one of them", "set useExplicit = true (port 21) or useImplicit = true (port 990)"}, "false", "useImplicit")
	}
	if t.TLS.ServerName == "" {
		t.TLS.ServerName = t.Host
	}
	if t.TLS.AllowWeak && t.TLS.MinVersion >= tls.VersionTLS12 {
		e.find(Warning, "allowWeakTLS", &problem{CodeWeakTLS, "allows key exchanges and ciphers that are broken or close to it", "set it back once the server has been updated"}, "true", "sslProtocol")
	}
	if s := e.c.merged(e.env, "caFile"); s != nil && !s.broken && t.TLS.TrustCert != "" {
		e.find(Warning, "caFile", &problem{CodeIgnored, "is not looked at: trustCert names the one certificate that is accepted", "keep one of them"}, s.text, "trustCert")
	}
	for _, pair := range [][2]string{{"clientCertFile", "clientKeyFile"}, {"clientKeyFile", "clientCertFile"}} {
		if s := e.c.merged(e.env, pair[0]); s != nil && e.c.merged(e.env, pair[1]) == nil {
			e.find(Error, pair[0], &problem{CodePair, "needs " + pair[1], "write " + pair[1] + ` = "/path"`}, s.text)
		}
	}
}

// way joins the fields of the host in between, and what excludes it.
func (e *evaluation) way() {
	t := &e.target
	via := e.c.merged(e.env, "via")
	for _, name := range []string{"viaPassword", "viaKeyFile", "viaHostKey"} {
		s := e.c.merged(e.env, name)
		switch {
		case s == nil || s.broken:
		case via == nil:
			e.find(Warning, name, &problem{CodePair, "is for the host in between, and via names none", "write via, or leave it out"}, fieldOf[name].shownIfOpen(s), "via")
		case t.Via.Kind != ViaSSH && t.Via.Kind != "" && name != "viaPassword":
			e.find(Warning, name, &problem{CodeIgnored, "means nothing for a proxy, only for an SSH host", "leave it out"}, s.text, "via")
		}
	}
	if t.Via.Kind == ViaSSH && !e.written("viaPassword", "viaKeyFile") && !t.SSH.Agent {
		e.find(Warning, "via", &problem{CodeNoCredential, "leads through an SSH host, and nothing proves who logs in there", `write viaKeyFile = "/path" or viaPassword = { file = "/path" }`}, via.text, "viaPassword", "viaKeyFile")
	}
	if t.FTP.Active && t.Via.Kind != "" {
		e.find(Error, "passive", &problem{CodeInvalid, "is false, and no server can open a connection to us through another host", "leave it out"}, "false", "via", "protocol")
	}
	e.sourceAddress()
}

// fallbacks wants each host named once, and that whoever finds one away asks again.
func (e *evaluation) fallbacks() {
	s := e.c.merged(e.env, "fallbackHosts")
	if s == nil || s.broken || e.unknown["fallbackHosts"] || e.unknown["host"] || e.unknown["port"] {
		return
	}
	seen := map[string]bool{}
	for _, t := range e.target.Hosts() {
		if address := strings.ToLower(t.Address()); seen[address] {
			e.find(Error, "fallbackHosts", &problem{CodeInvalid, "has " + address + " twice, host and port counted", "name each server once"}, s.text, "host", "port")
		} else {
			seen[address] = true
		}
	}
	if e.target.RetryCount == 0 {
		e.find(Warning, "fallbackHosts", &problem{CodeAdvice, "is asked by a repetition, and retryCount is 0: the call that finds host away fails, and only the next one goes elsewhere", "set retryCount = 3"}, s.text, "retryCount")
	}
}

// passthrough wants what the kernel writes to be sent behind: with commit = "close" each write is to be known when the file is closed.
func (e *evaluation) passthrough() {
	if e.target.WritePassthrough && e.target.Commit != CommitBackground && !e.unknown["commit"] {
		e.find(Error, "writePassthrough", &problem{CodePair, `needs commit = "background", and commit is "` + string(e.target.Commit) + `"`, `write commit = "background", or leave writePassthrough out`}, "true", "commit")
	}
}

// sourceAddress wants the address to be of the same kind as the one that it speaks to first, where that is known.
func (e *evaluation) sourceAddress() {
	t := &e.target
	host, field := t.Host, "host"
	if t.Via.Kind != "" {
		host, field = t.Via.Host, "via"
	}
	from, err := netip.ParseAddr(t.SourceAddress)
	if err != nil || e.unknown[field] {
		return
	}
	if to, err := netip.ParseAddr(host); err == nil && to.Unmap().Is4() != from.Is4() {
		e.find(Error, "sourceAddress", &problem{CodeInvalid, "and " + field + " are not both IPv4 or both IPv6", "write an address of the same kind"}, t.SourceAddress, field)
	}
}

// port warns when the port is another protocol's.
func (e *evaluation) port() {
	t := &e.target
	s := e.c.merged(e.env, "port")
	if s == nil || s.broken || e.unknown["port"] || t.Protocol == "" {
		return
	}
	usual := usualPort(t.Protocol, t.TLS.Implicit)
	owners := map[int]string{21: "FTP and explicit FTPS", 22: "SFTP", 990: "implicit FTPS"}
	owner, known := owners[t.Port]
	if !known || t.Port == usual {
		return
	}
	speaks := string(t.Protocol)
	hint := "write port = " + strconv.Itoa(usual) + ", or leave it out"
	if t.Protocol == FTPS {
		speaks = "explicit FTPS"
		other := "useImplicit"
		if t.TLS.Implicit {
			speaks, other = "implicit FTPS", "useExplicit"
		}
		if t.Port != 22 {
			hint += "; or set " + other + " = true"
		}
	}
	e.find(Warning, "port", &problem{CodePortMismatch, "is the port of " + owner + ", and this is " + speaks, hint}, strconv.Itoa(t.Port), "protocol", "useImplicit", "useExplicit")
}
