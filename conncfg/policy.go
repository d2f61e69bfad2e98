package conncfg

import (
	"slices"
	"strings"
	"sync"
)

// Policy is what an environment asks of every connection in it. What it refuses is an Error, or a Warning where the definition says in
// its field exception why it may be so.
type Policy struct {
	RequireTLS           bool   // no FTP in the clear
	RequireAuthority     bool   // no certificate is believed by its fingerprint
	ForbidAnonymous      bool   // somebody logs in by name
	ForbidLiteralSecrets bool   // no secret stands in a definition, or in a variable that is not marked as one
	ReadOnly             bool   // readOnly = true
	OwnHosts             bool   // no connection reaches in another environment what one reaches here
	NamePrefix           string // of connections that are enabled where this environment is active
}

// policyOf is what an environment asks that says nothing.
func policyOf(env string) Policy {
	return Policy{RequireTLS: env == production, RequireAuthority: env != development, ForbidAnonymous: env == production}
}

// readPolicy reads [policy] of an environment.
func readPolicy(t *table, p *Policy, report func(Finding)) {
	truths := map[string]*bool{"requireTLS": &p.RequireTLS, "requireAuthority": &p.RequireAuthority, "forbidAnonymous": &p.ForbidAnonymous,
		"forbidLiteralSecrets": &p.ForbidLiteralSecrets, "readOnly": &p.ReadOnly, "ownHosts": &p.OwnHosts}
	for _, e := range t.entries {
		place := Finding{Severity: Error, Field: "policy." + e.key, Line: e.line}
		into := truths[e.key]
		truth, isTruth := e.value.(bool)
		text, isText := e.value.(string)
		switch {
		case e.key == "namePrefix" && isText:
			p.NamePrefix = text
		case e.key == "namePrefix":
			report(place.with(&problem{CodeWrongType, "is " + kindOf(e.value) + "; it takes a text", `write namePrefix = "Prod_"`}, ""))
		case into == nil:
			known := []string{"namePrefix"}
			for name := range truths {
				known = append(known, name)
			}
			slices.Sort(known)
			report(place.with(&problem{CodeUnknownKey, "there is no such policy", didYouMean(e.key, slices.Values(known), "there are "+strings.Join(known, ", "))}, ""))
		case !isTruth:
			report(place.with(&problem{CodeWrongType, "is " + kindOf(e.value), "write true or false, without quotes"}, ""))
		default:
			*into = truth
		}
	}
}

// policy holds the connection against what its environment asks.
func (e *evaluation) policy() {
	t, p := &e.target, e.rules
	way := "; or say why it may be so: pierfs edit " + e.c.Name + " --set exception='why'"
	if e.env == "" {
		return
	}
	if p.RequireTLS && t.Protocol == FTP {
		e.against("protocol", CodeCleartext, "carries the password and every file in the clear", `write protocol = "FTPS" or "SFTP"`+way, string(FTP))
	} else if t.Protocol == FTP && e.env == production {
		e.find(Warning, "protocol", &problem{CodeCleartext, "carries the password and every file in the clear, in environment Production", `write protocol = "FTPS" or "SFTP" if the server offers one of them`}, string(FTP))
		e.findings[len(e.findings)-1].Environment = e.env
	}
	if s := e.c.merged(e.env, "exception"); p.RequireAuthority && t.Protocol == FTPS && (s == nil || s.broken || s.text == "") {
		t.TLS.OnlyAuthorities = true
	}
	if p.RequireAuthority && t.Protocol == FTPS && t.TLS.TrustCert != "" {
		e.against("trustCert", CodePolicy, "believes one certificate, whoever has signed it", "write caFile, or nothing if an authority of the system has signed it"+way, t.TLS.TrustCert)
	}
	if p.ReadOnly && !t.ReadOnly {
		e.against("readOnly", CodePolicy, "is not true", "write readOnly = true"+way, "false")
	}
	if name := e.c.Name[strings.LastIndexByte(e.c.Name, '/')+1:]; !strings.HasPrefix(name, p.NamePrefix) && e.c.Enabled() && slices.Contains(e.x.config.active, e.env) {
		e.against("name", CodePolicy, "does not begin with "+p.NamePrefix, "`pierfs replace` gives it another name"+way, name)
	}
	e.ownHosts()
}

// ownHosts wants a host that another environment keeps to itself not to be reached from here.
func (e *evaluation) ownHosts() {
	if e.unknown["host"] || e.unknown["fallbackHosts"] {
		return
	}
	for _, t := range e.target.Hosts() {
		for _, owner := range e.x.config.owners()[strings.ToLower(t.Host)] {
			if owner.env != e.env {
				e.against("host", CodeSameEndpoint, "is the host of "+owner.c.Name+" in "+owner.env+", which keeps its hosts to itself",
					"write [environments."+e.env+"] with a host of its own; or say why it may be so: pierfs edit "+e.c.Name+" --set exception='why'", t.Host)
				return
			}
		}
	}
}

// against adds what the environment's policy refuses. Where the definition says why it may be so that is told, and it may.
func (e *evaluation) against(field string, code Code, message, hint, value string) {
	severity, message := Error, message+", which the policy of environment "+e.env+" refuses"
	if s := e.c.merged(e.env, "exception"); s != nil && !s.broken && s.text != "" {
		severity, message, hint = Warning, message+"; it is excepted: "+clip(s.text), "take exception out once that is over"
	}
	e.find(severity, field, &problem{code, message, hint}, value)
	e.findings[len(e.findings)-1].Environment = e.env
}

// findOwners returns the connections that reach a host in an environment which keeps its hosts to itself, by the host in lower case.
func (c *Config) findOwners() map[string][]place {
	owners := map[string][]place{}
	for _, env := range c.Environments() {
		if !env.Policy.OwnHosts {
			continue
		}
		x := c.expander(env.Name)
		for _, conn := range c.Connections() {
			text := ""
			for _, field := range []string{"host", "fallbackHosts"} {
				if s := conn.merged(env.Name, field); s != nil && !s.broken {
					if out := x.expand(s.text); out.problem == nil && !out.unknown {
						text += out.text + ", "
					}
				}
			}
			for _, p := range readPlaces(strings.TrimSuffix(text, ", ")) {
				if host := strings.ToLower(p.Host); host != "" {
					owners[host] = append(owners[host], place{conn, env.Name})
				}
			}
		}
	}
	return owners
}

// ownersOf makes findOwners' answer be found once.
func ownersOf(c *Config) func() map[string][]place { return sync.OnceValue(c.findOwners) }

func checkException(s *setting) *problem {
	if strings.TrimSpace(s.text) == "" {
		return invalid("is empty", "write why the policy may be broken here, and until when")
	}
	return nil
}

// Policy reports whether a finding is about what environments ask of their connections.
func (f Finding) Policy() bool {
	return slices.Contains([]Code{CodePolicy, CodeCleartext, CodeAnonymous, CodeLiteralSecret, CodeSameEndpoint}, f.Code)
}
