package conncfg

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rotation is what is written beside a source: when its secret was changed last, and how long one may stay. The zero value says neither.
type rotation struct {
	at    time.Time
	after time.Duration
}

// The keys of a source's table that tell it.
const (
	rotatedAtKey   = "rotatedAt"
	rotateAfterKey = "rotateAfter"
)

const day = 24 * time.Hour

// MaxRotation is the longest time that a secret may be said to stay, other than for ever.
const MaxRotation = 3650 * day

// rotateSoon is how long before a secret must be changed somebody is told.
const rotateSoon = 14 * day

// take reads one of the two keys.
func (r *rotation) take(key string, v any) *problem {
	text, ok := v.(string)
	if !ok {
		return &problem{CodeWrongType, "is " + kindOf(v) + "; it takes a text", "quote it"}
	}
	if key == rotateAfterKey {
		after, ok := ParseDays(text)
		if !ok {
			return invalid("is no number of days from 1 to 3650", `write rotateAfter = "90d"`)
		}
		r.after = after
		return nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			r.at = at.UTC()
			return nil
		}
	}
	return invalid("is no date", `write rotatedAt = "2026-11-03", or with the time "2026-11-03T04:05:06Z"`)
}

// ParseDays reads a number of days such as "90d", from 1 to 3650.
func ParseDays(text string) (time.Duration, bool) {
	number, ok := strings.CutSuffix(text, "d")
	days, err := strconv.Atoi(number)
	after := time.Duration(days) * day
	return after, ok && err == nil && days > 0 && days <= int(MaxRotation/day)
}

// problem refuses a bound that nobody can hold against a date.
func (r rotation) problem() *problem {
	if r.after > 0 && r.at.IsZero() {
		return invalid("has rotateAfter without rotatedAt, so that nobody can tell when it is due", `write rotatedAt = "2026-11-03" as well; pierfs vars set --secret writes both`)
	}
	return nil
}

// due returns when the secret must be changed; zero if it may stay for ever.
func (r rotation) due() time.Time {
	if r.after == 0 || r.at.IsZero() {
		return time.Time{}
	}
	return r.at.Add(r.after)
}

// texts returns what is written, by key.
func (r rotation) texts() map[string]string {
	out := map[string]string{}
	if !r.at.IsZero() {
		out[rotatedAtKey] = r.at.Format(time.RFC3339)
	}
	if r.after > 0 {
		out[rotateAfterKey] = fmt.Sprintf("%dd", r.after/day)
	}
	return out
}

// toml is the two as further keys of an inline table.
func (r rotation) toml() (text string) {
	for _, key := range []string{rotatedAtKey, rotateAfterKey} {
		if value, ok := r.texts()[key]; ok {
			text += ", " + key + " = " + quote(value)
		}
	}
	return text
}

// String tells it to people, behind the place that a secret comes from.
func (r rotation) String() string {
	return strings.NewReplacer(", "+rotatedAtKey+" = ", ", changed ", ", "+rotateAfterKey+" = ", ", to be changed after ", `"`, "").Replace(r.toml())
}

// Rotation tells when the value of a variable was changed last, if somebody has written that, and when it must be; zero where nobody says.
func (v *Variable) Rotation() (at, due time.Time) {
	return v.source.rotation.at, v.source.rotation.due()
}

// RotateAfter is how long a value of the variable may stay; 0 is for ever.
func (v *Variable) RotateAfter() time.Duration { return v.source.rotation.after }

// RotateAfter is how long the secret in a field may stay that has its source in the definition itself, for env or for all if that is "";
// 0 is for ever.
func (c *Connection) RotateAfter(env, field string) time.Duration {
	set := c.base
	if env != "" {
		set = c.envs[env]
	}
	if s := set[field]; s != nil && s.source != nil {
		return s.source.rotation.after
	}
	return 0
}

// Ageing is a secret that a connection logs in with, and when it must be changed.
type Ageing struct {
	Field    string
	Variable string // that holds it; "" if the definition itself does
	At, Due  time.Time
}

// Ageings returns the secrets of a connection in env that must be changed one day, also by way of variables, the first one first. No
// source is asked.
func (c *Config) Ageings(name, env string) []Ageing {
	conn := c.connections[name]
	if conn == nil {
		return nil
	}
	var out []Ageing
	add := func(field, variable string, r rotation) {
		if !r.due().IsZero() {
			out = append(out, Ageing{field, variable, r.at, r.due()})
		}
	}
	for _, f := range fields {
		s := conn.merged(env, f.name)
		if f.kind != secret || s == nil || s.broken {
			continue
		}
		if s.source != nil {
			add(f.name, "", s.source.rotation)
			continue
		}
		needed := map[string]*Variable{}
		c.references(env, s.secret.Reveal(), needed)
		for _, v := range needed {
			if v != nil {
				add(f.name, v.Name, v.source.rotation)
			}
		}
	}
	slices.SortFunc(out, func(a, b Ageing) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Variable, b.Variable))
	})
	return out
}

// Finding says that a secret must be changed within 14 days, or should have been. ok is false while there is nothing to say.
func (a Ageing) Finding(now time.Time) (f Finding, ok bool) {
	what, hint := "the secret", "change it at the server, then here"
	if a.Variable != "" {
		what, hint = "the secret in variable "+a.Variable, "change it at the server, then `pierfs vars set --secret "+a.Variable+"`, or where it comes from and rotatedAt"
	}
	left := a.Due.Sub(now)
	if left > rotateSoon {
		return Finding{}, false
	}
	told := "must be changed by " + a.Due.Format(time.DateOnly) + ", in " + daysLeft(int(left/day))
	if left <= 0 {
		told = "should have been changed by " + a.Due.Format(time.DateOnly)
	}
	message := fmt.Sprintf("%s was changed last on %s and %s", what, a.At.Format(time.DateOnly), told)
	return Finding{Severity: Warning, Field: a.Field}.with(&problem{CodeSecretAge, message, hint}, ""), true
}

// ageings tells what is written about secrets that are due, at the place where they are written.
func (k *checker) ageings() {
	now := time.Now()
	tell := func(place Finding, a Ageing) {
		if f, ok := a.Finding(now); ok {
			place.Severity, place.Code, place.Message, place.Hint = f.Severity, f.Code, f.Message, f.Hint
			k.findings = append(k.findings, place)
		}
	}
	for _, v := range k.config.AllVariables() {
		if r := v.source.rotation; !r.due().IsZero() {
			tell(Finding{File: v.File, Line: v.Line, Environment: v.Environment, Field: "variables." + v.Name}, Ageing{"", v.Name, r.at, r.due()})
		}
	}
	for _, conn := range k.config.Connections() {
		for env, set := range conn.all() {
			for _, f := range fields {
				if s := set[f.name]; s != nil && s.source != nil && !s.source.rotation.due().IsZero() {
					r := s.source.rotation
					tell(Finding{File: conn.File, Line: s.line, Connection: conn.Name, Environment: env, Field: f.name}, Ageing{f.name, "", r.at, r.due()})
				}
			}
		}
	}
}
