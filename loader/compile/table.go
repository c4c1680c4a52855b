package compile

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Table is the compiled form of one snapshot, kept to compute differences from. Not safe for concurrent use.
// Memory: about 20 bytes an IPv4 entry, 40 one of IPv6; 80 more if no other ends when it does.
type Table struct {
	nodes     prefixes
	protected []netip.Prefix // sorted, canonical, unique

	// PassOnly leaves blacklist entries out: somebody else acts on them. Set it before the table is filled.
	PassOnly bool
}

// New returns an empty table.
func New() *Table { return new(Table) }

// Reset makes the table hold exactly the snapshot's IP entries and the protected prefixes. It takes about a
// second a million entries. s may be nil: no entries.
func (t *Table) Reset(s *lists.Snapshot, protected []netip.Prefix) {
	for range t.Rebuild(s, protected) {
	}
}

// Rebuild is Reset that yields every prefix with its cell, as All does, while it works: who writes them elsewhere need
// not wait. The table is not what it should be before the sequence has come to its end; call it once.
func (t *Table) Rebuild(s *lists.Snapshot, protected []netip.Prefix) iter.Seq2[netip.Prefix, Cell] {
	var f found
	if s != nil {
		w4, _ := s.LenPrefixes(lists.Whitelist)
		b4, _ := s.LenPrefixes(lists.Blacklist)
		f.four = make([]listed4, 0, w4+b4+len(protected))
		for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
			if l == lists.Blacklist && t.PassOnly {
				continue
			}
			s.Prefixes(l, func(p netip.Prefix, src lists.Source, expires time.Time) bool {
				f.add(listed{p, deadline(expires), l, src})
				return true
			})
		}
	}
	t.protected = normalize(protected)
	for _, p := range t.protected {
		f.add(listed{prefix: p})
	}
	f.sort()
	t.nodes = prefixes{}
	return func(yield func(netip.Prefix, Cell) bool) { t.fill(f.all(), yield) }
}

// fill builds the nodes from nothing, until yield says false. Sorted input brings every prefix after those that contain
// it, so one stack of open prefixes gives each its cell, and neighbours share cache lines.
func (t *Table) fill(found iter.Seq[listed], yield func(netip.Prefix, Cell) bool) {
	var open stack
	var p netip.Prefix // what o is of, invalid before the first
	var o own
	put := func() bool {
		c := o.under(open.above(p))
		open.push(p, c)
		t.nodes.Put(p, node{o, c})
		return yield(p, c)
	}
	for l := range found {
		if l.prefix != p {
			if p.IsValid() && !put() {
				return
			}
			p, o = l.prefix, own{}
		}
		switch l.list {
		case lists.Whitelist:
			o.pass = l.until
		case lists.Blacklist:
			o = o.set(l.source, l.until)
		default:
			o.protected = true
		}
	}
	if p.IsValid() {
		put()
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
		for p, n := range t.nodes.All() {
			if !yield(p, n.cell) {
				return
			}
		}
	}
}

// All6 yields those of IPv6 alone.
func (t *Table) All6() iter.Seq2[netip.Prefix, Cell] {
	return func(yield func(netip.Prefix, Cell) bool) {
		t.nodes.six.from(key6{}, func(k key6, at uint32) bool { return yield(k.prefix(), t.nodes.kept.get(at).cell) })
	}
}

// Len counts the prefixes of each family: what the maps must have room for.
func (t *Table) Len() (v4, v6 int) { return t.nodes.Len4(), t.nodes.Len6() }

// Lookup answers for one address as the kernel would, at a wall-clock time.
func (t *Table) Lookup(a netip.Addr, now time.Time) (lists.Verdict, Cell) {
	a = a.Unmap().WithZone("")
	for _, n := range t.nodes.Supernets(netip.PrefixFrom(a, a.BitLen())) {
		return n.cell.Verdict(now), n.cell
	}
	return lists.Pass, Cell{}
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
