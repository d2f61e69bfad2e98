package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"pierfs/cmd/internal/control"
)

// served returns a client of the daemon; where none runs, of one of our own that mounts nothing and ends with done, or with this
// process. done must be called.
func (h *hand) served(ctx context.Context) (c *control.Client, done func(), err error) {
	c = h.client()
	if _, err := control.Status.Call(ctx, c, control.StatusRequest{}); control.CodeOf(err) != control.NotRunning {
		return c, c.Close, nil // what else is wrong the question itself will tell
	}
	c.Close()
	dir, err := os.MkdirTemp("", "pierfs-private-")
	if err != nil {
		return nil, nil, err
	}
	end, err := h.startPrivate(ctx, dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	c = control.NewClient(dir)
	return c, func() {
		c.Close()
		end()
		_ = os.RemoveAll(dir) // a directory for temporary files: nothing in it is missed or in the way
	}, nil
}

// startPrivate starts pierfsd for this process alone, with dir as its runtime directory. It ends when its standard input does.
func (h *hand) startPrivate(ctx context.Context, dir string) (end func(), err error) {
	program, err := findDaemon()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, "--private", "--runtime-dir", dir, "--config-dir", h.dirs.Config, "--state-dir", h.dirs.State, "--log-level", "error")
	cmd.Stderr = log
	leash, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	ended, err := launch(ctx, cmd, log.Name())
	if err != nil {
		return nil, errors.Join(err, leash.Close())
	}
	return func() {
		_ = leash.Close() // it has ended already, or ends now
		<-ended
	}, nil
}
