package conncfg

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Check returns all that can be said without asking anybody: the findings of Load, what each connection becomes in each
// environment, and how connections get into each other's way. It runs no command and opens no file of a secret; it does
// look whether such a file is there.
//
// Connections are put together for the active environments, for those that have a file, and for those that they mention
// themselves. In an environment that is neither active nor mentioned by the connection, an error is told as a warning: a
// connection that is meant for Production alone need not work in Test.
func (c *Config) Check() []Finding {
	k := &checker{config: c, expanders: map[string]*expander{}, findings: slices.Clone(c.findings), mounts: map[string][]place{}, endpoints: map[endpoint][]place{}}
	for _, conn := range c.Connections() {
		k.connection(conn)
	}
	k.variables()
	k.ageings()
	k.mountPoints()
	k.sameEndpoints()
	return tidy(k.findings)
}

type checker struct {
	config    *Config
	expanders map[string]*expander // by environment, shared so that it is known which variables anybody uses
	findings  []Finding
	mounts    map[string][]place
	endpoints map[endpoint][]place
}

// place is a connection in an environment.
type place struct {
	c   *Connection
	env string
}

type endpoint struct{ host, username, dir string }

// environmentsOf returns the environments that conn is judged in.
func (k *checker) environmentsOf(conn *Connection) []string {
	envs := slices.Clone(k.config.active)
	for _, e := range k.config.Environments() {
		if (e.File != "" || conn.envs[e.Name] != nil) && !slices.Contains(envs, e.Name) {
			envs = append(envs, e.Name)
		}
	}
	return envs
}

func (k *checker) expander(env string) *expander {
	x := k.expanders[env]
	if x == nil {
		x = k.config.expander(env)
		k.expanders[env] = x
	}
	return x
}

func (k *checker) connection(conn *Connection) {
	envs := k.environmentsOf(conn)
	if len(envs) == 0 {
		envs = []string{defaultActive} // nothing is active: the definition itself can still be wrong
	}
	for _, env := range envs {
		e := conn.evaluate(env, k.expander(env))
		active := slices.Contains(k.config.active, env)
		for _, f := range e.findings {
			if f.Environment != "" && !active && conn.envs[env] == nil {
				f.Severity = Warning
			}
			k.findings = append(k.findings, f)
		}
		k.remember(conn, e, active)
	}
	k.findings = append(k.findings, conn.ignored()...)
	k.findings = append(k.findings, conn.lookAtKeys()...)
}

func (k *checker) remember(conn *Connection, e *evaluation, active bool) {
	at := place{conn, e.env}
	if e.target.MountPoint != "" && active && conn.Enabled() {
		k.mounts[e.target.MountPoint] = append(k.mounts[e.target.MountPoint], at)
	}
	to := endpoint{strings.ToLower(e.target.Host), e.target.Username, e.target.WorkingDir}
	if to.host != "" && to.dir != "" && !e.unknown["host"] && !e.unknown["username"] && !e.unknown["workingDir"] {
		k.endpoints[to] = append(k.endpoints[to], at)
	}
}

// ignored tells which fields mean nothing for any protocol that the definition ever speaks.
func (c *Connection) ignored() []Finding {
	var spoken []Protocol
	for _, set := range append(slices.Collect(maps.Values(c.envs)), c.base) {
		if s := set["protocol"]; s != nil && !s.broken {
			spoken = append(spoken, Protocol(s.text))
		}
	}
	if len(spoken) == 0 {
		return nil
	}
	var out []Finding
	for env, set := range c.all() {
		for name, s := range set {
			f := fieldOf[name]
			if slices.ContainsFunc(spoken, f.speaks) {
				continue
			}
			out = append(out, Finding{Severity: Warning, Code: CodeIgnored, File: c.File, Line: s.line, Connection: c.Name, Environment: env, Field: name,
				Message: "means nothing for " + string(spoken[0]) + ", only for " + listed(f.protocols), Hint: "leave it out"})
		}
	}
	return out
}

func listed(protocols []Protocol) string {
	words := make([]string, len(protocols))
	for i, p := range protocols {
		words[i] = string(p)
	}
	return strings.Join(words, " and ")
}

// all iterates over the settings for all environments, which bear the name "", and those of single ones.
func (c *Connection) all() func(func(string, settings) bool) {
	return func(yield func(string, settings) bool) {
		if !yield("", c.base) {
			return
		}
		for _, env := range c.Environments() {
			if !yield(env, c.envs[env]) {
				return
			}
		}
	}
}

// lookAtKeys looks whether the files that a definition names are there, who may read the private ones, and when certificates
// end.
func (c *Connection) lookAtKeys() []Finding {
	var out []Finding
	for env, set := range c.all() {
		for _, name := range []string{"privateKeyFile", "clientKeyFile", "viaKeyFile", "certificateFile", "knownHostsFile", "clientCertFile", "caFile"} {
			s := set[name]
			if s == nil || s.broken {
				continue
			}
			p, ok := inTime(func() *problem { return lookAtKey(name, s.text) })
			if !ok {
				p = &problem{CodeFileMissing, fmt.Sprintf("file %q does not answer", s.text), "the file system that it lies in hangs: see `mount`, or name a file elsewhere"}
			}
			if p != nil {
				f := Finding{Severity: Warning, File: c.File, Line: s.line, Connection: c.Name, Environment: env, Field: name}
				out = append(out, f.with(p, s.text))
			}
		}
	}
	return out
}

// lookPatience is how long a file is looked at.
const lookPatience = 2 * time.Second

// inTime returns what look does, unless it takes too long: what hangs in a dead network file system is left to itself, for nothing can end it.
func inTime[T any](look func() T) (found T, ok bool) {
	done := make(chan T, 1)
	go func() { done <- look() }()
	select {
	case found = <-done:
		return found, true
	case <-time.After(lookPatience):
		return found, false
	}
}

func lookAtKey(field, file string) *problem {
	p := lookAtFile(file)
	switch {
	case strings.HasSuffix(field, "KeyFile"):
		return p
	case p != nil && p.code == CodeFileMode: // for everybody to read
		p = nil
	case p != nil && field == "caFile" && isDir(file): // of certificates
		return nil
	}
	if p == nil && (field == "clientCertFile" || field == "caFile") {
		return lookAtCertificates(file, field == "clientCertFile", time.Now())
	}
	return p
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// variables judges what no connection asked for, and the sources of all.
func (k *checker) variables() {
	c := k.config
	seen := map[*Variable]bool{}
	for env := range k.checkedEnvironments() {
		x := k.expander(env)
		for _, v := range append(c.scope(env).all(), c.global.all()...) {
			place := Finding{Severity: Error, File: v.File, Line: v.Line, Environment: v.Environment, Field: "variables." + v.Name}
			if x.memo[v.Name] == nil && c.variable(env, v.Name) == v {
				if p := x.variable(v.Name).problem; p != nil {
					k.findings = append(k.findings, place.with(p, ""))
				}
			}
			if p := v.source.offline(); p != nil && !seen[v] {
				if !v.Secret && p.code == CodeFileMode {
					continue
				}
				seen[v] = true
				place.Severity = Warning
				k.findings = append(k.findings, place.with(p, ""))
			}
		}
	}
}

func (k *checker) checkedEnvironments() map[string]bool {
	envs := map[string]bool{}
	for _, env := range k.config.active {
		envs[env] = true
	}
	for _, e := range k.config.Environments() {
		if e.File != "" {
			envs[e.Name] = true
		}
	}
	return envs
}

// mountPoints wants every mount at a place of its own: two at one place hide each other, and one within another would
// make a program's walk through the outer one hang on the inner one's server.
func (k *checker) mountPoints() {
	dirs := slices.Sorted(maps.Keys(k.mounts))
	for _, dir := range dirs {
		at := k.mounts[dir]
		for _, other := range at[1:] {
			message := fmt.Sprintf("is the mount point of %s in %s too", at[0].c.Name, at[0].env)
			k.mountFinding(other, dir, CodeMountTaken, message, "choose another directory, or leave mountPoint out in one of them")
		}
		for up := path.Dir(dir); up != "/" && up != "."; up = path.Dir(up) {
			if outer := k.mounts[up]; outer != nil {
				for _, inner := range at {
					k.mountFinding(inner, dir, CodeMountNested, "lies within the mount point of "+outer[0].c.Name+", "+up, "choose a directory outside of it")
				}
			}
		}
	}
}

func (k *checker) mountFinding(at place, dir string, code Code, message, hint string) {
	f := Finding{Severity: Error, File: at.c.File, Connection: at.c.Name, Environment: at.env, Field: "mountPoint"}
	if s := at.c.merged(at.env, "mountPoint"); s != nil {
		f.Line = s.line
	}
	k.findings = append(k.findings, f.with(&problem{code, message, hint}, dir))
}

// sameEndpoints tells where two environments reach the same directory as the same user: a test would touch what
// production uses.
func (k *checker) sameEndpoints() {
	for to, at := range k.endpoints {
		for i, second := range at {
			first := at[0]
			if i == 0 || second.env == first.env || slices.ContainsFunc(at[:i], func(p place) bool { return p == second }) {
				continue
			}
			f := Finding{Severity: Warning, File: second.c.File, Connection: second.c.Name, Environment: second.env, Field: "host"}
			if s := second.c.merged(second.env, "host"); s != nil {
				f.Line = s.line
			}
			k.findings = append(k.findings, f.with(&problem{CodeSameEndpoint,
				fmt.Sprintf("with the same username and workingDir is the endpoint of %s in %s", first.c.Name, first.env),
				"give " + second.env + " a host, username or workingDir of its own: pierfs edit " + second.c.Name + " --set " + second.env + ".workingDir=DIR"}, to.host))
		}
	}
}
