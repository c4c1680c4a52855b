package scenario

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// A run of every fault takes an hour and more: it can be run in parts, and a part be gone on with.
var faultCases = flag.String("faults", "", "with -long, the faults of TestFaults/CALL to try: FIRST-LAST, FIRST- or -LAST, counted from 1")

// failing are the system calls that are made to fail, and how.
var failing = []struct {
	call   string
	errors []string
}{
	{"bpf", []string{"ENOMEM", "EINVAL", "EPERM"}},
	{"pwrite64", []string{"ENOSPC", "EIO"}},
	{"write", []string{"ENOSPC", "EIO"}},
	{"fsync", []string{"EIO"}},
	{"fdatasync", []string{"EIO"}},
	{"ftruncate", []string{"EIO"}},
	{"renameat", []string{"EIO", "ENOSPC"}},
	{"unlinkat", []string{"EIO"}},
	{"openat", []string{"EMFILE", "EIO"}},
}

// fault is one system call that fails: the nth of its kind in each thread of the daemon.
type fault struct {
	call, errno string
	nth         int
	from        origin
}

// origin is what a daemon finds when it starts.
type origin string

const (
	asLeft     origin = "as it was left"
	unpinned   origin = "nothing pinned"
	newMachine origin = "nothing at all"
)

func (f fault) String() string {
	return fmt.Sprintf("%s %d: %s, start from %s", f.call, f.nth, f.errno, f.from)
}

// enumerate lists the faults of a kind of call that a daemon makes so many of.
func enumerate(call string, errors []string, calls int) (all []fault) {
	origins := []origin{asLeft, unpinned, newMachine}
	for n := range calls {
		errno := errors[n%len(errors)]
		if call == "bpf" { // most of the calls, and they do not know of the state directory
			from := asLeft
			if n%8 == 7 {
				from = origins[1+n/8%2]
			}
			all = append(all, fault{call, errno, n + 1, from})
			continue
		}
		for _, from := range origins {
			all = append(all, fault{call, errno, n + 1, from})
		}
	}
	return all
}

// TestFaults lets one system call after the other fail while a daemon starts, changes all that it keeps and attaches again.
// What it answers "added" holds from then on, whatever fails; once nothing fails any more, kernel and store agree; and the
// next daemon starts and finds what this one had in force. A few calls drawn at random; with -long, every one.
func TestFaults(t *testing.T) {
	r := newFaultRig(t)
	t.Logf("system calls of the busiest thread: %v", r.calls)
	if !*long {
		r.all(t, sample(random(t), r.calls), 1)
		return
	}
	for _, kind := range failing {
		t.Run(kind.call, func(t *testing.T) {
			all := enumerate(kind.call, kind.errors, r.calls[kind.call])
			first, last, err := part(*faultCases, len(all))
			if err != nil {
				t.Fatal(err)
			}
			r.all(t, all[first-1:last], first)
		})
	}
}

// all lets the faults happen, one after the other; the first of them has that number.
func (r *faultRig) all(t *testing.T, all []fault, first int) {
	began := time.Now()
	outer := r.t
	defer func() { r.t = outer }()
	r.t = t
	i := 0
	defer func() {
		if t.Failed() && i < len(all) {
			t.Logf("fault %d: %v", first+i, all[i])
		}
	}()
	for ; i < len(all); i++ {
		if r.suffer(all[i]); t.Failed() {
			return
		}
		if i%100 == 99 {
			t.Logf("up to %d: %v, %+v", first+i, time.Since(began).Round(time.Second), r.tally)
		}
	}
	t.Logf("%d faults in %v: %+v", len(all), time.Since(began).Round(time.Second), r.tally)
	if len(all) > 0 && r.tally.Failed == 0 {
		t.Error("not one call failed")
	}
}

// part reads FIRST-LAST.
func part(text string, n int) (first, last int, err error) {
	first, last = 1, n
	from, to, ok := strings.Cut(text, "-")
	if text != "" && !ok {
		return 0, 0, fmt.Errorf("-faults %s: want FIRST-LAST, FIRST- or -LAST", text)
	}
	for text, n := range map[string]*int{from: &first, to: &last} {
		if text == "" {
			continue
		}
		if *n, err = strconv.Atoi(text); err != nil {
			return 0, 0, fmt.Errorf("-faults: %w", err)
		}
	}
	last = min(last, n)
	if first < 1 || first > last+1 {
		return 0, 0, fmt.Errorf("-faults %s: there are %d", text, n)
	}
	return first, last, nil
}

// sample draws a few faults, each of another kind.
func sample(rnd *rand.Rand, calls map[string]int) (some []fault) {
	for _, i := range append([]int{0}, rnd.Perm(len(failing))[:4]...) {
		kind := failing[i]
		all := enumerate(kind.call, kind.errors, calls[kind.call])
		some = append(some, all[rnd.IntN(len(all))])
	}
	return some
}

// faultRig is a rig with a daemon that is traced.
type faultRig struct {
	*rig
	client control.Client
	trace  string
	calls  map[string]int // of each kind that fails, as many as the busiest thread made
	kept   remembered

	tally struct {
		Failed   int // system calls
		Refused  int // commands that were answered with an error
		Answered int // commands
		Ended    int // daemons that ended, with an error
		Copies   int // of the lists, made while calls failed
	}
}

func newFaultRig(t *testing.T) *faultRig {
	r := &faultRig{rig: newRig(t)}
	r.client = control.Client{Socket: r.daemon.Socket}
	r.trace = filepath.Join(r.Lab.Dir, "trace")
	// One CPU: then most calls are made by few threads, and strace counts in each.
	r.daemon.Env = []string{"GOMAXPROCS=1"}
	// Two cases without a fault: they count what is done from the beginning, and what later.
	r.calls = make(map[string]int)
	for _, from := range []origin{newMachine, asLeft} {
		r.suffer(fault{from: from})
		for call, n := range r.countCalls() {
			r.calls[call] = max(r.calls[call], n)
		}
	}
	for _, kind := range failing {
		if r.calls[kind.call] == 0 {
			t.Errorf("%s: the daemon makes none", kind.call)
		}
	}
	return r
}

// countCalls reads the trace.
func (r *faultRig) countCalls() map[string]int {
	r.t.Helper()
	text, err := os.ReadFile(r.trace)
	r.must(err)
	threads := make(map[string]int)
	most := make(map[string]int)
	for _, m := range regexp.MustCompile(`(?m)^(\d+) +([a-z0-9_]+)\(`).FindAllStringSubmatch(string(text), -1) {
		threads[m[1]+m[2]]++
		most[m[2]] = max(most[m[2]], threads[m[1]+m[2]])
	}
	return most
}

// suffer is one case.
func (r *faultRig) suffer(f fault) {
	r.t.Helper()
	r.prepare(f.from)
	r.begin(f)
	answered := r.change()
	r.endFaults()
	r.settle()
	inForce := r.observe()
	for what, want := range answered {
		if inForce[what] != want {
			r.t.Errorf("%s: answered %q, in force %q", what, want, inForce[what])
		}
	}
	r.judge(inForce)
	text, err := os.ReadFile(r.trace)
	r.must(err)
	r.tally.Failed += strings.Count(string(text), "(INJECTED)")
	r.must(r.daemon.Kill())

	r.daemon.Wrap = nil
	r.must(r.daemon.Start())
	r.settle()
	found := r.observe()
	for what, was := range inForce {
		if found[what] != was {
			r.t.Errorf("%s: in force %q, after the next start %q", what, was, found[what])
		}
	}
	for what, is := range found {
		if _, was := inForce[what]; !was {
			r.t.Errorf("%s: not in force, after the next start %q", what, is)
		}
	}
	r.sound()
	r.tidy(found)
	r.must(r.daemon.Kill())
}

// prepare makes what the daemon is to find.
func (r *faultRig) prepare(from origin) {
	r.t.Helper()
	if names, err := os.ReadDir(r.daemon.PinDir); from != asLeft && err == nil && len(names) > 0 {
		out, err := r.daemon.InNamespace("detach", "--pin-dir", r.daemon.PinDir)
		r.must(err)
		if out.Code != 0 {
			r.t.Fatalf("detach: %+v", out)
		}
	}
	if from == newMachine {
		r.must(os.RemoveAll(r.daemon.StateDir))
		r.kept = remembered{password: "admin", next: r.kept.next}
		return
	}
	r.wearOut()
}

// begin starts a daemon in which a call fails, and waits until it answers or has ended.
func (r *faultRig) begin(f fault) {
	r.t.Helper()
	var names []string
	for _, kind := range failing {
		names = append(names, kind.call)
	}
	r.daemon.Wrap = []string{"strace", "-D", "-f", "-q", "-o", r.trace, "-e", "signal=none", "-e", "trace=" + strings.Join(names, ",")}
	if f.call != "" {
		r.daemon.Wrap = append(r.daemon.Wrap, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", f.call, f.errno, f.nth))
	}
	r.must(r.daemon.Launch())
	testenv.Eventually(r.t, 30*time.Second, "the daemon answers or ends", func() error {
		if r.ended() {
			return nil
		}
		_, err := r.client.Status(context.Background())
		return err
	})
}

// ended reports whether the daemon has, and fails if it gave no reason.
func (r *faultRig) ended() bool {
	r.t.Helper()
	select {
	case <-r.daemon.Done():
		if log := r.daemon.Log(); r.daemon.ExitCode() == 0 || !strings.Contains(log, "error: ") && !strings.Contains(log, "fatal error: ") {
			r.t.Fatalf("the daemon ended with exit code %d and no reason", r.daemon.ExitCode())
		}
		return true
	default:
		return false
	}
}

// endFaults ends the tracing, and starts another daemon if the traced one has ended.
func (r *faultRig) endFaults() {
	r.t.Helper()
	if pid := tracer(r.daemon.PID()); pid > 0 && !r.ended() {
		r.must(syscall.Kill(pid, syscall.SIGKILL)) // which the traced survive
		testenv.Eventually(r.t, 10*time.Second, "strace lets go", func() error {
			if tracer(r.daemon.PID()) > 0 {
				return errors.New("still traced")
			}
			return nil
		})
	}
	if r.ended() {
		r.tally.Ended++
		r.daemon.Wrap = nil
		r.must(r.daemon.Start())
	}
}

// tracer returns who traces a process, 0 if nobody does.
func tracer(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "TracerPid:")
	line, _, _ := strings.Cut(after, "\n")
	n, _ := strconv.Atoi(strings.TrimSpace(line))
	return n
}

// settle waits until nothing is degraded, and switches the firewall on if a fault left it off.
func (r *faultRig) settle() {
	r.t.Helper()
	testenv.Eventually(r.t, 40*time.Second, "nothing is degraded once nothing fails", func() error {
		if r.ended() {
			return fmt.Errorf("the daemon ended: %s", r.daemon.Log())
		}
		s, err := r.client.Status(context.Background())
		switch {
		case err != nil:
			return err
		case len(s.Degraded) > 0 || s.Generation.Kernel != s.Generation.Store:
			return fmt.Errorf("degraded %q, generations %+v", s.Degraded, s.Generation)
		}
		// The daemon may not have seen yet that the interface is another.
		if id, err := r.Gateway.Program("eth0"); err != nil || id == 0 {
			return fmt.Errorf("program %d on eth0, %w", id, err)
		}
		return nil
	})
	if _, err := r.client.Apply(context.Background(), []control.Operation{{Op: "set", Setting: "firewall", To: "enabled"}}); err != nil {
		r.t.Fatalf("once nothing fails: %v", err)
	}
}
