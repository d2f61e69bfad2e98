package conncfg

import (
	"net/url"
	"path"
	"strings"
)

// ParseURL reads a connection from a URL and options, for a mount without any definition:
//
//	sftp://user@host:port/dir     /dir is absolute
//	sftp://user@host/~/dir        relative to the directory after login, as is a URL without a path
//
// The schemes are sftp, ftp, ftpes (explicit FTPS, port 21) and ftps (implicit FTPS, port 990), as FileZilla and curl have
// them. Options are FIELD=VALUE, or FIELD alone for one that is true or false, and count more than the URL. A password is refused in either, because the list of
// processes shows it to everybody; SetSecret takes it. The connection's name is made of the host and may be changed.
//
// What is missing, such as a username, is told when the connection is resolved.
func ParseURL(raw string, options ...string) (*Connection, []Finding) {
	c := newConnection("", "URL")
	c.readURL(raw)
	for _, option := range options {
		name, value, given := strings.Cut(option, "=")
		if f := fieldOf[name]; !given && f != nil && f.kind == truth {
			value = "true"
		}
		if name == "ro" && !given { // as mount(8) spells it
			name, value = "readOnly", "true"
		}
		for _, f := range c.Set(name, value) {
			f.File = "-o"
			c.findings = append(c.findings, f)
		}
		if name == "useExplicit" && c.truth("", name) {
			delete(c.base, "useImplicit") // what the scheme says counts less
		}
	}
	return c, append([]Finding(nil), c.findings...)
}

// readURL reports through the findings and keeps what it understands. Errors of net/url quote the whole URL, password
// included, and are not passed on.
func (c *Connection) readURL(raw string) {
	refuse := func(code Code, field, value, message, hint string) {
		c.report(Finding{Severity: Error, Code: code, Field: field, Value: value, Message: message, Hint: hint})
	}
	const form = "write sftp://user@host:port/dir"
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		refuse(CodeInvalid, "", "", "is no URL", form)
		return
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		refuse(CodeInvalid, "", "", "has a "+rest[i:i+1]+", after which nothing is meant", "write %3F for ? and %23 for # in a name; options go into -o")
		return
	}
	u, err := url.Parse("x://" + rest)
	if err != nil || strings.Count(u.Host, ":") > 1 && u.Host[0] != '[' {
		refuse(CodeInvalid, "", "", "is not well formed", form+`; write %25 for %, %40 for @ and %3A for : in a name, and IPv6 addresses in brackets`)
		return
	}
	switch strings.ToLower(scheme) {
	case "sftp", "ssh":
		c.put("protocol", "SFTP")
	case "ftp":
		c.put("protocol", "FTP")
	case "ftps":
		c.put("protocol", "FTPS")
		c.put("useImplicit", "true")
	case "ftpes":
		c.put("protocol", "FTPS")
	default:
		refuse(CodeInvalid, "protocol", clip(scheme), "is no scheme that this program knows", "write sftp://, ftp://, ftpes:// (explicit TLS) or ftps:// (implicit TLS)")
	}
	if u.User != nil {
		if _, has := u.User.Password(); has {
			refuse(CodePasswordPublic, "password", "", "everybody on this machine can read a URL in the list of processes", publicHint)
		}
		c.put("username", u.User.Username())
	}
	if u.Hostname() != "" || u.Port() != "" {
		c.put("host", u.Hostname())
	}
	if u.Port() != "" {
		c.put("port", u.Port())
	}
	c.put("workingDir", workingDirOf(u.Path))
	c.Name = nameOf(u.Hostname())
}

// put is Set for a part of the URL.
func (c *Connection) put(name, value string) {
	for _, f := range c.Set(name, value) {
		c.report(f)
	}
}

func workingDirOf(p string) string {
	if p == "" {
		return "."
	}
	if rest, ok := strings.CutPrefix(p, "/~"); ok && (rest == "" || rest[0] == '/') {
		return path.Join(".", strings.TrimLeft(rest, "/"))
	}
	return p
}

// nameOf makes a connection's name of a host.
func nameOf(host string) string {
	name := strings.Map(func(r rune) rune {
		if wordRune(r) || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, host)
	for strings.Contains(name, "..") {
		name = strings.ReplaceAll(name, "..", ".")
	}
	name = strings.Trim(name, ".-")
	if len(name) > maxName {
		name = strings.Trim(name[:maxName], ".-")
	}
	if name == "" {
		return "connection"
	}
	return name
}
