package dial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"pierfs/backends"
	"pierfs/conncfg"
)

// Tries says what Try does beyond logging in and listing. The zero value is nothing: no byte of the server changes.
//
// What is tried is tried on names of our own in the working directory, which are removed again, if need be over a connection of its
// own; what may be left all the same is told by the last step.
type Tries struct {
	Write      bool // a file is made as an upload makes it, replaced, read and removed; what fails fails the test
	Privileges bool // each thing that a login may be allowed is tried alone; what is refused is told, and fails nothing
}

// May says whether a login is allowed something.
type May string

const (
	Yes     May = "yes"
	No      May = "no"
	Unknown May = "unknown" // it could not be tried
)

// usualTempName is the pattern of temporary names of definitions that name none.
const usualTempName = ".NAME.pierfs-XXXX"

// try does what is wanted with b, which has just been found to work.
func (t Tries) try(ctx context.Context, b backends.Backend, target conncfg.Target, root string, report func(Step)) error {
	r := newTrial(b, target, report)
	defer r.clear(ctx)
	if t.Write {
		if err := r.write(ctx); err != nil {
			return err
		}
	}
	if t.Privileges {
		return r.privileges(ctx, root)
	}
	return nil
}

// trial is one run of Tries.
type trial struct {
	b      backends.Backend
	t      conncfg.Target
	report func(Step)
	random string
	mine   map[string]bool // names that may be at the server because of us; true is a directory
}

func newTrial(b backends.Backend, t conncfg.Target, report func(Step)) *trial {
	return &trial{b: b, t: t, report: report, random: fmt.Sprintf("%08x", rand.Uint32()), mine: map[string]bool{}}
}

// name returns a name of ours, and takes the blame for it.
func (r *trial) name(suffix string) string {
	name := "pierfs-probe-" + r.random + suffix + ".tmp"
	r.mine[name] = false
	return name
}

// tempName returns the temporary name of an upload to name; "" where the definition wants none.
func (r *trial) tempName(name string) string {
	pattern := cmp.Or(r.t.TempName, usualTempName)
	if pattern == "none" {
		return ""
	}
	temp := strings.NewReplacer("NAME", name, "XXXX", r.random).Replace(pattern)
	r.mine[temp] = false
	return temp
}

// step does f, tells of it, and returns its error with a cause.
func (r *trial) step(name string, f func() (detail string, err error)) error {
	began := time.Now()
	detail, err := f()
	err = explainChange(err)
	r.report(Step{Name: name, Took: time.Since(began), Detail: detail, Err: err})
	return err
}

// write makes a file as an upload does, and another one in its place. Its steps are create, write, rename, replace, verify, remove.
func (r *trial) write(ctx context.Context) error {
	name := r.name("")
	first, second := r.content("first"), r.content("second")
	if cause, err := r.upload(ctx, name, r.tempName(name), first); err != nil {
		return r.whyNoUpload(ctx, name, cause, err)
	}
	err := r.step("replace", func() (string, error) { return "", r.put(ctx, name, r.tempName(name), second) })
	if err == nil {
		err = r.step("verify", func() (string, error) { return r.same(ctx, name, second) })
	}
	if err == nil {
		err = r.step("remove", func() (string, error) { return "", r.b.Remove(ctx, name) })
	}
	if err == nil {
		delete(r.mine, name)
	}
	return err
}

// content returns some bytes that nobody else has written.
func (r *trial) content(what string) []byte {
	return bytes.Repeat([]byte("pierfs probe "+r.random+" "+what+"\n"), 100)
}

// upload is the first upload, step by step. An error comes with the cause that it has if another way works.
func (r *trial) upload(ctx context.Context, name, temp string, content []byte) (backends.Cause, error) {
	var w backends.Writer
	err := r.step("create", func() (detail string, err error) {
		w, err = r.b.Create(ctx, name, backends.WriteMode{TempName: temp, Perm: 0o600, Size: int64(len(content))})
		return cmp.Or(temp, name), err
	})
	if err != nil {
		return backends.CauseTempName, err
	}
	err = r.step("write", func() (string, error) {
		_, err := w.WriteAt(ctx, content, 0)
		if err == nil {
			err = w.Sync(ctx)
		}
		return plural(len(content)), err
	})
	if err != nil {
		return backends.CauseTempName, errors.Join(err, w.Abort())
	}
	return backends.CauseRename, r.step("rename", func() (string, error) {
		_, err := w.Commit(ctx, backends.Commit{Size: int64(len(content))})
		if err == nil {
			delete(r.mine, temp)
		}
		return name, err
	})
}

func plural(bytes int) string { return fmt.Sprint(bytes, " bytes") }

// put uploads content to name in one go; without temp straight to the name.
func (r *trial) put(ctx context.Context, name, temp string, content []byte) error {
	w, err := r.b.Create(ctx, name, backends.WriteMode{TempName: temp, Perm: 0o600, Size: int64(len(content))})
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(ctx, content, 0); err != nil {
		return errors.Join(err, w.Abort())
	}
	_, err = w.Commit(ctx, backends.Commit{Size: int64(len(content))})
	if err == nil {
		delete(r.mine, temp)
	}
	return err
}

// same reads name and compares.
func (r *trial) same(ctx context.Context, name string, want []byte) (detail string, err error) {
	f, err := r.b.Open(ctx, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(ctx, got, 0); err != nil {
		return "", err
	}
	if !bytes.Equal(got, want) {
		return "", &backends.Error{Op: "verify", Name: name, Code: syscall.EIO, Cause: backends.CauseMismatch, Err: errors.New("what was read is not what was written"),
			Hint: "have the server's operator look at what changes files on their way or on the disk"}
	}
	return plural(len(got)) + ", as they were written", nil
}

// otherTempNames are patterns that may work where a server refuses the one in use: many refuse names that begin with a dot. The
// last one works without renaming.
var otherTempNames = [...]string{"NAME.pierfs-XXXX", "none"}

// whyNoUpload finds out whether it was the temporary name, or its renaming, that the server refused: then another way works.
func (r *trial) whyNoUpload(ctx context.Context, name string, cause backends.Cause, err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || r.t.TempName == "none" || e.Class != backends.Final || !slices.Contains([]backends.Cause{backends.CauseWritePermission, backends.CauseWriteFailed}, e.Cause) {
		return err
	}
	for _, pattern := range otherTempNames {
		other := *r
		other.t.TempName = pattern
		if other.put(ctx, name, other.tempName(name), r.content("other")) != nil {
			continue
		}
		told := *e
		told.Cause = cause
		told.Hint = fmt.Sprintf("the server takes files, but refuses the temporary name or its renaming: set tempName = %q, with which it works here, or have its operator allow it", pattern)
		if pattern == "none" {
			told.Hint += "; with none of them, readers on the server see files grow"
		}
		r.report(Step{Name: "otherwise", Detail: "with tempName = " + pattern + " it works", Err: &told})
		return &told
	}
	return err
}

// explainChange gives what a server says of a change a cause and a way out.
func explainChange(err error) error {
	e, ok := errors.AsType[*backends.Error](err)
	if !ok || e.Cause != "" && e.Cause != backends.CauseTempName && e.Cause != backends.CauseRename { // these two say what it may be
		return err
	}
	told := *e
	switch e.Code {
	case syscall.EACCES, syscall.EPERM:
		told.Cause, told.Hint = backends.CauseWritePermission, "have the login allowed to write into the working directory, or set readOnly = true if it shall not"
	case syscall.EROFS:
		told.Cause, told.Hint = backends.CauseServerReadOnly, "the server's file system, or the login, is read-only: ask its operator, or set readOnly = true"
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		told.Cause, told.Hint = backends.CauseServerFull, "the server's disk or the login's quota is full: have room made there"
	default:
		if e.Class != backends.Final {
			return err
		}
		told.Cause = backends.CauseWriteFailed
		told.Hint = "the server does not say why; most often its disk or the login's quota is full: have its operator look there, and in its log"
	}
	return &told
}

// privileges tries each privilege alone. Its error is of a connection that broke; what is refused is none.
func (r *trial) privileges(ctx context.Context, root string) error {
	dir, file, moved := r.name("-dir"), r.name("-file"), r.name("-moved")
	r.mine[dir] = true
	content := r.content("file")
	a := asking{report: r.report, granted: map[string]bool{}}
	some := ""
	a.try("list", true, func() (err error) { some, err = r.someFile(ctx); return err })
	a.try("mkdir", true, func() error { return r.b.Mkdir(ctx, dir, 0o700) })
	a.try("rmdir", a.granted["mkdir"], func() error { return r.b.Rmdir(ctx, dir) })
	a.try("create", true, func() error { return r.put(ctx, file, "", content) })
	made := a.granted["create"]
	a.try("read", made || some != "", func() error {
		if !made {
			return r.readOne(ctx, some)
		}
		_, err := r.same(ctx, file, content)
		return err
	})
	a.try("append", made, func() error { return r.append(ctx, file, int64(len(content))) })
	a.try("overwrite", made, func() error { return r.put(ctx, file, "", r.content("over")) })
	a.try("chmod", made, func() error { return r.set(ctx, file, backends.Attr{Perm: new(os.FileMode(0o640))}) })
	a.try("utimes", made, func() error { return r.set(ctx, file, backends.Attr{ModTime: new(time.Unix(1_000_000_000, 0))}) })
	a.try("rename", made, func() error { return r.b.Rename(ctx, file, moved, backends.NoReplace) })
	a.try("delete", made, func() error {
		if a.granted["rename"] {
			return r.b.Remove(ctx, moved)
		}
		return r.b.Remove(ctx, file)
	})
	if a.err != nil {
		return a.err
	}
	if a.granted["rmdir"] {
		delete(r.mine, dir)
	}
	if a.granted["delete"] {
		delete(r.mine, file)
		delete(r.mine, moved)
	}
	r.advise(a.granted, root)
	return nil
}

// asking is what is known of the privileges so far.
type asking struct {
	report  func(Step)
	granted map[string]bool
	err     error // of a connection that broke: nothing is asked after it
}

// try tries one privilege and tells of it. possible is false if what it takes could not be made.
func (a *asking) try(name string, possible bool, try func() error) {
	if a.err != nil {
		return
	}
	step := Step{Name: "privilege", Privilege: name, May: Unknown}
	if !possible {
		step.Detail = "not tried: what it takes is not there and could not be made"
		a.report(step)
		return
	}
	began := time.Now()
	err := try()
	step.Took = time.Since(began)
	switch e, _ := errors.AsType[*backends.Error](err); {
	case err == nil:
		step.May = Yes
	case e == nil || e.Class != backends.Final:
		step.Err = explainChange(err)
		a.err = step.Err
	case slices.Contains([]syscall.Errno{syscall.ENOSPC, syscall.EDQUOT}, e.Code):
		step.Detail = "not known: " + e.Error()
	case e.Code == syscall.EOPNOTSUPP:
		step.May, step.Detail = No, "the server has no command for it"
	default:
		step.May, step.Detail = No, e.Error()
	}
	a.granted[name] = step.May == Yes
	a.report(step)
}

// advise tells what the login may do beyond what the definition needs, and what it may not that it does. root is what the server
// calls the working directory.
func (r *trial) advise(granted map[string]bool, root string) {
	changes := slices.DeleteFunc(slices.Sorted(maps.Keys(granted)), func(name string) bool { return !granted[name] || name == "list" || name == "read" })
	var warnings []string
	detail := "as the definition needs them"
	switch {
	case r.t.ReadOnly && len(changes) > 0:
		detail = "more than the definition needs"
		warnings = append(warnings, "the definition is readOnly, and the login may "+strings.Join(changes, ", ")+": ask for one that may only list and read")
	case !r.t.ReadOnly && !(granted["create"] && granted["rename"] && granted["delete"]):
		detail = "less than a connection that is written to needs"
		warnings = append(warnings, "uploads need create, rename and delete: have the login allowed them, or set readOnly = true")
	}
	if root == "/" {
		warnings = append(warnings, `workingDir is "/", all that the login sees: name the directory that is needed, so that nothing else can be reached`)
	}
	r.report(Step{Name: "privileges", Detail: detail, Warning: strings.Join(warnings, "; ")})
}

// someFile lists the working directory and returns a file of it; "" if there is none.
func (r *trial) someFile(ctx context.Context) (name string, err error) {
	for info, failure := range r.b.List(ctx, "") {
		if failure != nil {
			return "", failure
		}
		if name == "" && info.Mode.IsRegular() && info.Size > 0 {
			name = info.Name
		}
	}
	return name, nil
}

// readOne reads the first byte of name.
func (r *trial) readOne(ctx context.Context, name string) error {
	f, err := r.b.Open(ctx, name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(ctx, make([]byte, 1), 0)
	return err
}

// set changes attributes of name.
func (r *trial) set(ctx context.Context, name string, attr backends.Attr) error {
	_, err := r.b.SetAttr(ctx, name, attr)
	return err
}

// append adds a line to name, which has that size.
func (r *trial) append(ctx context.Context, name string, size int64) error {
	w, err := r.b.Update(ctx, name)
	if err != nil {
		return err
	}
	line := []byte("one more\n")
	if _, err := w.WriteAt(ctx, line, size); err != nil {
		return errors.Join(err, w.Abort())
	}
	_, err = w.Commit(ctx, backends.Commit{Size: size + int64(len(line))})
	return err
}

// clear removes what may be left of us, and tells what is left all the same. It goes on where the caller has given up: nobody else
// knows of these names.
func (r *trial) clear(ctx context.Context) {
	if len(r.mine) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.t.ConnectTimeout+r.t.SocketTimeout)
	defer cancel()
	began := time.Now()
	var left []string
	for _, name := range slices.Sorted(maps.Keys(r.mine)) {
		if !r.gone(ctx, name) {
			left = append(left, name)
		}
	}
	step := Step{Name: "clear", Took: time.Since(began), Left: left}
	if len(left) > 0 {
		step.Warning = "may be left in the working directory: " + strings.Join(left, ", ") + "; look, and remove them by hand"
	}
	r.report(step)
}

// gone removes name and reports whether it is known to be absent then.
func (r *trial) gone(ctx context.Context, name string) bool {
	var err error
	if r.mine[name] {
		err = r.b.Rmdir(ctx, name)
	} else {
		err = r.b.Remove(ctx, name)
	}
	if err == nil || backends.Errno(err) == syscall.ENOENT {
		return true
	}
	_, err = r.b.Stat(ctx, name)
	return backends.Errno(err) == syscall.ENOENT
}
