package conncfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	maxSource     = 64 << 10         // bytes that a value may have
	sourceTimeout = 10 * time.Second // for one source, however long the caller would wait
)

// origin is where a value comes from.
type origin string

const (
	fromNowhere    origin = ""
	fromValue      origin = "value"
	fromEnv        origin = "env"
	fromFile       origin = "file"
	fromCredential origin = "credential"
	fromCommand    origin = "command"
	fromSealed     origin = "sealed" // encrypted with the key of the configuration, in the file itself
)

// source is a value, or the place where it is found when it is needed.
type source struct {
	kind  origin
	text  string   // the value itself, or the name of the variable, file or credential
	argv  []string // of a command
	quiet bool     // what the command says on its standard error may be secret too

	rotation rotation // of the secret that is there
}

// String tells the place, never the value: it is for sources of secrets.
func (s *source) String() string {
	switch s.kind {
	case fromCommand:
		return "command " + strings.Join(s.argv, " ")
	case fromNowhere:
		return ""
	case fromSealed:
		return "sealed"
	}
	return string(s.kind) + " " + s.text
}

// sourceKeys are the keys of a table that says where a value comes from.
var sourceKeys = []string{"value", "env", "file", "credential", "command", "sealed", "secret", rotatedAtKey, rotateAfterKey}

// fetch asks the source. Its answer is bounded in time and size, and the errors carry nothing of the value.
func (s *source) fetch(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	switch s.kind {
	case fromValue:
		return s.text, nil
	case fromEnv:
		if value, ok := os.LookupEnv(s.text); ok {
			return value, nil
		}
		return "", fmt.Errorf("%q is not set in the daemon's environment", s.text)
	case fromFile:
		return readSource(ctx, s.text)
	case fromCredential:
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return "", fmt.Errorf("%q: the daemon was started without $CREDENTIALS_DIRECTORY", s.text)
		}
		return readSource(ctx, filepath.Join(dir, s.text))
	case fromCommand:
		return s.run(ctx)
	}
	return "", errors.New("no source")
}

// readSource reads a regular file. It waits no longer than ctx; a read that hangs in a dead network file system is left
// to itself, for nothing can end it.
func readSource(ctx context.Context, name string) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := readRegular(name)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", fmt.Errorf("read %q: %w", name, context.Cause(ctx))
	}
}

// openRegular opens a file, and nothing that could block whoever reads it, as a FIFO does.
func openRegular(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is no regular file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func readRegular(name string) (string, error) {
	f, err := openRegular(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxSource {
		return "", fmt.Errorf("%q is longer than 64 KiB", name)
	}
	return oneLineLess(string(data)), nil
}

// oneLineLess cuts the one line break that editors and echo put at the end.
func oneLineLess(s string) string {
	s, cut := strings.CutSuffix(s, "\n")
	if cut {
		s = strings.TrimSuffix(s, "\r")
	}
	return s
}

// run starts the command itself, without a shell, in a process group of its own, which ends with it.
func (s *source) run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, s.argv[0], s.argv[1:]...)
	out, said := &bounded{most: maxSource, stop: true}, &bounded{most: 512}
	cmd.Stdout, cmd.Stderr = out, said
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for a grandchild that keeps the pipe open

	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%q: %w", s.argv[0], context.Cause(ctx))
	case out.overflow:
		return "", fmt.Errorf("%q: answered more than 64 KiB", s.argv[0])
	case err != nil && !s.quiet && len(said.kept) > 0:
		line, _, _ := strings.Cut(strings.TrimSpace(string(said.kept)), "\n")
		return "", fmt.Errorf("%q: %w: %s", s.argv[0], err, strconv.Quote(line))
	case err != nil:
		return "", fmt.Errorf("%q: %w", s.argv[0], err)
	}
	return oneLineLess(string(out.kept)), nil
}

// bounded keeps the first bytes. With stop it fails at what does not fit, which ends the program by its pipe. (It embeds no
// bytes.Buffer, whose ReadFrom would take everything past Write.)
type bounded struct {
	kept     []byte
	most     int
	stop     bool
	overflow bool
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.most - len(b.kept)
	if len(p) > room {
		b.kept, b.overflow = append(b.kept, p[:room]...), true
		if b.stop {
			return 0, errors.New("too long")
		}
		return len(p), nil
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}

// offline tells what can be told without reading a value: a file that is missing or open to others, a variable that is
// not set here, a program that is not installed.
func (s *source) offline() *problem {
	switch s.kind {
	case fromEnv:
		if _, ok := os.LookupEnv(s.text); !ok {
			return &problem{CodeFileMissing, fmt.Sprintf("environment variable %q is not set here", s.text), "the daemon's own environment counts: see Environment= of its unit"}
		}
	case fromFile:
		return lookAtFile(s.text)
	case fromCredential:
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return &problem{CodeFileMissing, fmt.Sprintf("credential %q cannot be looked for: $CREDENTIALS_DIRECTORY is not set here", s.text), "the daemon's unit needs LoadCredential= or SetCredentialEncrypted="}
		}
		return lookAtFile(filepath.Join(dir, s.text))
	case fromCommand:
		if _, err := exec.LookPath(s.argv[0]); err != nil {
			return &problem{CodeFileMissing, fmt.Sprintf("program %q: %v", s.argv[0], errors.Unwrap(err)), "write the absolute path of a program"}
		}
	}
	return nil
}

// lookAtFile stats a file that holds a secret.
func lookAtFile(name string) *problem {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &problem{CodeFileMissing, fmt.Sprintf("file %q does not exist", name), "create it with mode 0600, or correct the path"}
	case err != nil:
		return nil // not ours to see; the daemon may
	case !info.Mode().IsRegular():
		return &problem{CodeFileMissing, fmt.Sprintf("%q is no regular file", name), "correct the path"}
	case info.Mode().Perm()&0o077 != 0:
		return &problem{CodeFileMode, fmt.Sprintf("file %q has mode %#o: others may read it", name, info.Mode().Perm()), "chmod 600 " + name}
	}
	return nil
}
