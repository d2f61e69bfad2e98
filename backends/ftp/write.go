package ftp

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"pierfs/backends"
	"pierfs/backends/ftp/wire"
	"pierfs/backends/pool"
)

// heldBack is how much of a content stays here until it is begun to be sent, so that a small one leaves in one flight with all
// that proves it complete.
const heldBack = 256 << 10

// shortContent is the size up to which sending a content is taken for a question: it is over as soon.
const shortContent = 64 << 10

// writer is content on its way: by STOR to a temporary name, or by APPE to the end of a file.
type writer struct {
	b      *Backend
	name   string
	temp   string // where it is gathered; "" if that is name itself
	perm   os.FileMode
	update bool // the name itself is added to

	turn chan struct{} // holds one token: whoever has it may touch what follows
	size int64         // where the next write must begin
	kept []byte        // of it, not sent yet
	safe int64         // for so much the server has answered
	made bool          // there may be something under the temporary name
	held *lease        // of the transfer; nil if there is none
	up   *wire.Upload
	sum  *sum // of all that was sent; nil where the size must do

	// sent is all that was sent, as long as it is little: a session that turns out to be dead then costs nothing but another.
	sent     []byte
	replayed bool // it was sent a second time, or is too much to be

	trace   maphash.Hash // of all that was sent in the clear, for want of a sum; who cannot see the seed cannot forge it
	unheard bool         // it may be somebody else whom the server has listened to
	fail    error
	end     bool // Commit or Abort was called

	// Of a content that leaves as a whole, in one flight: it is a short use of a session, and what bears the name that it may replace
	// is asked for behind it.
	whole   bool
	before  bool // it is wanted
	asked   question
	replies []wire.Reply // to asked; nil if it was not
}

// Create sends nothing yet but, with Exclusive, the question whether name is free: the content is begun to be sent when there is
// more of it than leaves in one flight, or at Commit.
func (b *Backend) Create(ctx context.Context, name string, mode backends.WriteMode) (backends.Writer, error) {
	names := []string{name}
	if mode.TempName != "" {
		names = append(names, mode.TempName)
	}
	if err := b.check(ctx, "create", names...); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, seam("create", name, refuse(syscall.EISDIR, "it is the working directory"))
	}
	if mode.TempName == name {
		mode.TempName = ""
	}
	f, err := b.features(ctx)
	if err == nil {
		err = cmp.Or(keeps(f, name), keeps(f, mode.TempName))
	}
	if err != nil {
		return nil, b.seam("create", name, unanswered(err))
	}
	if err := b.readable(ctx, name); err != nil {
		return nil, unanswered(err)
	}
	if mode.Exclusive {
		if err := b.free(ctx, name); err != nil {
			return nil, unanswered(err)
		}
	}
	w := &writer{b: b, name: name, temp: mode.TempName, perm: mode.Perm, turn: make(chan struct{}, 1), sum: newSum(f, b.o.Verify)}
	w.turn <- struct{}{}
	return w, nil
}

// features returns what the server offers, after a login if it is not known yet.
func (b *Backend) features(ctx context.Context) (f wire.Features, err error) {
	b.mu.Lock()
	f, known := b.offered, b.root != ""
	b.mu.Unlock()
	if known {
		return f, nil
	}
	err = b.use(ctx, "connect", "", again, func(_ context.Context, s *wire.Session) error {
		f = s.Features()
		return nil
	})
	return f, err
}

// readable returns EINVAL if the server makes another name of one that is not UTF-8 (pyftpdlib), as what it says about it shows.
func (b *Backend) readable(ctx context.Context, name string) error {
	if utf8.ValidString(name) || b.known().anyBytes {
		return nil
	}
	return b.use(ctx, "create", name, again, func(ctx context.Context, s *wire.Session) error { return b.bears(ctx, s, name) })
}

// bears is readable in one session.
func (b *Backend) bears(ctx context.Context, s *wire.Session, name string) error {
	if utf8.ValidString(name) || b.known().anyBytes {
		return nil
	}
	replies, err := s.Do(ctx, "SIZE "+b.path(parent(name))+"/\xfe") // nobody's name, and no Telnet either
	if err != nil {
		return err
	}
	if strings.Contains(said(replies[0]), "\uFFFD") || replies[0].Code == 501 {
		return refuse(syscall.EINVAL, "the server bears no names but in UTF-8")
	}
	b.learn(func(l *learned) { l.anyBytes = true })
	return nil
}

// free returns EEXIST if anything bears name.
func (b *Backend) free(ctx context.Context, name string) error {
	_, err := b.Stat(ctx, name)
	switch {
	case err == nil:
		return seam("create", name, refuse(syscall.EEXIST, "it is there already"))
	case backends.Errno(err) == syscall.ENOENT:
		return nil
	}
	return seam("create", name, err)
}

// Update opens an existing file to add to its end; any other offset is EOPNOTSUPP.
func (b *Backend) Update(ctx context.Context, name string) (backends.Writer, error) {
	w := &writer{b: b, name: name, update: true, turn: make(chan struct{}, 1)}
	err := b.use(ctx, "update", name, again, func(ctx context.Context, s *wire.Session) error {
		info, err := b.stat(ctx, s, name)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return refuse(syscall.EISDIR, "it is a directory")
		case !info.Mode.IsRegular():
			return refuse(syscall.ENXIO, "it is %v, no file", info.Mode.Type())
		case !info.Known.Has(backends.HasSize):
			return refuse(syscall.EOPNOTSUPP, "the server does not tell its size")
		}
		w.size, w.safe = info.Size, info.Size
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.turn <- struct{}{}
	return w, nil
}

// place is the name that the bytes are written to.
func (w *writer) place() string {
	if w.temp != "" {
		return w.temp
	}
	return w.name
}

// begin takes the turn for one call. The func that it returns gives it back.
func (w *writer) begin(ctx context.Context, op string) (context.Context, func(), error) {
	if err := w.b.check(ctx, op, w.name); err != nil {
		return ctx, nil, err
	}
	ctx, loosen := w.b.bind(ctx)
	select {
	case <-w.turn:
	case <-ctx.Done():
		loosen()
		return ctx, nil, w.b.seam(op, w.name, context.Cause(ctx))
	}
	giveBack := func() {
		w.turn <- struct{}{}
		loosen()
	}
	if w.end {
		giveBack()
		return ctx, nil, seam(op, w.name, refuse(syscall.EBADF, "%w", os.ErrClosed))
	}
	return ctx, giveBack, nil
}

// told dresses err of a call that leaves what the name holds untouched: no answer then means that nothing happened.
func (w *writer) told(op string, err error) error {
	e := w.b.seam(op, w.name, err)
	if failure, ok := e.(*backends.Error); ok && w.temp != "" && failure.Class == backends.Lost {
		again := *failure
		again.Class = backends.Transient
		return &again
	}
	return e
}

// failed keeps the first error that the content has met.
func (w *writer) failed(err error) error {
	if w.fail == nil {
		w.fail = err
	}
	return w.fail
}

// WriteAt takes p if it goes on where the last one ended.
func (w *writer) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	ctx, giveBack, err := w.begin(ctx, "writeat")
	if err != nil {
		return 0, err
	}
	defer giveBack()
	switch {
	case w.fail != nil:
	case off != w.size && w.update:
		w.failed(refuse(syscall.EOPNOTSUPP, "FTP adds to the end, which is at %d, and not at %d", w.size, off))
	case off != w.size:
		w.failed(refuse(syscall.EINVAL, "FTP writes onward from %d, and not at %d", w.size, off))
	}
	n := 0
	for n < len(p) && w.fail == nil {
		k, err := w.write(ctx, p[n:])
		n += k
		if err != nil {
			w.failed(err)
		}
	}
	return n, w.told("writeat", w.fail)
}

// write keeps some of p, or sends it if the transfer is under way.
func (w *writer) write(ctx context.Context, p []byte) (int, error) {
	if w.up == nil && len(w.kept)+len(p) <= heldBack {
		w.kept = append(w.kept, p...)
		w.size += int64(len(p))
		return len(p), nil
	}
	if err := w.push(ctx, p); err != nil {
		return 0, err
	}
	w.size += int64(len(p))
	w.sent, w.replayed = nil, true
	return len(p), nil
}

// push sends what was kept and then p; a second time, if that breaks a session of which nothing was heard yet.
func (w *writer) push(ctx context.Context, p []byte) error {
	try := func() error {
		if err := w.ship(ctx); err != nil {
			return err
		}
		return w.send(ctx, p)
	}
	err := try()
	if w.again(ctx, err) {
		err = try()
	}
	return err
}

// again reports whether all that was sent is kept again, to be sent to another session after err. What has a temporary name
// may be sent twice; what adds to a file may not.
func (w *writer) again(ctx context.Context, err error) bool {
	if err == nil || w.replayed || w.update || w.safe > 0 || ctx.Err() != nil || !isBroken(err) || backends.CauseOf(err) == backends.CauseSilent {
		return false
	}
	w.release(err)
	w.replayed = true
	w.kept, w.sent = append(w.sent, w.kept...), nil // one of them is empty
	if w.sum != nil {
		w.sum.Reset()
	}
	w.trace.Reset()
	return true
}

// ship begins the transfer if need be, and sends what was kept.
func (w *writer) ship(ctx context.Context) error {
	if w.up == nil {
		if err := w.open(ctx); err != nil {
			return err
		}
	}
	kept := w.kept
	w.kept = nil
	if !w.replayed {
		w.sent = kept
	}
	return w.send(ctx, kept)
}

// open begins the transfer: what bears the temporary name is removed before, in the same write, so that it is made new, and no
// link that somebody has put there is followed; the size is asked for behind it.
func (w *writer) open(ctx context.Context) error {
	kind := pool.Content
	if w.whole {
		kind = pool.Meta
	}
	held, err := w.b.take(ctx, kind, once)
	if err != nil {
		return err
	}
	s, p := held.Session(), w.b.path(w.place())
	command := "APPE " + p
	switch {
	case w.update:
		s.Prepend("SIZE " + p)
	case w.safe == 0:
		command = "STOR " + p
		if w.temp != "" {
			s.Prepend("DELE " + p)
		}
	}
	behind := []string{"SIZE " + p}
	if ask := w.sum.question(p); ask != "" {
		behind = append(behind, ask)
	}
	w.asked, w.replies = question{}, nil
	if w.whole && w.before {
		if q, ok := w.b.askable(s, w.name); ok {
			w.asked = q
			behind = append(behind, q.commands...)
		}
	}
	w.made = true
	up, err := s.Store(ctx, command, behind...)
	if err != nil {
		w.b.giveBack(held, err)
		return w.whyNotTaken(ctx, err)
	}
	w.held, w.up = held, up
	return nil
}

// send sends p. Where the transfer breaks the server is asked why.
func (w *writer) send(ctx context.Context, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	w.sum.add(p)
	if w.sum == nil && w.b.o.TLS == nil && !w.update {
		w.trace.Write(p)
	}
	stop := context.AfterFunc(ctx, w.up.Cancel)
	_, err := w.up.Write(p)
	if !stop() {
		w.release(err)
		return context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	_, _, said := w.up.End(ctx)
	w.release(said)
	if refused, ok := errors.AsType[*wire.Refusal](said); ok {
		return w.whyNotTaken(ctx, refused)
	}
	return err
}

// release gives the session back, after err.
func (w *writer) release(err error) {
	if w.held == nil {
		return
	}
	held := w.held
	w.held, w.up = nil, nil
	if err == nil {
		held.Session().Warm()
	}
	w.b.giveBack(held, err)
}

// settle ends the transfer and believes it only if the server says that it was complete and has the size that was sent.
func (w *writer) settle(ctx context.Context) error {
	if w.fail != nil {
		return w.fail
	}
	if w.update && w.size == w.safe || !w.update && w.made && w.up == nil && len(w.kept) == 0 {
		return nil // an APPE of nothing breaks sessions of TLS on every server (measured), and would do nothing
	}
	try := func() error {
		if err := w.push(ctx, nil); err != nil {
			return err
		}
		return w.confirm(ctx)
	}
	err := try()
	if w.again(ctx, err) {
		err = try()
	}
	if err != nil {
		return w.failed(w.whyNotTaken(ctx, err))
	}
	w.safe = w.size
	w.b.learn(func(l *learned) { l.stores = true })
	return nil
}

// whyNotTaken says more of the refusal of a transfer: also that it may be one of the temporary name.
func (w *writer) whyNotTaken(ctx context.Context, refused error) error {
	why := w.whyRefused(ctx, refused)
	r, ok := errors.AsType[*wire.Refusal](refused)
	switch {
	case ok && r.Reply.Code == 500 && w.b.known().stores: // pure-ftpd, now and then: it knows the command, and has not heard it right
		return &coded{code: syscall.EIO, class: backends.Transient, err: fmt.Errorf("the server has not understood what it has understood before: %w", refused)}
	case ok && w.temp != "" && r.Reply.Code >= 500: // else it had begun
		return because(why, backends.CauseTempName)
	}
	return why
}

func (w *writer) whyRefused(ctx context.Context, refused error) error {
	if _, asked := errors.AsType[*coded](refused); asked || !vague(refused) {
		return refused
	}
	var why error
	err := w.b.use(ctx, "commit", w.name, again, func(ctx context.Context, s *wire.Session) error {
		why = w.b.why(ctx, s, w.place(), refused, syscall.EACCES, func(i backends.Info) syscall.Errno {
			if r, ok := errors.AsType[*wire.Refusal](refused); ok && r.Reply.Code < 500 {
				return meaningOf(r.Reply).code // it was begun and not finished: the disk may be full, which vsftpd says no better than by 451
			}
			return file(i)
		})
		return nil
	})
	if err != nil {
		return unanswered(err)
	}
	return why
}

func (w *writer) confirm(ctx context.Context) error {
	up := w.up
	_, answers, err := up.End(ctx)
	told := up.Before()
	if err != nil {
		w.release(err)
		return err
	}
	defer w.held.Session().Warm()
	if w.unheard = up.Unheard(); w.unheard && w.update {
		return &backends.Error{Code: syscall.EIO, Class: backends.Lost,
			Err: errors.New("the server has not listened to us: what is there now may be somebody else's")}
	}
	if w.update && len(told) > 0 {
		if n, ok := sizeOf(told[0]); ok && n != w.safe {
			return refuse(syscall.ESTALE, "somebody else has changed it: it had %d bytes and not %d", n, w.safe)
		}
	}
	if n := len(w.asked.commands); n > 0 && len(answers) > n {
		answers, w.replies = answers[:len(answers)-n], answers[len(answers)-n:]
	}
	if w.b.o.Verify == "off" {
		return nil
	}
	if len(answers) == 0 {
		return refuse(syscall.EIO, "the server does not tell the size of what was written")
	}
	size := answers[0]
	if unknown(size) { // there is no SIZE: what else tells it?
		info, err := w.b.stat(ctx, w.held.Session(), w.place())
		if err != nil {
			return err
		}
		if !info.Known.Has(backends.HasSize) || info.Size != w.size {
			return mismatch("the server has %d bytes of %d", info.Size, w.size)
		}
	} else if n, ok := sizeOf(size); !ok || n != w.size {
		return mismatch("the server says %q of the %d bytes written", said(size), w.size)
	}
	if len(answers) > 1 {
		return w.sum.compare(answers[1])
	}
	return nil
}

// Truncate is EOPNOTSUPP, but to the size that is.
func (w *writer) Truncate(ctx context.Context, size int64) error {
	_, giveBack, err := w.begin(ctx, "truncate")
	if err != nil {
		return err
	}
	defer giveBack()
	if size == w.size {
		return nil
	}
	return seam("truncate", w.name, refuse(syscall.EOPNOTSUPP, "FTP cannot change a size"))
}

// Sync ends the transfer, and has the server confirm it. What is written afterwards is added by APPE.
func (w *writer) Sync(ctx context.Context) error {
	ctx, giveBack, err := w.begin(ctx, "sync")
	if err != nil {
		return err
	}
	defer giveBack()
	if !w.made && len(w.kept) == 0 {
		return nil
	}
	err = w.settle(ctx)
	w.release(nil)
	return w.told("sync", err)
}

// Commit ends the transfer in one flight and, when that was complete, sets the attributes, renames and looks at the result in
// another.
func (w *writer) Commit(ctx context.Context, c backends.Commit) (backends.Info, error) {
	bound, giveBack, err := w.begin(ctx, "commit")
	if err != nil {
		return backends.Info{}, err
	}
	defer giveBack()
	w.end = true
	err = w.complete(bound, c)
	if err != nil {
		w.cleanUp(bound)
		return backends.Info{}, w.told("commit", err)
	}
	info, err := w.publish(bound, c)
	err = w.b.seam("commit", w.name, err)
	if err != nil && backends.ClassOf(err) != backends.Lost {
		w.cleanUp(bound)
		return backends.Info{}, err
	}
	w.release(nil)
	w.b.faces.forget(w.name)
	if err == nil {
		if w.temp != "" { // made by us, and not only written to
			w.b.learnOwner(info)
		}
		w.b.own(w.name, info)
	}
	return info, err
}

// complete makes sure that the server has all of the content.
func (w *writer) complete(ctx context.Context, c backends.Commit) error {
	if w.fail == nil && c.Size != w.size {
		return refuse(syscall.EIO, "%d bytes were written of %d", w.size, c.Size)
	}
	w.whole, w.before = !w.made && w.size <= shortContent, c.Before != nil && w.temp != ""
	if err := w.settle(ctx); err != nil {
		return err
	}
	if w.held == nil { // synced before, or nothing was to be sent
		held, err := w.b.take(ctx, pool.Content, once)
		if err != nil {
			return err
		}
		w.held = held
	}
	var err error
	switch {
	case w.update:
	case w.sum != nil && w.sum.command == "":
		err = w.readBack(ctx, sha256.New(), w.sum)
	case w.unheard && w.sum == nil:
		again := new(maphash.Hash)
		again.SetSeed(w.trace.Seed())
		err = w.readBack(ctx, again, &w.trace)
	}
	if err != nil || c.Before == nil || w.temp == "" {
		return err
	}
	info, err := w.there(ctx)
	if _, refused := errors.AsType[*coded](err); err != nil && !refused {
		return err
	}
	return c.Before(info, seam("stat", w.name, err))
}

// there returns what bears the name that the content is to replace.
func (w *writer) there(ctx context.Context) (info backends.Info, err error) {
	s, ok := w.held.Session(), false
	if w.replies != nil {
		info, err, ok = w.b.answered(ctx, s, w.asked, w.replies)
	}
	if !ok {
		info, err = w.b.stat(ctx, s, w.name)
	}
	return info, err
}

// publish sets the attributes, has the content take its name, and returns what the server then says of that. Its consent is not
// enough: the content must be seen under its name, and the temporary name be gone.
func (w *writer) publish(ctx context.Context, c backends.Commit) (backends.Info, error) {
	b, s := w.b, w.held.Session()
	attr := c.Attr
	if attr.Perm == nil && w.perm != 0 && !w.update {
		attr.Perm = &w.perm
	}
	sets, err := b.sets(s.Features(), w.place(), attr)
	if err != nil { // a time that FTP cannot tell
		attr.ModTime = nil
		sets, _ = b.sets(s.Features(), w.place(), attr)
	}
	commands := slices.Clone(sets)
	rename := len(commands)
	if w.temp != "" {
		commands = append(commands, "RNFR "+b.path(w.temp), "RNTO "+b.path(w.name), "SIZE "+b.path(w.temp))
	}
	q := b.question(s.Features(), w.name)
	face, known := b.faces.get(w.name)
	known = known && w.temp == ""
	if !q.mlst && (known || w.temp != "" && b.Caps().HasLogin) {
		q = b.light(w.name) // its mode and owner are known
	}
	look := len(commands)
	commands = append(commands, q.commands...)
	replies, err := s.Do(ctx, commands...)
	for i, r := range replies[:min(len(sets), len(replies))] {
		w.passOver(sets[i], r)
	}
	if w.temp != "" && len(replies) > rename+1 {
		refused := cmp.Or(granted(commands[rename], replies[rename]), granted(commands[rename+1], replies[rename+1]))
		if refused != nil && replies[rename].Code/100 == 3 {
			refused = b.replaceInSteps(ctx, s, w.temp, w.name, refused)
			if refused == nil { // look again
				var told []wire.Reply
				told, err = s.Do(ctx, commands[look-1:]...)
				replies = append(replies[:look-1:look-1], told...)
			}
		}
		if refused != nil {
			return backends.Info{}, w.whyNotRenamed(ctx, s, refused)
		}
	}
	if err != nil {
		return backends.Info{}, err
	}
	if w.temp != "" && positive(replies[look-1]) {
		return backends.Info{}, refuse(syscall.EIO, "the server says that it has renamed %q to %q, and it has not", w.temp, w.name)
	}
	info, err := b.answer(ctx, s, q, replies[look:])
	if err == nil && q.light {
		if known {
			info = b.withFace(info, face)
		}
		info = w.ours(info, attr, sets, replies)
	}
	switch {
	case err == nil && info.Size == c.Size && info.Mode.IsRegular():
		return info, nil
	case err != nil && backends.Errno(seam("", "", err)) == syscall.ENOENT && w.temp != "":
		// Who waited for the file on the server has taken it already.
		return taken(w.name, c), nil
	case err != nil:
		return backends.Info{}, lostAnswer(err)
	case b.o.Verify == "off" && info.Mode.IsRegular():
		return taken(w.name, c), nil
	}
	return backends.Info{}, &backends.Error{Code: syscall.EIO, Class: backends.Lost,
		Err: errors.New("the server has taken the content, and then does not show it with its size")}
}

// taken is all that is known of a content that the server has taken, and shows no more, or not as it was sent.
func taken(name string, c backends.Commit) backends.Info {
	return backends.Info{Name: base(name), Size: c.Size, Known: backends.HasType | backends.HasSize}
}

// ours adds what is known of a file that we have just written: the mode that the server has agreed to, and the owner of one that
// we have made.
func (w *writer) ours(info backends.Info, attr backends.Attr, sets []string, replies []wire.Reply) backends.Info {
	if w.temp != "" {
		caps := w.b.Caps()
		info.UID, info.GID = caps.UID, caps.GID
		info.Known |= backends.HasOwner
	}
	for i, command := range sets {
		if strings.HasPrefix(command, "SITE CHMOD") && positive(replies[i]) {
			info.Mode = info.Mode.Type() | *attr.Perm
			info.Known |= backends.HasPerm
		}
	}
	return info
}

// lostAnswer is the error of a question after the content has taken its name.
func lostAnswer(err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok {
		return err
	}
	lost := *e
	lost.Class = backends.Lost
	return &lost
}

// passOver notes what a server cannot set. The caller sees what it has.
func (w *writer) passOver(command string, r wire.Reply) {
	if !unknown(r) {
		return
	}
	w.b.learn(func(l *learned) {
		if strings.HasPrefix(command, "SITE CHMOD") {
			l.noPerm = true
		} else {
			l.noTimes = true
		}
	})
}

// whyNotRenamed says why a complete content could not take its name.
func (w *writer) whyNotRenamed(ctx context.Context, s *wire.Session, err error) error {
	if vague(err) {
		err = w.b.why(ctx, s, w.name, err, syscall.EACCES, file)
	}
	return because(err, backends.CauseRename)
}

// throwAway removes what was written under the temporary name, as far as the server listens, within the timeout.
func (w *writer) throwAway() {
	w.kept = nil
	ctx, cancel := context.WithTimeout(w.b.ctx, w.b.o.SocketTimeout)
	defer cancel()
	command := "DELE " + w.b.path(w.place())
	wanted := w.temp != "" && w.made
	if w.up != nil {
		w.up.Cancel()
		w.up = nil
	}
	if held := w.held; held != nil {
		w.held = nil
		if wanted && held.Session().Healthy() {
			// The server may still be writing: only in this session is it known to have ended.
			_, err := held.Session().Do(ctx, command)
			wanted = err != nil
			w.b.giveBack(held, err)
		} else {
			w.b.giveBack(held, nil)
		}
	}
	if wanted {
		// What is left over by a server that does not listen is found by its name.
		_ = w.b.use(ctx, "abort", w.temp, again, func(ctx context.Context, s *wire.Session) error {
			_, err := s.Do(ctx, command)
			return err
		})
	}
}

// cleanUp is throwAway for a caller who may not have the time for it: once his context has ended it goes on without him.
func (w *writer) cleanUp(ctx context.Context) {
	if ctx.Err() == nil {
		w.throwAway()
		return
	}
	w.b.background(func() {
		<-w.turn // when the caller has given it back
		w.throwAway()
		w.turn <- struct{}{}
	})
}

// Abort throws away what was written.
func (w *writer) Abort() error {
	_, giveBack, err := w.begin(context.Background(), "abort")
	if err != nil {
		return nil // ended already, or closed: nothing is held
	}
	defer giveBack()
	w.end = true
	w.throwAway()
	return nil
}

// TakeOver is not to be had: APPE behind what a server may still be taking in would put bytes at the wrong place.
func (w *writer) TakeOver(context.Context, int64, int64) error {
	return seam("takeover", w.name, refuse(syscall.EOPNOTSUPP, "the server copies no content"))
}

// Acknowledged is 0: a server answers for a content as a whole.
func (w *writer) Acknowledged() int64 { return 0 }
