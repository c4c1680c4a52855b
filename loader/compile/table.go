package compile

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"github.com/portcullis/portcullis/lists"
)

// Table is the compiled form of one snapshot, kept to compute differences from. Not safe for concurrent use.
// Memory: about 120 bytes an IP entry.
type Table struct {
	nodes     *bart.Table[node]
	protected []netip.Prefix // sorted, canonical, unique

	// PassOnly leaves blacklist entries out: somebody else acts on them. Set it before the table is filled.
	PassOnly bool
}

// New returns an empty table.
func New() *Table { return &Table{nodes: new(bart.Table[node])} }

// Reset makes the table hold exactly the snapshot's IP entries and the protected prefixes. It takes about a
// second a million entries. s may be nil: no entries.
func (t *Table) Reset(s *lists.Snapshot, protected []netip.Prefix) {
	for range t.Rebuild(s, protected) {
	}
}

// Rebuild is Reset that yields every prefix with its cell, as All does, while it works: who writes them elsewhere need
// not wait. The table is not what it should be before the sequence has come to its end; call it once.
func (t *Table) Rebuild(s *lists.Snapshot, protected []netip.Prefix) iter.Seq2[netip.Prefix, Cell] {
	var found []listed
	if s != nil {
		found = make([]listed, 0, s.Len(lists.Whitelist)+s.Len(lists.Blacklist))
		for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
			if l == lists.Blacklist && t.PassOnly {
				continue
			}
			s.Prefixes(l, func(p netip.Prefix, src lists.Source, expires time.Time) bool {
				found = append(found, listed{p, deadline(expires), l, src})
				return true
			})
		}
	}
	t.protected = normalize(protected)
	for _, p := range t.protected {
		found = append(found, listed{prefix: p})
	}
	found = sorted(found)
	t.nodes = new(bart.Table[node])
	return func(yield func(netip.Prefix, Cell) bool) { t.fill(found, yield) }
}

// listed is one entry on its way into the table; list 0 is a protected prefix.
type listed struct {
	prefix netip.Prefix
	until  int64
	list   lists.List
	source lists.Source
}

// fill builds the nodes from nothing, until yield says false. Sorted input brings every prefix after those that contain it, so one stack
// of open prefixes gives each its cell, and neighbours share cache lines.
func (t *Table) fill(found []listed, yield func(netip.Prefix, Cell) bool) {
	var open stack
	for i := 0; i < len(found); {
		p := found[i].prefix
		var o own
		for ; i < len(found) && found[i].prefix == p; i++ {
			switch f := found[i]; f.list {
			case lists.Whitelist:
				o.pass = f.until
			case lists.Blacklist:
				o = o.set(f.source, f.until)
			default:
				o.protected = true
			}
		}
		c := o.under(open.above(p))
		open.push(p, c)
		t.nodes.Insert(p, node{o, c})
		if !yield(p, c) {
			return
		}
	}
}

// stack holds the prefixes that contain the one a sorted walk is at, widest first.
type stack struct {
	base Cell // of what lies around the walk
	open []struct {
		prefix netip.Prefix
		cell   Cell
	}
}

// above forgets the prefixes that do not contain p and returns the cell of the closest that does.
func (s *stack) above(p netip.Prefix) Cell {
	for n := len(s.open); n > 0; n-- {
		if top := s.open[n-1]; contains(top.prefix, p) {
			return top.cell
		}
		s.open = s.open[:n-1]
	}
	return s.base
}

func (s *stack) push(p netip.Prefix, c Cell) {
	s.open = append(s.open, struct {
		prefix netip.Prefix
		cell   Cell
	}{p, c})
}

// normalize returns the valid prefixes, canonical, sorted, each once.
func normalize(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if p, ok := canonical(p); ok {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}

// All yields every prefix with its cell, IPv4 before IPv6, sorted by address and then length: the fastest order
// to fill an LPM map in. The table must not be changed meanwhile.
func (t *Table) All() iter.Seq2[netip.Prefix, Cell] {
	return func(yield func(netip.Prefix, Cell) bool) {
		for p, n := range t.nodes.AllSorted() {
			if !yield(p, n.cell) {
				return
			}
		}
	}
}

// Len counts the prefixes of each family: what the maps must have room for.
func (t *Table) Len() (v4, v6 int) { return t.nodes.Size4(), t.nodes.Size6() }

// Lookup answers for one address as the kernel would, at a wall-clock time.
func (t *Table) Lookup(a netip.Addr, now time.Time) (lists.Verdict, Cell) {
	n, _ := t.nodes.Lookup(a.Unmap())
	return n.cell.Verdict(now), n.cell
}

// Verdict is what the cell says at a wall-clock time.
func (c Cell) Verdict(now time.Time) lists.Verdict {
	switch {
	case before(now, c.PassUntil):
		return lists.PassWhitelisted
	case before(now, c.DropUntil):
		return lists.Drop
	default:
		return lists.Pass
	}
}

// before reports whether the deadline has not come at now.
func before(now time.Time, deadline int64) bool { return deadline != 0 && now.Unix() < deadline }
