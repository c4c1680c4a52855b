package compile

import (
	"net/netip"
	"slices"
)

// Change is a change of an index on its way.
type Change struct {
	x    *Index
	t    *Table
	soon func(deadline int64) bool
	todo []area
}

// area is a /24 or something wider, in which verdicts change.
type area struct {
	prefix  netip.Prefix
	touched drops // the addresses of a /24
}

// Change prepares what the rules ask of the index; t must have them already, and stay as it is until the change is
// done: its Remove before the rules are written to the tries, its Add after that.
func (x *Index) Change(t *Table, rules []Rule, soon func(deadline int64) bool) *Change {
	areas := make([]area, 0, len(rules))
	for _, r := range rules {
		if r.Prefix.Addr().Is4() {
			areas = append(areas, around(r.Prefix))
		}
	}
	slices.SortFunc(areas, func(a, b area) int { return compare(a.prefix, b.prefix) })
	todo := areas[:0]
	for _, a := range areas {
		if n := len(todo); n > 0 && contains(todo[n-1].prefix, a.prefix) {
			todo[n-1].touched = todo[n-1].touched.or(a.touched)
			continue
		}
		todo = append(todo, a)
	}
	return &Change{x, t, soon, todo}
}

func around(p netip.Prefix) area {
	if p.Bits() <= 24 {
		return area{p, all}
	}
	var d drops
	from := first(p) & 255
	d.set(from, from+1<<(32-p.Bits()))
	return area{netip.PrefixFrom(p.Addr(), 24).Masked(), d}
}

// Remove writes the /24s in which addresses only come to pass, or to be asked about.
func (c *Change) Remove() {
	left := c.todo[:0]
	for _, a := range c.todo {
		if !c.write(a, true) {
			left = append(left, a)
		}
	}
	c.todo = left
}

// Add writes the others.
func (c *Change) Add() {
	for _, a := range c.todo {
		c.write(a, false)
	}
	c.todo = nil
	if c.x.limbo.len() > limboMax {
		c.x.settle()
	}
}

// write brings an area up to date; false if something of it was left out because addresses come to be dropped.
func (c *Change) write(a area, removing bool) bool {
	e := editor{x: c.x, old: c.x.oldHosts(a), removing: removing}
	c.t.sweep(a.prefix, c.soon, e.paint)
	e.flush()
	return !e.skipped
}

// Ask leaves a prefix to the tries until it is changed again.
func (x *Index) Ask(p netip.Prefix) {
	a := around(p)
	a.touched = all
	from := uint64(first(a.prefix))
	e := editor{x: x, old: x.oldHosts(a)}
	e.paint(from, from+1<<(32-a.prefix.Bits()), classAsk)
	e.flush()
}

// near is the widest prefix, in bits, whose addresses are looked for in the buckets one by one.
const near = 18

func (x *Index) oldHosts(a area) oldHosts {
	if a.prefix.Bits() >= near {
		return nearHosts{x, a.touched}
	}
	from := uint64(first(a.prefix))
	return &farHosts{x.between(from, from+1<<(32-a.prefix.Bits()))}
}

// nearHosts asks the buckets about the touched addresses; of the others those are in there that are still to be.
type nearHosts struct {
	x       *Index
	touched drops
}

func (h nearHosts) in(block uint32, w *want) (d drops) {
	look := h.touched
	if w.code == codeAsk { // says nothing about the others
		look = all
	}
	look.each(block, func(a uint32) bool {
		if h.x.has(a) {
			d.set(a&255, a&255+1)
		}
		return true
	})
	rest := w.dropped()
	return d.or(rest.without(look))
}

func (nearHosts) any(uint64, uint64) bool { return true }

// farHosts holds what a walk of all buckets has found, sorted; it is asked in ascending order.
type farHosts struct{ hosts []uint32 }

func (x *Index) between(from, to uint64) (found []uint32) {
	for b := range uint32(1) << (32 - x.shift) {
		for _, w := range x.half(b << x.shift) {
			for ; w != 0; w >>= 16 {
				if tag := uint32(w & 0xffff); tag != 0 {
					if a := x.unmix(b<<x.shift | tag); from <= uint64(a) && uint64(a) < to {
						found = append(found, a)
					}
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

func (h *farHosts) any(from, to uint64) bool {
	h.skip(from)
	return len(h.hosts) > 0 && uint64(h.hosts[0]) < to
}

func (h *farHosts) skip(from uint64) {
	for len(h.hosts) > 0 && uint64(h.hosts[0]) < from {
		h.hosts = h.hosts[1:]
	}
}

func (h *farHosts) in(block uint32, _ *want) (d drops) {
	h.skip(uint64(block) << 8)
	for _, a := range h.hosts {
		if a>>8 != block {
			break
		}
		d.set(a&255, a&255+1)
	}
	return d
}
