package daemon

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/events"
	"pierfs/cmd/internal/registry"
)

// keptEvents is how many events are kept for whoever asks later, and how far a listener may fall behind: about 2 MiB.
const keptEvents = 4096

// tellState tells whoever listens that m has come to another state.
func (m *mount) tellState(before, after control.State, why trouble) {
	if before == after || m.want.loose {
		return
	}
	m.d.events.Publish(control.Event{Kind: control.EventState, Name: m.want.Name, Environment: m.want.Environment, State: after, Before: before,
		Reason: why.reason, Cause: why.cause})
}

// tellApplied tells whoever listens what came of reading the definitions.
func (d *Daemon) tellApplied(a control.ApplyAnswer) {
	if len(a.Added)+len(a.Changed)+len(a.Removed)+len(a.Owing) == 0 {
		return
	}
	var parts []string
	for _, part := range []struct {
		what  string
		names []string
	}{{"added", a.Added}, {"changed", a.Changed}, {"removed", a.Removed}} {
		if len(part.names) > 0 {
			parts = append(parts, part.what+" "+strings.Join(part.names, ", "))
		}
	}
	if len(a.Owing) > 0 {
		parts = append(parts, fmt.Sprintf("%d stay as they were until their servers have what is owed", len(a.Owing)))
	}
	d.events.Publish(control.Event{Kind: control.EventApplied, Text: strings.Join(parts, "; ")})
}

// tellChanged tells whoever listens which revision the definitions have come to.
func (d *Daemon) tellChanged(e *registry.Entry) {
	names := make([]string, len(e.Files))
	for i, f := range e.Files {
		names[i] = f.Name
	}
	by := e.Who.User
	if by == "" {
		by = strconv.FormatUint(uint64(e.Who.UID), 10)
	}
	d.events.Publish(control.Event{Kind: control.EventChanged,
		Text: fmt.Sprintf("revision %d: %s by %s: %s", e.Seq, e.Verb, by, strings.Join(names, ", "))})
}

// tellEvents tells events until there is none, or, if asked to follow, until whoever listens has gone or the daemon ends.
func (d *Daemon) tellEvents(ctx context.Context, q control.EventsRequest, send func(control.Event) error) error {
	wanted := filter(q.Name, q.Environment)
	listener := d.events.Listen(q.New)
	if q.Follow {
		first := control.Event{Seq: listener.Missed(), Time: time.Now().UTC(), Kind: control.EventListening}
		if !q.New {
			first.Lost = listener.Missed()
		}
		if err := send(first); err != nil {
			return err
		}
	}
	for {
		e, ok := listener.Now()
		if !ok && !q.Follow {
			return nil
		}
		if !ok {
			var err error
			if e, err = listener.Next(ctx); errors.Is(err, events.ErrClosed) {
				return nil
			} else if err != nil {
				return err
			}
		}
		ofDaemon := e.Name == "" && (q.Name == "" || e.Kind == control.EventLost || e.Kind == control.EventStopping)
		if !ofDaemon && !wanted(e.Name, e.Environment) || e.Time.Before(q.Since) {
			continue
		}
		if err := send(e); err != nil {
			return err
		}
	}
}

// Pauses of who watches the status.
const (
	watchGather = 100 * time.Millisecond // that changes which come together may take
	watchRound  = 2 * time.Second        // between looks at what changes without an event: files that are open, what is owed
)

// tellStatus tells the status, and again whenever it has changed.
func (d *Daemon) tellStatus(ctx context.Context, _ control.StatusRequest, send func(control.StatusAnswer) error) error {
	listener := d.events.Listen(true)
	var last control.StatusAnswer
	for first := true; ; first = false {
		now := d.status()
		if first || !reflect.DeepEqual(now, last) {
			if err := send(now); err != nil {
				return err
			}
			last = now
		}
		if err := awaitNews(ctx, listener); errors.Is(err, events.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// awaitNews returns when something has happened, and what came with it, or when it is time to look by oneself.
func awaitNews(ctx context.Context, listener *events.Listener) error {
	round, cancel := context.WithTimeout(ctx, watchRound)
	defer cancel()
	_, err := listener.Next(round)
	if err != nil && ctx.Err() == nil && round.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	together, stop := context.WithTimeout(ctx, watchGather)
	defer stop()
	for {
		if _, err := listener.Next(together); err != nil {
			if errors.Is(err, events.ErrClosed) {
				return err
			}
			return ctx.Err()
		}
	}
}
