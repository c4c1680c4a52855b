package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write docs/CLI.md instead of comparing it")

// documented are the scripts whose sessions docs/CLI.md shows, in this order, and under which heading.
var documented = []struct{ script, title string }{
	{"seed_whitelist", "The whitelist"},
	{"seed_blacklist", "The blacklist"},
	{"seed_views", "Views"},
	{"entries", "Entries"},
	{"transfer", "Import and export"},
	{"apis", "APIs"},
	{"why", "Why"},
	{"watch", "Watch"},
	{"l7", "HTTP requests"},
	{"enforcement", "Kernel or requests"},
	{"passes", "Listed and not blocked"},
	{"lockout", "Lock-out guard"},
	{"switches", "Switches"},
	{"login", "Logins"},
	{"prompts", "Prompts"},
	{"node", "The node"},
	{"json", "JSON in use"},
	{"rescue", "Rescue"},
}

func TestCLIDocumentIsCurrent(t *testing.T) {
	var text bytes.Buffer
	if err := writeDocument(&text, commands()); err != nil {
		t.Fatal(err)
	}
	const path = "../../docs/CLI.md"
	if *update {
		if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), text.String()); diff != "" {
		t.Errorf("docs/CLI.md is not what the table and the scripts say; run make generate (-have +want):\n%s", diff)
	}
}

// writeDocument writes docs/CLI.md from the table and the sessions of the scripts.
func writeDocument(w io.Writer, table []*command) error {
	fmt.Fprint(w, "# The command line\n\nThis page is made from the table of commands and from the scripts that test them (`make generate`).\n\n")
	fmt.Fprint(w, "`cli.sh` is `portcullis` under the name scripts know. A command line is\n\n```\ncli.sh [-u USER] [-p [PASSWORD]] COMMAND [ARGUMENTS]\n```\n\n")
	fmt.Fprint(w, "Standard output carries the words of ASE alone. `error:`, `hint:`, `warning:` and `note:` lines, one line each, go to standard error.\n\n")
	fmt.Fprint(w, "## Commands\n\n")
	for _, g := range groups {
		fmt.Fprintf(w, "### %s\n\n| command | what it does |\n|---|---|\n", g)
		for _, c := range table {
			if c.group == g {
				fmt.Fprintf(w, "| `%s` | %s |\n", cell(c.synopsis()), cell(strings.Join(manParagraphs(c), "<br>")))
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "## Kinds\n\n| kind | what it is |\n|---|---|\n")
	for _, k := range kinds {
		fmt.Fprintf(w, "| `%s` | %s |\n", k.usage(), k.help)
	}
	fmt.Fprint(w, "\n## Flags\n\nFlags stand before or after the command, before KIND or after its values, each at most once unless it says more. "+
		"`--name=VALUE` and `--name VALUE` are the same; `--` ends the flags. What stands in a value's place is the value, whatever it begins with: "+
		"`add_blacklist token --for` lists the token `--for`. An unknown flag, a flag the command does not take and a surplus argument are refused.\n\n")
	fmt.Fprint(w, "| flag | what it does | commands |\n|---|---|---|\n")
	for i := range flags {
		fmt.Fprintf(w, "| `%s` | %s | %s |\n", cell(flags[i].label()), cell(flags[i].help), strings.Trim(takers(&flags[i], table), " ()"))
	}
	fmt.Fprintf(w, "\n%s\n\n## Environment\n\n| variable | what it does |\n|---|---|\n", passwordRule)
	for _, v := range variables() {
		fmt.Fprintf(w, "| `%s` | %s |\n", v.name, v.help)
	}
	fmt.Fprint(w, "\n## Exit codes\n\n| code | meaning |\n|---|---|\n")
	for _, e := range exitCodes {
		fmt.Fprintf(w, "| %d | %s |\n", e.code, e.help)
	}
	writeJSONSchema(w)
	return writeTranscripts(w)
}

// cell makes text safe in a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func writeJSONSchema(w io.Writer) {
	fmt.Fprint(w, "\n## JSON\n\n`-o json` works on every command that shows something. Fields are only ever added. "+
		"`view_*` and `history` write one array with one element a line, streamed: it is closed only if everything was written.\n\n"+
		"| command | value |\n|---|---|\n"+
		"| `view_whitelist`, `view_blacklist` | array of `{\"list\",\"source\",\"type\",\"name\",\"value\",\"created\",\"expires\",\"reason\",\"comment\",\"by\"}`; `expires` is null for never |\n"+
		"| `history` | array of `{\"generation\",\"time\",\"by\",\"via\",\"op\",\"before\",\"after\",\"count\",\"note\"}`; `before` and `after` are entries or null |\n"+
		"| `status` | the object of `GET /v1/status` in the daemon's OpenAPI document |\n"+
		"| `version` | `{\"version\"}` |\n| `log_level` | `{\"log_level\"}` |\n| `get_auth_method` | `{\"auth_method\"}` |\n| `verify_audit` | `{\"lines\"}` |\n")
}

func writeTranscripts(w io.Writer) error {
	fmt.Fprint(w, "\n## Transcripts\n\nEach of these is a test that compares byte for byte. Lines of standard error are shown after a `2>`, exit codes other than 0 after a `#`.\n")
	for _, d := range documented {
		archive, err := txtar.ParseFile(filepath.Join("testdata/script", d.script+".txtar"))
		if err != nil {
			return err
		}
		intro, _, _ := strings.Cut(strings.TrimPrefix(string(archive.Comment), "# "), "\n")
		fmt.Fprintf(w, "\n### %s\n\n%s\n", d.title, intro)
		for _, f := range archive.Files {
			if strings.HasPrefix(string(f.Data), "$ ") {
				fmt.Fprintf(w, "\n```\n%s```\n", showSession(string(f.Data)))
			}
		}
	}
	return nil
}

// showSession is a session as a reader wants it: what was typed at a terminal is already in the terminal's echo.
func showSession(text string) string {
	var b strings.Builder
	for _, line := range strings.SplitAfter(text, "\n") {
		switch {
		case strings.HasPrefix(line, "< "):
		case strings.HasPrefix(line, "! "):
			b.WriteString("2> " + line[2:])
		case strings.HasPrefix(line, "= "):
			b.WriteString("# exit code " + line[2:])
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestManualPageIsSound has groff read the page with every warning on.
func TestManualPageIsSound(t *testing.T) {
	var page bytes.Buffer
	writeMan(&page, commands())
	for _, c := range commands() {
		if !strings.Contains(page.String(), `\fB`+(roff{}).escape(c.synopsis())+`\fR`) {
			t.Errorf("the manual page does not have %s", c.name)
		}
	}
	if !installed(t, "groff") {
		return // the page was checked for being whole
	}
	cmd := exec.Command("groff", "-man", "-Tutf8", "-ww")
	cmd.Stdin = &page
	var warnings bytes.Buffer
	cmd.Stderr = &warnings
	shown, err := cmd.Output()
	if err != nil || warnings.Len() > 0 {
		t.Fatalf("groff: %v\n%s", err, warnings.String())
	}
	if !bytes.Contains(shown, []byte("port scan")) {
		t.Errorf("groff does not show the examples:\n%s", shown)
	}
}

func TestEveryRowOfTheTableIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range commands() {
		if seen[c.name] || c.short == "" || c.run == nil || c.group == "" {
			t.Errorf("command %s is there twice or lacks something", c.name)
		}
		seen[c.name] = true
		for _, f := range c.flags {
			if findFlag(f) == nil {
				t.Errorf("%s takes --%s, which is no flag", c.name, f)
			}
		}
	}
}
