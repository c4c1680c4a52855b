package testenv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStretches: time of others is not counted, be they threads or softirqs; who asked for a work item is known.
func TestStretches(t *testing.T) {
	const trace = `# tracer: nop
#
       portcullis-900     (    890) [001] d..2.   100.000100: workqueue_queue_work: work struct=00000000aa function=bpf_map_free_deferred workqueue=events_unbound req_cpu=8192 cpu=-1
     kworker/u8:1-61      (-------) [000] .....   100.000200: workqueue_execute_start: work struct 00000000aa: function bpf_map_free_deferred
     kworker/u8:1-61      (     61) [000] ..s1.   100.001200: softirq_entry: vec=3 [action=NET_RX]
     kworker/u8:1-61      (     61) [000] ..s1.   100.003200: softirq_exit: vec=3 [action=NET_RX]
     kworker/u8:1-61      (     61) [000] d..2.   100.004200: sched_switch: prev_comm=kworker/u8:1 prev_pid=61 prev_prio=120 prev_state=R ==> next_comm=a b next_pid=7 next_prio=120
              a b-7       (      7) [000] ..s1.   100.005000: softirq_entry: vec=9 [action=RCU]
              a b-7       (      7) [000] ..s1.   100.012000: softirq_exit: vec=9 [action=RCU]
           <idle>-0       (-------) [001] d..2.   100.013000: sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=kworker/u8:1 next_pid=61 next_prio=120
           <idle>-0       (-------) [000] d..2.   100.013000: sched_switch: prev_comm=swapper/0 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=rcu_tasks_trace next_pid=29 next_prio=120
     kworker/u8:1-61      (     61) [001] .....   100.014000: workqueue_execute_end: work struct 00000000aa: function bpf_map_free_deferred
  rcu_tasks_trace-29      (     29) [000] d..2.   100.018000: sched_switch: prev_comm=rcu_tasks_trace prev_pid=29 prev_prio=120 prev_state=I ==> next_comm=swapper/0 next_pid=0 next_prio=120
`
	got, err := stretches(strings.NewReader(trace))
	want := []Busy{{RCUCallbacks, 7e6, 0}, {"rcu_tasks_trace", 5e6, 0}, {"bpf_map_free_deferred", 3e6, 890}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := stretches(strings.NewReader("CPU:0 [LOST 3 EVENTS]\n")); err == nil {
		t.Error("a line that is no event was passed over")
	}
}

// TestTraceKernel: what does not fit into the buffer is an error, and the lab leaves no instance behind.
func TestTraceKernel(t *testing.T) {
	NeedRoot(t)
	l, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k, err := l.TraceKernel()
	if err != nil {
		t.Fatal(err)
	}
	graces := func() error {
		for range 40 {
			const global = 1
			if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
				return errno
			}
		}
		return nil
	}
	if busy, err := k.Watch(graces); err != nil || !slices.ContainsFunc(busy, func(b Busy) bool { return strings.HasPrefix(b.What, "rcu") }) {
		t.Errorf("%v, %v: no thread of RCU worked", busy, err)
	}
	if err := k.write("buffer_size_kb", "4"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Watch(graces); err == nil || !strings.Contains(err.Error(), "larger buffer") {
		t.Errorf("a buffer that is too small: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	other := New(t)
	root, err := other.mount(traceDir, "tracefs", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "instances", filepath.Base(l.Dir))); !os.IsNotExist(err) {
		t.Errorf("the instance is still there: %v", err)
	}
}
