// Package integration tests the house from outside: the real programs, real mounts and real servers, from other processes.
// This file holds the plan of the house itself.
package integration

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "pierfs/"

// houseRooms says which rooms a room may import. Each is the deepest entry that a package's path begins with; a package that
// has none is a room that nobody has thought about. "x/..." is x and all below it.
var houseRooms = map[string][]string{
	"conncfg": {"conncfg/..."},

	"backends":             {},
	"backends/netconn":     {},
	"backends/reach":       {"backends", "backends/netconn"},
	"backends/trace":       {},
	"backends/pool":        {"backends"},
	"backends/sftp":        {"backends", "backends/trace", "backends/netconn", "backends/reach", "backends/pool"},
	"backends/ftp":         {"backends", "backends/ftp/...", "backends/netconn", "backends/pool"},
	"backends/ftp/wire":    {"backends", "backends/trace", "backends/netconn", "backends/reach"},
	"backends/ftp/listing": {"backends"},
	"backends/charset":     {"backends"},
	"backends/failover":    {"backends"},
	"backends/retry":       {"backends"},
	"backends/meter":       {"backends"},
	"backends/jail":        {"backends"},
	"backends/mem":         {"backends"},
	"backends/backendtest": {"backends"},
	"backends/dial": {"backends", "backends/trace", "backends/failover", "backends/netconn", "backends/sftp", "backends/ftp", "backends/pool", "backends/retry", "backends/meter", "backends/jail", "backends/charset",
		"conncfg", "conncfg/trust"},

	"cache":         {"cache/...", "backends", "backends/retry"},
	"cache/attr":    {"backends"},
	"cache/spool":   {},
	"cache/journal": {}, // knows no server and no content

	"fs": {"cache", "backends"},

	"docs": {}, // pages that the programs carry

	"cmd/pierfs":            {"cmd/internal/...", "conncfg/...", "docs"},
	"cmd/pierfsd":           {"cmd/internal/...", "fs", "cache", "backends", "backends/dial", "backends/retry", "conncfg/..."},
	"cmd/internal":          {"cmd/internal/...", "conncfg/..."},
	"cmd/internal/daemon":   {"cmd/internal/...", "fs", "cache", "cache/spool", "backends", "backends/dial", "backends/retry", "backends/trace", "conncfg/..."},
	"cmd/internal/demo":     {"cmd/internal/...", "backends", "backends/dial", "conncfg/..."},
	"cmd/internal/metrics":  {"cmd/internal/...", "backends"},
	"cmd/internal/transfer": {"cmd/internal/...", "conncfg/...", "backends"},

	"integration": {"integration/...", "cmd/internal/control", "fs", "cache", "backends", "backends/...", "conncfg/..."},
}

// houseForTests are rooms that any test may import besides: servers with faults on demand, real ones, and a place for what a
// tree has read.
var houseForTests = []string{
	"backends/mem", "backends/backendtest", "cache/spool", "integration/servers", "integration/process", "integration/hostile", "integration/link",
}

// houseLibraries says which rooms may import a library, by the beginning of its path; the longest that fits counts.
var houseLibraries = map[string][]string{
	"github.com/hanwen/go-fuse/v2":           {"fs", "integration/power"},
	"github.com/hanwen/go-fuse/v2/posixtest": {"integration/..."}, // and tests of fs
	"github.com/jlaffaye/ftp":                {"backends/ftp/..."},
	"github.com/pkg/sftp":                    {"backends/sftp", "cmd/internal/demo"},
	"golang.org/x/crypto/ssh":                {"backends/sftp", "cmd/internal/demo", "integration/..."},
	"github.com/pelletier/go-toml/v2":        {"conncfg"},
	"github.com/hashicorp/golang-lru/v2":     {"cache/..."},
	"github.com/coreos/go-systemd/v22":       {"cmd/internal/daemon", "cmd/pierfsd"},
	"github.com/fsnotify/fsnotify":           {"cmd/internal/daemon"},
	"github.com/spf13/cobra":                 {"cmd/..."},
	"github.com/spf13/pflag":                 {"cmd/..."},
	"github.com/schollz/progressbar/v3":      {"cmd/pierfs"},
	"golang.org/x/term":                      {"cmd/..."},
	"filippo.io/age":                         {"conncfg/archive"},
	"golang.org/x/text":                      {"backends/charset"},
	"golang.org/x/net":                       {"backends/dial"},
	"golang.org/x/sync":                      {"..."},
	"golang.org/x/sys":                       {"..."},
	"github.com/prometheus/client_golang":    {"cmd/internal/metrics"},
	"github.com/prometheus/common":           {"cmd/internal/metrics"},
}

// houseTestLibraries are those that tests may import besides.
var houseTestLibraries = map[string][]string{
	"github.com/hanwen/go-fuse/v2/posixtest": {"fs"},
	"golang.org/x/crypto/ssh":                {"backends/...", "conncfg/...", "cmd/..."},
	"github.com/pkg/sftp":                    {"integration/...", "cmd/..."},
}

// houseKeepsOut are rooms that must not come in by any way: the operator's hand links no protocol.
var houseKeepsOut = map[string][]string{
	"cmd/pierfs": {"backends/sftp", "backends/ftp", "fs", "cache"},
}

// houseIOFS are the rooms that may import io/fs, which elsewhere stands in the way of our own fs: os has the same names.
var houseIOFS = map[string]string{
	"conncfg": "definitions are read from an fs.FS, be it a directory, an archive or a test's",
}

// houseFolders are those at the top; the second kind may be missing.
var (
	houseFolders    = []string{"backends", "cache", "cmd", "conncfg", "docs", "fs", "integration"}
	houseFoldersToo = []string{".ci", ".git", "packaging"}
)

// housePackage is what go list says of one package.
type housePackage struct {
	Dir, ImportPath, Name                    string
	GoFiles, TestGoFiles, XTestGoFiles       []string
	Imports, TestImports, XTestImports, Deps []string
}

func (p housePackage) room() string { return strings.TrimPrefix(p.ImportPath, module) }

// product reports whether p is more than a test's tool.
func (p housePackage) product() bool { return !strings.HasPrefix(p.room(), "integration") }

// inRooms reports whether room is one of those that patterns name.
func inRooms(room string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		all, below := strings.CutSuffix(pattern, "...")
		all = strings.TrimSuffix(all, "/")
		return pattern == room || below && (all == "" || all == room || strings.HasPrefix(room, all+"/"))
	})
}

// longestKey returns the longest key of table that path is or lies below.
func longestKey[T any](table map[string]T, path string) (T, bool) {
	var found T
	for ; path != "."; path = filepath.Dir(path) {
		if value, ok := table[path]; ok {
			return value, true
		}
	}
	return found, false
}

// brokenArrows returns a sentence for each import that the tables do not allow.
func brokenArrows(packages []housePackage) []string {
	var broken []string
	for _, p := range packages {
		may, ok := longestKey(houseRooms, p.room())
		if !ok {
			broken = append(broken, p.room()+" is no room of the table")
			continue
		}
		for _, path := range p.Imports {
			broken = append(broken, brokenImport(p, path, may, nil)...)
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			broken = append(broken, brokenImport(p, path, append(slices.Clone(may), houseForTests...), houseTestLibraries)...)
		}
		for _, path := range p.Deps {
			if room, ours := strings.CutPrefix(path, module); ours && inRooms(room, houseKeepsOut[p.room()]) {
				broken = append(broken, p.room()+" comes to depend on "+room)
			}
		}
	}
	slices.Sort(broken)
	return slices.Compact(broken)
}

// brokenImport judges one import of p. more are libraries allowed besides.
func brokenImport(p housePackage, path string, may []string, more map[string][]string) []string {
	if room, ours := strings.CutPrefix(path, module); ours {
		if path == p.ImportPath || inRooms(room, may) {
			return nil
		}
		return []string{p.room() + " imports " + room}
	}
	if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
		return nil // the standard library
	}
	rooms, ok := longestKey(houseLibraries, path)
	extra, _ := longestKey(more, path)
	switch {
	case inRooms(p.room(), rooms) || inRooms(p.room(), extra):
		return nil
	case !ok:
		return []string{p.room() + " imports " + path + ", a library without a room"}
	}
	return []string{p.room() + " imports " + path + ", which belongs elsewhere"}
}

// brokenFiles returns a sentence for each rule that the text of p's files breaks. read returns a file's text.
func brokenFiles(p housePackage, read func(name string) ([]byte, error)) (broken []string, err error) {
	files := p.GoFiles
	if len(files) == 0 {
		files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
	}
	comments := 0
	set := token.NewFileSet()
	for _, name := range files {
		text, err := read(filepath.Join(p.Dir, name))
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if file.Doc != nil {
			comments++
		}
		if p.product() && len(p.GoFiles) > 0 {
			broken = append(broken, brokenFile(p, name, file)...)
		}
	}
	if comments != 1 {
		broken = append(broken, fmt.Sprintf("%s has %d package comments", p.room(), comments))
	}
	return broken, nil
}

func brokenFile(p housePackage, name string, file *ast.File) (broken []string) {
	tell := func(what string) { broken = append(broken, p.room()+": "+name+" "+what) }
	for _, spec := range file.Imports {
		if _, excused := houseIOFS[p.room()]; spec.Path.Value == `"io/fs"` && !excused {
			tell("imports io/fs")
		}
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncDecl:
			if node.Name.Name == "init" && node.Recv == nil {
				tell("has a func init")
			}
		case *ast.SelectorExpr:
			if x, ok := node.X.(*ast.Ident); ok && x.Name == "os" && node.Sel.Name == "Exit" && p.Name != "main" {
				tell("calls os.Exit")
			}
		}
		return true
	})
	return broken
}

// brokenFolders returns a sentence for each folder that is missing or too many.
func brokenFolders(folders []string) (broken []string) {
	for _, folder := range houseFolders {
		if !slices.Contains(folders, folder) {
			broken = append(broken, "the folder "+folder+" is missing")
		}
	}
	for _, folder := range folders {
		if !slices.Contains(houseFolders, folder) && !slices.Contains(houseFoldersToo, folder) {
			broken = append(broken, "the folder "+folder+" is none of the house")
		}
	}
	return broken
}

// housePackages returns what go list says of the whole module.
func housePackages(t *testing.T) []housePackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json", "./...")
	cmd.Dir = ".."
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, complaint.Bytes())
	}
	var packages []housePackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p housePackage
		if err := decoder.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 10 {
		t.Fatalf("go list knows %d packages; this cannot be the whole house", len(packages))
	}
	return packages
}

func TestHouseArrowsPointDownward(t *testing.T) {
	for _, sentence := range brokenArrows(housePackages(t)) {
		t.Error(sentence)
	}
}

func TestHouseFilesKeepTheRules(t *testing.T) {
	for _, p := range housePackages(t) {
		broken, err := brokenFiles(p, os.ReadFile)
		if err != nil {
			t.Error(err)
		}
		for _, sentence := range broken {
			t.Error(sentence)
		}
	}
}

func TestHouseHasItsFolders(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	for _, entry := range entries {
		if entry.IsDir() {
			folders = append(folders, entry.Name())
		}
	}
	for _, sentence := range brokenFolders(folders) {
		t.Error(sentence)
	}
}

// The rules above must be able to fail: each is shown a house that breaks it, and one that does not.

func TestHouseArrowsCanBreak(t *testing.T) {
	for want, p := range map[string]housePackage{
		"backends imports cache":         {ImportPath: "pierfs/backends", Imports: []string{"pierfs/cache"}},
		"cache imports fs":               {ImportPath: "pierfs/cache", Imports: []string{"context", "pierfs/fs"}},
		"cache imports conncfg":          {ImportPath: "pierfs/cache", Imports: []string{"pierfs/conncfg"}},
		"cache imports backends/sftp":    {ImportPath: "pierfs/cache", TestImports: []string{"pierfs/backends/sftp"}},
		"cache/journal imports backends": {ImportPath: "pierfs/cache/journal", Imports: []string{"pierfs/backends"}},
		"backends/retry imports conncfg": {ImportPath: "pierfs/backends/retry", Imports: []string{"pierfs/conncfg"}},
		"fs imports integration/daemon":  {ImportPath: "pierfs/fs", XTestImports: []string{"pierfs/integration/daemon"}},
		"fs imports backends/mem":        {ImportPath: "pierfs/fs", Imports: []string{"pierfs/backends/mem"}},
		"attic is no room of the table":  {ImportPath: "pierfs/attic"},
		"cmd/pierfs comes to depend on backends/sftp": {
			ImportPath: "pierfs/cmd/pierfs", Deps: []string{"os", "pierfs/conncfg", "pierfs/backends/sftp"}},
		"cache imports github.com/hanwen/go-fuse/v2/fuse, which belongs elsewhere": {
			ImportPath: "pierfs/cache", Imports: []string{"github.com/hanwen/go-fuse/v2/fuse"}},
		"fs imports github.com/hanwen/go-fuse/v2/posixtest, which belongs elsewhere": {
			ImportPath: "pierfs/fs", Imports: []string{"github.com/hanwen/go-fuse/v2/posixtest"}},
		"backends/dial imports github.com/pkg/sftp, which belongs elsewhere": {
			ImportPath: "pierfs/backends/dial", TestImports: []string{"github.com/pkg/sftp"}},
		"cmd/pierfs imports github.com/pelletier/go-toml/v2, which belongs elsewhere": {
			ImportPath: "pierfs/cmd/pierfs", Imports: []string{"github.com/pelletier/go-toml/v2"}},
		"backends imports example.org/new, a library without a room": {
			ImportPath: "pierfs/backends", Imports: []string{"example.org/new"}},
	} {
		if got := brokenArrows([]housePackage{p}); !slices.Equal(got, []string{want}) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	sound := []housePackage{
		{ImportPath: "pierfs/fs", Imports: []string{"os", "pierfs/cache", "pierfs/backends", "github.com/hanwen/go-fuse/v2/fuse"},
			TestImports: []string{"pierfs/backends/mem", "github.com/hanwen/go-fuse/v2/posixtest"}, XTestImports: []string{"pierfs/fs"}},
		{ImportPath: "pierfs/cache/attr", Imports: []string{"github.com/hashicorp/golang-lru/v2/simplelru"}},
	}
	if got := brokenArrows(sound); len(got) > 0 {
		t.Errorf("a sound house: got %q, want nothing", got)
	}
}

func TestHouseFileRulesCanBreak(t *testing.T) {
	for _, c := range []struct {
		p    housePackage
		text string
		want string
	}{
		{housePackage{ImportPath: "pierfs/cache"}, "// Package cache is.\npackage cache", ""},
		{housePackage{ImportPath: "pierfs/cache"}, "package cache", "cache has 0 package comments"},
		{housePackage{ImportPath: "pierfs/cache", GoFiles: []string{"a.go", "b.go"}}, "// Package cache is.\npackage cache",
			"cache has 2 package comments"},
		{housePackage{ImportPath: "pierfs/cache"}, "// Package cache is.\npackage cache\nfunc init() {}", "cache: a.go has a func init"},
		{housePackage{ImportPath: "pierfs/cache"}, "// Package cache is.\npackage cache\nfunc (t T) init() {}", ""},
		{housePackage{ImportPath: "pierfs/cache"}, "// Package cache is.\npackage cache\nimport \"io/fs\"", "cache: a.go imports io/fs"},
		{housePackage{ImportPath: "pierfs/conncfg"}, "// Package conncfg is.\npackage conncfg\nimport \"io/fs\"", ""},
		{housePackage{ImportPath: "pierfs/cache"}, "// Package cache is.\npackage cache\nfunc f() { os.Exit(1) }", "cache: a.go calls os.Exit"},
		{housePackage{ImportPath: "pierfs/cmd/pierfs", Name: "main"}, "// Command pierfs is.\npackage main\nfunc f() { os.Exit(1) }", ""},
		{housePackage{ImportPath: "pierfs/integration/x"}, "// Package x is.\npackage x\nfunc f() { os.Exit(1) }", ""},
	} {
		if len(c.p.GoFiles) == 0 {
			c.p.GoFiles = []string{"a.go"}
		}
		c.p.Name = cmp.Or(c.p.Name, "cache")
		got, err := brokenFiles(c.p, func(string) ([]byte, error) { return []byte(c.text), nil })
		if err != nil || strings.Join(got, "; ") != c.want {
			t.Errorf("%q: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}

func TestHouseFoldersCanBreak(t *testing.T) {
	if got := brokenFolders(append(slices.Clone(houseFolders), ".git")); len(got) > 0 {
		t.Errorf("the folders as they should be: got %q", got)
	}
	if got := brokenFolders(append(slices.Clone(houseFolders), "util")); len(got) != 1 || !strings.Contains(got[0], "util") {
		t.Errorf("a folder too many: got %q", got)
	}
	if got := brokenFolders(houseFolders[1:]); len(got) != 1 || !strings.Contains(got[0], houseFolders[0]) {
		t.Errorf("a folder missing: got %q", got)
	}
}
