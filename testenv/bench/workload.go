package main

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
)

// ringSize is how many sources a workload goes through before it begins anew. Each is drawn for itself: at a million
// entries most are met once a round.
const ringSize = 1 << 20

// workload is a way of choosing the sources of packets.
type workload struct {
	name  string
	about string
	// share of the packets that must be dropped, or -1: depends on the list.
	dropped float64
	draw    func(d drawer) func() netip.Addr
}

// drawer is what sources are drawn from.
type drawer struct {
	list   blocklist
	listed func(netip.Addr) bool
	r      *rand.Rand
}

var (
	legitimate = workload{"legitimate", "clients that are not listed, a new one each packet", 0, func(d drawer) func() netip.Addr { return d.unlisted }}
	blocked    = workload{"blocked", "listed sources, entries drawn uniformly", 1, func(d drawer) func() netip.Addr { return d.uniform }}
	zipf       = workload{"blocked, Zipf", "listed sources, few of them send most (exponent 1.1)", 1, drawer.zipf}
	spoofed    = workload{"spoofed", "sources drawn from all of 2^32", -1, func(d drawer) func() netip.Addr { return d.any }}
	adversary  = workload{"adversarial", "listed or not, every source inside a /24 that holds a listed address", -1, func(d drawer) func() netip.Addr { return d.near }}
	hot        = workload{"64 hot", "64 listed sources send all", 1, drawer.hot}
	ninety     = workload{"90/10", "90 % blocked, 10 % legitimate, in random order", 0.9, drawer.ninety}
)

// workloads of IPv4 and IPv6 in the order of the tables.
var (
	workloads4 = []workload{legitimate, blocked, zipf, spoofed, adversary, hot, ninety}
	workloads6 = []workload{legitimate, blocked}
)

func (d drawer) unlisted() netip.Addr {
	for {
		a := d.anyClient()
		if !d.listed(a) {
			return a
		}
	}
}

func (d drawer) anyClient() netip.Addr {
	if d.list.v6 {
		return unicast6(d.r)
	}
	return address(unicast(d.r))
}

func (d drawer) any() netip.Addr { return address(d.r.Uint32()) }

func (d drawer) uniform() netip.Addr {
	return d.inside(d.list.prefixes[d.r.IntN(len(d.list.prefixes))])
}

// inside draws an address of a prefix.
func (d drawer) inside(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		host := uint32(uint64(math.MaxUint32) >> p.Bits())
		return address(binary.BigEndian.Uint32(b[:]) | d.r.Uint32()&host)
	}
	b := p.Addr().As16()
	high, low := ^uint64(0)>>min(64, p.Bits()), ^uint64(0)>>max(0, p.Bits()-64)
	binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])|d.r.Uint64()&high)
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])|d.r.Uint64()&low)
	return netip.AddrFrom16(b)
}

// zipf gives ranks to random entries, so that what sends most is spread over the list.
func (d drawer) zipf() func() netip.Addr {
	rank := d.r.Perm(len(d.list.prefixes))
	z := rand.NewZipf(d.r, 1.1, 1, uint64(len(rank)-1))
	return func() netip.Addr { return d.inside(d.list.prefixes[rank[z.Uint64()]]) }
}

func (d drawer) near() netip.Addr {
	return d.inside(netip.PrefixFrom(d.uniform(), 24).Masked())
}

func (d drawer) hot() func() netip.Addr {
	var few [64]netip.Addr
	for i := range few {
		few[i] = d.uniform()
	}
	return func() netip.Addr { return few[d.r.IntN(len(few))] }
}

func (d drawer) ninety() func() netip.Addr {
	return func() netip.Addr {
		if d.r.IntN(10) == 0 {
			return d.unlisted()
		}
		return d.uniform()
	}
}

// ring draws the sources of a workload and writes them as words, as packets hold them. share is how many of them the
// list drops.
func (w workload) ring(d drawer) (words []uint32, share float64) {
	draw := w.draw(d)
	drops := 0
	for range ringSize {
		a := draw()
		if d.listed(a) {
			drops++
		}
		b := a.AsSlice()
		for i := 0; i < len(b); i += 4 {
			words = append(words, binary.LittleEndian.Uint32(b[i:]))
		}
	}
	return words, float64(drops) / ringSize
}
