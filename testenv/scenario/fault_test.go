package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

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
}

// fault is one system call that fails: the nth of its kind in each thread of the daemon.
type fault struct {
	call, errno string
	nth         int
}

func (f fault) String() string { return fmt.Sprintf("%s %d: %s", f.call, f.nth, f.errno) }

// TestFaults lets one system call after the other fail while a daemon starts, changes its lists and attaches again. What
// it answers "added" is dropped from then on, whatever fails; and once nothing fails any more, kernel and store agree.
// A few calls drawn at random; with -long, every one.
func TestFaults(t *testing.T) {
	r := newFaultRig(t)
	rnd := random(t)
	var all []fault
	for _, kind := range failing {
		calls := r.calls[kind.call]
		if calls == 0 && kind.call != "fdatasync" { // made when a copy of the lists is, which is later
			t.Errorf("%s: the daemon makes none", kind.call)
		}
		for n := range calls {
			all = append(all, fault{kind.call, kind.errors[n%len(kind.errors)], n + 1})
		}
	}
	t.Logf("system calls of the busiest thread: %v", r.calls)
	if !*long {
		all = sample(rnd, all)
	}
	began := time.Now()
	for i, f := range all {
		r.suffer(i, f)
		if t.Failed() {
			t.Fatalf("%d of %d, %v", i, len(all), f)
		}
		if i%100 == 99 {
			t.Logf("%d of %d, %v: %+v", i+1, len(all), time.Since(began).Round(time.Second), r.tally)
		}
	}
	t.Logf("%d faults in %v: %+v", len(all), time.Since(began).Round(time.Second), r.tally)
	if r.tally.Failed == 0 {
		t.Error("not one call failed")
	}
}

// sample draws one fault of each kind, and some more.
func sample(rnd *rand.Rand, all []fault) []fault {
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	seen := make(map[string]int)
	return slices.DeleteFunc(all, func(f fault) bool {
		seen[f.call]++
		return seen[f.call] > 1 && (f.call != "bpf" || seen[f.call] > 4)
	})
}

// faultRig is a rig with a daemon that is traced.
type faultRig struct {
	*rig
	client control.Client
	trace  string
	calls  map[string]int // of each kind that fails, as many as the busiest thread made

	victim netip.Addr // listed by the last case, to be deleted by the next
	next   int        // number of the next address
	tally  struct {
		Failed   int // system calls
		Refused  int // commands that were answered with an error
		Answered int // commands
		Ended    int // daemons that ended, with an error
	}
}

func newFaultRig(t *testing.T) *faultRig {
	r := &faultRig{rig: newRig(t)}
	r.client = control.Client{Socket: r.daemon.Socket}
	r.trace = filepath.Join(r.Lab.Dir, "trace")
	// One CPU: then most calls are made by few threads, and strace counts in each.
	r.daemon.Env = []string{"GOMAXPROCS=1"}
	// A first case without a fault: it counts.
	r.begin(fault{})
	r.change()
	r.endFaults()
	r.settle()
	r.calls = r.countCalls()
	r.must(r.daemon.Kill())
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
func (r *faultRig) suffer(i int, f fault) {
	r.t.Helper()
	if i%8 == 7 { // a start with nothing pinned
		out, err := r.daemon.InNamespace("detach", "--pin-dir", r.daemon.PinDir)
		r.must(err)
		if out.Code != 0 {
			r.t.Fatalf("detach: %+v", out)
		}
	}
	r.begin(f)
	expected := r.change()
	r.endFaults()
	r.settle()
	r.verify(expected)
	text, err := os.ReadFile(r.trace)
	r.must(err)
	r.tally.Failed += strings.Count(string(text), "(INJECTED)")
	r.must(r.daemon.Kill())
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

// change changes lists and interfaces, and returns what was answered: whether an address is to be dropped.
func (r *faultRig) change() map[netip.Addr]bool {
	r.t.Helper()
	expected := make(map[netip.Addr]bool)
	add, kept, batch := r.address(), r.address(), []netip.Addr{r.address(), r.address()}
	probe := r.probe()
	defer probe.close()
	answered := func(drop bool, addrs []netip.Addr, err error) {
		r.t.Helper()
		if err != nil {
			r.tally.Refused++
			return
		}
		r.tally.Answered++
		for _, a := range addrs {
			expected[a] = drop
			if got := probe.dropped(a); got != drop {
				r.t.Errorf("it was answered, but packets of %s are dropped: %v", a, got)
			}
		}
	}
	try := func(drop bool, addrs []netip.Addr, ops ...control.Operation) {
		r.t.Helper()
		_, err := r.client.Apply(context.Background(), ops)
		answered(drop, addrs, err)
	}
	op := func(op, list string, a netip.Addr) control.Operation {
		return control.Operation{Op: op, List: list, Kind: "ip", Value: a.String()}
	}
	firewall := func(to string) control.Operation { return control.Operation{Op: "set", Setting: "firewall", To: to} }
	try(true, []netip.Addr{add}, op("add", "blacklist", add))
	try(false, []netip.Addr{kept}, op("add", "blacklist", kept), op("add", "whitelist", kept))
	if r.victim.IsValid() {
		try(false, []netip.Addr{r.victim}, op("delete", "blacklist", r.victim))
	}
	try(true, batch, op("add", "blacklist", batch[0]), op("add", "blacklist", batch[1]))
	imported := []netip.Addr{r.address(), r.address()}
	answered(true, imported, r.importAll(imported))
	try(false, nil, firewall("disabled"))
	try(false, nil, firewall("enabled"))
	r.must(r.Gateway.Delete("eth0"))
	r.must(testenv.Connect(r.Gateway.Namespace, "eth0", r.Internet.Namespace, "uplink0"))
	r.victim = add
	return expected
}

// importAll imports addresses into the blacklist, which takes another way through the store than an add.
func (r *faultRig) importAll(addrs []netip.Addr) error {
	_, err := r.client.Import(context.Background(), control.ImportOptions{}, func(yield func(control.ImportEntry, error) bool) {
		for _, a := range addrs {
			id, _ := lists.PrefixID(netip.PrefixFrom(a, a.BitLen()))
			e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}}
			if !yield(control.ImportEntry{Entry: e}, nil) {
				return
			}
		}
	})
	return err
}

func (r *faultRig) address() netip.Addr {
	r.next++
	return netip.AddrFrom4([4]byte{10, 9, byte(r.next >> 8), byte(r.next)})
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

// verify compares what was answered, what the store lists, and what becomes of packets.
func (r *faultRig) verify(expected map[netip.Addr]bool) {
	r.t.Helper()
	listed := make(map[netip.Addr]bool) // true: to be dropped
	for _, l := range []lists.List{lists.Blacklist, lists.Whitelist} {
		for e, err := range r.client.List(context.Background(), l) {
			r.must(err)
			listed[netip.MustParseAddr(e.ID.Value)] = l == lists.Blacklist
		}
	}
	probe := r.probe()
	defer probe.close()
	for a, want := range expected {
		if listed[a] != want {
			r.t.Errorf("%s: to be dropped, as was answered: %v; by the lists: %v", a, want, listed[a])
		}
	}
	for i := max(1, r.next-18); i <= r.next; i++ {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		if got := probe.dropped(a); got != listed[a] {
			r.t.Errorf("%s: packets are dropped: %v; by the lists: %v", a, got, listed[a])
		}
	}
	if len(listed) < 200 {
		return
	}
	// The lists are kept short.
	for _, list := range []string{"blacklist", "whitelist"} {
		if _, err := r.client.Apply(context.Background(), []control.Operation{{Op: "clear", List: list}}); err != nil {
			r.t.Error(err)
		}
	}
	r.victim = netip.Addr{}
}
