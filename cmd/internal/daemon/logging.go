package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/events"
)

// connectionLevel is the level at which one connection is logged: its own, once somebody has set one, else the daemon's.
type connectionLevel struct {
	own  atomic.Pointer[slog.Level]
	base slog.Leveler // nil is info
}

// Level returns it.
func (l *connectionLevel) Level() slog.Level {
	if own := l.own.Load(); own != nil {
		return *own
	}
	if l.base == nil {
		return slog.LevelInfo
	}
	return l.base.Level()
}

// levelOf returns that of a connection. It outlives its mounts.
func (d *Daemon) levelOf(k key) *connectionLevel {
	l, _ := d.levels.LoadOrStore(k, &connectionLevel{base: d.o.LogLevel})
	return l.(*connectionLevel)
}

// logOf returns the log of one connection.
func (d *Daemon) logOf(w Want) *slog.Logger {
	h := telling{next: d.o.Logger.Handler(), bus: d.events}
	if d.o.LogLevel != nil {
		h.level = d.levelOf(w.key())
	}
	return slog.New(h).With("conn", w.Name, "env", w.Environment)
}

// setLevel sets the level at which a connection is logged, until the daemon ends, or tells it.
func (d *Daemon) setLevel(_ context.Context, q control.LogRequest) (control.LogAnswer, error) {
	w, err := d.wanted(q.Name, q.Environment)
	if strings.HasPrefix(q.Name, "/") {
		var m *mount
		if m, err = d.mountOf(q.Name, ""); err == nil {
			w = m.want
		}
	}
	if err != nil {
		return control.LogAnswer{}, err
	}
	l := d.levelOf(w.key())
	switch {
	case q.Level == "":
	case d.o.LogLevel == nil:
		return control.LogAnswer{}, control.Errorf(control.System, "this daemon's log has one level for all").WithHint("`pierfsd --log-level debug` sets it at its start")
	case q.Level == "default":
		l.own.Store(nil)
	default:
		var level slog.Level
		if err := level.UnmarshalText([]byte(q.Level)); err != nil {
			return control.LogAnswer{}, control.Errorf(control.Usage, "%q is no level", q.Level).WithHint("write debug, info, warn, error, or default")
		}
		l.own.Store(&level)
	}
	answer := control.LogAnswer{Name: w.Name, Environment: w.Environment, Level: strings.ToLower(l.Level().String()), Own: l.own.Load() != nil}
	if q.Level != "" {
		d.events.Publish(control.Event{Kind: control.EventLog, Name: w.Name, Environment: w.Environment, Text: "logged at " + answer.Level})
		d.log.Info("log level", "conn", w.Name, "env", w.Environment, "level", answer.Level)
	}
	return answer, nil
}

// telling is a log whose warnings and errors are events too.
type telling struct {
	next  slog.Handler
	bus   *events.Bus
	about subject
	level slog.Leveler // of what is logged; nil leaves it to next
}

// subject is the connection that lines of a log are about.
type subject struct{ name, environment string }

// note takes from attributes what they say of the subject.
func (s *subject) note(a slog.Attr) {
	switch a.Key {
	case "conn":
		s.name = a.Value.String()
	case "env":
		s.environment = a.Value.String()
	}
}

// Enabled is what the level says, or without one the log below.
func (t telling) Enabled(ctx context.Context, level slog.Level) bool {
	if t.level != nil && level < t.level.Level() {
		return false
	}
	return t.next.Enabled(ctx, level)
}

// Handle logs r, and publishes it where someone should know of it.
func (t telling) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		t.bus.Publish(t.event(r))
	}
	return t.next.Handle(ctx, r)
}

func (t telling) event(r slog.Record) control.Event {
	e := control.Event{Kind: control.EventWarning, Time: r.Time.UTC()}
	if r.Level >= slog.LevelError {
		e.Kind = control.EventError
	}
	text, about := r.Message, t.about
	r.Attrs(func(a slog.Attr) bool {
		about.note(a)
		if value := a.Value.Resolve().String(); a.Key != "conn" && a.Key != "env" && value != "" && value != "<nil>" {
			text += fmt.Sprintf(" %s=%q", a.Key, value)
		}
		return true
	})
	e.Name, e.Environment, e.Text = about.name, about.environment, oneLine(text)
	return e
}

// WithAttrs is that of the log below; what it says of the subject is kept.
func (t telling) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		t.about.note(a)
	}
	t.next = t.next.WithAttrs(attrs)
	return t
}

// WithGroup is that of the log below.
func (t telling) WithGroup(name string) slog.Handler {
	t.next = t.next.WithGroup(name)
	return t
}
