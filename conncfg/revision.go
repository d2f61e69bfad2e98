package conncfg

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"slices"
	"strconv"
)

// saysNothing are the fields that change nothing about a mount that stands. Whether one should, Enabled tells.
var saysNothing = map[string]bool{"name": true, "schemaVersion": true, "description": true, "enabled": true, "protected": true}

// Revision returns a hash of what the connection means in env: its fields, and the definitions of the variables that they
// need, as written. Comments, order and layout do not count, nor do description and enabled, and no source is asked: a
// password that changes in its file changes no revision. It is "" for a connection that does not exist.
//
// Literal secrets are part of it. Compare revisions and keep them where only the daemon reads them; do not show them, for
// whoever knows the rest of the definition could try passwords against one.
func (c *Config) Revision(name, env string) string {
	conn := c.connections[name]
	if conn == nil {
		return ""
	}
	sum := sha256.New()
	// Every part is written with its length, so that no two definitions read alike.
	say := func(parts ...string) {
		for _, p := range parts {
			io.WriteString(sum, strconv.Itoa(len(p))+":"+p)
		}
	}
	say("1", conn.Name, env)
	needed := map[string]*Variable{}
	for _, f := range fields {
		s := conn.merged(env, f.name)
		if s == nil || saysNothing[f.name] {
			continue
		}
		say(f.name, s.text, s.secret.Reveal(), strconv.FormatBool(s.broken), s.duration.String())
		s.source.hash(say)
		if f.deferred(s) {
			c.references(env, s.text+s.secret.Reveal(), needed)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if v := needed[name]; v != nil {
			say(name, strconv.FormatBool(v.Secret), strconv.FormatBool(v.marked))
			v.source.hash(say)
		} else {
			say(name, "undefined")
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

func (s *source) hash(say func(...string)) {
	if s == nil {
		return
	}
	say(string(s.kind), s.text)
	say(s.argv...)
}
