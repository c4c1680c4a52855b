package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestMain lets the test binary stand in for the program: scripts, cli.sh and the daemon all run it as "portcullis".
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"portcullis": func() { os.Exit(mainExit()) }})
}

// scriptsWithin bounds all scripts together: one that hangs must not take the test binary with it.
const scriptsWithin = 2 * time.Minute

// bench is what the scripts share: a lab, and for each script a daemon of its own.
type bench struct {
	lab   *testenv.Lab
	bpffs string

	mu      sync.Mutex
	daemons map[*testscript.TestScript]*testenv.Daemon
}

func TestScripts(t *testing.T) {
	lab := testenv.New(t)
	bpffs, err := lab.MountBPF()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(lab.Dir, 0o711); err != nil { // other users reach the socket
		t.Fatal(err)
	}
	b := &bench{lab: lab, bpffs: bpffs, daemons: map[*testscript.TestScript]*testenv.Daemon{}}
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	bin := binary(t)
	for dir := bin; dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // other users run it
			t.Fatal(err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", deploy+":"+e.Getenv("PATH"))
			e.Setenv("TZ", "UTC")
			e.Setenv("BIN", bin)
			return os.Chmod(e.WorkDir, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": b.start, "restart": b.restart, "end": b.end, "entries": b.entries, "session": session, "pcapng": checkCapture,
		},
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(scriptsWithin),
	})
}

// binary is the folder of the portcullis that TestMain provides.
func binary(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("portcullis")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(path)
}

// start is the command "daemon FLAG..." or "daemon -unprivileged CONFIG": a daemon on a namespace of the script's own; its socket, pin directory and
// the addresses of both ends are in the environment.
func (b *bench) start(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.Name()
	inside, err := b.lab.Namespace(name)
	ts.Check(err)
	outside, err := b.lab.Namespace(name + "-out")
	ts.Check(err)
	ts.Check(testenv.Connect(inside, "eth0", outside, "eth0"))
	ts.Check(inside.Address("eth0", "192.0.2.1/24"))
	path, err := exec.LookPath("portcullis")
	ts.Check(err)
	d := testenv.NewDaemon(filepath.Dir(path), inside, b.bpffs, name)
	if d.Args = args; len(args) > 0 && args[0] == "-unprivileged" {
		ts.Check(unprivileged(d, inside, ts.ReadFile(args[1])))
	}
	ts.Check(d.Start())
	ts.Defer(func() { _ = d.Kill() }) // if the script has not ended it
	b.mu.Lock()
	b.daemons[ts] = d
	b.mu.Unlock()
	ts.Setenv("PORTCULLIS_SOCKET", d.Socket)
	ts.Setenv("PORTCULLIS_PIN_DIR", d.PinDir)
	ts.Setenv("STATE", d.StateDir)
	ts.Setenv("NETNS", inside.Path)
	ts.Setenv("OUTSIDE", outside.Path)
}

// unprivileged makes a daemon without interfaces that runs as nobody: who only judges requests needs no more.
func unprivileged(d *testenv.Daemon, n *testenv.Namespace, config string) error {
	const nobody = 65534
	d.Interfaces, d.Socket = nil, filepath.Join(d.StateDir, "portcullis.sock")
	d.Wrap = []string{"setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups", "--bounding-set=-all"}
	d.Args = []string{"--config", filepath.Join(d.StateDir, "portcullis.toml")}
	if err := os.Mkdir(d.StateDir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(d.Args[1], []byte(config), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Chown(d.StateDir, nobody, nobody), n.Up("lo"))
}

func (b *bench) daemon(ts *testscript.TestScript) *testenv.Daemon {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.daemons[ts] == nil {
		ts.Fatalf("the script has no daemon")
	}
	return b.daemons[ts]
}

func (b *bench) restart(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(b.daemon(ts).Stop())
	ts.Check(b.daemon(ts).Start())
}

// end is the command "end": ends the daemon. (testscript has a command "stop", which ends the script.)
func (b *bench) end(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(b.daemon(ts).Stop()) }

// entries is the command "entries FILE": puts lines of LIST SOURCE KIND [NAME] VALUE on the lists, as root.
func (b *bench) entries(ts *testscript.TestScript, _ bool, args []string) {
	cl := control.Client{Socket: b.daemon(ts).Socket}
	var ops []control.Operation
	for _, line := range strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n") {
		f := strings.Fields(line)
		op := control.Operation{Op: "add", List: f[0], Kind: f[2], Value: f[len(f)-1]}
		if f[1] != "manual" {
			op.Source = f[1]
		}
		if len(f) == 5 {
			op.Name = f[3]
		}
		ops = append(ops, op)
	}
	_, err := cl.Apply(context.Background(), ops)
	ts.Check(err)
}

// step is one command of a session and what it must come to.
type step struct {
	command        string
	typed          []string // at a terminal
	stdout, stderr string
	code           string
}

// parseSession reads a session: "$ command", what is typed at a terminal "< text", standard error "! line", the exit
// code "= N" if it is not 0, and standard output as it is.
func parseSession(text string) []step {
	var steps []step
	for _, line := range strings.SplitAfter(text, "\n") {
		if line == "" {
			continue
		}
		bare := strings.TrimSuffix(line, "\n")
		if command, ok := strings.CutPrefix(bare, "$ "); ok {
			steps = append(steps, step{command: command, code: "0"})
			continue
		}
		s := &steps[len(steps)-1]
		switch {
		case strings.HasPrefix(line, "< "):
			s.typed = append(s.typed, bare[2:])
		case strings.HasPrefix(line, "! "):
			s.stderr += line[2:]
		case strings.HasPrefix(line, "= "):
			s.code = bare[2:]
		default:
			s.stdout += line
		}
	}
	return steps
}

// seedPaths are how the documentation calls cli.sh.
var seedPaths = regexp.MustCompile(`^(/opt/pingidentity/ase|\.)/bin/cli\.sh`)

// session is the command "session FILE...": runs the commands of the files and compares all they come to, byte for byte.
func session(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		steps := parseSession(ts.ReadFile(file))
		if len(steps) == 0 {
			ts.Fatalf("%s: no commands", file)
		}
		for _, want := range steps {
			got, err := runStep(ts, want)
			ts.Check(err)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(step{})); diff != "" {
				ts.Fatalf("%s: $ %s (-want +got):\n%s", file, want.command, diff)
			}
		}
	}
}

func runStep(ts *testscript.TestScript, want step) (got step, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", seedPaths.ReplaceAllString(want.command, "cli.sh"))
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TZ", "WORK", "TMPDIR", "BIN", "STATE", "NETNS", "PORTCULLIS_SOCKET", "PORTCULLIS_PIN_DIR",
		"PORTCULLIS_PASSWORD", "SSH_CONNECTION"} {
		if v := ts.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	var out, errs strings.Builder
	cmd.Stderr = &errs
	if want.typed == nil {
		cmd.Stdout = &out
		err = cmd.Run()
	} else {
		err = onTerminal(cmd, want.typed, &out)
	}
	if cmd.ProcessState == nil {
		return got, err
	}
	code := fmt.Sprint(cmd.ProcessState.ExitCode())
	return step{want.command, want.typed, out.String(), errs.String(), code}, nil
}

// promptAtEnd is output after which the program waits for the user.
var promptAtEnd = regexp.MustCompile(`: ?$`)

// onTerminal runs cmd on a terminal with echo and types a line at each prompt. The terminal's "\r\n" becomes "\n".
// Standard error is on the terminal too if cmd has none.
func onTerminal(cmd *exec.Cmd, typed []string, out *strings.Builder) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	cmd.Stdin, cmd.Stdout = slave, slave
	if cmd.Stderr == nil {
		cmd.Stderr = slave
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	slave.Close()
	var raw strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		raw.Write(buf[:n])
		if err != nil {
			break // EIO: the last process has closed the terminal
		}
		if len(typed) > 0 && promptAtEnd.MatchString(raw.String()) {
			if _, err := io.WriteString(master, typed[0]+"\n"); err != nil {
				return err
			}
			typed = typed[1:]
		}
	}
	out.WriteString(strings.ReplaceAll(raw.String(), "\r\n", "\n"))
	return cmd.Wait()
}

// openTerminal makes a pseudo-terminal.
func openTerminal() (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	if err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("number of terminal: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}
