package foreign

import (
	"net/url"
	"path"
	"strconv"
	"strings"
)

// fstab reads the lines of fstab(5) that mount by sshfs or curlftpfs. Each is named after its directory.
func (r *reader) fstab(text string) error {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 3 || strings.HasPrefix(words[0], "#") {
			continue
		}
		for i := range words {
			words[i] = unescape(words[i])
		}
		what, dir, kind, options := words[0], words[1], words[2], ""
		if len(words) > 3 {
			options = words[3]
		}
		program, source, marked := strings.Cut(what, "#")
		if !marked {
			program, source = strings.TrimPrefix(kind, "fuse."), what
		}
		switch program {
		case "sshfs":
			r.sshfs(source, dir, options)
		case "curlftpfs":
			r.curlftpfs(source, dir, options)
		}
	}
	return nil
}

// unescape undoes fstab's \040 and the like.
func unescape(word string) string {
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		if word[i] == '\\' && i+3 < len(word) {
			if n, err := strconv.ParseUint(word[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(word[i])
	}
	return b.String()
}

// place is what both programs have: the directory, and options of every mount.
func (s *site) place(dir, options string, take func(key, value string) bool) {
	s.fields["mountPoint"] = path.Clean(dir)
	var others []string
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "", "rw", "defaults", "_netdev", "auto", "noauto", "nofail", "user", "users", "delay_connect", "reconnect", "allow_other", "default_permissions", "nosuid", "nodev", "dev", "suid":
		case "ro":
			s.fields["readOnly"] = true
		case "uid", "gid":
			s.number(key, value)
		default:
			if !take(key, value) && !strings.HasPrefix(key, "x-") && !strings.HasPrefix(key, "comment") {
				others = append(others, clip(key))
			}
		}
	}
	s.leftOut(others)
}

func (r *reader) sshfs(source, dir, options string) {
	s := r.add(path.Base(dir))
	s.set("protocol", "SFTP")
	login, remote, ok := cutHost(source)
	if !ok {
		r.sites = r.sites[:len(r.sites)-1]
		r.note("%q was left out: it is no [USER@]HOST:DIR", clip(source))
		return
	}
	user, host, named := lastCut(login, "@")
	if !named {
		user, host = "", login
	}
	s.set("username", user)
	s.set("host", strings.Trim(host, "[]"))
	s.set("workingDir", remote)
	s.place(dir, options, func(key, value string) bool {
		switch strings.ToLower(key) {
		case "port":
			s.number("port", value)
		case "identityfile":
			s.file("privateKeyFile", value)
		case "userknownhostsfile":
			s.file("knownHostsFile", value)
		case "stricthostkeychecking":
			s.note("its host key was not always checked there, and is checked here: `pierfs trust` believes the one that its operator confirms")
		case "connecttimeout":
			s.number("connectTimeout", value)
		case "proxyjump", "proxycommand", "ssh_command":
			s.blanks = append(s.blanks, blank("via", "it went another way there ("+clip(key)+"): --set via=ssh://USER@HOST:PORT, if it shall here"))
		default:
			return false
		}
		return true
	})
}

// cutHost takes HOST:DIR apart, where HOST may be an address in brackets.
func cutHost(source string) (host, dir string, ok bool) {
	from := 0
	if i := strings.IndexByte(source, ']'); i >= 0 {
		from = i
	}
	i := strings.IndexByte(source[from:], ':')
	if i < 0 {
		return "", "", false
	}
	return source[:from+i], source[from+i+1:], true
}

func lastCut(text, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(text, sep)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(sep):], true
}

func (r *reader) curlftpfs(source, dir, options string) {
	if !strings.Contains(source, "://") {
		source = "ftp://" + source
	}
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "ftp" && u.Scheme != "ftps" {
		r.note("the line for %q was left out: its server is no URL of FTP", clip(dir)) // it may hold a password
		return
	}
	s := r.add(path.Base(dir))
	s.set("protocol", "FTP")
	if u.Scheme == "ftps" {
		s.fields["protocol"], s.fields["useImplicit"] = "FTPS", true
	}
	s.set("host", u.Hostname())
	s.number("port", u.Port())
	s.set("username", u.User.Username())
	password, _ := u.User.Password()
	s.secret("password", password)
	s.set("workingDir", u.Path)
	s.place(dir, options, func(key, value string) bool {
		switch key {
		case "user":
			user, password, _ := strings.Cut(value, ":")
			s.set("username", user)
			s.secret("password", password)
		case "ssl", "tlsv1":
			s.fields["protocol"] = "FTPS"
		case "no_verify_peer", "no_verify_hostname":
			s.note("its certificate was not checked there, and is checked here: `pierfs trust` believes one that nobody has signed")
		case "codepage":
			s.set("encoding", value)
		case "disable_epsv", "disable_eprt", "utf8", "transform_symlinks", "cache", "no_cache":
		default:
			return false
		}
		return true
	})
	if s.fields["username"] == nil {
		s.set("username", "anonymous")
	}
}
