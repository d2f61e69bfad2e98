package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/transfer"
)

// transferred is what get prints as JSON.
type transferred struct {
	control.File
	Local string `json:"local"`
	Bytes int64  `json:"bytes"`
}

// moved is what get and put print as JSON of a whole directory.
type moved struct {
	Path  control.Name `json:"path"`
	Local string       `json:"local"`
	transfer.Totals
}

// treeFlags are the flags of get and put that are about whole directories.
type treeFlags struct {
	recursive, resume, noLinks, newOnly, dry bool
	workers                                  int
	state, format                            string
	verify                                   verifyFlag
}

// verifyFlag reads --verify, which without a value is hash.
type verifyFlag struct{ transfer.Verify }

func (v *verifyFlag) String() string { return string(v.Verify) }
func (v *verifyFlag) Type() string   { return "HOW" }

func (v *verifyFlag) Set(text string) error {
	switch how := transfer.Verify(text); how {
	case transfer.VerifyHash, transfer.VerifyReadback:
		v.Verify = how
	case "off", "size":
		v.Verify = transfer.VerifyOff
	default:
		return errors.New("there are off, size, hash and readback")
	}
	return nil
}

func (f *treeFlags) add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.BoolVarP(&f.recursive, "recursive", "r", false, "a directory and all below it; what is done already is left alone")
	set.Var(&f.verify, "verify", "compare both sides: by hash, which the server computes, or all is read where it does not, or by readback; off and size do not")
	set.Lookup("verify").NoOptDefVal = string(transfer.VerifyHash)
	set.IntVarP(&f.workers, "jobs", "j", 4, "with -r: how many files at a time")
	set.BoolVar(&f.noLinks, "no-links", false, "with -r: leave symbolic links out")
	set.BoolVar(&f.dry, "dry-run", false, dryHelp)
	set.StringVar(&f.state, "state", "", "where it is remembered what is done; in the state directory of the user without it")
}

// ledger opens what remembers what was done.
func (h *hand) ledger(kind string, f treeFlags, remote control.FileRequest, local string) (*transfer.Ledger, error) {
	name := f.state
	if name == "" {
		local, err := filepath.Abs(local)
		if err != nil {
			return nil, err
		}
		name = transfer.LedgerName(h.dirs.State, kind, remote, local)
	}
	if _, err := os.Stat(name); f.dry && errors.Is(err, os.ErrNotExist) {
		return nil, nil // nothing is remembered, and a dry run makes no file
	}
	return transfer.OpenLedger(name)
}

func (h *hand) getCommand() *cobra.Command {
	var flags treeFlags
	var filters filterFlags
	cmd := &cobra.Command{Use: "get NAME:/path [LOCAL|-]", Short: "Copy a file or a directory of the server here; - writes it to standard output", Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := h.at(args[0])
			if err != nil {
				return err
			}
			filter, err := filters.read()
			if err != nil {
				return err
			}
			base := path.Base("/" + string(q.Path))
			local := base
			if len(args) == 2 {
				local = args[1]
			}
			c, done, err := h.served(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			o := transfer.Options{Client: c, Remote: q, Local: local, Verify: flags.verify.Verify, Workers: flags.workers, Filter: filter, First: filters.first,
				NewOnly: flags.newOnly, NoLinks: flags.noLinks, Mask: umask()}
			switch {
			case flags.format != "" && flags.dry:
				return usageError{errors.New("--output makes one value of all files that fit; `pierfs ls` with the same filter tells which they are")}
			case flags.format != "":
				return h.getPacked(cmd.Context(), o, flags, len(args) == 2)
			case flags.recursive || flags.newOnly || !filter.IsZero():
				if local == "/" || local == "-" {
					return usageError{errors.New("say into which directory: pierfs get -r NAME:/path LOCAL")}
				}
				return h.getTree(cmd.Context(), o, flags)
			case local == "/":
				return usageError{errors.New("a working directory is got with -r: pierfs get -r NAME:/ LOCAL")}
			}
			if len(args) == 2 {
				o.Local = localName(local, base)
			}
			if flags.dry {
				return h.wouldGet(cmd.Context(), o)
			}
			return h.getOne(cmd.Context(), o, flags)
		}}
	flags.add(cmd)
	filters.add(cmd)
	cmd.Flags().BoolVar(&flags.resume, "resume", false, "go on with what was cut, and keep what is cut for the next time")
	cmd.Flags().BoolVar(&flags.newOnly, "new-only", false, "only files that this command has not got before, here or elsewhere since: it remembers them")
	cmd.Flags().StringVarP(&flags.format, "output", "o", "", "raw, JSON_BASE64 or ZIP: all files that fit, as one value")
	return cmd
}

// wouldGet tells what getOne would do.
func (h *hand) wouldGet(ctx context.Context, o transfer.Options) error {
	f, err := control.Stat.Call(ctx, o.Client, o.Remote)
	switch {
	case err != nil:
		return err
	case f.Type == "directory":
		return control.Errorf(control.Usage, "%q is a directory", o.Remote.Path).WithHint("`pierfs get -r` brings all of it")
	}
	to := control.Name(o.Local)
	e := transfer.Effect{Do: "get", Path: o.Remote.Path, Type: "file", Size: f.Size, To: &to}
	if info, err := os.Stat(o.Local); err == nil && o.Local != "-" {
		e.Replaces = &control.File{Name: to, Type: "file", Size: info.Size(), Time: info.ModTime()}
	}
	p := h.plan()
	p.take(e)
	return p.end()
}

// getOne brings one file here.
func (h *hand) getOne(ctx context.Context, o transfer.Options, flags treeFlags) error {
	bar := func(r io.Reader, got control.Got) io.Reader {
		return h.progress(r, "get "+string(got.Name), got.Size-got.Offset)
	}
	if info, err := os.Stat(o.Local); (flags.resume || o.Verify != transfer.VerifyOff) && o.Local != "-" && (err != nil || info.Mode().IsRegular()) {
		if real, err := filepath.EvalSymlinks(o.Local); err == nil {
			o.Local = real // a link stays one
		}
		got, err := transfer.GetFile(ctx, o, bar)
		if err != nil {
			return h.cutOff(ctx, err, "what came is kept: the same command with --resume goes on with it")
		}
		return h.gotten(got.File, o.Local, got.Size-got.Offset)
	}
	got, body, err := control.Get.Call(ctx, o.Client, control.GetRequest{FileRequest: o.Remote})
	if err != nil {
		return err
	}
	defer body.Close()
	source := bar(body, got)
	if o.Local == "-" {
		_, err := io.Copy(h.out, source)
		return err
	}
	n, err := receive(o.Local, source)
	if err != nil {
		return h.cutOff(ctx, err, "nothing was changed here; with --resume what came is kept, and the next try goes on")
	}
	return h.gotten(got.File, o.Local, n)
}

func (h *hand) gotten(f control.File, local string, n int64) error {
	if h.asJSON {
		return h.json(transferred{f, local, n})
	}
	return nil
}

// cutOff adds to the end of an interrupted transfer what is done and how to go on.
func (h *hand) cutOff(ctx context.Context, err error, goOn string) error {
	if ctx.Err() == nil {
		return err
	}
	return control.Errorf(control.Cut, "interrupted").WithHint("%s", goOn)
}

func (h *hand) getTree(ctx context.Context, o transfer.Options, flags treeFlags) (err error) {
	if flags.newOnly {
		if o.Done, err = h.ledger("get", flags, o.Remote, o.Local); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.Done.Close()) }()
	}
	if flags.dry {
		return h.dryTree(ctx, "get", o, transfer.GetTree)
	}
	show, end := h.warming("get " + string(o.Remote.Path))
	o.Show = func(t transfer.Totals) { show(asWarming(t)) }
	totals, err := transfer.GetTree(ctx, o)
	end()
	return h.movedTree(ctx, o, totals, err)
}

// dryTree tells what a transfer of a whole directory would do.
func (h *hand) dryTree(ctx context.Context, do string, o transfer.Options, move func(context.Context, transfer.Options) (transfer.Totals, error)) error {
	p := h.plan()
	o.Would = p.take
	t, err := move(ctx, o)
	if err != nil {
		return err
	}
	for _, f := range t.Failures {
		p.take(transfer.Effect{Do: do, Path: f.Path, Error: f.Error})
	}
	return p.end()
}

// asWarming is t as the bar takes it.
func asWarming(t transfer.Totals) control.Warming {
	return control.Warming{FoundFiles: t.FoundFiles, FoundBytes: t.FoundBytes, Files: t.Files, Bytes: t.Bytes}
}

// movedTree tells what became of a whole directory.
func (h *hand) movedTree(ctx context.Context, o transfer.Options, t transfer.Totals, err error) error {
	if ctx.Err() != nil {
		err = h.cutOff(ctx, err, fmt.Sprintf("%s done, %s; the same command goes on with the rest", counted(t.Files, "1 file is", "files are"), inBytes(t.Bytes)))
	}
	if err != nil {
		return err
	}
	if h.asJSON {
		err = h.json(moved{o.Remote.Path, o.Local, t})
	} else {
		err = h.printMoved(t)
	}
	if err == nil && t.Failed > 0 {
		return silent{t.Failures[0].Error.Code}
	}
	return err
}

func (h *hand) printMoved(t transfer.Totals) error {
	parts := []string{counted(t.Files, "1 file", "files"), inBytes(t.Bytes), counted(t.Dirs, "1 directory", "directories")}
	if t.Links > 0 {
		parts = append(parts, counted(t.Links, "1 link", "links"))
	}
	if t.Here > 0 {
		parts = append(parts, strconv.Itoa(t.Here)+" done before")
	}
	if t.Verified > 0 {
		parts = append(parts, strconv.Itoa(t.Verified)+" verified")
	}
	h.tellFailures(t.Failures)
	if t.Failed > 0 {
		fmt.Fprintf(h.err, "pierfs: %s; the same command tries them again\n", counted(t.Failed, "1 has failed", "have failed"))
	}
	_, err := fmt.Fprintln(h.out, strings.Join(parts, ", "))
	return err
}

func (h *hand) putCommand() *cobra.Command {
	var q control.PutRequest
	var flags treeFlags
	cmd := &cobra.Command{Use: "put LOCAL|- NAME:/path", Short: "Copy a file or a directory to the server; - reads a file from standard input", Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return h.ofFile(cmd.Context(), args[1], &q.FileRequest, func(c *control.Client) error {
				if !flags.recursive {
					return h.putOne(cmd.Context(), c, q, args[0], flags)
				}
				if q.NoReplace {
					return usageError{errors.New("--no-clobber is for one file, and -r for a directory")}
				}
				o := transfer.Options{Client: c, Remote: q.FileRequest, Local: args[0], Verify: flags.verify.Verify, Workers: flags.workers, NoLinks: flags.noLinks}
				return h.putTree(cmd.Context(), o, flags)
			})
		}}
	flags.add(cmd)
	cmd.Flags().BoolVarP(&q.NoReplace, "no-clobber", "n", false, "fail if the name exists")
	cmd.Flags().BoolVar(&flags.resume, "resume", false, "go on with what was cut, and keep what is cut for the next time; -r does so by whole files")
	return cmd
}

func (h *hand) putOne(ctx context.Context, c *control.Client, q control.PutRequest, local string, flags treeFlags) error {
	if local == "-" {
		if flags.dry {
			return h.wouldPut(ctx, c, q, 0)
		}
		if flags.resume {
			return usageError{errors.New("what standard input had cannot be sent again: put a file with --resume")}
		}
		if flags.verify.Verify != transfer.VerifyOff {
			return usageError{errors.New("what standard input had cannot be read again: put a file, and --verify it")}
		}
		f, err := control.Put.Call(ctx, c, q, h.progress(h.in, "put standard input", -1))
		if err != nil {
			return h.cutOff(ctx, err, "nothing was changed at the server")
		}
		return h.putDone(f)
	}
	file, err := os.Open(local)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return usageError{fmt.Errorf("%s is a directory; -r puts directories", local)}
	}
	size := info.Size()
	q.Into = control.Name(filepath.Base(local))
	if flags.dry {
		return h.wouldPut(ctx, c, q, size)
	}
	bar := func(r io.Reader, size int64) io.Reader { return h.progress(r, "put "+local, size) }
	if flags.resume {
		return h.putOn(ctx, c, q, file, flags, bar)
	}
	f, err := transfer.Put(ctx, c, q, file, bar)
	if err != nil {
		return h.cutOff(ctx, err, "the server has what it had before, unless the file had just got its name; with --resume what came is kept there, and the next try goes on")
	}
	if how := flags.verify.Verify; how != transfer.VerifyOff {
		at := q.FileRequest
		if path.Base("/"+string(at.Path)) != string(f.Name) { // it went into a directory
			at.Path += control.Name("/" + f.Name)
		}
		if err := transfer.Compare(ctx, c, at, file, how); err != nil {
			return err
		}
	}
	return h.putDone(f)
}

// putOn puts a file that goes on where it was cut.
func (h *hand) putOn(ctx context.Context, c *control.Client, q control.PutRequest, file *os.File, flags treeFlags, bar func(io.Reader, int64) io.Reader) (err error) {
	o := transfer.Options{Client: c, Remote: q.FileRequest, Local: file.Name(), Verify: flags.verify.Verify}
	if o.Done, err = h.ledger("put", flags, o.Remote, o.Local); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Done.Close()) }()
	f, err := transfer.PutFile(ctx, o, q, file, bar)
	if err != nil {
		return h.cutOff(ctx, err, "what came is kept beside the name at the server: the same command with --resume goes on with it")
	}
	return h.putDone(f)
}

// wouldPut tells what putOne would do.
func (h *hand) wouldPut(ctx context.Context, c *control.Client, q control.PutRequest, size int64) error {
	d, err := control.PutPlan.Call(ctx, c, q)
	if err != nil {
		return err
	}
	p := h.plan()
	p.take(transfer.Effect{Do: "put", Path: d.Path, Type: "file", Size: size, Replaces: d.Replaces})
	return p.end()
}

func (h *hand) putDone(f control.File) error {
	if h.asJSON {
		return h.json(f)
	}
	return nil
}

func (h *hand) putTree(ctx context.Context, o transfer.Options, flags treeFlags) (err error) {
	if info, err := os.Stat(o.Local); err != nil {
		return err
	} else if !info.IsDir() {
		return usageError{fmt.Errorf("%s is no directory; without -r files are put", o.Local)}
	}
	if o.Done, err = h.ledger("put", flags, o.Remote, o.Local); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Done.Close()) }()
	if flags.dry {
		return h.dryTree(ctx, "put", o, transfer.PutTree)
	}
	show, end := h.warming("put " + o.Local)
	o.Show = func(t transfer.Totals) { show(asWarming(t)) }
	totals, err := transfer.PutTree(ctx, o)
	end()
	return h.movedTree(ctx, o, totals, err)
}
