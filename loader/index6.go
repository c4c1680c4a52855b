package loader

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/portcullis/portcullis/loader/compile"
)

// index6 is the IPv6 index of Maps, as this process keeps it. Guarded by Maps.writing.
type index6 struct {
	tables
	x     *compile.Index6
	space *space
	due   ends[netip.Prefix]
}

// loadsInOrder: a program that reads the index and then Changes6 must have read the index before. CPUs of other kinds
// than this one may do it the other way round, and BPF has no barrier for loads before Linux 6.15.
const loadsInOrder = runtime.GOARCH == "amd64"

// newIndex6 fills the side of the IPv6 index that is not read.
type newIndex6 struct {
	filling compile.Filling6
	due     ends[netip.Prefix]
	m       *Maps
}

func (b *newIndex6) add(p netip.Prefix, c compile.Cell) {
	b.filling.Add(p, c, b.m.soon)
	b.due.add(p, c, b.m.soon)
}

// finish is that of newIndex.
func (b *newIndex6) finish() (flip func() (after func() error), err error) {
	n, w := &b.m.index6, b.m.words
	side := 1 - w.index6()
	if err := n.clear(side); err != nil {
		return nil, err
	}
	var x *compile.Index6
	s := n.on(side)
	if b.m.lookup != LookupLPM && loadsInOrder {
		x, err = b.filling.Index(s, [3]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64()})
		if err == nil {
			err = s.publish()
		}
		if err == nil {
			x.Ask(rulesOf(b.due.take(b.m.soon))) // the lease was renewed while this was filled
		}
	}
	if err != nil {
		s.free()
		x = nil
		b.m.log.Warn("no IPv6 index: every IPv6 packet is looked up in the tries, which is slower", "error", err)
		if err := n.clear(side); err != nil {
			return nil, err
		}
	}
	return func() func() error {
		old := n.space
		n.x, n.space, n.due = x, s, b.due
		b.m.write6(func() {
			to := &w.Sides6[side]
			to.On = 0
			if x != nil {
				m := x.Mixer()
				to.Multiply, to.Step, to.GateShift, to.Nets, to.Hosts = m.Multiply, m.Step, m.GateShift, m.Nets, m.Hosts
				to.On = 1
			}
			atomic.StoreUint32(&w.Index6, uint32(side))
			b.m.drawn = w.drawn()
		})
		return func() error {
			if old != nil {
				old.free()
			}
			return n.clear(1 - side)
		}
	}, nil
}

// write6 keeps readers off the IPv6 index meanwhile: whoever reads it then asks the tries.
func (m *Maps) write6(f func()) {
	defer makeOdd(&m.words.Changes6)()
	f()
}

// rebuild6 makes the IPv6 index anew.
func (m *Maps) rebuild6() error {
	m.lookAhead()
	b := &newIndex6{m: m}
	n := 0
	for p, c := range m.index.table.All6() {
		b.add(p, c)
		if n++; n%putBatch == 0 {
			m.renew(m.index.table)
		}
	}
	m.renew(m.index.table)
	flip, err := b.finish()
	if err != nil {
		return err
	}
	return m.switchIndex(flip)
}

// askIndex6 leaves to the tries what rules change; the function that it returns, which is to be called once the tries
// have them, brings the index up to date.
func (m *Maps) askIndex6(rules []compile.Rule) (add func()) {
	n, nothing := &m.index6, func() {}
	if !slices.ContainsFunc(rules, func(r compile.Rule) bool { return r.Prefix.Addr().Is6() }) {
		return nothing
	}
	if n.x == nil {
		// There may be an index of another process, which does not know these rules.
		m.write6(func() { m.words.Sides6[m.words.index6()].On = 0 })
		return nothing
	}
	for _, r := range rules {
		if r.Prefix.Addr().Is6() && !r.Remove {
			n.due.add(r.Prefix, r.Cell, m.soon)
		}
	}
	m.ask6(rules)
	if m.index.table == nil {
		return nothing
	}
	return func() { m.update6(m.index.table, rules) }
}

// together is how many rules are written to the IPv6 index at once: readers may have it in between.
const together = 1024

// ask6 leaves to the tries what rules change.
func (m *Maps) ask6(rules []compile.Rule) {
	for some := range slices.Chunk(rules, together) {
		m.write6(func() { m.index6.x.Ask(some) })
	}
}

// update6 brings the index up to date with a table that has the rules.
func (m *Maps) update6(table *compile.Table, rules []compile.Rule) {
	for some := range slices.Chunk(rules, together) {
		steps := m.index6.x.Plan(table, some, m.soon)
		m.write6(func() { m.index6.x.Write(steps) })
	}
}

// renew6 leaves to the tries what ends before the lease. table may be nil.
func (m *Maps) renew6(table *compile.Table) {
	n := &m.index6
	if n.x == nil {
		return
	}
	ended := n.due.take(m.soon)
	if len(ended) == 0 {
		return
	}
	if rules := rulesOf(ended); table != nil {
		m.update6(table, rules)
	} else {
		m.ask6(rules)
	}
}

func rulesOf(prefixes []netip.Prefix) []compile.Rule {
	rules := make([]compile.Rule, len(prefixes))
	for i, p := range prefixes {
		rules[i].Prefix = p
	}
	return rules
}

// index6 is the side of the IPv6 index that programs read.
func (w *controlWords) index6() int { return int(atomic.LoadUint32(&w.Index6) & 1) }
