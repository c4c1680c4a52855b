package house

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rooms is the import table of docs/ARCHITECTURE.md: what of ours each package's code (its tests aside) may import.
var rooms = map[string][]string{
	"bpf":                     {},
	"lists":                   {},
	"lists/format":            {"lists"},
	"lists/store":             {"lists"},
	"lists/store/storetest":   {"lists", "lists/store"}, // the conformance suite: only tests import it
	"loader":                  {"bpf", "lists", "loader/compile"},
	"loader/compile":          {"lists"},
	"userspace/durable":       {},
	"userspace/serving":       {},
	"userspace/control":       {"lists", "userspace/durable"},
	"userspace/apis":          {"userspace/durable"},
	"userspace/shim":          {"lists", "userspace/apis"},
	"userspace/shim/front":    {"userspace/apis", "userspace/shim"},
	"userspace/shim/check":    {"userspace/apis", "userspace/serving", "userspace/shim", "userspace/shim/front"},
	"userspace/shim/extauthz": {"userspace/apis", "userspace/shim", "userspace/shim/front"},
	"userspace/shim/spoe":     {"userspace/apis", "userspace/shim", "userspace/shim/front"},
	"userspace/shim/sideband": {"lists", "userspace/durable", "userspace/serving", "userspace/shim", "userspace/shim/front"},
	"userspace/management":    {"lists", "userspace/control", "userspace/durable", "userspace/serving"},
	"userspace/shim/proxy":    {"lists", "userspace/apis", "userspace/shim"},
	"userspace/detect":        {"lists", "userspace/apis"},

	"userspace/control/controltest": {"lists", "userspace/control"}, // a node in memory: only tests import it

	"userspace":       {"bpf", "lists", "lists/store", "loader", "loader/compile", "userspace/apis", "userspace/control", "userspace/detect", "userspace/durable", "userspace/management", "userspace/serving", "userspace/shim", "userspace/shim/check", "userspace/shim/extauthz", "userspace/shim/front", "userspace/shim/proxy", "userspace/shim/spoe", "userspace/shim/sideband"},
	"cmd/portcullis":  {"lists", "lists/format", "userspace", "userspace/control"},
	"testenv":         {},
	"testenv/bench":   {"bpf", "lists", "lists/store", "loader", "loader/compile", "testenv", "testenv/generator", "userspace/control"},
	"testenv/benchl7": {"lists", "testenv", "userspace/apis", "userspace/shim", "userspace/shim/check", "userspace/shim/proxy", "userspace/shim/sideband", "userspace/shim/spoe"},
	"testenv/demo":    {"testenv"},

	"testenv/differential": {},

	"testenv/generator": {"testenv"}, // sends frames: only tests and the benchmark import it

	"testenv/gateways": {},
	"testenv/house":    {},
	"testenv/scenario": {},
}

// onlyTests may be imported by tests, and by what is below testenv itself: the demo, the benchmark.
var onlyTests = []string{"testenv", "testenv/generator", "lists/store/storetest", "userspace/control/controltest"}

// standardOnly packages import nothing from outside the standard library.
var standardOnly = []string{"lists"}

func TestImportTable(t *testing.T) {
	all := packages(t)
	report(t, checkImports(all))
	for room := range rooms {
		if !slices.ContainsFunc(all, func(p pkg) bool { return p.room() == room }) {
			t.Errorf("the import table names %s, which is no package", room)
		}
	}
}

// TestArchitectureShowsTheTable: docs/ARCHITECTURE.md shows the same table to people.
func TestArchitectureShowsTheTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	var above []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z/]+)` \\|.*\\| ([^|]+) \\|$").FindAllStringSubmatch(string(text), -1) {
		room, shown := row[1], row[2]
		allowed, known := rooms[room]
		if !known {
			continue // another table
		}
		var want []string
		switch shown {
		case "-", "only from tests, the demo and the benchmark":
		case "all above":
			want = slices.Clone(above)
		default:
			want = strings.Split(shown, ", ")
		}
		if !slices.Equal(sorted(want), sorted(allowed)) {
			t.Errorf("%s may import %q by docs/ARCHITECTURE.md, %q by this test", room, want, allowed)
		}
		above = append(above, room)
	}
	if len(above) < 8 {
		t.Errorf("docs/ARCHITECTURE.md shows only %d rooms: %q", len(above), above)
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func checkImports(all []pkg) (bad []string) {
	for _, p := range all {
		room := p.room()
		allowed, known := rooms[room]
		if !known {
			bad = append(bad, fmt.Sprintf("%s is not in the import table", room))
			continue
		}
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, module+"/")
			switch {
			case isOurs && !slices.Contains(allowed, ours):
				bad = append(bad, fmt.Sprintf("%s must not import %s", room, ours))
			case isOurs && slices.Contains(onlyTests, ours) && !strings.HasPrefix(room, "testenv/"):
				bad = append(bad, fmt.Sprintf("%s must not import %s outside of tests", room, ours))
			case !isOurs && slices.Contains(standardOnly, room) && strings.Contains(strings.Split(imported, "/")[0], "."):
				bad = append(bad, fmt.Sprintf("%s must import the standard library only, not %s", room, imported))
			}
		}
	}
	return bad
}

func TestCheckImportsSeesViolations(t *testing.T) {
	all := []pkg{
		{ImportPath: module + "/lists", Imports: []string{"fmt", "github.com/x/y", module + "/loader"}},
		{ImportPath: module + "/loader", Imports: []string{module + "/lists", module + "/testenv"}},
		{ImportPath: module + "/cellar"},
	}
	want := []string{
		"lists must import the standard library only, not github.com/x/y",
		"lists must not import loader",
		"loader must not import testenv",
		"cellar is not in the import table",
	}
	if got := checkImports(all); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func report(t *testing.T, bad []string) {
	t.Helper()
	for _, b := range bad {
		t.Error(b)
	}
}
