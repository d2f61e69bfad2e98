package foreign

import (
	"path"
	"slices"
	"strings"

	"pierfs/conncfg"
)

func blank(field, why string) conncfg.Blank { return conncfg.Blank{Field: field, Why: why} }

// sshBlock is what stands behind one Host line, in order.
type sshBlock struct {
	patterns []string
	values   [][2]string // keyword in lower case, and value
}

// matches follows ssh_config(5): one pattern must fit, and none that is negated.
func (b sshBlock) matches(host string) bool {
	fits := false
	for _, p := range b.patterns {
		negated := strings.HasPrefix(p, "!")
		if ok, err := path.Match(strings.TrimPrefix(p, "!"), host); ok && err == nil {
			if negated {
				return false
			}
			fits = true
		}
	}
	return fits
}

// sshConfig reads ssh_config(5): each name behind Host that is no pattern is a connection, and has the first value of each
// keyword among all blocks that fit it.
func (r *reader) sshConfig(text string) error {
	blocks := []sshBlock{{patterns: []string{"*"}}}
	skipping := false
	for line := range strings.Lines(text) {
		key, value := sshLine(line)
		switch {
		case key == "":
		case key == "host":
			blocks, skipping = append(blocks, sshBlock{patterns: sshWords(value)}), false
		case key == "match":
			r.note("the block of %q was left out: conditions are not known here", clip("Match "+value))
			skipping = true
		case key == "include":
			r.note("%q was not followed: import that file, too", clip("Include "+value))
		case !skipping:
			last := &blocks[len(blocks)-1]
			last.values = append(last.values, [2]string{key, value})
		}
	}
	seen := map[string]bool{}
	for _, b := range blocks {
		for _, host := range b.patterns {
			if !strings.ContainsAny(host, "*?!") && !seen[host] && len(seen) <= maxConnections {
				seen[host] = true
				r.sshHost(host, blocks)
			}
		}
	}
	return nil
}

// sshLine takes KEYWORD VALUE or KEYWORD=VALUE apart.
func sshLine(line string) (key, value string) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return "", ""
	}
	i := strings.IndexAny(line, " \t=")
	if i < 0 {
		return strings.ToLower(line), ""
	}
	value = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line[i:]), "="))
	if len(value) > 1 && strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`) {
		value = value[1 : len(value)-1]
	}
	return strings.ToLower(line[:i]), value
}

func sshWords(text string) []string {
	return slices.DeleteFunc(strings.Fields(strings.ReplaceAll(text, `"`, " ")), func(w string) bool { return w == "" })
}

// sshHost takes one host over.
func (r *reader) sshHost(host string, blocks []sshBlock) {
	first := map[string]string{}
	for _, b := range blocks {
		if !b.matches(host) {
			continue
		}
		for _, v := range b.values {
			if _, there := first[v[0]]; !there {
				first[v[0]] = v[1]
			}
		}
	}
	take := func(key string) string {
		value := first[key]
		delete(first, key)
		return value
	}
	s := r.add(host)
	s.set("protocol", "SFTP")
	s.set("host", host)
	s.set("host", strings.ReplaceAll(take("hostname"), "%h", host))
	s.set("username", take("user"))
	s.number("port", take("port"))
	if seconds := take("connecttimeout"); seconds != "" && seconds != "none" {
		s.number("connectTimeout", seconds)
	}
	s.set("sourceAddress", take("bindaddress"))
	for key, field := range map[string]string{"identityfile": "privateKeyFile", "certificatefile": "certificateFile", "userknownhostsfile": "knownHostsFile", "identityagent": "agentSocket"} {
		if file := take(key); file != "" && file != "none" {
			s.file(field, file)
		}
	}
	if jump := take("proxyjump"); jump != "" && jump != "none" {
		s.blanks = append(s.blanks, blank("via", "it went through ProxyJump "+clip(jump)+`: --set via=ssh://USER@HOST:PORT, with viaKeyFile or viaPassword`))
	}
	if command := take("proxycommand"); command != "" && command != "none" {
		s.blanks = append(s.blanks, blank("via", "it went through a program (ProxyCommand), which nothing here runs: --set via=ssh://USER@HOST:PORT, or socks5:// or http://"))
	}
	if check := strings.ToLower(take("stricthostkeychecking")); check == "no" || check == "off" || check == "accept-new" {
		s.note("its host key was not always checked there, and is checked here: `pierfs trust` believes the one that its operator confirms")
	}
	var others []string
	for key := range first {
		others = append(others, key)
	}
	s.leftOut(others)
}
