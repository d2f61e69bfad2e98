package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
)

// at reads NAME:/path. The name ends at the first colon, for no name has one; a mount without a definition is named by its
// directory.
func (h *hand) at(arg string) (control.FileRequest, error) {
	name, p, ok := strings.Cut(arg, ":")
	if !ok || name == "" {
		return control.FileRequest{}, usageError{fmt.Errorf("%q names no file of a connection; write NAME:/path", arg)}
	}
	return control.FileRequest{Connection: name, Environment: h.environment, Path: control.Name(p)}, nil
}

// ofFile has do ask about the file that arg names, of which q is told first.
func (h *hand) ofFile(ctx context.Context, arg string, q *control.FileRequest, do func(*control.Client) error) (err error) {
	if *q, err = h.at(arg); err != nil {
		return err
	}
	c, done, err := h.served(ctx)
	if err != nil {
		return err
	}
	defer done()
	return do(c)
}

func (h *hand) printFiles(files []control.File) error {
	rows := make([][]string, len(files))
	for i, f := range files {
		rows[i] = fileRow(f)
	}
	return table(h.out, nil, rows)
}

// told prints one file that was made or asked for.
func (h *hand) told(f control.File) error {
	if h.asJSON {
		return h.json(f)
	}
	return h.printFiles([]control.File{f})
}

func (h *hand) statCommand() *cobra.Command {
	return &cobra.Command{Use: "stat NAME:/path", Short: "Describe a file of the server", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var q control.FileRequest
			return h.ofFile(cmd.Context(), args[0], &q, func(c *control.Client) error {
				f, err := control.Stat.Call(cmd.Context(), c, q)
				if err != nil {
					return err
				}
				return h.told(f)
			})
		}}
}

// localName follows a directory to the file within it.
func localName(arg, base string) string {
	if info, err := os.Stat(arg); arg != "-" && err == nil && info.IsDir() {
		return filepath.Join(arg, base)
	}
	return arg
}

// receive writes a stream beside path and gives it the name only when all of it is on the disk: a transfer that is cut
// leaves what was there.
func receive(path string, body io.Reader) (n int64, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // a link stays one
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return pour(path, body)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".pierfs-*")
	if err != nil {
		return 0, control.Errorf(control.CannotCreate, "write beside %s: %v", path, err).WithHint("check the directory and its permissions")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, temp.Close(), os.Remove(temp.Name()))
		}
	}()
	if n, err = io.Copy(temp, body); err != nil {
		return n, err
	}
	if err := errors.Join(temp.Chmod(modeOf(path)), temp.Sync()); err != nil {
		return n, err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return n, err
	}
	return n, temp.Close()
}

// pour writes a stream into a device or pipe, whose place no file may take.
func pour(path string, body io.Reader) (n int64, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(file, body)
	return n, errors.Join(err, file.Close())
}

// modeOf returns the mode of the file that is replaced, or that of any new file.
func modeOf(path string) os.FileMode {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		return info.Mode().Perm()
	}
	return 0o666 &^ umask()
}

// progress shows a bar while r is read, if a person is there to see it.
func (h *hand) progress(r io.Reader, what string, size int64) io.Reader {
	if h.asJSON || !isTerminal(h.err) {
		return r
	}
	reader := progressbar.NewReader(r, h.bar(what, size))
	return &reader
}
