package ftp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"pierfs/backends"
	"pierfs/backends/ftp/listing"
	"pierfs/backends/ftp/wire"
)

// Stat describes name without following a link, as far as the server tells links. One round trip, where FEAT offers MLST or
// the server filters what it lists (vsftpd); two, where something looks like a link, and up to three where a busy directory is listed for
// it, a few times a minute.
func (b *Backend) Stat(ctx context.Context, name string) (info backends.Info, err error) {
	for trusted := true; trusted; {
		trusted = !b.patterns() || !b.distrusted(name)
		err = b.use(ctx, "stat", name, again, func(ctx context.Context, s *wire.Session) (err error) {
			info, err = b.stat(ctx, s, name)
			return err
		})
		if err == nil || !isBroken(err) || !b.patterns() || !b.distrusted(name) {
			break
		}
	}
	return info, err
}

// stat is Stat in one session, with errors as they are. That name is absent is ENOENT.
func (b *Backend) stat(ctx context.Context, s *wire.Session, name string) (backends.Info, error) {
	f := s.Features()
	if err := keeps(f, name); err != nil {
		return backends.Info{}, err // so that who asks before he makes it learns it then
	}
	if f.MLST {
		info, err := b.ask(ctx, s, b.question(f, name))
		if err != nil && !isBroken(err) && !utf8.ValidString(name) {
			err = cmp.Or(b.bears(ctx, s, name), err)
		}
		return info, err
	}
	if info, err, ok := b.fromFace(ctx, s, name, false); ok {
		return info, err
	}
	if name != "" && b.faces.worthListing(parent(name)) {
		if err := b.look(ctx, s, parent(name)); isBroken(err) {
			return backends.Info{}, err
		}
		if info, err, ok := b.fromFace(ctx, s, name, true); ok {
			return info, err
		}
	}
	if b.known().echo == untried {
		if err := b.tryEcho(ctx, s); err != nil {
			return backends.Info{}, err
		}
	}
	return b.ask(ctx, s, b.question(f, name))
}

// fromFace answers from what a listing has shown and SIZE, MDTM and CWD tell, if they agree; else ok is false. A listing that is fresh
// is enough for a directory, of which those tell nothing if it may not be entered.
func (b *Backend) fromFace(ctx context.Context, s *wire.Session, name string, fresh bool) (info backends.Info, err error, ok bool) {
	face, known := b.faces.get(name)
	if !known && !b.faces.missing(name) || known && face.Mode.Type()&^os.ModeDir != 0 {
		return info, nil, false
	}
	if fresh && known && face.IsDir() {
		return face, nil, true
	}
	info, err = b.ask(ctx, s, b.light(name))
	return b.agreed(name, info, err)
}

// agreed joins what SIZE, MDTM and CWD tell of name with what a listing has shown, if they agree; else ok is false.
func (b *Backend) agreed(name string, info backends.Info, err error) (_ backends.Info, _ error, ok bool) {
	face, known := b.faces.get(name)
	if !known && !b.faces.missing(name) {
		return info, nil, false
	}
	switch {
	case err == nil && known && info.Mode.Type() == face.Mode.Type():
		return b.withFace(info, face), nil, true
	case err != nil && (!known || isBroken(err)):
		return info, err, true
	}
	b.faces.doubt(name) // it is not what it was
	return info, nil, false
}

// askable returns the question by which stat would ask for name first; false where that must not have company, or takes more.
func (b *Backend) askable(s *wire.Session, name string) (question, bool) {
	f := s.Features()
	if f.MLST {
		return b.question(f, name), keeps(f, name) == nil
	}
	face, known := b.faces.get(name)
	return b.light(name), b.faces.missing(name) || known && face.Mode.Type()&^os.ModeDir == 0
}

// answered is what stat makes of the replies to what askable has returned; false if it must be asked.
func (b *Backend) answered(ctx context.Context, s *wire.Session, q question, replies []wire.Reply) (info backends.Info, err error, ok bool) {
	if info, err = b.answer(ctx, s, q, replies); q.mlst {
		return info, err, true
	}
	return b.agreed(q.name, info, err)
}

// look lists dir to remember what it shows.
func (b *Backend) look(ctx context.Context, s *wire.Session, dir string) error {
	n, begun := 0, b.faces.begin()
	list, err := b.linesAt(ctx, s, b.path(dir), func(e listing.Entry) {
		if n++; n <= listKept && e.Known.Has(backends.HasType) {
			b.info(join(dir, e.Name), e, begun.at)
		}
	})
	switch {
	case err != nil:
		return err
	case n > listKept:
		b.faces.tooLong(dir)
		return nil
	}
	if _, there := list.Self(); there || n > 0 { // of nothing it is not known whether there is a directory
		b.faces.complete(dir, begun)
	}
	return nil
}

// ask asks q.
func (b *Backend) ask(ctx context.Context, s *wire.Session, q question) (backends.Info, error) {
	replies, err := s.Do(ctx, q.commands...)
	if err != nil && q.nonce != "" && isBroken(err) && ctx.Err() == nil {
		b.distrust(q.name) // it may be for forged replies that the session broke
	}
	if err != nil {
		return backends.Info{}, err
	}
	return b.answer(ctx, s, q, replies)
}

// withFace adds to what SIZE, MDTM and CWD tell what a listing has shown.
func (b *Backend) withFace(info, face backends.Info) backends.Info {
	if !info.Mode.IsRegular() {
		return face
	}
	face.Size, face.ModTime, face.TimeUnit = info.Size, info.ModTime, info.TimeUnit
	face.Known = face.Known&^(backends.HasSize|backends.HasModTime) | info.Known
	return face
}

// question is what is sent to learn of one name; it may travel behind other commands, and nothing travels behind it.
type question struct {
	name     string
	path     string
	commands []string
	mlst     bool
	nonce    string    // that the reply but one must repeat; "" if STAT is not asked
	light    bool      // no more is asked, and links are followed
	asked    time.Time // or later
}

// base is the name as a listing has it.
func (q question) base() string {
	if q.name == "" {
		return base(q.path)
	}
	return base(q.name)
}

// light asks for what SIZE, MDTM and CWD tell.
func (b *Backend) light(name string) question {
	p := b.path(name)
	return question{name: name, path: p, light: true, asked: time.Now(), commands: []string{"SIZE " + p, "MDTM " + p, "CWD " + p, "CWD " + b.Root()}}
}

// question asks by MLST where there is one. Other servers tell a file by SIZE and MDTM, a directory by CWD, and vsftpd shows
// what bears the name itself by a STAT of a pattern that lists just that.
//
// A reply to STAT is made of lines as the server lists them, and a line feed in a name ends a line: who can make a file can
// forge the end of the reply, and replies to what follows (seen on vsftpd 3.0.3). So a number that nobody can foresee is sent
// behind it, and nothing of the session is believed unless it comes back: REST repeats it, and is then taken back. A name with a
// line end of its own is not asked for in this way.
func (b *Backend) question(f wire.Features, name string) question {
	p := b.path(name)
	if f.MLST {
		q := question{name: name, path: p, mlst: true, asked: time.Now(), commands: []string{"MLST " + p}}
		if !slices.Contains(f.Facts, "size") {
			q.commands = append(q.commands, "SIZE "+p)
		}
		return q
	}
	q := b.light(name)
	q.light = false
	if pattern := patternOf(p); pattern != "" && !hasLineEnd(name) && !b.distrusted(name) {
		q.nonce = unforeseen()
		q.commands = append(q.commands, "STAT -a "+pattern, "REST "+q.nonce, "REST 0")
	}
	return q
}

// distrust has STAT not asked any more in the directory of name.
func (b *Backend) distrust(name string) { b.distrustDir(parent(name)) }

func (b *Backend) distrustDir(dir string) {
	b.learn(func(l *learned) { note(&l.forged, dir) })
}

func (b *Backend) distrusted(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.learned.echo != echoes || b.learned.forged[parent(name)]
}

// tryEcho learns whether REST repeats the number that it is told.
func (b *Backend) tryEcho(ctx context.Context, s *wire.Session) error {
	replies, err := s.Do(ctx, echoTrial...)
	if err == nil {
		b.learnEcho(replies[0])
	}
	return err
}

const echoNumber = "918273645"

var echoTrial = []string{"REST " + echoNumber, "REST 0"}

// learnEcho learns from the first reply to echoTrial.
func (b *Backend) learnEcho(r wire.Reply) {
	b.learn(func(l *learned) {
		if l.echo = silent; repeats(r, echoNumber) {
			l.echo = echoes
		}
	})
}

func repeats(r wire.Reply, number string) bool {
	return r.Code == 350 && strings.Contains(strings.Join(r.Lines, " "), number)
}

// patternOf returns a pattern that makes vsftpd list the one entry that bears p, rather than what is in it; "" if there is
// none. It knows "*", "?" and "{a,b}".
func patternOf(p string) string {
	i := strings.LastIndexByte(p, '/')
	dir, name := p[:i+1], p[i+1:]
	switch {
	case name == "", strings.ContainsAny(dir, "*?{"):
		return ""
	case !strings.ContainsAny(name, "*?{},"):
		return dir + "{" + name + "}"
	}
	return dir + strings.Map(func(r rune) rune {
		if strings.ContainsRune("*?{},", r) {
			return '?'
		}
		return r
	}, name)
}

// answer reads the replies to q, and asks on where they leave open what bears the name.
func (b *Backend) answer(ctx context.Context, s *wire.Session, q question, replies []wire.Reply) (backends.Info, error) {
	if q.mlst {
		return b.answerFacts(ctx, s, q, replies)
	}
	size, mtime, dir := replies[0], replies[1], replies[2]
	var listed []wire.Reply
	if q.nonce != "" {
		if listed = replies[4:5]; !repeats(replies[5], q.nonce) {
			s.Close()
			b.distrust(q.name)
			b.o.Logger.Warn("a name in a directory forges replies of the server", "server", b.o.Address, "name", q.name)
			return backends.Info{}, errOutOfStep("stat", q.name)
		}
	}
	info, ok := b.fromPattern(q, listed)
	if ok {
		return refine(info, size, mtime), nil
	}
	there := size.Code == 213 || positive(dir)
	switch {
	case q.name == "" && positive(dir):
		return backends.Info{Mode: os.ModeDir, Known: backends.HasType}, nil
	case q.name == "":
		return info, b.absent(q, dir)
	case !there && (q.light || q.nonce != "" && b.known().pattern):
		return info, b.absent(q, size)
	case q.light && positive(dir):
		return backends.Info{Name: base(q.name), Mode: os.ModeDir, Known: backends.HasType}, nil
	case q.light:
		return refine(backends.Info{Name: base(q.name), Known: backends.HasType}, size, mtime), nil
	}
	// Here are links, which vsftpd filters by what they lead to, and whatever servers do not tell otherwise.
	return b.fromParent(ctx, s, q, size, mtime, dir)
}

func errOutOfStep(op, name string) error {
	return &backends.Error{Op: op, Name: name, Code: syscall.EIO, Class: backends.Transient, Err: errors.New("the server's replies are out of step")}
}

func (b *Backend) absent(q question, said wire.Reply) error {
	return as(syscall.ENOENT, &wire.Refusal{Command: q.commands[0], Reply: said})
}

// fromPattern finds the name in a reply to STAT.
func (b *Backend) fromPattern(q question, replies []wire.Reply) (backends.Info, bool) {
	for _, r := range replies {
		if !positive(r) || r.Cut {
			continue
		}
		for e, err := range listing.Status(r.Lines, b.lines()).Entries() {
			if err != nil {
				break
			}
			if e.Name != q.base() {
				continue
			}
			if !b.known().pattern {
				b.learn(func(l *learned) { l.pattern = true })
			}
			return b.info(q.name, e, q.asked), true
		}
	}
	return backends.Info{}, false
}

// fromParent looks the name up in the listing of its directory: alone, where the server lists by patterns.
func (b *Backend) fromParent(ctx context.Context, s *wire.Session, q question, size, mtime, dir wire.Reply) (info backends.Info, err error) {
	var e listing.Entry
	if pattern := patternOf(q.path); q.nonce == "" && pattern != "" && b.known().pattern {
		_, err = b.linesAt(ctx, s, pattern, func(other listing.Entry) {
			if other.Name == q.base() {
				e = other
			}
		})
	}
	if err == nil && !e.Known.Has(backends.HasType) {
		e, err = b.find(ctx, s, q.name)
	}
	switch {
	case err != nil && isBroken(err):
		return backends.Info{}, err
	case err == nil && e.Known.Has(backends.HasType):
		return refine(b.info(q.name, e, q.asked), size, mtime), nil
	case positive(dir):
		return backends.Info{Name: base(q.name), Mode: os.ModeDir, Known: backends.HasType}, nil
	case size.Code == 213:
		return refine(backends.Info{Name: base(q.name), Known: backends.HasType}, size, mtime), nil
	}
	return backends.Info{}, b.absent(q, size)
}

// find returns the entry of name in the listing of its directory; ENOENT if there is none.
func (b *Backend) find(ctx context.Context, s *wire.Session, name string) (found listing.Entry, err error) {
	ok := false
	err = b.lines1(ctx, s, parent(name), func(e listing.Entry) {
		if !ok && e.Name == base(name) {
			found, ok = e, true
		}
	})
	if err == nil && !ok {
		err = refuse(syscall.ENOENT, "it is not listed")
	}
	return found, err
}

// answerFacts reads what MLST says.
func (b *Backend) answerFacts(ctx context.Context, s *wire.Session, q question, replies []wire.Reply) (backends.Info, error) {
	r := replies[0]
	if !positive(r) {
		if m := meaningOf(r); !m.vague {
			return backends.Info{}, granted(q.commands[0], r)
		}
		return backends.Info{}, b.absent(q, r)
	}
	e, err := listing.One(r.Lines)
	if err != nil {
		return backends.Info{}, err
	}
	if !b.sameName(e.Name, q.path) {
		if err := b.confirm(ctx, s, q, e.Name); err != nil {
			return backends.Info{}, err
		}
	}
	if len(replies) > 1 {
		e.Info = refine(e.Info, replies[1], wire.Reply{})
	}
	if doubtful(e) {
		if e, err = b.settleLink(ctx, s, q, e); err != nil {
			return backends.Info{}, err
		}
	}
	return b.info(q.name, e, q.asked), nil
}

// sameName reports whether a reply to MLST repeats the name that it was asked for, or none. Another may be the answer to another
// question: replies have no numbers in FTP.
func (b *Backend) sameName(told, p string) bool {
	asked := strings.ReplaceAll(base(p), "\xff\xff", "\xff")
	return told == "" || told == asked || told == base(p) || asked == "" || b.known().odd
}

// confirm asks again, between two that only PWD answers so, after a reply that tells another name: some servers may just
// spell it their way.
func (b *Backend) confirm(ctx context.Context, s *wire.Session, q question, told string) error {
	replies, err := s.Do(ctx, "PWD", q.commands[0], "PWD")
	if err != nil {
		return err
	}
	if replies[0].Code == 257 && replies[2].Code == 257 && replies[1].Code == 250 {
		if e, err := listing.One(replies[1].Lines); err == nil && e.Name == told {
			b.learn(func(l *learned) { l.odd = true })
			return nil
		}
	}
	s.Close()
	return &backends.Error{Op: "stat", Name: q.name, Code: syscall.EIO, Class: backends.Transient, Err: fmt.Errorf("the server's replies are out of step: it was asked for %q and tells of %q", q.path, told)}
}

// doubtful reports whether e may be a link that passes for what it leads to: proftpd (1.3.8) tells of a link the type and identity
// of what it leads to, with the mode and the rights of a file of its own.
func doubtful(e listing.Entry) bool {
	switch {
	case !e.Known.Has(backends.HasType):
		return true
	case !e.HasRights || !e.Known.Has(backends.HasPerm) || e.Mode.Perm() != 0o777:
		return false
	}
	return e.Mode.IsRegular() || e.IsDir() && !strings.ContainsAny(e.Rights, "celm")
}

// settleLink asks a server that has told the doubtful e what bears the name: LIST shows links. A file is listed alone, by its own
// path; of anything else a LIST shows what is in it, so that its directory is listed.
func (b *Backend) settleLink(ctx context.Context, s *wire.Session, q question, e listing.Entry) (listing.Entry, error) {
	var found listing.Entry
	var err error
	if e.Known.Has(backends.HasType) && e.Mode.IsRegular() {
		found, err = b.listAlone(ctx, s, q.path)
		found.Name = base(q.name)
	} else {
		found, err = b.find(ctx, s, q.name)
	}
	switch {
	case err != nil && isBroken(err):
		return e, err
	case err == nil && found.Known.Has(backends.HasType):
		return b.asLink(q.name, e, found), nil
	}
	return special(e), nil
}

// listAlone returns what LIST shows of a path that is no directory: one line, with the path or its last element for a name.
func (b *Backend) listAlone(ctx context.Context, s *wire.Session, p string) (listing.Entry, error) {
	down, err := s.List(ctx, b.listCommand(p))
	if err != nil {
		return listing.Entry{}, err
	}
	defer s.Warm()
	raw, err := io.ReadAll(io.LimitReader(down, 64<<10))
	if err == nil {
		_, err = down.End(ctx)
	}
	if err != nil || ctx.Err() != nil {
		down.Cancel()
		return listing.Entry{}, cmp.Or(context.Cause(ctx), err)
	}
	lines := append(append([]string{""}, strings.Split(strings.ReplaceAll(string(raw), "\r", ""), "\n")...), "")
	list := listing.Status(lines, b.lines())
	for e, err := range list.Entries() {
		if err == nil && e.Name == base(p) {
			return e, nil
		}
	}
	if self, ok := list.Self(); ok && !self.IsDir() {
		return self, nil
	}
	return listing.Entry{}, nil
}

// asLink is e with the type that a LIST shows of it.
func (b *Backend) asLink(name string, e, found listing.Entry) listing.Entry {
	if found.Mode.Type() == e.Mode.Type() && e.Known.Has(backends.HasType) {
		return e
	}
	e.Mode = e.Mode&^os.ModeType | found.Mode.Type()
	e.Known |= backends.HasType
	e.Target = found.Target
	if found.Mode&os.ModeSymlink != 0 {
		e.ID, e.Known = "", e.Known&^backends.HasID // it was the other file's
		e.Size, e.Known = int64(len(found.Target)), e.Known|backends.HasSize
	}
	return e
}

// special is e, of which no server would say what it is: neither file, directory nor link.
func special(e listing.Entry) listing.Entry {
	if !e.Known.Has(backends.HasType) {
		e.Mode |= os.ModeIrregular
		e.Known |= backends.HasType
	}
	return e
}

// info is e for the other side of the seam.
func (b *Backend) info(name string, e listing.Entry, then time.Time) backends.Info {
	i := e.Info
	i.Name = base(name)
	i.TimeUnit = 0
	if i.Known.Has(backends.HasModTime) && e.TimeUnit > time.Second {
		i.TimeUnit = e.TimeUnit
	}
	b.remember(name, i, e, then)
	return i
}

// refine puts what SIZE and MDTM say of a regular file into i.
func refine(i backends.Info, size, mtime wire.Reply) backends.Info {
	if !i.Mode.IsRegular() {
		return i
	}
	if n, ok := sizeOf(size); ok {
		i.Size, i.Known = n, i.Known|backends.HasSize
	}
	if t, ok := timeOf(mtime); ok {
		i.ModTime, i.TimeUnit, i.Known = t, 0, i.Known|backends.HasModTime
	}
	return i
}

// sizeOf reads a reply to SIZE.
func sizeOf(r wire.Reply) (int64, bool) {
	if r.Code != 213 || len(r.Lines) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(r.Lines[len(r.Lines)-1]), 10, 64)
	return n, err == nil && n >= 0
}

// timeOf reads a reply to MDTM.
func timeOf(r wire.Reply) (time.Time, bool) {
	if r.Code != 213 || len(r.Lines) == 0 {
		return time.Time{}, false
	}
	return listing.ParseTime(strings.TrimSpace(r.Lines[len(r.Lines)-1]))
}

// lines are the options for reading LIST and STAT.
func (b *Backend) lines() listing.Options {
	b.mu.Lock()
	defer b.mu.Unlock()
	return listing.Options{Now: time.Now(), Zone: b.learned.zone, CRLF: b.offered.LineEnds}
}
