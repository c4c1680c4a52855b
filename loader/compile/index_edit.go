package compile

import "sync/atomic"

// editor writes ranges of addresses, in ascending order, into an index. Whatever a reader has read of it before and
// reads of it after any one store, each address has its old verdict or its new one:
//
//   - An address changes by one store, of the word that holds its bit, its tag or its /24's code.
//   - A run of leaves is written before the cell that names it, and the run before it is reused after a wait.
//   - Buckets are read before, after or while the cell is. So a /24 that leaves codeHosts keeps its addresses in the
//     buckets until a wait is over; and it comes back to codeHosts with none, after another.
type editor struct {
	x   *Index
	old oldHosts
	// removing leaves out the /24s in which an address comes to be dropped; skipped says that there were any.
	removing, skipped bool

	// The /24 that is being painted.
	partial struct {
		begun bool
		drops drops
		ask   bool
	}
	// The /20 that is being collected.
	number  uint32
	touched uint16
	want    [16]want
}

// want is what a /24 is to be; codeHosts with drops are hosts if they find a place.
type want struct {
	code  uint64
	drops drops
}

// dropped are the addresses that the index is to drop without asking.
func (w *want) dropped() drops {
	switch w.code {
	case codeDrop:
		return all
	case codeAsk:
		return drops{}
	default:
		return w.drops
	}
}

// oldHosts knows what the buckets hold.
type oldHosts interface {
	// in returns the addresses of a /24 of codeHosts that is to become w.
	in(block uint32, w *want) drops
	// any reports whether there may be one.
	any(from, to uint64) bool
}

type noHosts struct{}

func (noHosts) in(uint32, *want) drops  { return drops{} }
func (noHosts) any(uint64, uint64) bool { return false }

// paint takes the next range.
func (e *editor) paint(from, to uint64, c class) {
	for from < to {
		block := uint32(from >> 8)
		if n := (to - from) >> 8; from&255 == 0 && n > 0 {
			e.run(block, uint32(n), c)
			from += n << 8
			continue
		}
		end := min(to, (from>>8+1)<<8)
		p := &e.partial
		if !p.begun {
			p.begun, p.drops, p.ask = true, drops{}, false
		}
		switch c {
		case classDrop:
			p.drops.set(uint32(from&255), uint32((end-1)&255+1))
		case classAsk:
			p.ask = true
		}
		if end&255 == 0 {
			p.begun = false
			e.set(block, mixed(p.drops, p.ask))
		}
		from = end
	}
}

func mixed(d drops, ask bool) want {
	n := d.count()
	switch {
	case ask:
		return want{code: codeAsk, drops: d}
	case n == 256:
		return want{code: codeDrop}
	case n >= dense:
		return want{code: codeLeaf, drops: d}
	default:
		return want{code: codeHosts, drops: d}
	}
}

// run takes /24s that are all of one class.
func (e *editor) run(block, n uint32, c class) {
	for n > 0 {
		if block&15 == 0 && n >= 16 {
			e.whole(block>>4, c)
			block, n = block+16, n-16
			continue
		}
		e.set(block, want{code: c.code()})
		block, n = block+1, n-1
	}
}

// whole makes a /20 of one class.
func (e *editor) whole(number uint32, c class) {
	const ones = 0x55555555
	e.flush() // old is asked in ascending order
	x := e.x
	was, now := atomic.LoadUint64(x.cell(number)), c.code()*ones
	from, to := uint64(number)<<12, uint64(number+1)<<12
	plain := was == 0 && !e.old.any(from, to) || was == codeDrop*ones || was == codeAsk*ones
	switch {
	case plain && was == now:
	case plain && c == classDrop && e.removing:
		e.skipped = true
	case plain:
		if c == classPass {
			x.clean(from, to)
		}
		x.storeCell(number, now)
	default:
		for at := range uint32(16) {
			e.set(number<<4|at, want{code: c.code()})
		}
	}
}

func (e *editor) set(block uint32, w want) {
	if number := block >> 4; number != e.number {
		e.flush()
		e.number = number
	}
	e.touched |= 1 << (block & 15)
	e.want[block&15] = w
}

// flush writes the /20 that was collected.
func (e *editor) flush() {
	if e.touched == 0 {
		return
	}
	was := atomic.LoadUint64(e.x.cell(e.number))
	codes := was & 0xffffffff
	var moved []uint32
	for at := range uint32(16) {
		if e.touched>>at&1 == 0 {
			continue
		}
		w := &e.want[at]
		inside, ok := e.hosts(was, at, w)
		if !ok {
			e.skipped = true
			e.touched &^= 1 << at
			continue
		}
		if code(was, at) == codeHosts && w.code != codeHosts {
			inside.each(e.number<<4|at, func(a uint32) bool { moved = append(moved, a); return true })
		}
		codes = codes&^(3<<(2*at)) | w.code<<(2*at)
	}
	e.writeCell(was, codes)
	e.x.limbo.hosts = append(e.x.limbo.hosts, moved...)
	e.touched = 0
}

// hosts decides what becomes of a /24, and writes the buckets if it is of codeHosts and stays so. It returns what
// the buckets hold of it; not ok leaves the /24 as it is.
func (e *editor) hosts(was uint64, at uint32, w *want) (inside drops, ok bool) {
	x, block := e.x, e.number<<4|at
	before := want{code: code(was, at)}
	switch before.code {
	case codeHosts:
		before.drops = e.old.in(block, w)
	case codeLeaf:
		before.drops = x.leaf(was, at)
	}
	if e.removing && w.dropped().without(before.dropped()) != (drops{}) {
		return inside, false
	}
	if before.code != codeHosts {
		if w.code == codeHosts && w.drops != (drops{}) {
			w.code = codeLeaf
		}
		if w.code == codeHosts {
			x.clean(uint64(block)<<8, uint64(block+1)<<8)
		}
		return inside, true
	}
	inside = before.drops
	if w.code != codeHosts {
		return inside, true
	}
	gone, added := inside.without(w.drops), w.drops.without(inside)
	gone.each(block, func(a uint32) bool { x.take(a); return true })
	inside = inside.and(w.drops)
	if !added.each(block, func(a uint32) bool {
		if !x.put(a) {
			return false
		}
		inside.set(a&255, a&255+1)
		return true
	}) {
		w.code = codeLeaf
	}
	return inside, true
}

// leaf reads one.
func (x *Index) leaf(cell uint64, at uint32) (d drops) {
	n := uint32(cell>>32) + leavesBelow(cell, at)
	for i := range d {
		d[i] = atomic.LoadUint64(leafWord(x.segments[:], n, uint32(i)))
	}
	return d
}

func (x *Index) writeLeaf(n uint32, d drops) {
	for i := range d {
		if to := leafWord(x.segments[:], n, uint32(i)); atomic.LoadUint64(to) != d[i] {
			x.store(to, d[i])
		}
	}
}

func leafMask(cell uint64) uint64 { return cell & (cell >> 1) & 0x55555555 }

func leafCount(cell uint64) int { return int(leavesBelow(cell, 15)) + int(code(cell, 15)/codeLeaf) }

// writeCell gives a cell its codes and the touched /24s their leaves.
func (e *editor) writeCell(was, codes uint64) {
	x, first := e.x, uint32(was>>32)
	fresh := leafMask(codes) != leafMask(was)
	if n := leafCount(codes); fresh && n > 0 {
		var ok bool
		if first, ok = x.room(n); !ok { // no memory: the tries know
			codes = codes &^ (leafMask(codes))
		}
	}
	if leafMask(codes) == 0 {
		first = 0
	}
	for at := range uint32(16) {
		if code(codes, at) != codeLeaf {
			continue
		}
		n := first + leavesBelow(codes, at)
		switch {
		case e.touched>>at&1 != 0:
			x.writeLeaf(n, e.want[at].drops)
		case fresh:
			x.writeLeaf(n, x.leaf(was, at))
		}
	}
	if now := uint64(first)<<32 | codes; now != was {
		x.storeCell(e.number, now)
	}
	if before := leafCount(was); fresh && before > 0 {
		x.limbo.runs = append(x.limbo.runs, run{uint32(was >> 32), before})
	}
	x.leaves.used += leafCount(codes) - leafCount(was)
}
