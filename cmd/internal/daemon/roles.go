package daemon

import (
	"context"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"pierfs/cmd/internal/control"
	"pierfs/conncfg"
)

// permit is the daemon's control.Guard: roles are those of the settings as last read.
func (d *Daemon) permit(ctx context.Context, verb string, n control.Need, subjects []string) error {
	peer, _ := control.PeerOf(ctx)
	g := d.grants()
	switch {
	case subjects == nil, n.Scope == control.Own:
		if slices.ContainsFunc(append(g.Projects(), ""), func(project string) bool { return has(peer, g, n.Role, project) }) {
			return nil
		}
		return lacks(peer, g, n.Role, verb, "")
	case len(subjects) == 0:
		subjects = []string{""}
	}
	for _, s := range subjects {
		if project := projectOf(s); !has(peer, g, n.Role, project) {
			return lacks(peer, g, n.Role, verb, project)
		}
	}
	return nil
}

func (d *Daemon) grants() conncfg.Grants {
	config := d.known().Config
	if config == nil {
		return conncfg.Grants{}
	}
	return config.Roles()
}

// projectOf returns the project that a connection, or the file of one, belongs to; "" for what concerns everything.
func projectOf(subject string) string {
	if strings.HasPrefix(subject, "/") {
		return ""
	}
	if strings.HasSuffix(subject, ".toml") {
		subject, _ = strings.CutPrefix(subject, "connections/")
		if strings.HasPrefix(subject, "environments/") {
			return ""
		}
	}
	project, _, in := strings.Cut(subject, "/")
	if !in {
		return ""
	}
	return project
}

// has reports whether peer has the role for a project.
func has(peer control.Peer, g conncfg.Grants, role conncfg.Role, project string) bool {
	return slices.ContainsFunc(g.Who(role, project), func(who string) bool { return is(peer, who) })
}

// is reports whether peer is who a grant names: a user by name or number, or a group, with an @ in front.
func is(peer control.Peer, who string) bool {
	if group, ok := strings.CutPrefix(who, "@"); ok {
		return slices.ContainsFunc(append([]uint32{peer.GID}, peer.Groups...), func(gid uint32) bool {
			number := strconv.FormatUint(uint64(gid), 10)
			if number == group {
				return true
			}
			g, err := user.LookupGroupId(number)
			return err == nil && g.Name == group
		})
	}
	number := strconv.FormatUint(uint64(peer.UID), 10)
	if number == who {
		return true
	}
	u, err := user.LookupId(number)
	return err == nil && u.Username == who
}

// lacks says which role somebody has not, and who has it.
func lacks(peer control.Peer, g conncfg.Grants, role conncfg.Role, verb, project string) error {
	of := ""
	if project != "" {
		of = " for project " + project
	}
	who := "root may"
	if some := g.Who(role, project); len(some) > 0 {
		who = "root may, and " + strings.Join(some, ", ")
	}
	return control.Errorf(control.NotAllowed, "user %d has not the role %s%s, which %s needs", peer.UID, role, of, verb).
		WithHint("%s; roles stand in [roles] of pierfs.toml", who)
}

// role reports whether the caller of a request has the role for a project: root and the daemon's own user have every one.
func (d *Daemon) role(ctx context.Context, role conncfg.Role, project string) bool {
	peer, ok := control.PeerOf(ctx)
	return !ok || peer.UID == 0 || peer.UID == uint32(os.Geteuid()) || has(peer, d.grants(), role, project)
}

// sees reports whether the caller may be told of a connection.
func (d *Daemon) sees(ctx context.Context, name string) bool {
	return d.role(ctx, conncfg.Viewer, projectOf(name))
}

// restricted refuses what gives somebody who may change definitions of a project alone more than these: programs that the daemon runs,
// files that it reads, secrets of others, and places outside of the mount root. What stood there before may stay.
func (c *draft) restricted(ctx context.Context, next *conncfg.Config) error {
	if c.approves != "" || c.d.role(ctx, conncfg.Admin, "") {
		return nil
	}
	root := c.d.o.Dirs.MountRoot
	for _, conn := range next.Connections() {
		if _, changed := c.files[conncfg.ConnectionFile(conn.Name)]; !changed {
			continue
		}
		known := map[string]bool{}
		if was := c.was.Connection(conn.Name); was != nil {
			for _, f := range c.was.Restrict(was, root) {
				known[f.Environment+" "+f.Field+" "+f.Value] = true
			}
		}
		fresh := slices.DeleteFunc(next.Restrict(conn, root), func(f conncfg.Finding) bool {
			sealed := conn.Sealed(f.Environment, f.Field) // by us just now: one that was copied from elsewhere may be anybody's secret
			return known[f.Environment+" "+f.Field+" "+f.Value] || sealed != "" && c.justSealed[sealed]
		})
		if err := c.d.refusal(fresh); err != nil {
			e := *err.(*control.Error)
			e.Code, e.Hint = control.NotAllowed, "ask somebody who is admin of everything: root, "+strings.Join(c.d.grants().Who(conncfg.Admin, ""), ", ")
			return &e
		}
	}
	return nil
}

// openSocket lets those connect who have roles.
func (d *Daemon) openSocket(config *conncfg.Config) {
	if config == nil {
		return
	}
	if err := control.OpenTo(d.o.Dirs.Runtime, !config.Roles().Empty()); err != nil {
		d.log.Error("the control socket stays as it is", "dir", d.o.Dirs.Runtime, "err", err)
	}
}

// listFor is what a caller is told of connections, who need not have a role for all of them.
func (d *Daemon) listFor(ctx context.Context, _ control.ListRequest) (control.ListAnswer, error) {
	a := d.list()
	a.Connections = slices.DeleteFunc(a.Connections, func(c control.Connection) bool { return !d.sees(ctx, c.Name) })
	return a, nil
}

// statusFor is listFor with what the connections hold.
func (d *Daemon) statusFor(ctx context.Context, _ control.StatusRequest) (control.StatusAnswer, error) {
	a := d.status()
	a.Connections = slices.DeleteFunc(a.Connections, func(c control.ConnectionStatus) bool { return !d.sees(ctx, c.Name) })
	return a, nil
}
