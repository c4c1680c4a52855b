package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// Who runs where.
const (
	contenderCPU = "0"
	supportCPU   = "1"
)

// running is a process that serves, with its children.
type running struct {
	address string
	pid     int
	more    []*running // that belong to it: their CPU time counts too
	stop    func()
}

// pids of the process, its descendants and what belongs to it.
func (r *running) pids() []int {
	all := descendants(r.pid)
	for _, m := range r.more {
		all = append(all, m.pids()...)
	}
	return all
}

// asked are the processes of who belongs to it.
func (r *running) asked() (all []int) {
	for _, m := range r.more {
		all = append(all, m.pids()...)
	}
	return all
}

// start runs a command pinned to a CPU, in a group of its own. The environment is ours and env.
func (s *session) start(ctx context.Context, cpu string, env []string, argv ...string) (*running, *bufio.Reader, error) {
	cmd := exec.CommandContext(ctx, "taskset", append([]string{"-c", cpu}, argv...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.CreateTemp(s.dir, filepath.Base(argv[0])+"-*.log")
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
	return &running{pid: cmd.Process.Pid, stop: stop}, bufio.NewReader(stdout), nil
}

// self runs this program in a role that says on its first line where it listens.
func (s *session) self(ctx context.Context, cpu string, args ...string) (*running, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, out, err := s.start(ctx, cpu, []string{"GOMAXPROCS=1"}, append([]string{exe}, args...)...)
	if err != nil {
		return nil, err
	}
	line, err := out.ReadString('\n')
	if err != nil {
		r.stop()
		return nil, fmt.Errorf("%v said nothing: %w\n%s", args, err, s.logs(exe))
	}
	r.address = strings.TrimSpace(line)
	return r, nil
}

// foreign runs a program that listens at address when it is ready.
func (s *session) foreign(ctx context.Context, address string, env []string, argv ...string) (*running, error) {
	r, _, err := s.start(ctx, contenderCPU, env, argv...)
	if err != nil {
		return nil, err
	}
	r.address = address
	err = testenv.Poll(10*time.Second, func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		r.stop()
		return nil, fmt.Errorf("%w\n%s", err, s.logs(argv[0]))
	}
	return r, nil
}

// logs is what the processes of a program wrote.
func (s *session) logs(program string) string {
	var all strings.Builder
	names, _ := filepath.Glob(filepath.Join(s.dir, filepath.Base(program)+"-*.log"))
	for _, name := range names {
		text, _ := os.ReadFile(name)
		all.Write(text)
	}
	return all.String()
}

// load runs the generator against an address.
func (s *session) load(ctx context.Context, address string, w workload, each time.Duration) (result, error) {
	w.Seconds = each.Seconds()
	text, err := json.Marshal(w)
	if err != nil {
		return result{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	r, out, err := s.start(ctx, supportCPU, []string{"GOMAXPROCS=1"}, exe, "-role", "load", "-address", address, "-load", string(text))
	if err != nil {
		return result{}, err
	}
	defer r.stop()
	answer, err := io.ReadAll(out)
	if err != nil {
		return result{}, err
	}
	var got result
	if err := json.Unmarshal(answer, &got); err != nil {
		return result{}, fmt.Errorf("generator: %w\n%s", err, s.logs(exe))
	}
	return got, nil
}

// freeAddress is a loopback address that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// descendants are a process and all below it.
func descendants(pid int) []int {
	all := []int{pid}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for field := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			all = append(all, descendants(child)...)
		}
	}
	return all
}

// cpuTime is what processes have run for, all threads together, from /proc/PID/task/TID/schedstat (nanoseconds).
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if len(names) == 0 {
			return 0, fmt.Errorf("process %d is gone", pid)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // a thread that ended
			}
			if err != nil {
				return 0, err
			}
			ran, _, _ := strings.Cut(string(text), " ")
			ns, err := strconv.ParseInt(ran, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", name, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}
