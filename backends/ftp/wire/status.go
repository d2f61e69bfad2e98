package wire

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrForged is a reply whose end was made up by a name in it, as far as anybody can tell.
	ErrForged = errors.New("a name forges replies of the server")

	errNoEcho = errors.New("the server does not repeat the number that it was told")
)

// Status has the directory at path listed on the control connection. Others may ask on the same Session meanwhile, by Status and
// Do, and share the flight.
//
// The lines of the reply are as the server lists them, and a line end in a name ends a line: who can make a file can forge the end of
// the reply, and replies to what follows (seen on vsftpd 3.0.3). So number travels behind it, which nobody must be able to
// foresee, and which REST repeats. Unless the very next reply does so the Session ends then and there: nobody is given that reply,
// or one behind it. Who asked for path gets ErrForged, everybody else another error.
//
// Of a reply that is too long for the Session to go on, Cut is set beside the error.
func (s *Session) Status(ctx context.Context, path, number string) (Reply, error) {
	list := newExchanges([]string{"STAT -a " + path, "REST " + number, "REST 0"})
	stat, echo := list[0], list[1]
	echo.number = number
	if err := s.checkCommand(stat.command); err != nil {
		return Reply{}, err
	}
	if err := s.enter(ctx, "command"); err != nil {
		return Reply{}, err
	}
	sent, err := s.send(ctx, list)
	if err != nil {
		return Reply{}, lost("command", sent, err)
	}
	for _, x := range list {
		if err = s.wait(ctx, x.done); err != nil {
			break
		}
	}
	switch {
	case err == nil:
		return stat.reply, nil
	case !stat.ended():
		return Reply{Cut: errors.Is(stat.spoilt, ErrTooLong)}, lost("command", true, err)
	case echo.spoilt != nil:
		return Reply{}, lost("command", true, fmt.Errorf("%w: %w", ErrForged, err))
	}
	return Reply{}, lost("command", true, err)
}
