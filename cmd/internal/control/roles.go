package control

import (
	"context"
	"reflect"

	"pierfs/conncfg"
)

// Need is the role that a verb takes, and of what: of the connections that its request names, or of everything.
type Need struct {
	Role  conncfg.Role
	Scope Scope
}

// Scope is what somebody must have a role for, to be served.
type Scope int

const (
	Whole Scope = iota // all projects
	Named              // the connections that the request names; all projects if it names none
	Own                // any: the answer tells of those alone that the caller may see
)

// needs has the role of every verb. One that is missing here is for root and the daemon's own user alone; a test wants none to be.
var needs = map[string]Need{
	"list": {conncfg.Viewer, Own}, "status": {conncfg.Viewer, Own}, "show": {conncfg.Viewer, Named}, "queue": {conncfg.Viewer, Named},
	"metrics": {conncfg.Viewer, Whole}, "cache-status": {conncfg.Viewer, Named}, "events": {conncfg.Viewer, Named}, "deployments": {conncfg.Viewer, Named},
	"status-watch": {conncfg.Viewer, Whole}, "trace": {conncfg.Operator, Named}, "read": {conncfg.Viewer, Named}, "vars": {conncfg.Viewer, Whole}, "history": {conncfg.Viewer, Named},
	"audit-verify": {conncfg.Viewer, Whole}, "export": {conncfg.Viewer, Named}, "doctor": {conncfg.Viewer, Named},

	"apply": {conncfg.Operator, Whole}, "enable": {conncfg.Operator, Named}, "test": {conncfg.Operator, Named}, "mount": {conncfg.Operator, Named},
	"mount-url": {conncfg.Operator, Whole}, "umount": {conncfg.Operator, Named}, "env-use": {conncfg.Operator, Whole},
	"ls": {conncfg.Operator, Named}, "stat": {conncfg.Operator, Named}, "get": {conncfg.Operator, Named}, "put": {conncfg.Operator, Named}, "put-plan": {conncfg.Operator, Named},
	"rm": {conncfg.Operator, Named}, "mv": {conncfg.Operator, Named}, "mkdir": {conncfg.Operator, Named}, "sum": {conncfg.Operator, Named}, "symlink": {conncfg.Operator, Named},
	"queue-retry": {conncfg.Operator, Named}, "queue-hold": {conncfg.Operator, Named}, "queue-drop": {conncfg.Operator, Named}, "queue-export": {conncfg.Operator, Named},
	"log": {conncfg.Operator, Named}, "cache-drop": {conncfg.Operator, Named}, "cache-warm": {conncfg.Operator, Named},

	"create": {conncfg.Admin, Named}, "edit": {conncfg.Admin, Named}, "copy": {conncfg.Admin, Named}, "delete": {conncfg.Admin, Named}, "replace": {conncfg.Admin, Named},
	"rollback": {conncfg.Admin, Named}, "trust": {conncfg.Admin, Named}, "vars-extract": {conncfg.Admin, Named}, "vars-set": {conncfg.Admin, Whole},
	"pending": {conncfg.Viewer, Own}, "approve": {conncfg.Approver, Own}, "reject": {conncfg.Viewer, Own}, // reject: who has proposed, or an approver
	"env-create": {conncfg.Admin, Whole}, "import": {conncfg.Admin, Whole},
}

// NeedOf returns what a verb takes; ok is false for one that nobody was given a role for.
func NeedOf(verb string) (n Need, ok bool) {
	n, ok = needs[verb]
	return n, ok
}

// Guard decides whether a caller other than root and the daemon's own user is served. Subjects are the connections, or files of the
// configuration, that the request names; nil before it is read, when the caller need only have the role for something.
type Guard func(ctx context.Context, verb string, n Need, subjects []string) error

// Guard has g decide about callers. Without it only root and the daemon's own user are served.
func (s *Server) Guard(g Guard) { s.guard = g }

// admit lets root and the daemon's own user pass, and others as far as the guard says.
func (s *Server) admit(ctx context.Context, verb string, subjects []string) error {
	peer, ok := PeerOf(ctx)
	if ok && (peer.UID == 0 || peer.UID == s.uid) {
		return nil
	}
	n, known := NeedOf(verb)
	if !ok || s.guard == nil || !known {
		return Errorf(NotAllowed, "this daemon serves root and user %d only", s.uid).
			WithHint("run pierfs as root or as the daemon's own user")
	}
	if n.Scope == Whole && subjects != nil {
		subjects = []string{}
	}
	return s.guard(ctx, verb, n, subjects)
}

// permit is admit for a request that was read.
func (x *exchange) permit(q any) error { return x.s.admit(x.ctx(), x.verb, subjectsOf(q)) }

// subjectsOf returns the connections that a request names. It is never nil.
func subjectsOf(q any) []string {
	all := []string{}
	v := reflect.ValueOf(q)
	if v.Kind() != reflect.Struct {
		return all
	}
	for _, field := range []string{"Connection", "Name", "To", "Subject", "Names"} {
		f := v.FieldByName(field) // also of what is embedded
		switch {
		case !f.IsValid():
		case f.Type() == reflect.TypeFor[string]() && f.String() != "":
			all = append(all, f.String())
		case f.Type() == reflect.TypeFor[[]string]():
			all = append(all, f.Interface().([]string)...)
		}
	}
	return all
}
