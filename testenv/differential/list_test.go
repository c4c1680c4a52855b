package differential

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"github.com/portcullis/portcullis/lists"
)

// number is an address as a number of 128 bits; an IPv4 one is in lo.
type number struct{ hi, lo uint64 }

func numberOf(a netip.Addr) number {
	if a.Is4() {
		b := a.As4()
		return number{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return number{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}

func (n number) addr(v6 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	if v6 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

func (n number) plus(m number) number {
	lo, carry := bits.Add64(n.lo, m.lo, 0)
	hi, _ := bits.Add64(n.hi, m.hi, carry)
	return number{hi, lo}
}

func (n number) minus(m number) number {
	lo, borrow := bits.Sub64(n.lo, m.lo, 0)
	hi, _ := bits.Sub64(n.hi, m.hi, borrow)
	return number{hi, lo}
}

func (n number) less(m number) bool { return n.hi < m.hi || n.hi == m.hi && n.lo < m.lo }

// stretch is a range of addresses without an edge of any prefix in it: all have one verdict.
type stretch struct {
	first, last number
	drop        bool
}

// within draws an address: the first, the last or any.
func (s stretch) within(r *rand.Rand) number {
	size := s.last.minus(s.first)
	switch {
	case size == number{}:
		return s.first
	case r.IntN(4) == 0:
		return s.first
	case r.IntN(3) == 0:
		return s.last
	}
	for {
		off := number{0, r.Uint64()}
		if size.hi == 0 {
			off.lo >>= bits.LeadingZeros64(size.lo)
		} else {
			off.hi = r.Uint64() >> bits.LeadingZeros64(size.hi)
		}
		if !size.less(off) {
			return s.first.plus(off)
		}
	}
}

// round is a random list of one family, what may change in it meanwhile, and the stretches that this does not touch.
type round struct {
	r     *rand.Rand
	v6    bool
	bases []netip.Addr

	fixed     []lists.Entry // stay
	churn     []lists.Entry // come and go
	stretches []stretch
	white     *bart.Lite // of fixed, those whose end has not come
	black     *bart.Lite
}

func newRound(r *rand.Rand, v6 bool, now time.Time) *round {
	d := &round{r: r, v6: v6, white: new(bart.Lite), black: new(bart.Lite)}
	for range 1 + r.IntN(40) {
		d.bases = append(d.bases, d.anywhere())
	}
	taken := make(map[lists.Key]bool)
	draw := func(n int) (entries []lists.Entry) {
		for len(entries) < n {
			e := d.entry(now)
			if !taken[e.Key] {
				taken[e.Key] = true
				entries = append(entries, e)
			}
		}
		return entries
	}
	d.fixed, d.churn = draw(1+r.IntN(1500)), draw(1+r.IntN(300))
	for _, e := range d.fixed {
		p, _ := e.ID.Prefix()
		switch {
		case e.Expired(now):
		case e.List == lists.Whitelist:
			d.white.Insert(p)
		default:
			d.black.Insert(p)
		}
	}
	d.cut(now)
	return d
}

// anywhere draws an address that is not reserved for another family: no IPv4-mapped one.
func (d *round) anywhere() netip.Addr {
	if !d.v6 {
		return number{0, uint64(d.r.Uint32())}.addr(false)
	}
	return number{0x2000<<48 | d.r.Uint64()>>3, d.r.Uint64()}.addr(true)
}

// entry draws one that nests with others. Ends have come long ago, or come long after.
func (d *round) entry(now time.Time) lists.Entry {
	a := d.bases[d.r.IntN(len(d.bases))]
	length := a.BitLen()
	switch d.r.IntN(4) {
	case 0: // a neighbour
		b := a.AsSlice()
		bit := length - 1 - d.r.IntN(14)
		b[bit/8] ^= 1 << (7 - bit%8)
		b[len(b)-1] ^= byte(d.r.IntN(256))
		a, _ = netip.AddrFromSlice(b)
	case 1:
		a = d.anywhere()
	}
	if d.r.IntN(3) > 0 {
		length -= d.r.IntN(length - 7)
	}
	id, ok := lists.PrefixID(netip.PrefixFrom(a, length).Masked())
	if !ok {
		panic("not a prefix")
	}
	e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Unix(1, 0)}
	if length > 12 && d.r.IntN(3) == 0 {
		e.List = lists.Whitelist
	}
	switch d.r.IntN(6) {
	case 0:
		e.Expires = now.Add(-time.Hour)
	case 1:
		e.Expires = now.Add(1000 * time.Hour)
	}
	return e
}

// cut finds the stretches, and asks the reference about each.
func (d *round) cut(now time.Time) {
	edges := []number{{}}
	var churned []netip.Prefix
	note := func(e lists.Entry) netip.Prefix {
		p, _ := e.ID.Prefix()
		first := numberOf(p.Addr())
		next := first.plus(d.sizeOf(p))
		edges = append(edges, first)
		if next != (number{}) && (d.v6 || next.lo>>32 == 0) { // not the end of all addresses
			edges = append(edges, next)
		}
		return p
	}
	b := lists.NewBuilder(nil)
	for _, e := range d.fixed {
		note(e)
		b.Put(e)
	}
	for _, e := range d.churn {
		churned = append(churned, note(e))
	}
	reference := b.Snapshot(1)
	slices.SortFunc(edges, func(a, b number) int { return a.addr(true).Compare(b.addr(true)) })
	edges = slices.Compact(edges)
	end := number{0, 1<<32 - 1}
	if d.v6 {
		end = number{^uint64(0), ^uint64(0)}
	}
	for i, first := range edges {
		s := stretch{first: first, last: end}
		if i+1 < len(edges) {
			s.last = edges[i+1].minus(number{0, 1})
		}
		a := first.addr(d.v6)
		if a.Is4In6() || slices.ContainsFunc(churned, func(p netip.Prefix) bool { return p.Contains(a) }) {
			continue
		}
		verdict, _ := lists.Match(reference, a, now)
		s.drop = verdict == lists.Drop
		d.stretches = append(d.stretches, s)
	}
}

func (d *round) sizeOf(p netip.Prefix) number {
	free := p.Addr().BitLen() - p.Bits()
	switch {
	case free >= 128:
		return number{}
	case free >= 64:
		return number{1 << (free - 64), 0}
	}
	return number{0, 1 << free}
}
