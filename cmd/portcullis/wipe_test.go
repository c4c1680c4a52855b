package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestPasswordIsWipedFromTheProcessList looks at /proc/PID/cmdline while the program waits for a password's second line.
func TestPasswordIsWipedFromTheProcessList(t *testing.T) {
	for _, args := range [][]string{
		{"-u", "admin", "-p", "hidden-word", "update_password"},
		{"update_password", "--password=hidden-word"},
		{"update_password", "-p=hidden-word", "-u", "admin"},
	} {
		cmd := exec.Command("portcullis", args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var seen []byte
		err = testenv.Poll(10*time.Second, func() error {
			seen, err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
			if err == nil && !bytes.Contains(seen, []byte("***********")) {
				err = errors.New("not wiped yet")
			}
			return err
		})
		if err != nil || bytes.Contains(seen, []byte("hidden")) {
			t.Errorf("%q: %v, seen %q", args, err, seen)
		}
		if !bytes.Contains(seen, []byte("update_password")) {
			t.Errorf("%q: the rest of the command line is gone too: %q", args, seen)
		}
		in.Close()
		_ = cmd.Wait() // it fails for want of input, which is none of our business
	}
}

func TestReadLineTakesNoMoreThanALine(t *testing.T) {
	in := strings.NewReader("one\r\ntwo\n\nlast")
	for _, want := range []string{"one", "two", "", "last"} {
		if got, err := readLine(in); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if _, err := readLine(in); !errors.Is(err, io.EOF) {
		t.Errorf("got %v at the end", err)
	}
	if _, err := readLine(strings.NewReader(strings.Repeat("x", maxLine+1))); err == nil {
		t.Error("a line without end was read")
	}
}

func TestSessionPeerIsFoundInAncestors(t *testing.T) {
	parent := os.Getppid()
	files := map[string]string{
		fmt.Sprintf("/proc/%d/environ", parent): "HOME=/root\x00SUDO_USER=x",
		fmt.Sprintf("/proc/%d/stat", parent):    fmt.Sprintf("%d (su (do) 1 2) S 7777 1 1", parent),
		"/proc/7777/environ":                    "A=B\x00SSH_CONNECTION=::ffff:198.51.100.9 50022 192.0.2.1 22\x00",
	}
	readFile := func(path string) ([]byte, error) {
		text, ok := files[path]
		if !ok {
			return nil, os.ErrNotExist
		}
		return []byte(text), nil
	}
	none := func(string) string { return "" }
	if got := sessionPeer(none, readFile); got != "198.51.100.9" {
		t.Errorf("got %q from an ancestor", got)
	}
	own := func(string) string { return "fe80::1%eth0 50022 fe80::2 22" }
	if got := sessionPeer(own, readFile); got != "fe80::1" {
		t.Errorf("got %q from the own environment", got)
	}
	delete(files, "/proc/7777/environ")
	if got := sessionPeer(none, readFile); got != "" {
		t.Errorf("got %q from nowhere", got)
	}
}

func TestEveryErrorIsOneLineWithItsExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{nil, 0, ""},
		{errors.New("a\nb"), 1, "error: a; b\n"},
		{&usageError{"m", "h"}, 2, "error: m\nhint: h\n"},
		{&control.Error{Code: control.CodeInvalid, Message: "m"}, 2, "error: m\n"},
		{&control.Error{Code: control.CodeUnreachable, Message: "m", Hint: "h"}, 3, "error: m\nhint: h\n"},
		{&control.Error{Code: control.CodeForbidden, Message: "m"}, 4, "error: m\n"},
		{&control.Error{Code: control.CodeRisk, Message: "m"}, 5, "error: m\n"},
		{&control.Error{Code: control.CodeNotFound, Message: "m"}, 7, "error: m\n"},
		{&control.Error{Code: control.CodeFailed, Message: "\x1b[2Jm\u202e"}, 1, "error: \\u001b[2Jm\\u202e\n"},
		{os.ErrPermission, 4, "error: permission denied\n"},
	} {
		var out strings.Builder
		if code := report(&out, c.err); code != c.code || out.String() != c.want {
			t.Errorf("%v: code %d, %q; want %d, %q", c.err, code, out.String(), c.code, c.want)
		}
	}
}

func TestOutputThatCannotBeWrittenIsAnError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var errs strings.Builder
	s := &streams{in: strings.NewReader(""), out: bufio.NewWriter(full), err: &errs}
	inv, err := readArgv(commands(), []string{"version"})
	if code := finish(s, dispatch(t.Context(), s, inv, err)); code != exitFailed || !strings.Contains(errs.String(), "no space left") {
		t.Errorf("code %d, %q", code, errs.String())
	}
}

// TestServeIsToldByFlagThenEnvironmentThenFile asks for the configuration that serve would run with.
func TestServeIsToldByFlagThenEnvironmentThenFile(t *testing.T) {
	file := t.TempDir() + "/portcullis.toml"
	text := "interfaces = [\"file0\"]\nmode = \"generic\"\nstate_dir = \"/file/state\"\nsocket = \"/file/sock\"\npin_dir = \"/file/pin\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PORTCULLIS_STATE_DIR", "/env/state")
	t.Setenv("PORTCULLIS_SOCKET", "/env/sock")
	t.Setenv("PORTCULLIS_PIN_DIR", "")
	for line, want := range map[string]string{
		"serve --interface a,b --interface c":                 "[a b c] native-then-generic /env/state /env/sock /sys/fs/bpf/portcullis",
		"serve --config " + file:                              "[file0] generic /env/state /env/sock /file/pin",
		"serve --socket /flag --mode native --config " + file: "[file0] native /env/state /flag /file/pin",
	} {
		inv, err := read(t, line)
		if err != nil {
			t.Fatal(err)
		}
		probe := *inv.cmd
		probe.run = func(c *call) error {
			conf, err := c.config()
			if got := fmt.Sprint(conf.Interfaces, " ", conf.Mode, " ", conf.StateDir, " ", conf.Socket, " ", conf.PinDir); got != want {
				t.Errorf("%s:\n got %s\nwant %s", line, got, want)
			}
			return err
		}
		s := &streams{in: strings.NewReader(""), out: bufio.NewWriter(io.Discard), err: io.Discard}
		if err := newApp(s, &probe).RunContext(t.Context(), canonical(inv)); err != nil {
			t.Error(err)
		}
	}
}
