package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// completions are command lines up to the word that is completed (empty: a new word), and what must (and, after a
// minus, must not) be offered.
var completions = []struct {
	words []string
	want  []string
}{
	{[]string{"add_b"}, []string{"add_blacklist", "-add_whitelist"}},
	{[]string{""}, []string{"add_blacklist", "status", "-ip"}},
	{[]string{"-u", "admin", "-p", "admin", "add_blacklist", ""}, []string{"ip", "cookie", "api_key", "-status"}},
	{[]string{"-u", "admin", "-p", "add_blacklist", ""}, []string{"ip", "username"}},
	{[]string{"view_blacklist", "in"}, []string{"invalid_protocol", "invalid_method", "-decoy"}},
	{[]string{"add_blacklist", "--f"}, []string{"--for"}},
	{[]string{"status", "--f"}, []string{"--for-"}},
	{[]string{"view_blacklist", "-o", ""}, []string{"json", "text", "-decoy"}},
	{[]string{"bypass", ""}, []string{"on", "off"}},
	{[]string{"log_level", "w"}, []string{"warn", "-info"}},
	{[]string{"add_blacklist", "cookie", "NAME", ""}, []string{"-ip", "-status"}},
	{[]string{"help", "det"}, []string{"detach"}},
}

// hostile is typed text that would run a command if a script evaluated it.
func hostile(marker string) []string {
	var words []string
	for _, form := range []string{"$(touch %s)", "`touch %s`", "${x[$(touch %s)]}", "a[$(touch %s)]", "';touch %s;'"} {
		words = append(words, fmt.Sprintf(form, marker))
	}
	return words
}

// installed reports whether a program that users need not have is here. Where REQUIRE_ROOT=1 asks for every test it
// must be: make test installs it.
func installed(t *testing.T, program string) bool {
	t.Helper()
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal(err)
	}
	return err == nil
}

func script(t *testing.T, write func(*bytes.Buffer)) string {
	t.Helper()
	var b bytes.Buffer
	write(&b)
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkCompletions asks a shell for the completions of every case, then of hostile words.
func checkCompletions(t *testing.T, complete func(words []string) []string) {
	t.Helper()
	for _, c := range completions {
		got := complete(c.words)
		for _, w := range c.want {
			no, unwanted := strings.CutPrefix(w, "-")
			if flag := strings.HasPrefix(w, "--"); flag {
				unwanted = strings.HasSuffix(w, "-")
				no, w = strings.TrimSuffix(w, "-"), strings.TrimSuffix(w, "-")
			}
			if unwanted && slices.Contains(got, no) {
				t.Errorf("%q: offers %s", c.words, no)
			}
			if !unwanted && !slices.Contains(got, w) {
				t.Errorf("%q: offers %q, not %s", c.words, got, w)
			}
		}
	}
	marker := filepath.Join(t.TempDir(), "ran")
	for _, h := range hostile(marker) {
		complete([]string{h})
		complete([]string{h, ""})
		complete([]string{"add_blacklist", h, ""})
		complete([]string{"-u", h, "-p", h, "view_blacklist", h})
		if _, err := os.Stat(marker); err == nil {
			t.Fatalf("completing %q runs what was typed", h)
		}
	}
}

// run runs a shell and returns the lines it prints.
func run(t *testing.T, name string, args ...string) []string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 {
		t.Errorf("%s %q: %v\n%s", name, args, err, errs.String())
	}
	return strings.Fields(string(out))
}

func TestBashCompletion(t *testing.T) {
	path := script(t, func(b *bytes.Buffer) { writeBash(b, commands()) })
	const driver = `source "$1"; shift; COMP_WORDS=(cli.sh "$@"); COMP_CWORD=$#; compopt() { :; }; _portcullis || exit 1; printf '%s\n' "${COMPREPLY[@]}"`
	checkCompletions(t, func(words []string) []string {
		return run(t, "bash", append([]string{"--norc", "-uc", driver, "bash", path}, words...)...)
	})
}

func TestZshCompletion(t *testing.T) {
	path := script(t, func(b *bytes.Buffer) { writeZsh(b, commands()) })
	if !installed(t, "zsh") {
		return
	}
	const driver = `compdef() { :; }; _files() { :; }
compadd() { shift; local w; for w in "$@"; do [[ $w == "$cur"* ]] && print -r -- "$w"; done; return 0 }
source "$1"; shift; words=(cli.sh "$@"); CURRENT=$(( $# + 1 )); _portcullis; exit 0`
	checkCompletions(t, func(words []string) []string {
		return run(t, "zsh", append([]string{"-fc", driver, "zsh", path}, words...)...)
	})
}

func TestFishCompletion(t *testing.T) {
	path := script(t, func(b *bytes.Buffer) { writeFish(b, commands()) })
	if !installed(t, "fish") {
		return
	}
	checkCompletions(t, func(words []string) []string {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = w
			if strings.ContainsAny(w, "$`[';") {
				quoted[i] = "'" + fishQuote(w) + "'"
			}
		}
		line := "cli.sh " + strings.Join(quoted, " ")
		var offered []string
		out := exec.Command("fish", "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, path, line)
		out.Env = append(os.Environ(), "HOME="+t.TempDir())
		text, err := out.Output()
		if err != nil {
			t.Errorf("fish: complete %q: %v", line, err)
		}
		for _, l := range strings.Split(string(text), "\n") {
			word, _, _ := strings.Cut(l, "\t")
			offered = append(offered, word)
		}
		return offered
	})
}
