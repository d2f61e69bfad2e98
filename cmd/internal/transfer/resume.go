package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"time"

	"pierfs/cmd/internal/control"
)

// segment is how much of a file is put at a time where it is to go on: what a cut costs at the most.
const segment = 16 << 20

// gathering is the modification time of a part that is still to grow: whoever else writes to it gives it another, though it be in the second in which
// the last segment came, and servers tell times to the second.
var gathering = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// PutFile sends a local file that is open as Put does. Where the server can be sent the end of a file alone it gathers there under a name of its own
// beside the file's, segment by segment, and what is cut goes on the next time: behind what o.Done remembers as arrived, or all that is there if
// it is the beginning of this very file. The name comes last, all at once. sent counts what is sent now; it may be nil.
func PutFile(ctx context.Context, o Options, q control.PutRequest, file *os.File, sent func(io.Reader, int64) io.Reader) (control.File, error) {
	plan, err := control.PutPlan.Call(ctx, o.Client, q)
	if err != nil {
		return control.File{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return control.File{}, err
	}
	if !plan.Extends || !info.Mode().IsRegular() {
		return putWhole(ctx, o, q, plan, file, sent)
	}
	p := &parted{o: o, file: file, info: info, to: q, part: q.FileRequest}
	p.to.Path = plan.Path
	p.part.Path = control.Name(path.Join(path.Dir(string(plan.Path)), partOf(string(plan.Path), control.Version{Size: info.Size(), Time: info.ModTime()})))
	p.mode = uint32(info.Mode().Perm())
	if plan.Replaces != nil {
		if mode, err := strconv.ParseUint(plan.Replaces.Mode, 8, 32); err == nil {
			p.mode = uint32(mode)
		}
	}
	return p.put(ctx, sent)
}

// putWhole sends a file in one piece.
func putWhole(ctx context.Context, o Options, q control.PutRequest, plan control.Done, file *os.File, sent func(io.Reader, int64) io.Reader) (control.File, error) {
	f, err := Put(ctx, o.Client, q, file, sent)
	if err != nil || o.Verify == VerifyOff {
		return f, err
	}
	q.Path = plan.Path
	return f, Compare(ctx, o.Client, q.FileRequest, file, o.Verify)
}

// parted is a file that is put in segments.
type parted struct {
	o    Options
	file *os.File
	info os.FileInfo
	to   control.PutRequest
	part control.FileRequest
	mode uint32
}

func (p *parted) put(ctx context.Context, sent func(io.Reader, int64) io.Reader) (control.File, error) {
	at, err := p.arrived(ctx)
	if err != nil {
		return control.File{}, err
	}
	size := p.info.Size()
	var source io.Reader = io.NewSectionReader(p.file, at, size-at)
	if sent != nil {
		source = sent(source, size-at)
	}
	for empty := size == 0; empty || at < size; empty = false { // an empty file has a segment too
		if at, err = p.send(ctx, source, at); err != nil {
			return control.File{}, p.refused(ctx, err)
		}
	}
	if err := p.finish(ctx); err != nil {
		return control.File{}, p.refused(ctx, err)
	}
	return control.Stat.Call(ctx, p.o.Client, p.to.FileRequest)
}

// send brings the segment from at on to the end of the part, and returns where that ends then.
func (p *parted) send(ctx context.Context, source io.Reader, at int64) (int64, error) {
	n := min(segment-at%segment, p.info.Size()-at)
	q := control.PutRequest{FileRequest: p.part, Mode: p.mode, Size: &n, At: at}
	if at+n < p.info.Size() {
		q.Time = &gathering
	}
	f, err := control.Put.Call(ctx, p.o.Client, q, io.LimitReader(source, n))
	if err != nil {
		return at, err
	}
	at += n
	if f.Size != at {
		return at, control.Errorf(control.Failed, "the server has %d bytes of %q, and %d were sent", f.Size, p.part.Path, at).WithHint("somebody writes to it: remove it, and try again")
	}
	err = p.o.Done.add(p.key(at, control.Version{}), string(p.part.Path))
	if q.Time != nil {
		err = errors.Join(err, p.o.Done.add(p.key(at, f.Version()), string(p.part.Path)))
	}
	return at, errors.Join(err, p.o.Done.sync())
}

// key is that so many bytes of this version of the file have arrived, and made the part what it is.
func (p *parted) key(at int64, now control.Version) string {
	return fmt.Sprintf("part %d %d %s", at, now.Time.UnixNano(), p.part.Path)
}

// arrived returns how much of the file the server has: what cannot be believed is removed.
func (p *parted) arrived(ctx context.Context) (int64, error) {
	f, err := control.Stat.Call(ctx, p.o.Client, p.part)
	if control.CodeOf(err) == control.NotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if f.Type == "file" && f.Size <= p.info.Size() {
		same, err := p.isOurs(ctx, f)
		if same || err != nil {
			return f.Size, err
		}
	}
	return 0, p.remove(ctx)
}

// isOurs reports whether the part is the beginning of the file: as it was left, or as far as it is not known to have arrived by what the server has.
func (p *parted) isOurs(ctx context.Context, f control.File) (bool, error) {
	if !f.Time.IsZero() && p.o.Done.has(p.key(f.Size, f.Version())) {
		return true, nil
	}
	known := f.Size / segment * segment
	if known == f.Size || known == 0 || !p.o.Done.has(p.key(known, control.Version{})) {
		err := Compare(ctx, p.o.Client, p.part, io.NewSectionReader(p.file, 0, f.Size), VerifyHash)
		if control.CodeOf(err) == control.Failed {
			return false, nil
		}
		return err == nil, err
	}
	return p.sameEnd(ctx, f, known)
}

// sameEnd compares what the part has from known on.
func (p *parted) sameEnd(ctx context.Context, f control.File, known int64) (bool, error) {
	was := f.Version()
	got, body, err := control.Get.Call(ctx, p.o.Client, control.GetRequest{FileRequest: p.part, Offset: known, Was: &was})
	if err != nil {
		return false, err
	}
	defer body.Close()
	theirs, ours := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := got.Offset; ; {
		n, err := io.ReadFull(body, theirs)
		if _, ourErr := p.file.ReadAt(ours[:n], at); ourErr != nil && ourErr != io.EOF {
			return false, ourErr
		}
		if string(theirs[:n]) != string(ours[:n]) {
			return false, nil
		}
		at += int64(n)
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return at == f.Size, nil
		case err != nil:
			return false, err
		}
	}
}

// finish gives the part the file's name, if it is the file.
func (p *parted) finish(ctx context.Context) error {
	now, err := p.file.Stat()
	if err == nil && (now.Size() != p.info.Size() || !now.ModTime().Equal(p.info.ModTime())) {
		err = changed(p.file.Name())
	}
	if err == nil && p.o.Verify != VerifyOff {
		err = Compare(ctx, p.o.Client, p.part, p.file, p.o.Verify)
	}
	if err != nil {
		if code := control.CodeOf(err); code == control.Failed || code == control.Cut {
			err = errors.Join(err, p.remove(ctx))
		}
		return err
	}
	_, err = control.Mv.Call(ctx, p.o.Client, control.MvRequest{FileRequest: p.part, To: p.to.Path, NoReplace: p.to.NoReplace})
	return err
}

// refused takes the part away where the server lets nothing be added or renamed: no next time would go on with it.
func (p *parted) refused(ctx context.Context, err error) error {
	e, ok := errors.AsType[*control.Error](err)
	if !ok || e.Code != control.PermissionDenied && e.Code != control.NotAllowed {
		return err
	}
	return errors.Join(e.WithHint("%s; without --resume it is put in one piece, as the definition says", e.Hint), p.remove(ctx))
}

func (p *parted) remove(ctx context.Context) error {
	for _, err := range control.Rm.Call(ctx, p.o.Client, control.RmRequest{FileRequest: p.part}) {
		if err != nil {
			return err
		}
	}
	return nil
}
