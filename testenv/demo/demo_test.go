package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// build makes the demo as `make demo` does, and returns the command that runs it.
func build(t *testing.T) *exec.Cmd {
	t.Helper()
	testenv.NeedRoot(t)
	bin, err := testenv.Build()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	tmp, err := os.MkdirTemp("", "demo-") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	cmd := exec.Command(program)
	cmd.Dir = filepath.Dir(bin) // the top folder
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	return cmd
}

var update = flag.Bool("update", false, "write what the demo prints into README.md")

// TestDemoShowsWhatItSays runs the demo and compares what it prints with what README.md says it prints.
func TestDemoShowsWhatItSays(t *testing.T) {
	cmd := build(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	began := time.Now()
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stdout, stderr.Bytes())
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v, at most 30s", took)
	}
	if stderr.Len() > 0 {
		t.Errorf("on standard error:\n%s", stderr.Bytes())
	}
	readme := filepath.Join(cmd.Dir, "README.md")
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found1 := strings.Cut(string(text), "<!-- demo -->\n```\n")
	want, after, found2 := strings.Cut(rest, "```\n<!-- /demo -->")
	if !found1 || !found2 {
		t.Fatalf("%s has no place for the demo", readme)
	}
	if *update {
		text := before + "<!-- demo -->\n```\n" + string(stdout) + "```\n<!-- /demo -->" + after
		if err := os.WriteFile(readme, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		want = string(stdout)
	}
	if maskCounters(string(stdout)) != maskCounters(want) {
		t.Errorf("the demo printed:\n%s\nREADME.md says (packet counts aside; go test ./testenv/demo -update writes it):\n%s", stdout, want)
	}
	assertClean(t, cmd)
}

// maskCounters replaces the packet counts, which differ from run to run. The demo itself checks that they moved.
func maskCounters(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if f := strings.Fields(l); len(f) == 4 && f[3] == "packets" {
			lines[i] = strings.Join([]string{f[0], f[1], "N packets"}, " ")
		}
	}
	return strings.Join(lines, "\n")
}

// TestInterruptedDemoCleansUp stops the demo at several points by the signals that a terminal and a service send, and
// looks for what it left.
func TestInterruptedDemoCleansUp(t *testing.T) {
	tests := []struct {
		after  string // what it has printed when the signal comes
		signal syscall.Signal
	}{
		{"client and another client", syscall.SIGINT},
		{"The daemon starts", syscall.SIGTERM},
		{"delete_blacklist ip", syscall.SIGINT},
		{"kill -9", syscall.SIGHUP},
	}
	for _, test := range tests {
		t.Run(test.signal.String()+" at "+test.after, func(t *testing.T) {
			cmd := build(t)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			found := false
			for lines := bufio.NewScanner(out); !found && lines.Scan(); {
				found = strings.Contains(lines.Text(), test.after)
			}
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out)
			err = cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !found {
				t.Errorf("found %v, ended with %v, want exit code 1\n%s", found, err, stderr.Bytes())
			}
			if !strings.Contains(stderr.String(), "error: demo: interrupted") {
				t.Errorf("standard error: %s", stderr.Bytes())
			}
			assertClean(t, cmd)
		})
	}
}

// TestReaderGoesAway: `make demo | head` cleans up too.
func TestReaderGoesAway(t *testing.T) {
	cmd := build(t)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("exit code 0 though nobody read it")
	}
	assertClean(t, cmd)
}

// assertClean looks for files, mounts and processes below the temporary directory that the demo had for itself; its
// namespaces are files there, its pins are on a mount there.
func assertClean(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var dir string
	for _, e := range cmd.Env {
		if v, ok := strings.CutPrefix(e, "TMPDIR="); ok {
			dir = v
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in its temporary directory: %v (%v)", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("mounts are left below %s (%v)", dir, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if line, err := os.ReadFile(p); err == nil && bytes.Contains(line, []byte(dir)) {
			t.Errorf("still running: %s %q", p, line)
		}
	}
}
