package scenario

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestTenMillion imports ten million addresses by the command line with -long, a hundred thousand without, changes single
// ones, and starts the daemon anew with them: `make million` prints the figures.
func TestTenMillion(t *testing.T) {
	r := newRig(t)
	n := times(100_000, 10_000_000)
	list := filepath.Join(t.TempDir(), "list")
	f, err := os.Create(list)
	r.must(err)
	out := bufio.NewWriterSize(f, 1<<20)
	for i := range n {
		fmt.Fprintln(out, address(i))
	}
	fmt.Fprintln(out, r.Client.IPv4)
	r.must(out.Flush())
	r.must(f.Close())
	kernelBefore, err := testenv.KernelMemory()
	r.must(err)
	r.daemon.ReadyWithin = 5 * time.Minute
	r.must(r.daemon.Start())
	began := time.Now()
	if said := r.cli("import", "blacklist", list); !strings.HasPrefix(said, fmt.Sprintf("Import: %d added, 0 updated, 0 already there", n+1)) {
		t.Fatal(said)
	}
	t.Logf("import of %d addresses, durable and enforced: %v", n+1, time.Since(began).Round(10*time.Millisecond))
	r.verdictsOf(n)
	r.timeAdds("after the import", n, 1000)
	most := 350 * max(1, float64(n)/1e6) // MB: as much an entry as is promised of a million
	r.memory("after the import", most)
	kernel, err := testenv.KernelMemory()
	r.must(err)
	t.Logf("kernel memory: %d MB more than before", (kernel-kernelBefore)>>20)

	r.must(r.daemon.Stop())
	began = time.Now()
	r.must(r.daemon.Start())
	t.Logf("from start to enforcing %d entries: %v", n+1001, time.Since(began).Round(10*time.Millisecond))
	r.verdictsOf(n)
	r.memory("after the start", most)
	s, err := r.daemon.Status()
	r.must(err)
	if s.Entries["blacklist"] != n+1001 || s.Generation.Kernel != s.Generation.Store || len(s.Degraded) != 0 {
		t.Errorf("%d entries, kernel generation %d, store %d, degraded %q", s.Entries["blacklist"], s.Generation.Kernel, s.Generation.Store, s.Degraded)
	}
}

// verdictsOf asks what kernel and lists say of a sample of the n addresses, and of one that is not listed, and sends
// packets of both sorts.
func (r *rig) verdictsOf(n int) {
	r.t.Helper()
	const dropped = 10 // exit code of why
	for i := 0; i < n; i += n / 20 {
		out, err := r.daemon.CLI("why", address(i))
		r.must(err)
		if out.Code != dropped || !strings.Contains(out.Stdout, "agrees with the store") {
			r.t.Errorf("%s: exit code %d: %s%s", address(i), out.Code, out.Stdout, out.Stderr)
		}
	}
	r.cli("why", address(n+10_000))
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
}
