package ftp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
)

// resolve finds the working directory: by CWD, and by what PWD then says. One that is the login directory needs no asking.
func (b *Backend) resolve(ctx context.Context, s *wire.Session) (string, error) {
	dir := strings.TrimPrefix(strings.TrimPrefix(b.o.WorkingDir, "~"), "/")
	absolute := strings.HasPrefix(b.o.WorkingDir, "/")
	if dir == "" && !absolute {
		return s.Home(), nil
	}
	if err := checkSent(dir); err != nil {
		return "", err
	}
	wanted := path.Clean(under(strings.TrimSuffix(s.Home(), "/"), dir))
	if absolute {
		wanted = path.Clean("/" + dir)
	}
	replies, err := s.Do(ctx, "CWD "+wanted, "PWD")
	if err != nil {
		return "", err
	}
	if !positive(replies[0]) {
		return "", b.whyNoDir(ctx, s, wanted, &wire.Refusal{Command: "CWD " + wanted, Reply: replies[0]})
	}
	if told, ok := quoted(replies[1]); ok && strings.HasPrefix(told, "/") {
		return trimSlash(told), nil
	}
	return trimSlash(wanted), nil
}

func trimSlash(dir string) string {
	if trimmed := strings.TrimRight(dir, "/"); trimmed != "" {
		return trimmed
	}
	return "/"
}

// checkSent refuses a working directory that cannot be sent.
func checkSent(dir string) error {
	if strings.ContainsAny(dir, "\r\n\x00") {
		return refuse(syscall.EINVAL, "working directory %q cannot be sent", dir)
	}
	return nil
}

// quoted returns the directory in a reply to PWD: between the first quote and the last, quotes in it doubled (RFC 959).
func quoted(r wire.Reply) (string, bool) {
	if r.Code != 257 || len(r.Lines) == 0 {
		return "", false
	}
	_, rest, ok := strings.Cut(r.Lines[0], `"`)
	var name strings.Builder
	for ok {
		i := strings.IndexByte(rest, '"')
		if i < 0 {
			return "", false
		}
		name.WriteString(rest[:i])
		if rest = rest[i+1:]; !strings.HasPrefix(rest, `"`) {
			return name.String(), true
		}
		name.WriteByte('"')
		rest = rest[1:]
	}
	return "", false
}

// whyNoDir tells what is wrong with a working directory that CWD refuses.
func (b *Backend) whyNoDir(ctx context.Context, s *wire.Session, dir string, err error) error {
	e := &backends.Error{Op: "connect", Code: syscall.ENOENT, Cause: backends.CauseWorkingDir, Err: fmt.Errorf("working directory %q: %w", dir, err),
		Hint: fmt.Sprintf("the login starts in %q; name a directory that it sees as workingDir", s.Home())}
	commands := []string{"SIZE " + dir}
	if s.Features().MLST {
		commands = append(commands, "MLST "+dir)
	}
	replies, asked := s.Do(ctx, commands...)
	if asked != nil {
		return unanswered(asked)
	}
	switch {
	case positive(replies[0]):
		e.Code, e.Cause, e.Hint = syscall.ENOTDIR, backends.CauseWorkingDirFile, "it is a file; name its directory as workingDir"
	case len(replies) > 1 && positive(replies[1]), b.showsDir(ctx, s, dir):
		e.Code, e.Cause, e.Hint = syscall.EACCES, backends.CauseWorkingDirPerm, "it is there, but this login may not enter it"
	}
	return e
}

// showsDir reports whether a server without MLST lists a directory under that path.
func (b *Backend) showsDir(ctx context.Context, s *wire.Session, dir string) (found bool) {
	pattern := patternOf(dir)
	if s.Features().MLST || pattern == "" {
		return false
	}
	_, err := b.linesAt(ctx, s, pattern, func(e listing.Entry) { found = found || e.Name == base(dir) && e.IsDir() })
	return found && err == nil
}

// step tells whoever listens.
func (b *Backend) step(name string, began time.Time, detail string, err error) {
	if b.o.Step != nil {
		b.o.Step(Step{Name: name, Took: time.Since(began), Detail: detail, Err: err})
	}
}

// Probe logs in anew, tells Options.Step of each step, and returns what keeps the connection from working. The sessions in use
// are left alone.
func (b *Backend) Probe(ctx context.Context) error {
	ctx, loosen := b.bind(ctx)
	defer loosen()
	login := b.o.Login
	login.Step = func(s wire.Step) {
		if b.o.Step != nil {
			b.o.Step(Step{Name: s.Name, Took: s.Took, Detail: s.Detail, Err: s.Err})
		}
	}
	s, err := wire.Dial(ctx, login)
	if err != nil {
		return b.seam("connect", "", err)
	}
	defer s.Close()
	began := time.Now()
	root, err := b.resolve(ctx, s)
	if err != nil {
		err = b.seam("connect", "", err)
		b.step("workingDir", began, "", err)
		return err
	}
	b.know(s.Features())
	b.settleRoot(root)
	b.step("workingDir", began, root, nil)
	if err := b.probePassive(ctx, s); err != nil {
		return err
	}
	if err := b.probeList(ctx, s); err != nil {
		return err
	}
	b.probeTrips(ctx, s)
	return nil
}

// probeTrips measures what one question costs. A server that goes away now has shown that the connection works all the same.
func (b *Backend) probeTrips(ctx context.Context, s *wire.Session) {
	began := time.Now()
	trips := backends.MeasureTrips(ctx, func(ctx context.Context) error {
		_, err := s.Do(ctx, "NOOP") // any reply will do
		return err
	})
	if b.o.Step != nil && len(trips) > 0 {
		b.o.Step(Step{Name: "roundTrip", Took: time.Since(began), Trips: trips})
	}
}

func (b *Backend) settleRoot(root string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.root == "" {
		b.root = root
	}
}

// probePassive opens a data connection as the next transfer will need one.
func (b *Backend) probePassive(ctx context.Context, s *wire.Session) error {
	began := time.Now()
	channel, err := s.Passive(ctx)
	if err != nil {
		err = b.seam("connect", "", err)
		b.step("passive", began, "", err)
		return err
	}
	if b.o.Step != nil {
		step := Step{Name: "passive", Took: time.Since(began), Detail: passiveDetail(channel)}
		step.Passive, step.Used = told(channel.Told), told(channel.Used)
		b.o.Step(step)
	}
	return nil
}

func passiveDetail(c wire.Channel) string {
	if host, port, ok := strings.Cut(c.Told, ":"); ok && host == "" {
		return c.Command + " port " + port
	}
	if c.Told == "" {
		return c.Command + " " + c.Used
	}
	return c.Command + " " + c.Told
}

// told reads host:port as a server tells it; the host may be missing.
func told(address string) netip.AddrPort {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return ap
	}
	i := strings.LastIndexByte(address, ':')
	var port uint16
	if _, err := fmt.Sscan(address[i+1:], &port); err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.Addr{}, port)
}

// probeList has the working directory listed: "data" is the data connection doing its work, "list" what comes of it.
func (b *Backend) probeList(ctx context.Context, s *wire.Session) error {
	began := time.Now()
	t, err := b.openList(ctx, s, "")
	if err == nil {
		b.step("data", began, "", nil)
		began = time.Now()
		n := 0
		for _, failed := range b.reading(t, t.down).Entries() {
			if err = failed; err == nil {
				n++
			}
		}
		if err == nil {
			err = b.endList(ctx, t)
		}
		if err == nil {
			b.step("list", began, plural(n, "entry", "entries"), nil)
			return nil
		}
		t.down.Cancel()
	}
	name := "data"
	if _, ok := errors.AsType[*coded](err); ok || t != nil {
		name = "list"
		if t == nil {
			b.step("data", began, "", nil)
		}
	}
	e := b.seam("list", "", err)
	if failure, ok := errors.AsType[*backends.Error](e); ok && failure.Code == syscall.EACCES {
		failure.Cause = backends.CauseListPermission
		failure.Hint = "let the login read the working directory, or name another one as workingDir"
	}
	b.step(name, began, "", e)
	return e
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}
