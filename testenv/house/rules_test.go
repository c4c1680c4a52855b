package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The largest file and function, in lines.
const (
	maxFile     = 700
	maxFunction = 80
)

// fileRules look at one Go source each.
var fileRules = map[string]func(file) []string{
	"exit":       exits,
	"documented": undocumented,
	"sleep":      sleeps,
	"skip":       skips,
	"function":   longFunctions,
	"interface":  wideInterfaces,
	"goroutine":  goroutines,
	"marker":     markers,
}

func TestEveryFileObeysTheRules(t *testing.T) {
	for _, f := range sources(t) {
		if f.generated {
			continue
		}
		for _, rule := range fileRules {
			report(t, rule(f))
		}
	}
}

// exits: only a program's main may end the process; everybody else returns an error.
func exits(f file) (bad []string) {
	if f.main || f.test {
		return nil
	}
	calls(f.ast, func(call *ast.CallExpr, pkg, name string) {
		if pkg == "os" && name == "Exit" || pkg == "log" && strings.HasPrefix(name, "Fatal") {
			bad = append(bad, f.at(call, "%s.%s outside of a program: return an error", pkg, name))
		}
	})
	return bad
}

// undocumented: whatever is public has a comment.
func undocumented(f file) (bad []string) {
	if f.test || f.main {
		return nil
	}
	for _, d := range f.ast.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !conventional(d) {
				bad = append(bad, f.at(d, "%s has no comment", d.Name.Name))
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				bad = append(bad, undocumentedSpec(f, d, s)...)
			}
		}
	}
	return bad
}

func undocumentedSpec(f file, d *ast.GenDecl, s ast.Spec) (bad []string) {
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
			bad = append(bad, f.at(s, "type %s has no comment", s.Name.Name))
		}
	case *ast.ValueSpec:
		// A block may have one comment; a member of a typed list is explained by its type.
		commented := s.Doc != nil || s.Comment != nil || d.Doc != nil || d.Lparen.IsValid() && d.Tok == token.CONST
		for _, n := range s.Names {
			if n.IsExported() && !commented {
				bad = append(bad, f.at(n, "%s has no comment", n.Name))
			}
		}
	}
	return bad
}

// conventional methods say by their name and type what they do.
func conventional(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"Error", "String", "Unwrap", "Is"}, d.Name.Name)
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

// sleeps: a test waits for something, with a deadline, never for a while. Sleeping is fine in a bubble of synctest,
// between two looks of a function that has a deadline, and to pace a sender, said on the line.
func sleeps(f file) (bad []string) {
	bubble := slices.ContainsFunc(f.ast.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
	if !f.test && !strings.HasPrefix(f.room, "testenv") || bubble {
		return nil
	}
	reasons := make(map[int]bool)
	for _, group := range f.ast.Comments {
		reasons[f.set.Position(group.Pos()).Line] = true
	}
	for _, d := range f.ast.Decls {
		polls := false
		ast.Inspect(d, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			polls = polls || ok && id.Name == "deadline"
			return true
		})
		if polls {
			continue
		}
		calls(d, func(call *ast.CallExpr, pkg, name string) {
			if pkg == "time" && name == "Sleep" && !reasons[f.set.Position(call.Pos()).Line] {
				bad = append(bad, f.at(call, "time.Sleep in a test: poll with a deadline"))
			}
		})
	}
	return bad
}

// skips: the one reason to skip a test is that it needs root and REQUIRE_ROOT is not set.
func skips(f file) (bad []string) {
	for _, d := range f.ast.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || strings.HasSuffix(fn.Name.Name, "Root") && mentions(fn, "REQUIRE_ROOT") {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) && testValue(sel.X) {
					bad = append(bad, f.at(call, "%s: only a test without root may be skipped, by NeedRoot", sel.Sel.Name))
				}
			}
			return true
		})
	}
	return bad
}

// testValue guesses from its name whether x is a *testing.T, B or F.
func testValue(x ast.Expr) bool {
	id, ok := x.(*ast.Ident)
	return ok && slices.Contains([]string{"t", "b", "f", "tb"}, id.Name)
}

func mentions(n ast.Node, text string) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		found = found || ok && strings.Contains(lit.Value, text)
		return !found
	})
	return found
}

// longFunctions: a function of more than 80 lines has its reason written above it.
func longFunctions(f file) (bad []string) {
	for _, d := range f.ast.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil || fn.Doc != nil {
			continue
		}
		if lines := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1; lines > maxFunction {
			bad = append(bad, f.at(fn, "%s has %d lines and no reason above it; at most %d", fn.Name.Name, lines, maxFunction))
		}
	}
	return bad
}

// wideInterfaces: an interface has at most four methods.
func wideInterfaces(f file) (bad []string) {
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if i, ok := n.(*ast.InterfaceType); ok && i.Methods.NumFields() > 4 {
			bad = append(bad, f.at(i, "interface with %d methods; at most 4", i.Methods.NumFields()))
		}
		return true
	})
	return bad
}

// goroutines: only the daemon starts them; programs and the test bench are on their own.
func goroutines(f file) (bad []string) {
	if f.test || f.main || strings.HasPrefix(f.room, "userspace") || strings.HasPrefix(f.room, "testenv") || f.room == "lists/store/storetest" {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if g, ok := n.(*ast.GoStmt); ok {
			bad = append(bad, f.at(g, "only the daemon starts goroutines"))
		}
		return true
	})
	return bad
}

// markers: nothing is left for later, and nothing panics because it is not written yet.
func markers(f file) (bad []string) {
	for _, group := range f.ast.Comments {
		for _, c := range group.List {
			for _, mark := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X"} {
				if strings.Contains(c.Text, mark) {
					bad = append(bad, f.at(c, "%s: do it now or open an issue", mark))
				}
			}
		}
	}
	calls(f.ast, func(call *ast.CallExpr, pkg, name string) {
		if pkg == "" && name == "panic" && (mentions(call, "contract") || mentions(call, "not implemented")) {
			bad = append(bad, f.at(call, "a body that is not written yet"))
		}
	})
	return bad
}

// calls visits every call of pkg.name or, with pkg "", of name.
func calls(in ast.Node, visit func(call *ast.CallExpr, pkg, name string)) {
	ast.Inspect(in, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch fun := call.Fun.(type) {
		case *ast.Ident:
			visit(call, "", fun.Name)
		case *ast.SelectorExpr:
			if id, ok := fun.X.(*ast.Ident); ok {
				visit(call, id.Name, fun.Sel.Name)
			}
		}
		return true
	})
}

// TestRulesSeeViolations gives each rule a source that breaks it, and one that does not.
func TestRulesSeeViolations(t *testing.T) {
	tests := []struct{ rule, name, bad, good string }{
		{"exit", "a.go", `func f() { os.Exit(1) }`, `func f() { os.Getpid() }`},
		{"exit", "a.go", `func f() { log.Fatalf("x") }`, `func f() { log.Printf("x") }`},
		{"documented", "a.go", `func F() {}`, "// F is.\nfunc F() {}"},
		{"documented", "a.go", `func (t *T) F() {}`, `func (t *t) F() {}`},
		{"documented", "a.go", `type T int`, "// T is.\ntype T int"},
		{"documented", "a.go", `var V = 1`, "// V is.\nvar V = 1"},
		{"sleep", "a_test.go", `func f() { time.Sleep(1) }`, `func f() { time.Now() }`},
		{"sleep", "a_test.go", `func f() { time.Sleep(1) }`, `func f() { for deadline := g(); h(deadline); time.Sleep(1) {} }`},
		{"skip", "a_test.go", `func f() { t.Skip("x") }`, `func needRoot() { os.Getenv("REQUIRE_ROOT"); t.Skip("x") }`},
		{"function", "a.go", "func f() {" + strings.Repeat("\n", maxFunction) + "}", "// Because.\nfunc f() {" + strings.Repeat("\n", maxFunction) + "}"},
		{"interface", "a.go", `type i interface{ A(); B(); C(); D(); E() }`, `type i interface{ A(); B(); C(); D() }`},
		{"goroutine", "a.go", `func f() { go f() }`, `func f() { f() }`},
		{"marker", "a.go", "// TO" + "DO: later\nfunc f() {}", "// now\nfunc f() {}"},
		{"marker", "a.go", `func f() { panic("not implemented") }`, `func f() { panic("cannot happen") }`},
	}
	for _, test := range tests {
		for text, want := range map[string]int{test.bad: 1, test.good: 0} {
			f, err := parse(test.name, []byte("package p\n"+text))
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if got := fileRules[test.rule](f); len(got) != want {
				t.Errorf("%s: %s: got %q, want %d violations", test.rule, text, got, want)
			}
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	docs := make(map[string][]string)
	for _, f := range sources(t) {
		names := docs[f.room]
		if f.ast.Doc != nil && !f.generated {
			names = append(names, f.name)
		}
		docs[f.room] = names // also with none
	}
	for room, names := range docs {
		if len(names) != 1 {
			t.Errorf("%s has %d package comments, want one: %q", room, len(names), names)
		}
	}
}

func TestFilesAreNotTooLong(t *testing.T) {
	kinds := []string{".go", ".c", ".h", ".sh"}
	for _, name := range tracked(t) {
		text, err := os.ReadFile(filepath.Join(root(t), name))
		generated := bytes.Contains(text, []byte("Code generated by bpf2go; DO "+"NOT EDIT."))
		if err != nil || generated || !slices.Contains(kinds, filepath.Ext(name)) {
			continue
		}
		if lines := bytes.Count(text, []byte("\n")); lines > maxFile {
			t.Errorf("%s has %d lines, at most %d", name, lines, maxFile)
		}
		if filepath.Ext(name) == ".go" {
			if formatted, err := format.Source(text); err != nil || !bytes.Equal(formatted, text) {
				t.Errorf("%s is not formatted by gofmt (%v)", name, err)
			}
		}
	}
}

// TestTopFolders: a new room needs a decision, not just a mkdir.
func TestTopFolders(t *testing.T) {
	folders := []string{".ci", "bpf", "cmd", "deploy", "docs", "lists", "loader", "testenv", "userspace"}
	for _, name := range tracked(t) {
		if top, _, nested := strings.Cut(name, "/"); nested && !slices.Contains(folders, top) {
			t.Errorf("%s: %s is not one of the house's folders %q", name, top, folders)
		}
	}
}

// TestNoBuildMachines: nothing in the sources leads to the machine or the account it was written on.
func TestNoBuildMachines(t *testing.T) {
	var marks [][]byte
	for _, m := range []string{"/work%smain", "/work%sshared", "/tmp%sbrief", "/root%s", "/home%s"} {
		marks = append(marks, fmt.Appendf(nil, m, "/"))
	}
	for _, name := range tracked(t) {
		text, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil {
			continue // deleted, not yet committed
		}
		for _, m := range marks {
			if bytes.Contains(text, m) {
				t.Errorf("%s holds %q, a path of the machine it was made on", name, m)
			}
		}
	}
}
