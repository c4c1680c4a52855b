package scenario

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// settle is how long the daemon may take to see that an interface was made again.
const settle = 2 * time.Second

// built makes the binary once a test run.
var built = sync.OnceValues(testenv.Build)

// rig is a network with a daemon on its gateway.
type rig struct {
	*testenv.Edge
	t      *testing.T
	daemon *testenv.Daemon
	bpffs  string
	lab    *testenv.Lab
}

// newRig builds the network; the daemon is not started yet.
func newRig(t *testing.T) *rig {
	t.Helper()
	lab := testenv.New(t)
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	edge, err := testenv.NewEdge(lab)
	if err != nil {
		t.Fatal(err)
	}
	bpffs, err := lab.MountBPF()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Edge: edge, t: t, bpffs: bpffs, lab: lab, daemon: testenv.NewDaemon(bin, edge.Gateway.Namespace, bpffs, "portcullis")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", r.daemon.Log())
		}
	})
	return r
}

// start builds the network and starts the daemon.
func start(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.must(r.daemon.Start())
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// cli runs a command that must succeed.
func (r *rig) cli(args ...string) string {
	r.t.Helper()
	out, err := r.daemon.Run(args...)
	r.must(err)
	return out
}

// refused runs a command that must fail with that exit code and change nothing on standard output.
func (r *rig) refused(code int, args ...string) testenv.Output {
	r.t.Helper()
	out, err := r.daemon.CLI(args...)
	r.must(err)
	if out.Code != code || !strings.HasPrefix(out.Stderr, "error: ") {
		r.t.Fatalf("%s: exit code %d, want %d and an error:\n%s%s", strings.Join(args, " "), out.Code, code, out.Stdout, out.Stderr)
	}
	return out
}

// reach and blocked check the probes of a client that are named, or all.
func (r *rig) reach(h *testenv.Host, probes ...string) {
	r.t.Helper()
	r.must(r.Reach(h, probes...))
}

func (r *rig) blocked(h *testenv.Host, probes ...string) {
	r.t.Helper()
	r.must(r.Blocked(h, probes...))
}

// packets reads the counters of eth0.
func (r *rig) packets() map[string]uint64 {
	r.t.Helper()
	counts, err := r.daemon.Packets()
	r.must(err)
	return counts
}

// frame is one from the client to the backend, as it goes over the uplink.
func (r *rig) frame(h *testenv.Host, mark string) testenv.Frame {
	r.t.Helper()
	from, to, err := r.UplinkMACs()
	r.must(err)
	return testenv.Frame{
		From: from, To: to, Source: h.IPv4, Destination: r.Backend.IPv4, SourcePort: 9, Port: 9, Payload: []byte(mark),
	}
}

// wire opens a raw socket for as long as the test runs.
func (r *rig) wire(n *testenv.Namespace, iface string) *testenv.Wire {
	r.t.Helper()
	w, err := n.Wire(iface)
	r.must(err)
	r.t.Cleanup(func() { w.Close() })
	return w
}

// random returns a source of random numbers whose seed the test prints; SCENARIO_SEED repeats a run.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SCENARIO_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatalf("SCENARIO_SEED: %v", err)
		}
	}
	t.Logf("SCENARIO_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// pins lists what is pinned, as paths below the pin directory.
func (r *rig) pins() string {
	r.t.Helper()
	var names []string
	r.must(filepath.WalkDir(r.daemon.PinDir, func(path string, e os.DirEntry, err error) error {
		if err == nil && path != r.daemon.PinDir {
			names = append(names, strings.TrimPrefix(path, r.daemon.PinDir+"/"))
		}
		return err
	}))
	return strings.Join(names, " ")
}

// moved fails unless exactly one counter of drops moved, by n. Counters of passes are left aside: neighbour discovery
// moves them at any time.
func moved(before, after map[string]uint64, name string, n uint64) error {
	for counter, value := range after {
		want := before[counter]
		if counter == name {
			want += n
		}
		if value != want && (counter == name || strings.Contains(counter, " drop_")) {
			return fmt.Errorf("counter %q went from %d to %d, want %d", counter, before[counter], value, want)
		}
	}
	if after[name] == before[name] {
		return fmt.Errorf("counter %q did not move", name)
	}
	return nil
}
