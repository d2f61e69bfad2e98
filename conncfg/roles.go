package conncfg

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Role is what somebody may do. Admin includes Operator, and all include Viewer.
type Role string

const (
	Viewer   Role = "viewer"   // sees how things stand, and definitions without their secrets
	Operator Role = "operator" // mounts, tests, switches on and off and between environments, and uses files
	Admin    Role = "admin"    // changes definitions
	Approver Role = "approver" // lets changes of what is protected come into force that others have made
)

var roles = []Role{Viewer, Operator, Admin, Approver}

// includes reports whether whoever has r has wanted too.
func (r Role) includes(wanted Role) bool {
	return r == wanted || wanted == Viewer || r == Admin && wanted == Operator
}

// Grants say who has which role. A user is a name or a number, a group has an @ in front.
type Grants struct {
	all      map[Role][]string
	projects map[string]map[Role][]string
}

// Empty reports whether nobody was given any role.
func (g Grants) Empty() bool { return len(g.all) == 0 && len(g.projects) == 0 }

// Who returns those who have the role for a project, "" for everything.
func (g Grants) Who(role Role, project string) []string {
	var who []string
	for _, some := range []map[Role][]string{g.all, g.projects[project]} {
		for r, names := range some {
			if r.includes(role) {
				who = append(who, names...)
			}
		}
	}
	slices.Sort(who)
	return slices.Compact(who)
}

// Projects returns those for which anybody was given a role.
func (g Grants) Projects() []string { return slices.Sorted(maps.Keys(g.projects)) }

// Roles returns who was given which role in the settings. They count only where the settings cannot be written by others.
func (c *Config) Roles() Grants { return c.roles }

// readRoles reads [roles] of the settings.
func (l *loader) readRoles(e *entry, report func(Finding)) {
	top, ok := e.value.(*table)
	if !ok {
		report(Finding{Severity: Error, Code: CodeWrongType, Field: e.key, Line: e.line, Message: "is " + kindOf(e.value), Hint: `write [roles], and below it operator = ["alice", "@group"]`})
		return
	}
	if owner := l.stranger(settingsFile); owner != "" {
		report(Finding{Severity: Error, Code: CodeOwner, Field: e.key, Line: e.line, Message: owner + ", who could give roles to himself: nobody has any", Hint: "chown root " + l.place(settingsFile)})
		return
	}
	g := Grants{all: map[Role][]string{}, projects: map[string]map[Role][]string{}}
	for _, e := range top.entries {
		if e.key == "projects" {
			l.readProjectRoles(e, g, report)
			continue
		}
		readGrant(e, "roles.", g.all, report)
	}
	l.config.roles = g
}

func (l *loader) readProjectRoles(e *entry, g Grants, report func(Finding)) {
	projects, ok := e.value.(*table)
	if !ok {
		report(Finding{Severity: Error, Code: CodeWrongType, Field: "roles.projects", Line: e.line, Message: "is " + kindOf(e.value), Hint: "write [roles.projects.NAME]"})
		return
	}
	for _, p := range projects.entries {
		some, ok := p.value.(*table)
		field := "roles.projects." + p.key
		if !ok {
			report(Finding{Severity: Error, Code: CodeWrongType, Field: field, Line: p.line, Message: "is " + kindOf(p.value), Hint: "write [" + field + "]"})
			continue
		}
		g.projects[p.key] = map[Role][]string{}
		for _, e := range some.entries {
			readGrant(e, field+".", g.projects[p.key], report)
		}
	}
}

// readGrant reads operator = ["alice", "@group", "1001"].
func readGrant(e *entry, under string, into map[Role][]string, report func(Finding)) {
	place := Finding{Severity: Error, Field: under + e.key, Line: e.line}
	role := Role(e.key)
	if !slices.Contains(roles, role) {
		words := []string{}
		for _, r := range roles {
			words = append(words, string(r))
		}
		report(place.with(&problem{CodeUnknownKey, "there is no such role", didYouMean(e.key, slices.Values(words), "there are "+strings.Join(words, ", "))}, ""))
		return
	}
	list, ok := e.value.([]any)
	for _, v := range list {
		name, isText := v.(string)
		if bare := strings.TrimPrefix(name, "@"); !isText || bare == "" || strings.ContainsAny(bare, "@: \t\n") {
			ok = false
			break
		}
		into[role] = append(into[role], name)
	}
	if !ok {
		delete(into, role)
		report(place.with(&problem{CodeWrongType, "is no list of users and groups", `write ["alice", "@group", "1001"]`}, ""))
	}
}

// stranger tells in words to whom a file of the configuration belongs, or who else may write it, where that is not root, nor the user
// whose configuration it is; "" else.
func (l *loader) stranger(name string) string {
	if l.root == nil {
		return ""
	}
	info, err := l.root.Stat(name)
	if err != nil {
		return "" // it is only tried, and will be ours
	}
	return strangeTo(info)
}

func strangeTo(info os.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return ""
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return "belongs to user " + strconv.FormatUint(uint64(stat.Uid), 10)
	case info.Mode().Perm()&0o020 != 0 && stat.Gid != 0 && int(stat.Gid) != os.Getegid():
		return "may be written by group " + strconv.FormatUint(uint64(stat.Gid), 10)
	}
	return ""
}

// String returns the grants in one line, for the log of changes.
func (g Grants) String() string {
	say := func(under string, some map[Role][]string) (parts []string) {
		for _, r := range roles {
			if len(some[r]) > 0 {
				parts = append(parts, under+string(r)+" = ["+strings.Join(some[r], ", ")+"]")
			}
		}
		return parts
	}
	all := say("", g.all)
	for _, p := range g.Projects() {
		all = append(all, say(p+".", g.projects[p])...)
	}
	return strings.Join(all, "; ")
}
