package daemon

import (
	"slices"
	"sync"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// oldSecrets remembers of which secrets it was logged that they must be changed. The zero value knows of none.
type oldSecrets struct {
	mu   sync.Mutex
	told map[key]time.Time // when the first secret of a connection was due
}

// news reports whether it was not logged yet that a secret of k is due at that time.
func (s *oldSecrets) news(k key, due time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told == nil {
		s.told = map[key]time.Time{}
	}
	known := s.told[k].Equal(due)
	s.told[k] = due
	return !known
}

// ageings returns the secrets of a connection that must be changed one day, as the definitions in force have them, the first one first.
func (d *Daemon) ageings(name, environment string) []conncfg.Ageing {
	config := d.known().Config
	if config == nil {
		return nil
	}
	return config.Ageings(name, environment)
}

// aged tells in c when a secret of it must be changed, and warns where that is soon, or was to be done.
func (d *Daemon) aged(c control.Connection) control.Connection {
	if c.AdHoc {
		return c
	}
	for i, a := range d.ageings(c.Name, c.Environment) {
		if i == 0 {
			c.RotateBy = a.Due
		}
		if f, ok := a.Finding(time.Now()); ok {
			f.Connection, f.Environment = c.Name, c.Environment
			c.Findings = append(slices.Clip(c.Findings), f)
		}
	}
	return c
}

// lookAtSecrets warns of those that must be changed, once of each date.
func (d *Daemon) lookAtSecrets() {
	for _, m := range d.all() {
		all := d.ageings(m.want.Name, m.want.Environment)
		if len(all) == 0 {
			continue
		}
		first := all[0] // the others are in lists
		if f, ok := first.Finding(time.Now()); ok && d.oldSecrets.news(m.want.key(), first.Due) {
			m.log.Warn("secret", "code", f.Code, "field", f.Field, "finding", f.Message, "hint", f.Hint)
		}
	}
}

// secretAge says when the first of its secrets must be changed; ok is false if none must.
func (x *patient) secretAge() (c control.Examined, ok bool) {
	const check = "secret_age"
	all := x.config.Ageings(x.name, x.environment)
	if len(all) == 0 {
		return control.Examined{}, false
	}
	first := all[0]
	f, told := first.Finding(time.Now())
	if !told {
		return x.good(check, "%s must be changed by %s", first.Field, first.Due.Format(time.DateOnly)), true
	}
	c = x.bad(check, control.ConfigInvalid, f.Hint, "%s: %s", f.Field, f.Message)
	if time.Now().Before(first.Due) {
		c = advice(c)
	}
	return c, true
}
