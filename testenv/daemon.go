package testenv

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readyWithin is how long a daemon may take to enforce its lists, unless it says otherwise.
const readyWithin = 20 * time.Second

// Root returns the top folder of the project: the nearest one above the working directory that has a go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find go.mod: not in this directory or one above it")
		}
	}
}

// Build brings bin/portcullis and bin/cli.sh up to date, as make build does, and returns the folder they are in.
// Several processes may call it at once.
func Build() (bin string, err error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	lock, err := os.Open(filepath.Join(root, "Makefile"))
	if err == nil {
		defer lock.Close()
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return "", fmt.Errorf("lock build: %w", err)
	}
	cmd := exec.Command("make", "--silent", "build")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return filepath.Join(root, "bin"), nil
}

// Daemon is one `portcullis serve`, with directories of its own below a lab. Change its fields before Start.
type Daemon struct {
	ReadyWithin time.Duration // how long it may take to enforce its lists, 0: 20 s; and a command, at least a minute

	Bin        string     // folder of portcullis and cli.sh, as Build returns it
	Namespace  *Namespace // where it runs
	Interfaces []string   // none: Args name a configuration that judges requests
	Mode       string     // "": native
	StateDir   string
	PinDir     string
	Socket     string
	Args       []string // further flags of serve
	Env        []string // further environment of serve
	// Wrap, if set, is put before the command: a program that execs its arguments (strace, prlimit).
	Wrap []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *os.File
	said []string
}

// NewDaemon describes a daemon for eth0 of the namespace; name tells the daemons of a lab apart.
func NewDaemon(bin string, n *Namespace, bpffs, name string) *Daemon {
	dir := n.lab.Dir
	return &Daemon{
		Bin: bin, Namespace: n, Interfaces: []string{"eth0"}, Mode: "native",
		StateDir: filepath.Join(dir, name+".state"),
		PinDir:   filepath.Join(bpffs, name),
		Socket:   filepath.Join(dir, name+".sock"),
	}
}

// Start starts the daemon and returns when it says (sd_notify) that it enforces.
func (d *Daemon) Start() error {
	notify := d.Socket + ".notify"
	_ = os.Remove(notify)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer ready.Close()
	if err := os.Chmod(notify, 0o666); err != nil { // it may run as another user
		return fmt.Errorf("start daemon: %w", err)
	}
	if err := d.Launch("NOTIFY_SOCKET=" + notify); err != nil {
		return err
	}
	within := cmp.Or(d.ReadyWithin, readyWithin)
	said := make(chan error, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			size, err := ready.Read(buf)
			d.hear(string(buf[:max(size, 0)]))
			if err != nil || bytes.Contains(buf[:size], []byte("READY=1")) {
				said <- err
				return
			}
		}
	}()
	select {
	case err := <-said:
		return err
	case <-d.Done():
		return fmt.Errorf("start daemon: it ended at once: %v\n%s", d.cmd.ProcessState, d.Log())
	case <-time.After(within):
		return fmt.Errorf("start daemon: not ready within %v\n%s", within, d.Log())
	}
}

func (d *Daemon) hear(message string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, message)
}

// Said returns what the daemon told systemd (sd_notify) while it was started.
func (d *Daemon) Said() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.said)
}

// Launch starts the daemon and does not wait for it.
func (d *Daemon) Launch(env ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	log, err := os.OpenFile(d.Socket+".log", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	argv := append(append([]string(nil), d.Wrap...), filepath.Join(d.Bin, "portcullis"), "serve",
		"--mode", d.Mode, "--state-dir", d.StateDir, "--socket", d.Socket, "--pin-dir", d.PinDir)
	if len(d.Interfaces) > 0 {
		argv = append(argv, "--interface", strings.Join(d.Interfaces, ","))
	}
	cmd := exec.Command(argv[0], append(argv[1:], d.Args...)...)
	cmd.Env = append(append(os.Environ(), d.Env...), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for the caller, who ends the daemon
	if err := d.Namespace.Start(cmd); err != nil {
		log.Close()
		return fmt.Errorf("start daemon: %w", err)
	}
	done := make(chan struct{})
	d.cmd, d.done, d.log = cmd, done, log
	go func() {
		_ = cmd.Wait()
		log.Close()
		close(done)
	}()
	return nil
}

// Done is closed when the daemon last started has ended; ExitCode is valid from then on.
func (d *Daemon) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// ExitCode of the daemon that ended; -1 if a signal killed it.
func (d *Daemon) ExitCode() int { return d.cmd.ProcessState.ExitCode() }

// PID of the daemon last started.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log returns what every daemon with this socket has written so far.
func (d *Daemon) Log() string {
	b, err := os.ReadFile(d.Socket + ".log")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Kill ends the daemon by SIGKILL and waits until it is gone.
func (d *Daemon) Kill() error { return d.end(syscall.SIGKILL) }

// Stop ends the daemon by SIGTERM and waits until it is gone; exit code 0 is expected of it.
func (d *Daemon) Stop() error {
	if err := d.end(syscall.SIGTERM); err != nil {
		return err
	}
	if code := d.ExitCode(); code != 0 {
		return fmt.Errorf("stop daemon: exit code %d\n%s", code, d.Log())
	}
	return nil
}

func (d *Daemon) end(s syscall.Signal) error {
	if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end daemon: %w", err)
	}
	select {
	case <-d.Done():
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("end daemon: still there 10s after %v\n%s", s, d.Log())
	}
}

// Output is what a command came to.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// CLI runs bin/cli.sh with these arguments against the daemon, in the caller's own network namespace.
func (d *Daemon) CLI(args ...string) (Output, error) { return d.Ask("", args...) }

// Ask is CLI with something on standard input.
func (d *Daemon) Ask(stdin string, args ...string) (Output, error) {
	ctx, cancel := context.WithTimeout(context.Background(), max(time.Minute, d.ReadyWithin))
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(d.Bin, "cli.sh"), args...)
	cmd.Env = append(os.Environ(), "PORTCULLIS_SOCKET="+d.Socket, "PORTCULLIS_PIN_DIR="+d.PinDir, "SSH_CONNECTION=")
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return Output{}, fmt.Errorf("run cli.sh %s: %w", strings.Join(args, " "), err)
	}
	return Output{out.String(), errs.String(), cmd.ProcessState.ExitCode()}, nil
}

// Run runs a command that must succeed and returns its standard output.
func (d *Daemon) Run(args ...string) (string, error) {
	out, err := d.CLI(args...)
	if err != nil {
		return "", err
	}
	if out.Code != 0 {
		return "", fmt.Errorf("cli.sh %s: exit code %d\n%s%s", strings.Join(args, " "), out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout, nil
}

// Status is the part of `status -o json` that tests look at.
type Status struct {
	Degraded   []string `json:"degraded"`
	Warnings   []string `json:"warnings"`
	Generation struct {
		Store  uint64 `json:"store"`
		Kernel uint64 `json:"kernel"`
	} `json:"generation"`
	Entries    map[string]int `json:"entries"`
	Bypass     bool           `json:"bypass"`
	Interfaces []struct {
		Name     string    `json:"name"`
		Mode     string    `json:"mode"`
		Error    string    `json:"error"`
		Counters []Counted `json:"counters"`
	} `json:"interfaces"`
}

// Counted is one counter of an interface.
type Counted struct {
	Reason  string `json:"reason"`
	Family  string `json:"family"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Status asks the daemon.
func (d *Daemon) Status() (Status, error) {
	var s Status
	out, err := d.Run("status", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// Packets returns the counters of the first interface, by "family reason" ("ipv4 drop_blacklisted"); those that are 0
// are left out.
func (d *Daemon) Packets() (map[string]uint64, error) {
	s, err := d.Status()
	if err != nil {
		return nil, err
	}
	if len(s.Interfaces) == 0 {
		return nil, errors.New("status shows no interface")
	}
	counts := make(map[string]uint64)
	for _, c := range s.Interfaces[0].Counters {
		if c.Packets > 0 {
			counts[c.Family+" "+c.Reason] = c.Packets
		}
	}
	return counts, nil
}

// InNamespace runs portcullis in the daemon's network namespace, with these arguments.
func (d *Daemon) InNamespace(args ...string) (Output, error) {
	cmd := exec.Command(filepath.Join(d.Bin, "portcullis"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := d.Namespace.Start(cmd); err != nil {
		return Output{}, fmt.Errorf("run portcullis %s: %w", strings.Join(args, " "), err)
	}
	_ = cmd.Wait()
	return Output{out.String(), errs.String(), cmd.ProcessState.ExitCode()}, nil
}
