package compile

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// class is what an index has to say about a prefix.
type class uint8

const (
	classPass class = iota
	classDrop
	classAsk
)

func (c class) code() uint64 { return [...]uint64{codeHosts, codeDrop, codeAsk}[c] }

// class of a cell. soon says whether a deadline (Unix seconds) comes so soon that an index must not drop by it: the
// tries end it on time. A whitelist entry that ends before the blacklist entry under it does is theirs too.
func (c Cell) class(soon func(deadline int64) bool) class {
	switch {
	case c.DropUntil == 0 || c.PassUntil >= c.DropUntil:
		return classPass
	case c.PassUntil != 0 || c.DropUntil != Never && soon(c.DropUntil):
		return classAsk
	default:
		return classDrop
	}
}

// Ends returns when the cell's drop ends if an index may drop by it until shortly before; false if nothing is to be
// done then.
func (c Cell) Ends() (deadline int64, ok bool) {
	return c.DropUntil, c.DropUntil != 0 && c.DropUntil != Never && c.PassUntil == 0
}

// Packed is an IPv4 prefix and what an index says of it, in a number that sorts as prefixes do.
type Packed uint64

// Pack packs a prefix (IPv4 only) and its cell.
func Pack(p netip.Prefix, c Cell, soon func(deadline int64) bool) Packed {
	return Packed(first(p))<<16 | Packed(p.Bits())<<8 | Packed(c.class(soon))
}

// size is how many addresses it covers.
func (p Packed) size() uint64 { return 1 << (32 - p>>8&0xff) }

// Hosts counts the single addresses that an index holds of the cells, at most.
func Hosts(cells []Packed) (n int) {
	for _, c := range cells {
		if size := c.size(); class(c&0xff) == classDrop && size < dense {
			n += int(size)
		}
	}
	return n
}

// Fill writes cells, sorted, into an index that is empty. What finds no room, the tries are asked about.
func (x *Index) Fill(cells iter.Seq[Packed]) {
	e := editor{x: x, old: noHosts{}}
	s := newSweep(0, 1<<32, classPass, e.paint)
	for c := range cells {
		s.next(uint64(c>>16), c.size(), class(c&0xff))
	}
	s.finish()
	e.flush()
	x.settle()
}

func first(p netip.Prefix) uint32 {
	a := p.Addr().As4()
	return binary.BigEndian.Uint32(a[:])
}

// sweep turns nested prefixes, sorted, into ranges that do not overlap and leave nothing out.
type sweep struct {
	at   uint64
	open []open
	emit func(from, to uint64, c class)
}

type open struct {
	end   uint64
	class class
}

func newSweep(from, to uint64, base class, emit func(from, to uint64, c class)) sweep {
	return sweep{at: from, open: []open{{to, base}}, emit: emit}
}

func (s *sweep) next(from, size uint64, c class) {
	s.close(from)
	s.to(from)
	s.open = append(s.open, open{from + size, c})
}

// close ends the prefixes that end at an address or before.
func (s *sweep) close(at uint64) {
	for len(s.open) > 0 && s.open[len(s.open)-1].end <= at {
		s.to(s.open[len(s.open)-1].end)
		s.open = s.open[:len(s.open)-1]
	}
}

func (s *sweep) to(at uint64) {
	if s.at < at {
		s.emit(s.at, at, s.open[len(s.open)-1].class)
		s.at = at
	}
}

func (s *sweep) finish() { s.close(1 << 32) }

// sweep paints what the table holds of a prefix.
func (t *Table) sweep(p netip.Prefix, soon func(deadline int64) bool, emit func(from, to uint64, c class)) {
	base := classPass
	for q, n := range t.nodes.Supernets(p) {
		if q.Bits() < p.Bits() {
			base = n.cell.class(soon) // the closest one comes first
			break
		}
	}
	from := uint64(first(p))
	s := newSweep(from, from+1<<(32-p.Bits()), base, emit)
	for q, n := range t.nodes.Subnets(p) {
		s.next(uint64(first(q)), 1<<(32-q.Bits()), n.cell.class(soon))
	}
	s.finish()
}
