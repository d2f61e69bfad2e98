package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"pierfs/cmd/internal/control"
)

// clearWithin is how long a test that is broken off may take to remove what it has made at the server.
const clearWithin = 30 * time.Second

// RunPrivate serves one hand where no daemon runs, until ctx ends: what needs no mount and changes nothing on this machine. It claims
// no directory but Dirs.Runtime, which must be the hand's own, so that it may run beside any daemon.
func (d *Daemon) RunPrivate(ctx context.Context) error {
	listener, err := control.Listen(d.o.Dirs.Runtime)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	defer os.Remove(control.SocketPath(d.o.Dirs.Runtime))
	d.private = true
	d.plan = d.o.Plan(ctx)
	close(d.planned)
	server := control.NewServer(d.log)
	d.servePrivate(server)
	defer d.loose.close()
	d.o.Notify("READY=1")
	err = server.Run(ctx, listener, clearWithin)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// servePrivate gives the verbs their handlers that work without a single mount.
func (d *Daemon) servePrivate(s *control.Server) {
	control.Test.Serve(s, d.test)
	control.Doctor.Serve(s, d.doctor)
	d.serveLoose(s)
}
