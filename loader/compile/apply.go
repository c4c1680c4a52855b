package compile

import (
	"net/netip"
	"slices"

	"github.com/portcullis/portcullis/lists"
)

// Apply takes over changes, in order (those of other kinds are passed over), and returns the steps that bring
// map contents up to date, in the order in which they must be written.
//
// First come the puts, the most specific prefix first, then the removals, the widest first, one family after the
// other. So at every step in between each address meets either the cell it had before all of them or the one it
// has after all of them, never a third: no whitelisted address is dropped meanwhile and no listed one passes.
// The map needs room for the new prefixes before the removed ones are gone.
//
// The cost is that of the changed prefixes and those below them: microseconds for a host.
func (t *Table) Apply(changes []lists.Change) []Rule {
	e := t.edit()
	for _, c := range changes {
		if c.Before != nil && (c.After == nil || c.After.Key != c.Before.Key) {
			e.entry(c.Before, true)
		}
		if c.After != nil {
			e.entry(c.After, false)
		}
	}
	return e.finish()
}

// Protect replaces the protected prefixes, with the steps as for [Table.Apply].
func (t *Table) Protect(protected []netip.Prefix) []Rule {
	next := normalize(protected)
	e := t.edit()
	for _, p := range t.protected {
		if _, ok := slices.BinarySearchFunc(next, p, compare); !ok {
			e.change(p, func(o own) own { o.protected = false; return o })
		}
	}
	for _, p := range next {
		e.change(p, func(o own) own { o.protected = true; return o })
	}
	t.protected = next
	return e.finish()
}

// edit collects changes of own entries; finish computes the cells that follow from them. In between the cells in
// the table are the old ones, and prefixes without entries are still there.
type edit struct {
	t       *Table
	existed map[netip.Prefix]bool // every prefix touched: was it in the table before?
}

func (t *Table) edit() *edit { return &edit{t, make(map[netip.Prefix]bool)} }

func (e *edit) entry(entry *lists.Entry, gone bool) {
	if entry.List == lists.Blacklist && e.t.PassOnly {
		return
	}
	if p, ok := entry.ID.Prefix(); ok {
		e.change(p, func(o own) own { return o.with(entry, gone) })
	}
}

func (e *edit) change(p netip.Prefix, f func(own) own) {
	n, ok := e.t.nodes.Get(p)
	next := f(n.own)
	if next == n.own || !ok && next.empty() {
		return
	}
	if _, seen := e.existed[p]; !seen {
		e.existed[p] = ok
	}
	n.own = next
	e.t.nodes.Put(p, n)
}

// finish recomputes the cells of every touched prefix and those below, and returns the steps.
func (e *edit) finish() []Rule {
	touched := make([]netip.Prefix, 0, len(e.existed))
	for p := range e.existed {
		touched = append(touched, p)
	}
	slices.SortFunc(touched, compare)
	var rules []Rule
	var root netip.Prefix
	for _, p := range touched {
		if root.IsValid() && contains(root, p) {
			continue // walked already
		}
		root = p
		rules = e.walk(root, rules)
	}
	slices.SortFunc(rules, order)
	return rules
}

// walk recomputes the cells of root and of every prefix below it. No prefix around root was touched.
func (e *edit) walk(root netip.Prefix, rules []Rule) []Rule {
	nodes := &e.t.nodes
	var open stack
	for p, n := range nodes.Supernets(root) {
		if p.Bits() < root.Bits() {
			open.base = n.cell // the closest one comes first
			break
		}
	}
	first := len(rules)
	updates := make([]node, 0, 1) // what rules[first:] put
	for p, n := range nodes.Subnets(root) {
		existed, touched := e.existed[p]
		existed = existed || !touched
		if n.own.empty() {
			rules = append(rules, Rule{Prefix: p, Remove: true, New: !existed})
			updates = append(updates, n)
			continue
		}
		c := n.own.under(open.above(p))
		open.push(p, c)
		if !existed || c != n.cell {
			rules = append(rules, Rule{Prefix: p, Cell: c, New: !existed})
			updates = append(updates, node{n.own, c})
		}
	}
	kept := rules[:first]
	for i, r := range rules[first:] {
		if !r.Remove {
			nodes.Put(r.Prefix, updates[i])
			kept = append(kept, r)
			continue
		}
		nodes.Delete(r.Prefix)
		if !r.New { // what came and went within one call was never in a map
			kept = append(kept, r)
		}
	}
	return kept
}

// order sorts the steps: IPv4 first, puts before removals, puts the most specific first, removals the widest.
func order(a, b Rule) int {
	if a4, b4 := a.Prefix.Addr().Is4(), b.Prefix.Addr().Is4(); a4 != b4 {
		if a4 {
			return -1
		}
		return 1
	}
	if a.Remove != b.Remove {
		if b.Remove {
			return -1
		}
		return 1
	}
	if a.Prefix.Bits() != b.Prefix.Bits() {
		if a.Remove {
			return a.Prefix.Bits() - b.Prefix.Bits()
		}
		return b.Prefix.Bits() - a.Prefix.Bits()
	}
	return a.Prefix.Addr().Compare(b.Prefix.Addr())
}
