package testenv

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KernelTrace sees how long the kernel works for itself at a stretch: in work items, in softirqs that run RCU callbacks,
// and in the thread that runs those of sleeping programs.
type KernelTrace struct {
	dir string // an instance of tracefs: nobody else's tracing is touched
}

// traced are the events that a stretch is made out from. Of sched_switch only those from or to what may be one: the others
// would fill the buffer.
var traced = map[string]string{
	"workqueue/workqueue_queue_work": "", "workqueue/workqueue_execute_start": "", "workqueue/workqueue_execute_end": "",
	"irq/softirq_entry": "", "irq/softirq_exit": "",
	"sched/sched_switch": `prev_comm ~ "kworker/*" || next_comm ~ "kworker/*" || prev_comm ~ "rcu*" || next_comm ~ "rcu*"`,
}

// traceBuffer of each CPU, in kB.
const traceBuffer = 16 << 10

// TraceKernel prepares to trace; the lab's Close removes what it made.
func (l *Lab) TraceKernel() (*KernelTrace, error) {
	root, err := l.mount(traceDir, "tracefs", "")
	if err != nil {
		return nil, err
	}
	k := &KernelTrace{traceInstance(l.Dir)}
	if err := os.Mkdir(k.dir, 0o700); err != nil {
		return nil, fmt.Errorf("trace the kernel: %w: needs Linux with CONFIG_TRACING, mounted at %s", err, root)
	}
	l.onClose(func() { _ = os.Remove(k.dir) })
	errs := []error{
		k.write("tracing_on", "0"), k.write("trace_clock", "mono"), k.write("buffer_size_kb", strconv.Itoa(traceBuffer)),
		k.write("options/overwrite", "0"), k.write("options/record-tgid", "1"),
	}
	for event, filter := range traced {
		if filter != "" {
			errs = append(errs, k.write("events/"+event+"/filter", filter))
		}
		errs = append(errs, k.write("events/"+event+"/enable", "1"))
	}
	return k, errors.Join(errs...)
}

const traceDir = "tracing"

// traceInstance is where a lab's KernelTrace is. The kernel keeps it when the lab's process is killed.
func traceInstance(lab string) string {
	return filepath.Join(lab, traceDir, "instances", filepath.Base(lab))
}

func (k *KernelTrace) write(file, value string) error {
	if err := os.WriteFile(filepath.Join(k.dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("trace the kernel: %w", err)
	}
	return nil
}

// Watch calls f and returns what the kernel did meanwhile, the longest stretch of each kind, longest first. An error if f
// fails, or events were lost.
func (k *KernelTrace) Watch(f func() error) ([]Busy, error) {
	if err := errors.Join(k.write("trace", ""), k.write("tracing_on", "1")); err != nil {
		return nil, err
	}
	if err := errors.Join(f(), k.write("tracing_on", "0"), k.lost()); err != nil {
		return nil, err
	}
	trace, err := os.Open(filepath.Join(k.dir, "trace"))
	if err != nil {
		return nil, fmt.Errorf("trace the kernel: %w", err)
	}
	defer trace.Close()
	return stretches(trace)
}

// lost fails if the buffer did not hold everything.
func (k *KernelTrace) lost() error {
	return filepath.WalkDir(filepath.Join(k.dir, "per_cpu"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "stats" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("trace the kernel: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if (strings.HasSuffix(name, "overrun") || name == "dropped events") && value != "0" {
				return fmt.Errorf("trace the kernel: %s: %s: %s: trace for less long, or with a larger buffer", path, name, value)
			}
		}
		return nil
	})
}

// Busy is a stretch of work of the kernel. It was on a CPU for so long: what it waited for others is not in it, nor are
// softirqs that came in between; time that a hypervisor took away is.
type Busy struct {
	What string // function of a work item, "RCU callbacks", or the name of a thread
	For  time.Duration
	By   int // process that asked for a work item, 0: not known
}

func (b Busy) String() string { return fmt.Sprintf("%s %v", b.What, b.For.Round(10*time.Microsecond)) }

// RCUCallbacks is what Busy calls a softirq that runs these.
const RCUCallbacks = "RCU callbacks"

// entry is a line of a trace: thread-ID (process) [CPU] flags seconds: event: text. The process is there if asked for.
var entry = regexp.MustCompile(`^ *(.+)-(\d+) +(?:\( *([-\d]+)\) +)?\[(\d+)\] \S+ +(\d+)\.(\d{6}): (\w+): (.*)$`)

// stretches reads a trace.
func stretches(r io.Reader) ([]Busy, error) {
	t := timeline{
		running: make(map[int]*stretch), threads: make(map[int]*stretch), softirq: make(map[int]time.Duration),
		asked: make(map[string]int), longest: make(map[Busy]time.Duration),
	}
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		f := entry.FindStringSubmatch(line)
		if f == nil {
			return nil, fmt.Errorf("trace the kernel: not a line of a trace: %q", line)
		}
		number := func(i int) int { n, _ := strconv.Atoi(f[i]); return n }
		now := time.Duration(number(5))*time.Second + time.Duration(number(6))*time.Microsecond
		t.event(number(2), number(3), number(4), now, f[7], f[8])
	}
	var all []Busy
	for b, d := range t.longest {
		b.For = d
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b Busy) int { return cmp.Compare(b.For, a.For) })
	return all, scan.Err()
}

// stretch is one that has not ended.
type stretch struct {
	Busy
	since time.Duration // on a CPU; 0: on none
}

// timeline follows a trace.
type timeline struct {
	running map[int]*stretch // work items, by the thread that executes them
	threads map[int]*stretch // of RCU, by ID, while on a CPU
	softirq map[int]time.Duration
	asked   map[string]int // who queued a work item last, by its address
	longest map[Busy]time.Duration
}

func (t *timeline) event(thread, process, cpu int, now time.Duration, event, text string) {
	fields := make(map[string]string)
	for word := range strings.FieldsSeq(text) {
		if name, value, ok := strings.Cut(word, "="); ok {
			fields[name] = value
		}
	}
	switch event {
	case "workqueue_queue_work":
		_, address, _ := strings.Cut(text, "work struct=")
		address, _, _ = strings.Cut(address, " ")
		t.asked[address] = process
	case "workqueue_execute_start":
		_, rest, _ := strings.Cut(text, "work struct ")
		address, function, _ := strings.Cut(rest, ": function ")
		t.running[thread] = &stretch{Busy{What: function, By: t.asked[address]}, now}
	case "workqueue_execute_end":
		t.end(t.running, thread, now)
	case "softirq_entry":
		t.softirq[cpu] = now
	case "softirq_exit":
		began, ok := t.softirq[cpu]
		delete(t.softirq, cpu)
		if !ok {
			return
		}
		if fields["[action"] == "RCU]" {
			t.note(Busy{What: RCUCallbacks, For: now - began})
		}
		for _, all := range []map[int]*stretch{t.running, t.threads} { // it came in between
			if s := all[thread]; s != nil && s.since != 0 {
				s.For -= now - began
			}
		}
	case "sched_switch":
		prev, _ := strconv.Atoi(fields["prev_pid"])
		next, _ := strconv.Atoi(fields["next_pid"])
		if s := t.running[prev]; s != nil && s.since != 0 {
			s.For += now - s.since
			s.since = 0
		}
		if s := t.running[next]; s != nil {
			s.since = now
		}
		t.end(t.threads, prev, now)
		if name := fields["next_comm"]; strings.HasPrefix(name, "rcu") {
			t.threads[next] = &stretch{Busy{What: name}, now}
		}
	}
}

// end notes a stretch whose beginning was seen.
func (t *timeline) end(all map[int]*stretch, thread int, now time.Duration) {
	if s := all[thread]; s != nil {
		if s.since != 0 {
			s.For += now - s.since
		}
		t.note(s.Busy)
		delete(all, thread)
	}
}

func (t *timeline) note(b Busy) {
	key := Busy{What: b.What, By: b.By}
	t.longest[key] = max(t.longest[key], b.For)
}
