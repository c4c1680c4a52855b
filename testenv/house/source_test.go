package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/portcullis/portcullis/testenv"
)

const module = "github.com/portcullis/portcullis"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath, Dir, Name              string
	Imports, TestImports, XTestImports []string
	GoFiles, TestGoFiles, XTestGoFiles []string
	IgnoredGoFiles                     []string
}

// room is the package's folder, as the table names it.
func (p pkg) room() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// packages lists every package of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// file is one Go source, parsed.
type file struct {
	name      string // from the top folder
	room      string
	main      bool // of package main
	test      bool
	generated bool
	set       *token.FileSet
	ast       *ast.File
}

// at writes a violation with its place.
func (f file) at(n ast.Node, format string, args ...any) string {
	return fmt.Sprintf("%s:%d: %s", f.name, f.set.Position(n.Pos()).Line, fmt.Sprintf(format, args...))
}

// parse reads one source.
func parse(name string, text []byte) (file, error) {
	f := file{name: name, test: strings.HasSuffix(name, "_test.go"), set: token.NewFileSet()}
	var err error
	f.ast, err = parser.ParseFile(f.set, name, text, parser.ParseComments)
	if err == nil {
		f.main = f.ast.Name.Name == "main"
		f.generated = ast.IsGenerated(f.ast)
	}
	return f, err
}

// sources parses every Go file of the module.
func sources(t *testing.T) []file {
	t.Helper()
	var all []file
	top := root(t)
	for _, p := range packages(t) {
		names := append(append(append(append([]string(nil), p.GoFiles...), p.TestGoFiles...), p.XTestGoFiles...), p.IgnoredGoFiles...)
		for _, base := range names {
			path := filepath.Join(p.Dir, base)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, _ := filepath.Rel(top, path)
			f, err := parse(name, text)
			if err != nil {
				t.Fatal(err)
			}
			f.room = p.room()
			all = append(all, f)
		}
	}
	return all
}

// tracked lists the files that are committed or about to be.
func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}
