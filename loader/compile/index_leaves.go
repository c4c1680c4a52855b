package compile

import (
	"math/bits"
	"slices"
)

// leafRoom hands out runs of one to sixteen leaves.
type leafRoom struct {
	end  uint32       // leaves there is memory for
	next uint32       // from here on none was ever handed out
	free [17][]uint32 // runs given back, by length
	idly int          // leaves in free
	used int          // leaves in use
}

func (r *leafRoom) idle() int { return r.idly }

// take finds a run; ok is false if there is none.
func (r *leafRoom) take(n int) (first uint32, ok bool) {
	for size := n; size <= 16; size++ {
		runs := r.free[size]
		if len(runs) == 0 {
			continue
		}
		first, r.free[size] = runs[len(runs)-1], runs[:len(runs)-1]
		r.idly -= size
		if size > n {
			r.give(first+uint32(n), size-n)
		}
		return first, true
	}
	if r.end-r.next < uint32(n) {
		return 0, false
	}
	first = r.next
	r.next += uint32(n)
	return first, true
}

func (r *leafRoom) give(first uint32, n int) {
	r.free[n] = append(r.free[n], first)
	r.idly += n
}

// limbo is what readers may still be reading: it is of use again after a wait.
type limbo struct {
	runs  []run
	hosts []uint32 // in buckets, though the /24 has another code by now
}

type run struct {
	first uint32
	n     int
}

func (l *limbo) len() int { return len(l.runs) + len(l.hosts) }

// settle empties the limbo.
func (x *Index) settle() {
	if x.limbo.len() == 0 {
		return
	}
	x.memory.Wait()
	x.taken = len(x.limbo.hosts) > 0
	for _, r := range x.limbo.runs {
		x.leaves.give(r.first, r.n)
	}
	for _, h := range x.limbo.hosts {
		x.take(h)
	}
	x.limbo = limbo{x.limbo.runs[:0], x.limbo.hosts[:0]}
}

// clean readies a range of addresses that is not of codeHosts for becoming it: there is nothing of it in the buckets,
// and no reader has seen anything there.
func (x *Index) clean(from, to uint64) {
	if slices.ContainsFunc(x.limbo.hosts, func(a uint32) bool { return from <= uint64(a) && uint64(a) < to }) {
		x.settle()
	}
	if x.taken {
		x.memory.Wait()
		x.taken = false
	}
}

// room takes a run of leaves, from limbo or from a new segment if need be.
func (x *Index) room(n int) (first uint32, ok bool) {
	if first, ok = x.leaves.take(n); ok {
		return first, true
	}
	if len(x.limbo.runs) > limboMax {
		x.settle()
		if first, ok = x.leaves.take(n); ok {
			return first, true
		}
	}
	segment := int(x.leaves.end / leavesASegment)
	if segment == leafSegmentsMost || x.grow(slotLeaves+segment) != nil {
		x.settle()
		return x.leaves.take(n)
	}
	x.leaves.end += leavesASegment
	return x.leaves.take(n)
}

// drops says of each address of a /24 whether it is dropped.
type drops [4]uint64

var all = drops{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}

func (d *drops) set(from, to uint32) {
	for ; from < to && from&63 != 0; from++ {
		d[from>>6] |= 1 << (from & 63)
	}
	for ; from+64 <= to; from += 64 {
		d[from>>6] = ^uint64(0)
	}
	for ; from < to; from++ {
		d[from>>6] |= 1 << (from & 63)
	}
}

func (d *drops) count() (n int) {
	for _, w := range d {
		n += bits.OnesCount64(w)
	}
	return n
}

func (d drops) without(o drops) drops {
	for i := range d {
		d[i] &^= o[i]
	}
	return d
}

func (d drops) and(o drops) drops {
	for i := range d {
		d[i] &= o[i]
	}
	return d
}

func (d drops) or(o drops) drops {
	for i := range d {
		d[i] |= o[i]
	}
	return d
}

// each calls f for the dropped addresses of a /24 until it says no.
func (d *drops) each(block uint32, f func(address uint32) bool) bool {
	for i, w := range d {
		for ; w != 0; w &= w - 1 {
			if !f(block<<8 | uint32(i*64+bits.TrailingZeros64(w))) {
				return false
			}
		}
	}
	return true
}
