package backends

import "context"

// Aside is told what a server said of a name beside the answer to a call that changed something. It may be called from any
// goroutine, more than once, and never after the call has returned.
type Aside func(name string, info Info)

type asideKey struct{}

// listener is who is told beside a call, and what he wants to know besides.
type listener struct {
	tell    Aside
	besides []string
}

// WithAside returns a context whose calls tell f what the server says, once a change is done, of the names that it touched:
// the directories of the names that were changed, and a name that was made. Update tells of the file as it is when it was opened.
// What the caller wants to know of directories above those, besides, is asked for in the same flight; a jail has looked at them
// already, for the name's own sake.
//
// Only a backend that can ask for it in the flight of the change, behind it and on a way that keeps the order, tells anything;
// for every other one, and where the change failed, f is not called. So whoever does not hear has to ask.
func WithAside(ctx context.Context, f Aside, besides ...string) context.Context {
	return context.WithValue(ctx, asideKey{}, listener{f, besides})
}

// AsideOf returns whom the caller wants to be told, nil if there is nobody, and of which names besides.
func AsideOf(ctx context.Context) (f Aside, besides []string) {
	l, _ := ctx.Value(asideKey{}).(listener)
	return l.tell, l.besides
}
