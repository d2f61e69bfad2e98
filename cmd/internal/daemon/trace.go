package daemon

import (
	"context"

	"pierfs/backends/trace"
	"pierfs/cmd/internal/control"
)

// tracedWithFailure is how many lines of what was said come with a failure.
const tracedWithFailure = 30

func tracedLines(lines []trace.Line) []control.TraceLine {
	all := make([]control.TraceLine, len(lines))
	for n, l := range lines {
		all[n] = control.TraceLine{Time: l.Time.UTC(), Session: l.Session, Kind: string(l.Kind), Text: l.Text}
	}
	return all
}

// tellTrace tells what was last said between a mounted connection and its server.
func (d *Daemon) tellTrace(_ context.Context, q control.TraceRequest, send func(control.TraceLine) error) error {
	m, err := d.mountOf(q.Name, q.Environment)
	if err != nil {
		return err
	}
	lines := m.trace.Lines()
	if q.Last > 0 {
		lines = m.trace.Last(q.Last)
	}
	for _, line := range tracedLines(lines) {
		if err := send(line); err != nil {
			return err
		}
	}
	return nil
}
