package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"pierfs/cmd/internal/control"
	"pierfs/cmd/internal/terminal"
	"pierfs/conncfg"
	"pierfs/conncfg/archive"
	"pierfs/conncfg/foreign"
)

// packed is what export prints as JSON.
type packed struct {
	File         string               `json:"file"`
	Connections  []string             `json:"connections"`
	Dependencies []conncfg.Dependency `json:"dependencies"`
}

func (h *hand) exportCommand() *cobra.Command {
	var output string
	var replace bool
	var secret passphraseFlags
	cmd := &cobra.Command{Use: "export [NAME...]", Short: "Write definitions as a ZIP, without any secret; all of them without a NAME", Args: args(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			content, e, err := h.pack(cmd.Context(), args)
			if err != nil {
				return err
			}
			e.File = output
			passphrase, sealed, err := h.secret(secret.file, secret.ask, "passphrase")
			if err != nil {
				return err
			}
			if output == "" && sealed {
				e.File = archive.SealedName(time.Now())
			} else if output == "" {
				e.File = archive.FileName(time.Now(), e.Connections)
			}
			if sealed {
				if content, err = archive.Encrypt(content, conncfg.NewSecret(passphrase)); err != nil {
					return err
				}
			}
			if output == "-" {
				_, err := h.out.Write(content)
				return err
			}
			if err := writeExport(e.File, content, replace); err != nil {
				return err
			}
			return h.printPacked(e)
		}}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this file; - is standard output")
	cmd.Flags().BoolVar(&replace, "overwrite", false, "replace the file if it is there")
	secret.add(cmd, "encrypt the whole of it, names too, with a passphrase")
	return cmd
}

// pack returns connections as an archive, all of them without a name.
func (h *hand) pack(ctx context.Context, names []string) ([]byte, packed, error) {
	a, err := control.Export.Call(ctx, h.client(), control.ExportRequest{Names: names})
	if err != nil {
		return nil, packed{}, err
	}
	if len(a.Connections) == 0 {
		return nil, packed{}, control.Errorf(control.NotFound, "there is no connection to export").WithHint("`pierfs list` shows them")
	}
	p, e := archive.Package{Dependencies: a.Dependencies}, packed{Dependencies: a.Dependencies}
	for _, c := range a.Connections {
		p.Connections = append(p.Connections, archive.Connection{Name: c.Name, JSON: []byte(c.Definition)})
		e.Connections = append(e.Connections, c.Name)
	}
	var b bytes.Buffer
	err = archive.Write(&b, p)
	return b.Bytes(), e, err
}

// maxBackups is how many exports of one connection may lie in a directory, each of one day.
const maxBackups = 1000

// backup writes an export of a connection that is about to be deleted into the working directory, under a name that is free there.
func (h *hand) backup(ctx context.Context, name string) (file string, err error) {
	content, e, err := h.pack(ctx, []string{name})
	for i := 1; err == nil && i <= maxBackups; i++ {
		file = archive.FileName(time.Now(), e.Connections)
		if i > 1 {
			file = strings.TrimSuffix(file, ".zip") + "-" + strconv.Itoa(i) + ".zip"
		}
		if err = writeExport(file, content, false); control.CodeOf(err) != control.Exists {
			break
		}
		err = nil
	}
	if err != nil {
		e := *asControl(err)
		return "", e.WithHint("nothing was deleted, for the export that goes before could not be written: --no-backup deletes without one")
	}
	return file, nil
}

// passphraseFlags say where the passphrase of an archive comes from. It is never an argument.
type passphraseFlags struct {
	file string
	ask  bool
}

func (f *passphraseFlags) add(cmd *cobra.Command, what string) {
	cmd.Flags().StringVar(&f.file, "passphrase-file", "", what+": this file's first line; - reads it from standard input")
	cmd.Flags().BoolVar(&f.ask, "ask-passphrase", false, what+" that is asked for")
}

// writeExport writes beside the file and puts it in its place as a whole.
func writeExport(file string, content []byte, replace bool) error {
	if _, err := os.Lstat(file); err == nil && !replace {
		return control.Errorf(control.Exists, "%s is there already", file).WithHint("--output FILE takes another name, --overwrite replaces it")
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".pierfs-export-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // nothing to remove once it has its name
	_, err = temp.Write(content)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), file)
}

func (h *hand) printPacked(e packed) error {
	if h.asJSON {
		return h.json(e)
	}
	for _, d := range e.Dependencies {
		word := d.Kind
		if d.Secret {
			word = "secret " + d.Kind
		}
		if _, err := fmt.Fprintf(h.out, "needs %s %s, for %s\n", word, terminal.Quote(d.Name), terminal.Quote(strings.Join(d.UsedBy, ", "))); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(h.out, "%s in %s\n", count(len(e.Connections), "connection"), terminal.Quote(e.File))
	return err
}

func (h *hand) importCommand() *cobra.Command {
	var f changeFlags
	q := control.ImportRequest{}
	var mapped []string
	var secret passphraseFlags
	var other otherFlags
	cmd := &cobra.Command{Use: "import FILE|-", Short: "Take definitions over from an export, or from what another program keeps", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.ChangeOptions, q.MapEnv = f.options, map[string]string{}
			q.Keep = f.owed.keep
			for _, pair := range mapped {
				from, to, ok := strings.Cut(pair, "=")
				if !ok || from == "" || to == "" {
					return usageError{fmt.Errorf("--map-env %s is no OLD=NEW", pair)}
				}
				q.MapEnv[from] = to
			}
			list, notes, err := h.arriving(args[0], secret, other, q)
			if err != nil {
				return err
			}
			body, err := json.Marshal(list)
			if err != nil {
				return err
			}
			a, err := control.Import.Call(cmd.Context(), h.client(), q, bytes.NewReader(body))
			if err != nil {
				return err
			}
			a.Notes = append(a.Notes, notes...)
			return h.imported(a, f.options.DryRun)
		}}
	f.add(cmd)
	set := cmd.Flags()
	set.StringVar(&other.format, "from", "", "what another program keeps: "+strings.Join(foreign.Formats(), ", "))
	set.StringSliceVar(&other.only, "only", nil, "with --from: take only these over, by the names that they get here")
	h.completeFlag(cmd, "from", formats)
	set.BoolVar(&q.Overwrite, "overwrite", false, "replace connections that bear the same name")
	set.StringVar(&q.Rename, "rename", "", "give the imported connection this name")
	set.StringArrayVar(&mapped, "map-env", nil, "OLD=NEW: what is written for environment OLD is for NEW here; may be repeated")
	secret.add(cmd, "decrypt it with a passphrase")
	set.BoolVar(&q.ExcludeMissing, "exclude-missing", false, "leave out what needs an environment, variable or file that is not here, and tell it")
	return cmd
}

// otherFlags say that a file is another program's, and what of it is meant.
type otherFlags struct {
	format string
	only   []string
}

// arriving reads what is to be imported, and what there is to tell of it.
func (h *hand) arriving(name string, secret passphraseFlags, other otherFlags, q control.ImportRequest) (list []control.Imported, notes []string, err error) {
	if other.format != "" {
		return h.foreign(name, other)
	}
	p, err := h.archive(name, secret)
	for _, c := range p.Connections {
		list = append(list, control.Imported{Name: c.Name, Definition: control.Seal(string(c.Foreign.TOML)), Blanks: c.Foreign.Blanks})
	}
	return list, append(p.Notes, toTrust(p, q)...), err
}

// toTrust tells what was believed of servers where an export comes from, and how to believe it here. An export makes nobody trust anything.
func toTrust(p archive.Package, q control.ImportRequest) (notes []string) {
	for _, b := range p.Beliefs() {
		name, env := cmp.Or(q.Rename, b.Connection), cmp.Or(q.MapEnv[b.Environment], b.Environment)
		notes = append(notes, fmt.Sprintf("%s: where it comes from, the %s %s of %s was trusted: compare it with what the server's operator says, then `pierfs trust %s %s --env %s`",
			b.Connection, map[string]string{"hostKey": "host key", "certificate": "certificate"}[b.Kind], b.Fingerprint, b.Address, name, b.Fingerprint, env))
	}
	return notes
}

// foreign reads what another program keeps, with the caller's rights. Secrets travel apart, and are sealed before they are stored.
func (h *hand) foreign(name string, other otherFlags) (list []control.Imported, notes []string, err error) {
	if !slices.Contains(foreign.Formats(), other.format) {
		return nil, nil, usageError{fmt.Errorf("--from %q is none of %s", other.format, strings.Join(foreign.Formats(), ", "))}
	}
	text, err := h.foreignText(name)
	if err != nil {
		return nil, nil, err
	}
	all, notes, err := foreign.Read(other.format, text, callerName())
	if errors.Is(err, foreign.ErrRefused) {
		err = control.Errorf(control.BadData, "%s: %v", name, err).WithHint("nothing was imported; `pierfs import --help` says what can be read")
	}
	if err != nil {
		return nil, nil, err
	}
	for _, c := range all {
		if len(other.only) > 0 && !slices.Contains(other.only, c.Name) {
			continue
		}
		in := control.Imported{Name: c.Name, Definition: control.Seal(string(c.TOML)), Blanks: c.Blanks}
		for _, field := range slices.Sorted(maps.Keys(c.Secrets)) {
			in.Set = append(in.Set, control.Setting{Field: field, Secret: control.Seal(c.Secrets[field].Reveal())})
			notes = append(notes, fmt.Sprintf("%s: its %s was taken over, and is stored encrypted", c.Name, field))
		}
		list, notes = append(list, in), append(notes, c.Notes...)
	}
	if len(list) == 0 {
		return nil, nil, control.Errorf(control.NotFound, "%s has no %s", name, strings.Join(other.only, ", ")).WithHint("without --only it tells all names: pierfs import --from %s %s --dry-run", other.format, name)
	}
	return list, notes, nil
}

// foreignText reads a file, or standard input, up to what is too much for any.
func (h *hand) foreignText(name string) ([]byte, error) {
	in := h.in
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	return io.ReadAll(io.LimitReader(in, foreign.MaxSize+1))
}

// callerName is who runs this, for programs that log in as their caller.
func callerName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "nobody"
}

// archive reads a file, or standard input, as an export. It is opened here, with the caller's rights and not the daemon's.
func (h *hand) archive(name string, secret passphraseFlags) (archive.Package, error) {
	if name == "-" && secret.file == "-" {
		return archive.Package{}, usageError{errors.New("standard input cannot be both the archive and its passphrase")}
	}
	file, size, err := h.openArchive(name)
	if err != nil {
		return archive.Package{}, err
	}
	defer file.Close()
	p, err := h.readArchive(file, size, secret)
	switch {
	case errors.Is(err, archive.ErrPassphrase):
		err = control.Errorf(control.BadData, "%s: %v", name, err).WithHint("ask who made the export for its passphrase; nothing was imported")
	case err != nil && archive.IsRefused(err):
		err = control.Errorf(control.BadData, "%s: %v", name, err).WithHint("nothing was imported; `pierfs export` writes what can be read here")
	}
	return p, err
}

// source is an archive that can be read anywhere.
type source interface {
	io.ReaderAt
	io.Closer
}

type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// openArchive returns an archive and its size. What comes by a pipe is kept in memory, up to what no archive may have.
func (h *hand) openArchive(name string) (source, int64, error) {
	if name == "-" {
		text, err := io.ReadAll(io.LimitReader(h.in, archive.MaxSize+1))
		return inMemory{bytes.NewReader(text)}, int64(len(text)), err
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = control.Errorf(control.Usage, "%s is no regular file", name).WithHint("pipe it in: pierfs import - < %s", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// readArchive reads an archive that may be encrypted. Both what is encrypted and what it holds are bounded.
func (h *hand) readArchive(file source, size int64, secret passphraseFlags) (archive.Package, error) {
	head := make([]byte, min(size, 32))
	if _, err := file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return archive.Package{}, err
	}
	if !archive.IsEncrypted(head) || size > archive.MaxSize {
		return archive.Read(file, size)
	}
	text, given, err := h.onePassphrase(secret)
	if err != nil {
		return archive.Package{}, err
	}
	if !given {
		return archive.Package{}, control.Errorf(control.Usage, "it is encrypted, and there is no terminal to ask for the passphrase at").WithHint("give --passphrase-file FILE")
	}
	content, err := archive.Decrypt(io.NewSectionReader(file, 0, size), conncfg.NewSecret(text))
	if err != nil {
		return archive.Package{}, err
	}
	return archive.Read(bytes.NewReader(content), int64(len(content)))
}

// onePassphrase reads the passphrase of an archive that is there: once, for the archive tells whether it is right.
func (h *hand) onePassphrase(secret passphraseFlags) (string, bool, error) {
	if in, ok := h.in.(*os.File); ok && secret.file == "" && isTerminal(in) {
		fmt.Fprint(h.err, "passphrase: ")
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(h.err)
		return string(text), true, err
	}
	return h.secret(secret.file, secret.ask, "passphrase")
}

// imported prints the plan and what came of it. Who has to give something again is told by the status, too.
func (h *hand) imported(a control.ImportAnswer, dry bool) error {
	var fail error
	for _, k := range a.Checks {
		if !k.OK && fail == nil {
			fail = silent{k.Code}
		}
	}
	if fail == nil && len(a.Unresolved) > 0 {
		fail = silent{control.ConfigInvalid}
	}
	if h.asJSON {
		return errors.Join(h.json(a), fail)
	}
	for _, note := range a.Notes {
		fmt.Fprintf(h.err, "note: %s\n", terminal.Quote(note))
	}
	if err := h.printChecks(a.Checks); err != nil {
		return err
	}
	var rows [][]string
	for _, c := range a.Connections {
		rows = append(rows, []string{c.Change, c.As})
	}
	ready := len(a.Checks) == 4 && a.Checks[3].OK
	if ready {
		if err := table(h.out, nil, rows); err != nil {
			return err
		}
	}
	for _, b := range a.Unresolved {
		fmt.Fprintf(h.err, "to be given again: %s: %s: %s\n", terminal.Quote(b.Connection+in(b.Environment)), terminal.Quote(b.Field), terminal.Quote(b.Why))
	}
	var err error
	switch {
	case !ready:
		_, err = fmt.Fprintln(h.err, "pierfs: nothing was imported")
	case dry:
		_, err = fmt.Fprintln(h.out, "this was a dry run, and nothing was imported")
	case len(a.Unresolved) > 0:
		_, err = fmt.Fprintf(h.out, "imported, as revision %d, and not complete: give what is missing with `pierfs edit`, then `pierfs apply`\n", a.Change.Revision)
	default:
		_, err = fmt.Fprintf(h.out, "imported, as revision %d; `pierfs apply` mounts it\n", a.Change.Revision)
	}
	return errors.Join(err, fail)
}

func in(environment string) string {
	if environment == "" {
		return ""
	}
	return " in " + environment
}

func (h *hand) printChecks(checks []control.Check) error {
	for _, k := range checks {
		word := "ok"
		if !k.OK {
			word = "REFUSED"
		}
		if _, err := fmt.Fprintf(h.out, "%-12s  %s\n", k.Check, word); err != nil {
			return err
		}
		for _, line := range k.Detail {
			fmt.Fprintf(h.err, "  %s\n", terminal.Quote(line))
		}
		if k.Hint != "" {
			fmt.Fprintf(h.err, "  %s\n", terminal.Quote(k.Hint))
		}
	}
	return nil
}
