package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
)

// Accounting is what programs count for entries of the blacklist.
type Accounting string

const (
	// AccountingSampled counts nothing: [Maps.ReadSamples] tells roughly.
	AccountingSampled Accounting = "sampled"
	// AccountingExact counts every drop, by prefix and by source of the entry. Each drop then is looked up in the tries,
	// as with [LookupLPM]; what passes keeps its speed.
	AccountingExact Accounting = "exact"
)

// Hits is what was dropped.
type Hits struct {
	Packets uint64
	Bytes   uint64
}

// Hits returns what was dropped on account of a prefix that the tries hold: of packets whose source it contains and no
// longer prefix in the tries does. Where they do not hold it, that of the longest one that contains it. Zero if accounting
// is not exact.
//
// Counting begins anew with each Replace, so with each start of the daemon. An Apply that changes the prefix carries the
// count over, but for packets of that very moment.
func (m *Maps) Hits(p netip.Prefix) (Hits, error) {
	leave, err := m.enter()
	if err != nil {
		return Hits{}, err
	}
	defer leave()
	h, err := m.sides[m.words.active()].hits(p)
	return Hits{Packets: h.Packets, Bytes: h.Bytes}, err
}

// hits reads those of a prefix.
func (s *side) hits(p netip.Prefix) (h bpf.Hits, err error) {
	var c bpf.Cell
	p = p.Masked()
	if p.Addr().Is4() {
		err = patiently(func() error { return s.v4.m.Lookup(keyV4(p), &c) })
	} else {
		err = patiently(func() error { return s.v6.m.Lookup(keyV6(p), &c) })
	}
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return h, nil
	case err != nil:
		return h, fmt.Errorf("read hits of %s: %w", p, err)
	}
	return c.Hits, nil
}

// SourceHits returns what was dropped by the source of the entry that it is due to, since the maps were made. All are zero
// if accounting was never exact.
func (m *Maps) SourceHits() (map[lists.Source]Hits, error) {
	leave, err := m.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	all := make(map[lists.Source]Hits)
	for _, source := range lists.Sources() {
		var perCPU []bpf.Hits
		if err := m.sources.Lookup(uint32(source), &perCPU); err != nil {
			return nil, fmt.Errorf("read hits of %s: %w", source, err)
		}
		var sum Hits
		for _, h := range perCPU {
			sum.Packets += h.Packets
			sum.Bytes += h.Bytes
		}
		all[source] = sum
	}
	return all, nil
}
