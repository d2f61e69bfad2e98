package sftp

import (
	"context"
	"slices"

	"pierfs/backends"
)

// asides are questions that travel behind a change, for a caller who wants to be told what the names are like then (see
// backends.WithAside). A server answers the requests of one channel in their order.
type asides struct {
	tell  backends.Aside // nil if nobody listens
	names []string
	calls []*call
}

// touching returns the questions for the directories of names, and for what the caller wants to know besides.
func touching(ctx context.Context, names ...string) *asides {
	tell, besides := backends.AsideOf(ctx)
	a := &asides{tell: tell}
	for _, name := range names {
		a.also(parent(name))
	}
	for _, name := range besides {
		a.also(name)
	}
	return a
}

// also adds a name to be asked for.
func (a *asides) also(name string) *asides {
	if a.tell != nil && !slices.Contains(a.names, name) {
		a.names = append(a.names, name)
	}
	return a
}

// ask adds the questions to f, behind what is in it.
func (a *asides) ask(s *session, f *flight) {
	a.calls = a.calls[:0]
	for _, name := range a.names {
		a.calls = append(a.calls, f.add(pathFrame(typeLstat, s.path(name))))
	}
}

// answered tells what was answered. The flight of the questions is over, and the change was done.
func (a *asides) answered() {
	for i, c := range a.calls {
		if info, err := c.reply.info(base(a.names[i])); err == nil {
			a.tell(a.names[i], info)
		}
	}
}

// askTouching is ask of a change, and of what the caller wants to be told beside it.
func (s *session) askTouching(ctx context.Context, fr frame, a *asides) reply {
	if len(a.names) == 0 {
		return s.ask(ctx, fr)
	}
	f := s.meta.flight()
	change := f.add(fr)
	a.ask(s, f)
	f.send(urgent)
	f.wait(ctx)
	if change.reply.status() == nil {
		a.answered()
	}
	return change.reply
}
