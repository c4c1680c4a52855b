package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestKernelMapIsFull: what the kernel could not hold is refused before it is listed, and what is listed stays enforced.
// Deleting makes room.
func TestKernelMapIsFull(t *testing.T) {
	r := newRig(t)
	config := filepath.Join(r.Lab.Dir, "small.toml")
	const capacity = 30 // some of it for the protected addresses
	r.must(os.WriteFile(config, fmt.Appendf(nil, "capacity = %d\n", capacity), 0o600))
	r.daemon.Args = []string{"--config", config}
	r.must(r.daemon.Start())
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())

	added := 0
	for ; added < capacity; added++ {
		out, err := r.daemon.CLI("add_blacklist", "ip", address(added))
		r.must(err)
		if out.Code == 0 {
			continue
		}
		if out.Code != 1 || out.Stdout != "" || !strings.HasPrefix(out.Stderr, "error: ") ||
			!strings.Contains(out.Stderr, "lists are full") || !strings.Contains(out.Stderr, "\nhint: ") {
			t.Fatalf("add to a full map: %+v", out)
		}
		break
	}
	if added == 0 || added == capacity {
		t.Fatalf("%d were added to a map for %d", added, capacity)
	}
	s, err := r.daemon.Status()
	r.must(err)
	if s.Entries["blacklist"] != added+1 || s.Generation.Kernel != s.Generation.Store || len(s.Degraded) != 1 || !strings.HasPrefix(s.Degraded[0], "capacity: ") {
		t.Errorf("%d entries, want %d; kernel generation %d, store %d; degraded %q",
			s.Entries["blacklist"], added+1, s.Generation.Kernel, s.Generation.Store, s.Degraded)
	}
	r.blocked(r.Client, ipv4...)
	r.refused(1, "add_blacklist", "ip", r.Another.IPv4.String())
	r.reach(r.Another)
	r.cli("add_blacklist", "ip", r.Another.IPv6.String()) // each family has its own room
	r.blocked(r.Another, ipv6...)
	r.cli("delete_blacklist", "ip", address(0))
	r.cli("add_blacklist", "ip", r.Another.IPv4.String())
	r.blocked(r.Another)

	// What a detector finds takes the place of what one has found before, and of nothing else.
	r.cli("delete_blacklist", "ip", address(1))
	cl := control.Client{Socket: r.daemon.Socket}
	for i := range 2 {
		_, err := cl.Apply(context.Background(), []control.Operation{
			{Op: "add", List: "blacklist", Kind: "ip", Value: address(100 + i), Source: "decoy", For: int64(3600 * (2 - i))},
		})
		r.must(err)
	}
	if out := r.cli("view_blacklist", "decoy"); strings.Contains(out, address(100)) || !strings.Contains(out, address(101)) {
		t.Errorf("after two entries from a decoy in one place:\n%s", out)
	}
	r.blocked(r.Client, ipv4...)

	// A capacity below what is listed does not keep the daemon from starting, nor the lists from being enforced.
	r.must(r.daemon.Kill())
	r.must(os.WriteFile(config, []byte("capacity = 3\n"), 0o600))
	r.must(r.daemon.Start())
	r.blocked(r.Client, ipv4...)
	r.blocked(r.Another)
	if out, err := r.daemon.CLI("import", "blacklist", "/dev/null"); err != nil || out.Code != 0 {
		t.Errorf("import of nothing into full maps: %+v, %v", out, err)
	}
	many := filepath.Join(r.Lab.Dir, "many.txt")
	r.must(os.WriteFile(many, []byte("198.18.0.0-198.18.255.254\n"), 0o600))
	r.refused(1, "import", "blacklist", many)
}

// TestFloodOfFullLists: a detector that goes on finding clients costs a change each time, never the whole list again.
func TestFloodOfFullLists(t *testing.T) {
	r := newRig(t)
	config := filepath.Join(r.Lab.Dir, "small.toml")
	r.must(os.WriteFile(config, []byte("capacity = 1000\n"), 0o600))
	r.daemon.Args = []string{"--config", config}
	r.must(r.daemon.Start())
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	cl := control.Client{Socket: r.daemon.Socket}
	const batch, batches = 300, 10
	for i := range batches {
		var ops []control.Operation
		for j := range batch {
			ops = append(ops, control.Operation{Op: "add", List: "blacklist", Kind: "ip", Value: address(i*batch + j), Source: "decoy"})
		}
		_, err := cl.Apply(context.Background(), ops)
		r.must(err)
	}
	s, err := r.daemon.Status()
	r.must(err)
	if n := s.Entries["blacklist"]; n > 1000 || n < 900 || s.Generation.Kernel != s.Generation.Store {
		t.Errorf("%d entries, kernel generation %d, store %d", n, s.Generation.Kernel, s.Generation.Store)
	}
	r.blocked(r.Client, ipv4...)
	for _, bad := range []string{"writing the whole list", "does not enforce"} {
		if log := r.daemon.Log(); strings.Contains(log, bad) {
			t.Errorf("the daemon says %q", bad)
		}
	}
	testenv.Eventually(t, 10*time.Second, "the log to tell of evictions", func() error {
		if log := r.daemon.Log(); !strings.Contains(log, "were evicted") {
			return errors.New(log)
		}
		return nil
	})
}

// TestThousandInOneCall: a batch is durable and enforced as a whole when it is answered, or nothing of it is.
func TestThousandInOneCall(t *testing.T) {
	r := start(t)
	cl := control.Client{Socket: r.daemon.Socket}
	var ops []control.Operation
	for i := range 999 {
		ops = append(ops, control.Operation{Op: "add", List: "blacklist", Kind: "ip", Value: address(i)})
	}
	spoiled := append(ops[:999:999], control.Operation{Op: "add", List: "blacklist", Kind: "ip", Value: "300.0.0.1"})
	if _, err := cl.Apply(context.Background(), spoiled); err == nil {
		t.Fatal("a batch with nonsense in it was taken")
	}
	if listed := r.lists(); len(listed) != 0 {
		t.Fatalf("of a batch that was refused %d are listed", len(listed))
	}
	ops = append(ops, control.Operation{Op: "add", List: "blacklist", Kind: "ip", Value: r.Client.IPv4.String()})
	reply, err := cl.Apply(context.Background(), ops)
	r.must(err)
	for i, o := range reply.Outcomes {
		if o != lists.Added {
			t.Fatalf("operation %d: %v", i, o)
		}
	}
	r.must(r.daemon.Kill())
	r.blocked(r.Client, ipv4...)
	r.must(r.daemon.Start())
	if listed := r.lists(); len(reply.Outcomes) != 1000 || len(listed) != 1000 {
		t.Errorf("%d outcomes, %d listed, want 1000", len(reply.Outcomes), len(listed))
	}
}
