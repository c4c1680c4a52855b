package scenario

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/loader/compile"
	"github.com/portcullis/portcullis/testenv"
)

// TestDrift changes the kernel's maps behind the daemon's back: why goes by what they hold, and says in what the lists
// differ; soon the daemon finds it, says so, and writes the maps again.
func TestDrift(t *testing.T) {
	r := start(t)
	client, another := r.Client.IPv4, r.Another.IPv6
	r.cli("add_blacklist", "ip", client.String())
	maps, err := loader.OpenMaps(loader.Options{PinDir: r.daemon.PinDir})
	r.must(err)
	defer maps.Close()
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	// The daemon may find it before we have asked, but then not again within a minute.
	testenv.Eventually(t, 50*time.Second, "to be told of the difference", func() error {
		if err := maps.Apply(maps.Generation(), []compile.Rule{
			{Prefix: host(client), Remove: true},
			{Prefix: host(another), Cell: compile.Cell{DropUntil: compile.Never}, New: true},
		}); err != nil {
			return err
		}
		if err := errors.Join(r.Reach(r.Client), r.Blocked(r.Another, ipv6...)); err != nil {
			return err
		}
		for _, test := range []struct {
			address     netip.Addr
			code        int
			first, says string
		}{
			{client, 0, "pass, pass_unlisted", "it is dropped never in the kernel, for ever in the store"},
			{another, 10, "drop, drop_blacklisted", "it is dropped for ever in the kernel, never in the store"},
		} {
			out, err := r.daemon.CLI("why", test.address.String())
			if err != nil || out.Code != test.code || !strings.HasPrefix(out.Stdout, test.address.String()+": "+test.first+"\n") ||
				!strings.Contains(out.Stdout, "; store and kernel do not agree (generation ") ||
				!strings.Contains(out.Stderr, "kernel and store do not agree: "+test.says) {
				return fmt.Errorf("why %s: %+v, %w", test.address, out, err)
			}
		}
		return nil
	})
	testenv.Eventually(t, 2*time.Minute, "the maps to be written again", func() error {
		if err := errors.Join(r.Blocked(r.Client, ipv4...), r.Reach(r.Another)); err != nil {
			return err
		}
		s, err := r.daemon.Status()
		if err != nil || !strings.Contains(strings.Join(s.Warnings, "\n"), "addresses otherwise than the lists, and were written again") {
			return fmt.Errorf("warnings %q, %w", s.Warnings, err)
		}
		return nil
	})
}

// TestMismatchIsSaid: what the kernel's self-check has counted degrades the node and is in its status.
func TestMismatchIsSaid(t *testing.T) {
	r := start(t)
	checks, err := ebpf.LoadPinnedMap(filepath.Join(r.daemon.PinDir, bpf.MapChecks), nil)
	r.must(err)
	defer checks.Close()
	var perCPU []bpf.Check
	r.must(checks.Lookup(uint32(0), &perCPU))
	perCPU[0].Packets, perCPU[0].Mismatches = perCPU[0].Packets+70, 3
	r.must(checks.Update(uint32(0), perCPU, ebpf.UpdateAny))
	s, err := r.daemon.Status()
	r.must(err)
	if len(s.Degraded) != 1 || !strings.HasPrefix(s.Degraded[0], "kernel: the index contradicted the tries for 3 of ") {
		t.Errorf("degraded %q", s.Degraded)
	}
}
