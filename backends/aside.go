package backends

import "context"

// Aside is told what a server said of a name beside the answer to a call that changed something. It may be called from any
// goroutine, more than once, and never after the call has returned.
type Aside func(name string, info Info)

type asideKey struct{}

// WithAside returns a context whose calls tell f what the server says, once a change is done, of the names that it touched:
// the directories of the names that were changed, and a name that was made. Update tells of the file as it is when it was opened.
//
// Only a backend that can ask for it in the flight of the change, behind it and on a way that keeps the order, tells anything;
// for every other one, and where the change failed, f is not called. So whoever does not hear has to ask.
func WithAside(ctx context.Context, f Aside) context.Context {
	return context.WithValue(ctx, asideKey{}, f)
}

// AsideOf returns whom the caller wants to be told, nil if there is nobody.
func AsideOf(ctx context.Context) Aside {
	f, _ := ctx.Value(asideKey{}).(Aside)
	return f
}
