// Package archive packs connections as a ZIP and reads such back: to keep them under version control, to carry them to another
// machine, and to take them over from another product.
//
// An archive holds manifest.json (what it is, and the names in it), connections/NAME.json or connections/PROJECT/NAME.json, and
// dependencies.json: what the connections need that does not travel, by name. The same connections are the same bytes: there are no
// times, the order is that of names, and nothing is said of the machine. No secret is in it, whatever was written.
//
// Read takes nothing on trust. It opens no file by a name from the archive and writes none; it bounds size, number of entries,
// unpacked size and ratio before and while it unpacks; it refuses names that lead elsewhere, are there twice or are none; links,
// devices, encryption, overlapping contents, and archives of another kind. docs/CLI.md describes the layout for users.
//
// An archive as a whole may be encrypted with a passphrase, in the format of age; Decrypt bounds what a stranger's file may cost.
package archive

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"pierfs/conncfg"
)

// Bounds of what Read takes.
const (
	MaxSize     = 100 << 20 // bytes of an archive
	maxUnpacked = 100 << 20 // bytes of all its contents
	maxEntries  = 10_000
	maxEntry    = 1 << 20 // bytes of one definition
	maxRatio    = 200     // of a content to what it is packed in, above smallEntry
	smallEntry  = 64 << 10

	maxDependencies = 4 << 20 // bytes of the list of what is needed besides
)

const (
	format           = "pierfs-export"
	version          = 1
	manifestFile     = "manifest.json"
	dependenciesFile = "dependencies.json"
	folder           = "connections/"
)

// Package is what an archive holds.
type Package struct {
	Connections  []Connection
	Dependencies []conncfg.Dependency
	Notes        []string // what Read left out or assumed
}

// Connection is one definition in an archive: what is written is Portable's JSON; what is read may be another product's.
type Connection struct {
	Name    string
	JSON    []byte
	Foreign conncfg.Foreign // filled in by Read
}

// manifest is the first file of an archive.
type manifest struct {
	Format      string   `json:"format"`
	Version     int      `json:"version"`
	Kind        string   `json:"kind"`
	Connections []string `json:"connections"`
	// Extensions are the fields that other products with such definitions do not know, such as keys of SSH.
	Extensions []string `json:"extensions"`
}

// extensions of ours that change how a login is proven: a definition that has one cannot be used elsewhere as it is.
var extensions = []string{"privateKeyFile", "privateKey", "certificateFile", "agent", "via", "account", "clientCertFile"}

// errHostile is the root of every refusal of what an archive is made of.
var errHostile = errors.New("the archive is refused")

// IsRefused reports whether err says that an archive must not be read, rather than that it could not be.
func IsRefused(err error) bool { return errors.Is(err, errHostile) }

func refuse(text string, args ...any) error {
	return fmt.Errorf("%w: %s", errHostile, fmt.Sprintf(text, args...))
}

// Write packs p. The same package gives the same bytes.
func Write(w io.Writer, p Package) error {
	z := zip.NewWriter(w)
	m := manifest{Format: format, Version: version, Kind: "connections", Connections: []string{}, Extensions: []string{}}
	all := slices.Clone(p.Connections)
	slices.SortFunc(all, func(a, b Connection) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range all {
		m.Connections = append(m.Connections, c.Name)
		for _, field := range extensions {
			if bytes.Contains(c.JSON, []byte(`"`+field+`":`)) && !slices.Contains(m.Extensions, field) {
				m.Extensions = append(m.Extensions, field)
			}
		}
	}
	slices.Sort(m.Extensions)
	if err := add(z, manifestFile, m); err != nil {
		return err
	}
	for _, c := range all {
		if err := addBytes(z, folder+c.Name+".json", c.JSON); err != nil {
			return err
		}
	}
	dependencies := []map[string]any{}
	for _, d := range p.Dependencies { // but for what is here: that is no news elsewhere
		dependencies = append(dependencies, map[string]any{"kind": d.Kind, "name": d.Name, "secret": d.Secret, "usedBy": d.UsedBy})
	}
	if err := add(z, dependenciesFile, dependencies); err != nil {
		return err
	}
	return z.Close()
}

func add(z *zip.Writer, name string, v any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return err
	}
	return addBytes(z, name, b.Bytes())
}

// addBytes stores a file without a time. It is not packed, so that versions of a compressor change no byte.
func addBytes(z *zip.Writer, name string, content []byte) error {
	h := &zip.FileHeader{Name: name, Method: zip.Store}
	h.SetMode(0o600)
	w, err := z.CreateHeader(h)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}

// FileName is what an export is called: of one connection by its name, of several by their number.
func FileName(when time.Time, names []string) string {
	what := fmt.Sprintf("%d-connections", len(names))
	if len(names) == 1 {
		what = strings.ReplaceAll(names[0], "/", "_")
	}
	return when.Format("2 Jan 2006") + "-ftp-integration-" + what + "-export.zip"
}

// SealedName is what an encrypted export is called: it does not tell what is in it.
func SealedName(when time.Time) string {
	return when.Format("2 Jan 2006") + "-ftp-integration-export.zip" + Extension
}

// Read reads an archive of size bytes, or a JSON file with definitions.
func Read(r io.ReaderAt, size int64) (Package, error) {
	if size > MaxSize {
		return Package{}, refuse("it has %d bytes, and %d are the most", size, MaxSize)
	}
	head := make([]byte, min(size, 4))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return Package{}, err
	}
	if !bytes.HasPrefix(head, []byte("PK")) {
		return readJSON(r, size)
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return Package{}, refuse("it is no ZIP: %v", err)
	}
	if err := examine(z, size); err != nil {
		return Package{}, err
	}
	return unpack(z)
}

func readJSON(r io.ReaderAt, size int64) (Package, error) {
	if size > maxUnpacked {
		return Package{}, refuse("it has %d bytes", size)
	}
	text, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil {
		return Package{}, err
	}
	p := Package{}
	if err := p.take("the file", text); err != nil {
		return Package{}, refuse("it is neither a ZIP nor a definition as JSON: %v", err)
	}
	return p.distinct()
}

// examine judges an archive by its directory, before anything is unpacked.
func examine(z *zip.Reader, size int64) error {
	if len(z.File) > maxEntries {
		return refuse("it has %d entries, and %d are the most", len(z.File), maxEntries)
	}
	seen := map[string]bool{}
	type span struct{ from, to int64 }
	var spans []span
	var total uint64
	for _, f := range z.File {
		if err := examineName(f.Name); err != nil {
			return err
		}
		folded := strings.ToLower(f.Name)
		switch mode := f.Mode(); {
		case seen[folded]:
			return refuse("%q is there twice", f.Name)
		case f.Flags&1 != 0 || f.Method == 99:
			return refuse("%q is encrypted: unpack it with its password first", f.Name)
		case mode&os.ModeSymlink != 0:
			return refuse("%q is a symbolic link", f.Name)
		case mode.IsDir() != strings.HasSuffix(f.Name, "/"), mode.Type()&^os.ModeDir != 0:
			return refuse("%q is neither a file nor a folder", f.Name)
		case f.Method != zip.Store && f.Method != zip.Deflate:
			return refuse("%q is packed in a way that is not known here (%d)", f.Name, f.Method)
		case f.UncompressedSize64 > smallEntry && f.UncompressedSize64/max(f.CompressedSize64, 1) > maxRatio:
			return refuse("%q would unpack to more than %d times its size", f.Name, maxRatio)
		case f.Method == zip.Store && f.UncompressedSize64 != f.CompressedSize64:
			return refuse("%q has two sizes", f.Name)
		}
		seen[folded] = true
		if total += f.UncompressedSize64; f.UncompressedSize64 > maxUnpacked || total > maxUnpacked {
			return refuse("it would unpack to more than %d bytes", maxUnpacked)
		}
		from, err := f.DataOffset()
		if err != nil {
			return refuse("%q is damaged: %v", f.Name, err)
		}
		to := from + int64(f.CompressedSize64)
		if f.CompressedSize64 > uint64(size) || to > size {
			return refuse("%q ends behind the archive", f.Name)
		}
		spans = append(spans, span{from, to})
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.from - b.from) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return refuse("contents lie within each other")
		}
	}
	return nil
}

// examineName refuses what leads elsewhere on any system, and what cannot be seen.
func examineName(name string) error {
	bare := strings.TrimSuffix(name, "/")
	switch {
	case bare == "" || !utf8.ValidString(name) || strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0:
		return refuse("it has a name that is none")
	case strings.ContainsAny(name, `\:`):
		return refuse("%q is a path of another system", name)
	case path.IsAbs(name), path.Clean(bare) != bare, bare == "..", strings.HasPrefix(bare, "../"), bare == ".":
		return refuse("%q leads out of it", name)
	case len(name) > 1024:
		return refuse("it has a name of %d bytes", len(name))
	}
	return nil
}

// content unpacks one file, and never more of it than its directory says.
func content(f *zip.File) ([]byte, error) {
	if f.UncompressedSize64 > maxEntry && strings.HasPrefix(f.Name, folder) {
		return nil, refuse("%q has %d bytes, too many for a definition", f.Name, f.UncompressedSize64)
	}
	r, err := f.Open()
	if err != nil {
		return nil, refuse("%q: %v", f.Name, err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, int64(f.UncompressedSize64)+1))
	if err != nil {
		return nil, refuse("%q is damaged: %v", f.Name, err)
	}
	return text, nil
}

// readDependencies reads what the connections need besides themselves. It is for people: whoever imports looks by himself for what is here.
func readDependencies(f *zip.File) (all []conncfg.Dependency, err error) {
	if f.UncompressedSize64 > maxDependencies {
		return nil, refuse("%q has %d bytes", f.Name, f.UncompressedSize64)
	}
	text, err := content(f)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, refuse("%q: %v", f.Name, err)
	}
	for i := range all {
		all[i].Here = false
	}
	return all, nil
}

// Belief is a server's host key or certificate that somebody trusted where an archive was made.
type Belief struct{ Connection, Environment, Kind, Address, Fingerprint string }

// Beliefs returns what was trusted of the servers of the connections in the package. None of it counts before somebody here says so.
func (p Package) Beliefs() (all []Belief) {
	for _, d := range p.Dependencies {
		address, print, ok := strings.Cut(d.Name, " ")
		if host, _, err := net.SplitHostPort(address); !ok || err != nil || host == "" || !fingerprint.MatchString(print) || d.Kind != "hostKey" && d.Kind != "certificate" {
			continue
		}
		for _, by := range d.UsedBy {
			for _, c := range p.Connections {
				if env, ok := strings.CutPrefix(by, c.Name+"."); ok && conncfg.CheckName(env) == nil {
					all = append(all, Belief{c.Name, env, d.Kind, address, print})
				}
			}
		}
	}
	return all
}

var fingerprint = regexp.MustCompile(`^SHA256:[A-Za-z0-9+/]{43}$`)

func unpack(z *zip.Reader) (Package, error) {
	p := Package{}
	named, err := readManifest(z)
	if err != nil {
		return p, err
	}
	for _, f := range z.File {
		switch {
		case f.Name == dependenciesFile && named != nil:
			if p.Dependencies, err = readDependencies(f); err != nil {
				return Package{}, err
			}
			continue
		case strings.HasSuffix(f.Name, "/") || f.Name == manifestFile || f.Name == dependenciesFile:
			continue
		case !strings.HasSuffix(strings.ToLower(f.Name), ".json"), named != nil && !strings.HasPrefix(f.Name, folder):
			p.Notes = append(p.Notes, fmt.Sprintf("%s was left out: it is no definition", f.Name))
			continue
		}
		text, err := content(f)
		if err != nil {
			return Package{}, err
		}
		if err := p.take(f.Name, text); err != nil && (named != nil || !errors.Is(err, conncfg.ErrForeign)) {
			return Package{}, refuse("%s: %v", f.Name, err)
		} else if err != nil {
			p.Notes = append(p.Notes, fmt.Sprintf("%s was left out: it %v", f.Name, err))
		}
	}
	if len(p.Connections) == 0 {
		return Package{}, refuse("there is no definition of a connection in it")
	}
	if err := p.agrees(named); err != nil {
		return Package{}, err
	}
	return p.distinct()
}

// readManifest returns the names that an archive of ours says it has; nil for one of another product.
func readManifest(z *zip.Reader) ([]string, error) {
	i := slices.IndexFunc(z.File, func(f *zip.File) bool { return f.Name == manifestFile })
	if i < 0 {
		return nil, nil
	}
	text, err := content(z.File[i])
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil || m.Format == "" {
		return nil, nil // somebody else's
	}
	switch {
	case m.Format != format:
		return nil, refuse("it is a package of another kind: %q", m.Format)
	case m.Version != version:
		return nil, refuse("it was written in version %d of the format, and this program knows %d", m.Version, version)
	case m.Kind != "connections":
		return nil, refuse("it is a package of %q, not of connections", m.Kind)
	case m.Connections == nil:
		return nil, refuse("its manifest names no connections")
	}
	return m.Connections, nil
}

// take reads the definitions in one JSON text.
func (p *Package) take(file string, text []byte) error {
	all, err := conncfg.FromJSON(text)
	if err != nil {
		return err
	}
	for _, f := range all {
		if len(conncfg.CheckFullName(f.Name)) > 0 {
			return fmt.Errorf("in %s: %q is no name of a connection", file, f.Name)
		}
		p.Connections = append(p.Connections, Connection{Name: f.Name, JSON: text, Foreign: f})
		p.Notes = append(p.Notes, f.Notes...)
	}
	return nil
}

// agrees wants exactly the connections that the manifest names.
func (p *Package) agrees(named []string) error {
	if named == nil {
		return nil
	}
	var found []string
	for _, c := range p.Connections {
		found = append(found, c.Name)
	}
	slices.Sort(found)
	if named = slices.Clone(named); !slices.Equal(slices.Sorted(slices.Values(named)), found) {
		return refuse("its manifest names other connections than are in it")
	}
	return nil
}

// distinct returns p, unless two connections have one name.
func (p Package) distinct() (Package, error) {
	seen := map[string]bool{}
	for _, c := range p.Connections {
		folded := strings.ToLower(c.Name)
		if seen[folded] {
			return Package{}, refuse("two connections in it are called %q", c.Name)
		}
		seen[folded] = true
	}
	return p, nil
}
