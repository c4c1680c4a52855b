package userspace

import (
	"net/netip"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
)

// offerDrops lets the control API see single drops, and what entries have dropped if that is counted.
func (n *node) offerDrops(o *control.Options) {
	n.watchers = newWatchers(n.maps.ReadSamples, n.resolve, n.log)
	o.Watch = n.watchers.subscribe
	if n.exact() {
		o.Hits = n.hits
	}
}

// exact reports whether drops are counted for entries.
func (n *node) exact() bool { return n.config.Accounting == string(loader.AccountingExact) }

// countDrops fills in what is known of drops besides the counters of the interfaces.
func (n *node) countDrops(s *control.Status, bad func(string, ...any)) {
	s.Accounting = n.config.Accounting
	samples, err := n.maps.Sampled()
	if err != nil {
		bad("kernel: %s", err)
	}
	s.Samples = control.Samples{Written: samples.Written, Lost: samples.Lost}
	if samples.Uncounted > 0 {
		bad("kernel: %d dropped packets were not counted for their entries: more of them drop something than there is room to count for", samples.Uncounted)
	}
	if !n.exact() {
		return
	}
	hits, err := n.maps.SourceHits()
	if err != nil {
		bad("kernel: %s", err)
		return
	}
	for _, source := range lists.Sources() {
		s.Sources = append(s.Sources, control.SourceHits{Source: source.String(), Hits: control.Hits(hits[source])})
	}
}

// hits says what a prefix has dropped.
func (n *node) hits(p netip.Prefix) (control.Hits, error) {
	h, err := n.maps.Hits(p)
	return control.Hits(h), err
}

// resolve says what is known of a sample: what its packet tells, and which entry it is due to.
func (n *node) resolve(s loader.Sample) control.Drop {
	d := control.Drop{
		Time: s.Time, Interface: n.interfaceName(s.Interface), Family: s.Family, Reason: s.Reason,
		Packets: s.Packets, Length: s.Length, Layer3: s.Layer3, Packet: s.Packet,
	}
	describePacket(s.Packet, s.Layer3, &d)
	if a, err := netip.ParseAddr(d.Source); err == nil && s.Reason == "drop_blacklisted" {
		blame(n.store.Snapshot(), *n.protected.Load(), a.Unmap(), &d)
		n.addHits(&d)
	}
	return d
}

// addHits says what the prefix has dropped, where that is counted.
func (n *node) addHits(d *control.Drop) {
	p, err := netip.ParsePrefix(d.Prefix)
	if err != nil || !n.exact() {
		return
	}
	if h, err := n.hits(p); err == nil {
		d.Hits = &h
	}
}

func (n *node) interfaceName(index int) string {
	for _, a := range *n.interfaces.Load() {
		if a.Index == index {
			return a.Interface
		}
	}
	return ""
}

// blame names the entry that packets of an address are dropped for, and the prefix that the kernel's maps have for it.
func blame(snap *lists.Snapshot, protected []protection, a netip.Addr, d *control.Drop) {
	white, black := covering(snap, lists.Whitelist, hostPrefix(a)), covering(snap, lists.Blacklist, hostPrefix(a))
	longest := -1
	consider := func(p netip.Prefix) {
		if p.Bits() > longest {
			longest, d.Prefix = p.Bits(), p.String()
		}
	}
	for _, e := range append(white, black...) {
		if p, ok := e.ID.Prefix(); ok {
			consider(p)
		}
	}
	for _, p := range protected {
		if p.prefix.Contains(a) {
			consider(p.prefix)
		}
	}
	if e, ok := lastToEnd(black); ok {
		d.Entry, d.EntrySource = e.ID.Value, e.Source.String()
	}
}
