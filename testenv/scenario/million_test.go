package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestMillion runs a daemon with a million entries: its start until it enforces, a change until it is durable and
// enforced, a view. `go test ./testenv/scenario -run Million -v` prints what README.md says; the bounds here are several
// times that, so that a busy machine passes and a change of order does not.
func TestMillion(t *testing.T) {
	r := newRig(t)
	const million = 1_000_000
	r.fill(million)

	began := time.Now()
	r.must(r.daemon.Start())
	t.Logf("from start to enforcing %d entries: %v", million, time.Since(began).Round(10*time.Millisecond))
	if said := r.daemon.Said(); !slices.Contains(said, "STATUS=reading lists") || !slices.ContainsFunc(said, func(s string) bool {
		return strings.HasPrefix(s, "STATUS=filling kernel maps: ") && strings.HasSuffix(s, " of 1000001")
	}) {
		t.Errorf("while it started it said %q", said)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the start took %v", took)
	}
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
	r.memory("started", 350)

	const adds = 1000
	r.timeAdds("while the first copy is made", million, adds)
	testenv.Eventually(t, time.Minute, "a verified copy of the lists", func() error {
		copies, err := filepath.Glob(filepath.Join(r.daemon.StateDir, "snapshots", "lists-*.db"))
		if err == nil && len(copies) == 0 {
			err = errors.New("none yet")
		}
		return err
	})
	r.timeAdds("otherwise", million+adds, adds)
	s, err := r.daemon.Status()
	r.must(err)
	if s.Entries["blacklist"] != million+2*adds+1 || s.Generation.Kernel != s.Generation.Store || len(s.Degraded) != 0 {
		t.Errorf("%d entries, kernel generation %d, store %d, degraded %q", s.Entries["blacklist"], s.Generation.Kernel, s.Generation.Store, s.Degraded)
	}
	r.viewMillion(million + 2*adds + 1)
	r.memory("after a copy and a view", 350)
}

// memory fails if the daemon holds more than so many MB.
func (r *rig) memory(when string, most float64) {
	r.t.Helper()
	now, peak, err := testenv.ResidentMemory(r.daemon.PID())
	r.must(err)
	if r.t.Logf("resident memory, %s: %.0f MB, %.0f at its highest", when, now, peak); now > most {
		r.t.Errorf("the daemon takes %.0f MB, more than %.0f", now, most)
	}
}

// timeAdds adds one address after the other, and fails if that is far slower than promised.
func (r *rig) timeAdds(when string, first, n int) {
	r.t.Helper()
	cl := control.Client{Socket: r.daemon.Socket}
	var each []time.Duration
	for i := range n {
		began := time.Now()
		_, err := cl.Apply(context.Background(), []control.Operation{
			{Op: "add", List: "blacklist", Kind: "ip", Value: address(first + i)},
		})
		r.must(err)
		each = append(each, time.Since(began))
	}
	slices.Sort(each)
	r.t.Logf("one add, durable and enforced, %s: p50 %v, p99 %v, worst %v", when,
		each[n/2].Round(10*time.Microsecond), each[n*99/100].Round(10*time.Microsecond), each[n-1].Round(10*time.Microsecond))
	if p99 := each[n*99/100]; p99 > 150*time.Millisecond {
		r.t.Errorf("p99 of an add is %v", p99)
	}
}

// fill puts that many addresses and the client's on the blacklist before there is a daemon.
func (r *rig) fill(n int) {
	r.t.Helper()
	r.must(os.MkdirAll(r.daemon.StateDir, 0o700))
	s, err := store.Open(store.Options{Dir: r.daemon.StateDir}, nil)
	r.must(err)
	const batch = 50_000
	put := func(b *lists.Batch, source lists.Source, value string) {
		key := lists.Key{List: lists.Blacklist, Source: source, ID: lists.ID{Kind: lists.KindIP, Value: value}}
		b.Ops = append(b.Ops, lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{Key: key}})
	}
	for first := 0; first < n; first += batch {
		b := lists.Batch{By: "abs", Via: "test"}
		for i := range batch {
			put(&b, lists.ABS, address(first+i))
		}
		if first == 0 {
			put(&b, lists.Manual, r.Client.IPv4.String())
		}
		_, err := s.Apply(context.Background(), b)
		r.must(err)
	}
	r.must(s.Close())
}

// address is the i-th of many different ones.
func address(i int) string { return fmt.Sprintf("%d.%d.%d.%d", 11+i>>24, i>>16&255, i>>8&255, i&255) }

// counting counts lines, and remembers when the first came and what the process that writes them took of memory when
// most of them had come.
type counting struct {
	lines, most int
	first       time.Time
	process     func() int
	memory      string // VmHWM of /proc/PID/status
}

func (c *counting) Write(p []byte) (int, error) {
	if c.lines == 0 {
		c.first = time.Now()
	}
	c.lines += bytes.Count(p, []byte("\n"))
	if c.memory == "" && c.lines > c.most {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.process()))
		_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
		line, _, _ := bytes.Cut(after, []byte(" kB"))
		c.memory = string(bytes.TrimSpace(line))
	}
	return len(p), nil
}

// viewMillion has view_blacklist show everything, and looks whether it streams: its memory does not grow with the list.
func (r *rig) viewMillion(want int) {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(r.daemon.Bin, "portcullis"), "--socket", r.daemon.Socket, "view_blacklist", "all")
	out := counting{most: want * 9 / 10, process: func() int { return cmd.Process.Pid }}
	cmd.Stdout = &out
	began := time.Now()
	r.must(cmd.Run())
	took := time.Since(began)
	kilobytes, err := strconv.Atoi(out.memory)
	r.must(err)
	r.t.Logf("view_blacklist of %d entries: first line after %v, all after %v, %d MB of memory",
		want, out.first.Sub(began).Round(time.Millisecond), took.Round(10*time.Millisecond), kilobytes>>10)
	if headings := 2; out.lines != want+headings {
		r.t.Errorf("%d lines, want %d", out.lines, want+headings)
	}
	if kilobytes > 100<<10 {
		r.t.Errorf("view_blacklist took %d kB", kilobytes)
	}
}
