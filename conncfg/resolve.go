package conncfg

import (
	"context"
	"slices"
	"strings"
)

// Resolve returns the connection in env with every variable replaced, asking their sources now. Each source has 10
// seconds, and all together have ctx. With an Error among the findings the target is zero; Warnings are those that
// whoever mounts should log. Whether the connection is enabled and env active is for the caller to decide.
func (c *Config) Resolve(ctx context.Context, name, env string) (Target, []Finding) {
	conn := c.connections[name]
	if conn == nil {
		place := Finding{Severity: Error, Connection: name, Environment: env}
		return Target{}, []Finding{place.with(&problem{CodeUnknownConnection, "there is no such connection",
			didYouMean(name, func(yield func(string) bool) {
				for known := range c.connections {
					if !yield(known) {
						return
					}
				}
			}, "pierfs list shows them")}, "")}
	}
	return c.resolve(ctx, conn, env)
}

// ResolveUnsaved is Resolve for a connection that is not among the files: one that was parsed from a request or a URL. See
// Restrict for what such a one may not do. What means nothing for its protocol is told too, for Check never sees it.
func (c *Config) ResolveUnsaved(ctx context.Context, conn *Connection, env string) (Target, []Finding) {
	t, findings := c.resolve(ctx, conn, env)
	return t, tidy(append(findings, conn.ignored()...))
}

func (c *Config) resolve(ctx context.Context, conn *Connection, env string) (Target, []Finding) {
	if c.environments[env] == nil {
		place := Finding{Severity: Error, Connection: conn.Name, Environment: env}
		return Target{}, []Finding{place.with(&problem{CodeUnknownEnvironment, "there is no such environment",
			didYouMean(env, func(yield func(string) bool) {
				for known := range c.environments {
					if !yield(known) {
						return
					}
				}
			}, "create environments/"+env+".toml")}, "")}
	}
	findings := slices.Clone(conn.findings)
	findings = append(findings, c.blocking(conn, env)...)
	if HasErrors(findings) {
		// Offline, to tell the rest as well: no source is asked for a connection that cannot be used.
		findings = append(findings, conn.evaluate(env, c.expander(env)).findings...)
		return Target{}, tidy(findings)
	}
	e := conn.evaluate(env, c.expander(env).online(ctx))
	findings = tidy(append(findings, e.findings...))
	if HasErrors(findings) {
		return Target{}, findings
	}
	return e.target, findings
}

// blocking returns the errors in files that conn depends on: its own, the directories above it, and, when it refers to
// variables, theirs. A mistake in an environment's file may have hidden a variable, and a global one of the same name
// would take its place in silence. A mistake in one variable's own value does not count: it is told when that variable is
// asked for, and costs nobody else.
func (c *Config) blocking(conn *Connection, env string) []Finding {
	files := []string{}
	if c.connections[conn.Name] == conn {
		files = append(files, conn.File)
	}
	if conn.refers(env) {
		files = append(files, c.environments[env].File, c.place(variablesFile), c.place(environmentDir+"/"+env+".toml"))
	}
	var out []Finding
	for _, f := range c.findings {
		blocks := func(file string) bool { return file == f.File || strings.HasPrefix(file, f.File+"/") }
		if f.Severity == Error && f.File != "" && !f.aboutOneVariable() && slices.ContainsFunc(files, blocks) && !slices.Contains(conn.findings, f) {
			out = append(out, f)
		}
	}
	return out
}

// refers reports whether anything in the connection hangs on variables.
func (c *Connection) refers(env string) bool {
	return slices.ContainsFunc(fields, func(f *field) bool {
		s := c.merged(env, f.name)
		return s != nil && f.deferred(s)
	})
}

func (f Finding) aboutOneVariable() bool {
	return f.Code != CodeDuplicateKey && (strings.HasPrefix(f.Field, "variables.") || strings.HasPrefix(f.Field, "secrets."))
}
