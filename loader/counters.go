package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
)

// Count is one counter, summed over CPUs since the interface was first attached: it survives restarts and
// upgrades of the daemon, and the interface being deleted and made again; Detach, a reboot and a build with
// other counters begin it anew.
type Count struct {
	Reason  string // "drop_blacklisted"
	Family  string // "ipv4", "ipv6", "other"
	Packets uint64
	Bytes   uint64
}

// Counters returns every counter of an interface, in a fixed order (families, in each the reasons), zeros
// included. [ErrNotLoaded] if nothing was ever attached to it.
func (m *Maps) Counters(iface string) ([]Count, error) {
	leave, err := m.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	c, err := loadPin(m.dir.counters(iface))
	if err != nil {
		return nil, fmt.Errorf("read counters of %s: %w", iface, err)
	}
	defer c.Close()
	if c.Type() != ebpf.PerCPUArray || c.MaxEntries() != uint32(bpf.Families*bpf.Reasons) {
		return nil, fmt.Errorf("read counters of %s: %w", iface, ErrLayout)
	}
	counts := make([]Count, 0, bpf.Families*bpf.Reasons)
	var perCPU []bpf.Count
	for f := range bpf.Family(bpf.Families) {
		for r := range bpf.Reason(bpf.Reasons) {
			if err := c.Lookup(bpf.Way(f, r), &perCPU); err != nil {
				return nil, fmt.Errorf("read counters of %s: %w", iface, err)
			}
			sum := Count{Reason: r.String(), Family: f.String()}
			for _, n := range perCPU {
				sum.Packets += n.Packets
				sum.Bytes += n.Bytes
			}
			counts = append(counts, sum)
		}
	}
	return counts, nil
}
