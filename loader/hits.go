package loader

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// Accounting is what programs count for entries of the blacklist.
type Accounting string

const (
	// AccountingSampled counts nothing: [Maps.ReadSamples] tells roughly.
	AccountingSampled Accounting = "sampled"
	// AccountingExact counts every drop, by prefix and by source of the entry. Each drop then is looked up in the tries,
	// as with [LookupLPM], and its prefix in a hash; what passes keeps its speed.
	AccountingExact Accounting = "exact"
)

// Hits is what was dropped.
type Hits struct {
	Packets uint64
	Bytes   uint64
}

// hitsRoom is how many prefixes are counted for at most. Their map takes 16 bytes for each from the start, and about a
// hundred more for one that has dropped something.
const hitsRoom = 1 << 20

// openHits makes the map that exact accounting counts in. It is not pinned: counts begin anew with each Loader.
func (l *Loader) openHits() error {
	if !l.maps.exact {
		return nil
	}
	spec, err := l.o.spec()
	if err != nil {
		return err
	}
	if l.maps.prefixes, err = ebpf.NewMap(spec.Maps[bpf.MapPrefixes]); err != nil {
		return fmt.Errorf("make map of exact counts: %w", permission(err))
	}
	return nil
}

// Hits returns what was dropped on account of a prefix that the tries hold: of packets whose source it contains and no
// longer prefix in the tries does. Zero if that is nothing, or accounting is not exact.
//
// Counting begins with the Loader, and with the prefix being listed; a change of its entries does not end it.
func (m *Maps) Hits(p netip.Prefix) (Hits, error) {
	leave, err := m.enter()
	if err != nil {
		return Hits{}, err
	}
	defer leave()
	if m.prefixes == nil {
		return Hits{}, nil
	}
	var h bpf.Hits
	switch err := m.prefixes.Lookup(hitsKey(p), &h); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
	case err != nil:
		return Hits{}, fmt.Errorf("read hits of %s: %w", p, err)
	}
	return Hits{Packets: h.Packets, Bytes: h.Bytes}, nil
}

// hitsKey is the key of a prefix, which for IPv4 is that of the mapped addresses.
func hitsKey(p netip.Prefix) bpf.KeyV6 {
	p = p.Masked()
	key := bpf.KeyV6{Prefixlen: uint32(p.Bits()), Addr: p.Addr().As16()}
	if p.Addr().Is4() {
		key.Prefixlen += 96
	}
	return key
}

// forget drops the counts of prefixes that are not listed any more.
func (m *Maps) forget(rules []compile.Rule) error {
	for _, r := range rules {
		if m.prefixes == nil || !r.Remove {
			continue
		}
		if err := m.prefixes.Delete(hitsKey(r.Prefix)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget hits of %s: %w", r.Prefix, err)
		}
	}
	return nil
}

// forgetGone does the same after the whole list was replaced. Prefixes whose cell is gone make room for others.
func (m *Maps) forgetGone() error {
	if m.prefixes == nil {
		return nil
	}
	var gone []bpf.KeyV6
	var key bpf.KeyV6
	var h bpf.Hits
	s := &m.sides[m.words.active()]
	all := m.prefixes.Iterate()
	for all.Next(&key, &h) {
		if !s.holds(key) {
			gone = append(gone, key)
		}
	}
	for i := range gone {
		if err := m.prefixes.Delete(&gone[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget hits: %w", err)
		}
	}
	if err := all.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) { // aborted: it changed a lot meanwhile
		return fmt.Errorf("walk hits: %w", err)
	}
	return nil
}

// holds reports whether the tries have a cell for exactly the prefix that a key of hits is of.
func (s *side) holds(key bpf.KeyV6) bool {
	var c bpf.Cell
	var err error
	length := key.Prefixlen
	if a := netip.AddrFrom16(key.Addr); a.Is4In6() && length >= 96 {
		length -= 96
		err = patiently(func() error { return s.v4.m.Lookup(bpf.KeyV4{Prefixlen: length, Addr: a.Unmap().As4()}, &c) })
	} else {
		err = patiently(func() error { return s.v6.m.Lookup(&key, &c) })
	}
	return err == nil && uint32(c.Length) == length
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
