package control

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/conncfg"
)

// Whatever fails, whoever reads it is told what to do: by what made the error, by a finding, or by the code.
func TestEveryFailureEndsInAWayOut(t *testing.T) {
	last := Internal.WayOut()
	for _, code := range Codes() {
		e := Errorf(code, "it failed").Complete()
		if e.Hint == "" || e.Hint == last && code != Internal {
			t.Errorf("%s has no way out of its own: %q", code, e.Hint)
		}
	}
	if e := Errorf(Failed, "x").WithHint("do this").Complete(); e.Hint != "do this" {
		t.Errorf("the better way out is lost: %q", e.Hint)
	}
	found := Errorf(ConfigInvalid, "x")
	found.Findings = []conncfg.Finding{{Message: "is wrong", Hint: "write it so"}}
	if e := found.Complete(); e.Hint != "" {
		t.Errorf("beside what a finding says there is %q", e.Hint)
	}
}

// Every Error in the programs bears a code of ours, so that the rule above holds for it, and a way out of its own: in the same expression, or
// added by the function that makes it.
func TestErrorsAreMadeOfCodes(t *testing.T) {
	known := map[string]bool{}
	for _, name := range codeNames(t) {
		known[name] = true
	}
	files, err := filepath.Glob("../../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, file := range append(files, below...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			for call, hinted := range errorsMadeIn(f) {
				made++
				if code, ok := call.Args[0].(*ast.SelectorExpr); ok && !known[code.Sel.Name] {
					t.Errorf("%s: control.%s is no code", file, code.Sel.Name)
				}
				if !hinted {
					t.Errorf("%s: %s makes an error without a way out: WithHint adds it", file, f.Name.Name)
				}
			}
		}
	}
	if made < 50 {
		t.Errorf("only %d errors were found", made)
	}
}

// errorsMadeIn returns the calls of Errorf in f, and of each whether a hint is added to it.
func errorsMadeIn(f *ast.FuncDecl) map[*ast.CallExpr]bool {
	made, hinted, later := map[*ast.CallExpr]bool{}, map[ast.Expr]bool{}, false
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, left := range n.Lhs {
				s, ok := left.(*ast.SelectorExpr)
				later = later || ok && s.Sel.Name == "Hint"
			}
		case *ast.CallExpr:
			called, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				if plain, ok := n.Fun.(*ast.Ident); ok && plain.Name == "Errorf" && len(n.Args) > 0 {
					made[n] = false
				}
				return true
			}
			on, named := called.X.(*ast.Ident)
			switch {
			case called.Sel.Name == "WithHint":
				hinted[called.X] = true
				later = later || named
			case called.Sel.Name == "Errorf" && named && on.Name == "control" && len(n.Args) > 0:
				made[n] = false
			}
		}
		return true
	})
	for call := range made {
		made[call] = hinted[call] || later
	}
	return made
}

// codeNames are the constants of type Code, each of which Codes must list.
func codeNames(t *testing.T) (names []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), "error.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range tree.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			if v := s.(*ast.ValueSpec); v.Type != nil && v.Type.(*ast.Ident).Name == "Code" {
				names = append(names, v.Names[0].Name)
			}
		}
	}
	if len(names) != len(Codes()) {
		t.Errorf("there are %d codes, and Codes lists %d", len(names), len(Codes()))
	}
	return names
}
