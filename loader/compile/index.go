package compile

import (
	"math/bits"
	"sync/atomic"
)

// The layout of an index, as bpf/portcullis.h describes it: segments of 2 MiB in slots of their own.
const (
	SegmentWords = 32768 * 8 // uint64s of a segment

	slotCells   = 0
	slotBuckets = 4
	slotLeaves  = 132
	// GateWords hold two bits for each /20.
	GateWords = 1 << 20 / 32

	gateCell  = 1 // its cell is not 0
	gateEmpty = 2 // it has no addresses in the buckets
	// IndexSlots is how many segments an index may have.
	IndexSlots = 388

	codeHosts = 0 // of a /24: dropped are the addresses in the buckets
	codeDrop  = 1
	codeAsk   = 2
	codeLeaf  = 3

	halfBits         = 17 // log2 of the fewest halves of buckets
	halfBitsMax      = 23
	halvesASegment   = 1 << 16
	leavesASegment   = 1 << 16
	fullHalf         = 10 // addresses in one, on average: from there on a filling takes twice as many; there are 16 places
	dense            = 8  // dropped addresses from which on a /24 gets a leaf
	limboMax         = 4096
	wasteMin         = leavesASegment
	leafSegmentsMost = IndexSlots - slotLeaves
)

// Answer is what the index says of an address.
type Answer uint8

// Answers.
const (
	AnswerPass Answer = iota
	AnswerDrop
	AnswerAsk // the tries know
)

// String is "pass", "drop" or "ask".
func (a Answer) String() string { return [...]string{"pass", "drop", "ask"}[a] }

// Memory is where an index lives. Readers read it while it is written.
type Memory interface {
	// Segment makes the segment of a slot: SegmentWords words, all zero, which readers see from now on.
	Segment(slot int) ([]uint64, error)
	// Gate gives the words of the gate, GateWords of them, all zero.
	Gate() []uint64
	// Wait returns once every reader that read anything before the call is done.
	Wait()
}

// Index holds the IPv4 verdicts that need no clock in a form which is read in two memory accesses: see
// bpf/portcullis.h. The zero value is of no use, see [NewIndex]. One goroutine may write; readers may read at any
// time, and find for each address the verdict before a change or the one after it.
type Index struct {
	multiply [2]uint32 // odd
	inverse  [2]uint32
	shift    uint32 // 32 - log2(halves of buckets)

	memory   Memory
	segments [IndexSlots][]uint64
	gate     []uint64
	around   []uint16 // addresses in buckets, of each /20
	hosts    int      // all of them
	leaves   leafRoom
	limbo    limbo
	taken    bool   // settle took addresses from the buckets, and there was no wait since
	stored   func() // nil, or called after every store: tests look at what a reader finds
}

// NewIndex makes an index that drops nothing, with room for a number of single addresses before it is crowded.
// The seed keeps those who write lists from aiming at one bucket. It fails as memory.Segment does.
func NewIndex(memory Memory, seed uint64, hosts int) (*Index, error) {
	size := halfBits
	for size < halfBitsMax && hosts > fullHalf<<size {
		size++
	}
	x := &Index{
		multiply: [2]uint32{uint32(seed) | 1, uint32(seed>>32) | 1},
		shift:    uint32(32 - size),
		memory:   memory,
	}
	for i, m := range x.multiply {
		x.inverse[i] = inverse(m)
	}
	x.gate, x.around = memory.Gate(), make([]uint16, 1<<20)
	for i := range x.gate {
		x.gate[i] = gateEmpty * 0x5555555555555555
	}
	for slot := range slotBuckets {
		if err := x.grow(slot); err != nil {
			return nil, err
		}
	}
	for slot := range 1 << size / halvesASegment {
		if err := x.grow(slotBuckets + slot); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func (x *Index) grow(slot int) (err error) {
	x.segments[slot], err = x.memory.Segment(slot)
	return err
}

// Mixer is what a reader needs to find buckets: two odd factors, and the shift that leaves the number of half a bucket.
func (x *Index) Mixer() (multiply [2]uint32, shift uint32) { return x.multiply, x.shift }

// Hosts counts the single addresses in buckets, Leaves the dense /24s.
func (x *Index) Hosts() int { return x.hosts }

// Leaves counts the /24s that have a leaf.
func (x *Index) Leaves() int { return x.leaves.used }

// Bytes is the memory of all segments.
func (x *Index) Bytes() int {
	n := 0
	for _, s := range x.segments {
		n += len(s) * 8
	}
	return n
}

// Crowded reports whether a new index would serve the same list better: the buckets are full, or many leaves lie
// idle.
func (x *Index) Crowded() bool {
	halves := 1 << (32 - x.shift)
	return x.hosts > fullHalf*halves && 32-x.shift < halfBitsMax || x.leaves.idle() > max(wasteMin, x.leaves.used)
}

// Answer reads the index as the program does. address is in host order.
func (x *Index) Answer(address uint32) Answer {
	var cell uint64
	gate := x.gated(address >> 12)
	if gate&gateCell != 0 {
		cell = atomic.LoadUint64(x.cell(address >> 12))
	}
	return answer(x.segments[:], cell, gate&gateEmpty == 0 && x.has(address), address)
}

// answer is that of a reader who has read this cell and found the address in its bucket or not.
func answer(segments [][]uint64, cell uint64, hit bool, address uint32) Answer {
	at := address >> 8 & 15
	switch code(cell, at) {
	case codeHosts:
		if hit {
			return AnswerDrop
		}
		return AnswerPass
	case codeDrop:
		return AnswerDrop
	case codeLeaf:
		leaf := uint32(cell>>32) + leavesBelow(cell, at)
		if atomic.LoadUint64(leafWord(segments, leaf, address>>6&3))>>(address&63)&1 != 0 {
			return AnswerDrop
		}
		return AnswerPass
	default:
		return AnswerAsk
	}
}

func (x *Index) cell(number uint32) *uint64 {
	const mask = SegmentWords - 1
	return &x.segments[slotCells+number/SegmentWords][number&mask]
}

// gated is what the gate tells readers of a /20.
func (x *Index) gated(number uint32) uint64 {
	return atomic.LoadUint64(&x.gate[number/32]) >> (number % 32 * 2) & (gateCell | gateEmpty)
}

// tell sets or clears a bit of a /20 in the gate.
func (x *Index) tell(number uint32, bit uint64, set bool) {
	word := &x.gate[number/32]
	bit <<= number % 32 * 2
	was := *word
	now := was &^ bit
	if set {
		now = was | bit
	}
	if now != was {
		x.store(word, now)
	}
}

// storeCell writes a cell, then the gate: a reader of one gets the old cell or the new one, whatever he reads first.
func (x *Index) storeCell(number uint32, v uint64) {
	x.store(x.cell(number), v)
	x.tell(number, gateCell, v != 0)
}

func code(cell uint64, at uint32) uint64 { return cell >> (2 * at) & 3 }

// leavesBelow counts the leaves of the /24s before that one.
func leavesBelow(cell uint64, at uint32) uint32 {
	codes := uint32(cell)
	return uint32(bits.OnesCount32(codes & (codes >> 1) & 0x55555555 & (1<<(2*at) - 1)))
}

// leafWord is one of a leaf's four words.
func leafWord(segments [][]uint64, leaf, word uint32) *uint64 {
	return &segments[slotLeaves+leaf/leavesASegment][leaf%leavesASegment*4+word]
}

// mix is a bijection: its high bits are half a bucket, its low ones a tag, and both together are the address again.
func (x *Index) mix(address uint32) uint32 {
	address *= x.multiply[0]
	address ^= address >> 15
	address *= x.multiply[1]
	return address ^ address>>13
}

func (x *Index) unmix(mixed uint32) uint32 {
	mixed ^= mixed>>13 ^ mixed>>26
	mixed *= x.inverse[1]
	mixed ^= mixed>>15 ^ mixed>>30
	return mixed * x.inverse[0]
}

// inverse is that of an odd factor, by Newton's method: each step doubles the right bits.
func inverse(odd uint32) uint32 {
	n := odd
	for range 4 {
		n *= 2 - odd*n
	}
	return n
}

// tagOf is what stands for an address in its half; 0, which is a free place, for one that has no place.
func tagOf(mixed uint32) uint32 { return mixed & 0x7fff }

// half is the words in which an address has its place, four tags each.
func (x *Index) half(mixed uint32) []uint64 {
	number := mixed >> x.shift
	at := number % halvesASegment * 4
	return x.segments[slotBuckets+number/halvesASegment][at : at+4]
}

const (
	lanes    = 0x0001000100010001
	laneTops = 0x8000800080008000
)

// lane finds a tag in a word; the lowest lane that has it.
func lane(word uint64, tag uint32) (shift int, ok bool) {
	diff := word ^ uint64(tag)*lanes
	found := (diff - lanes) &^ diff & laneTops
	return bits.TrailingZeros64(found) &^ 15, found != 0
}

// has reports whether an address is in its bucket.
func (x *Index) has(address uint32) bool {
	mixed := x.mix(address)
	tag := tagOf(mixed)
	if tag == 0 {
		return false
	}
	for _, w := range x.half(mixed) {
		if _, ok := lane(w, tag); ok {
			return true
		}
	}
	return false
}

// put adds an address that is not there; false if it has no place.
func (x *Index) put(address uint32) bool {
	mixed := x.mix(address)
	tag := tagOf(mixed)
	if tag == 0 {
		return false
	}
	b := x.half(mixed)
	for i := range b {
		if shift, ok := lane(b[i], 0); ok {
			x.tell(address>>12, gateEmpty, false)
			x.store(&b[i], b[i]|uint64(tag)<<shift)
			x.around[address>>12]++
			x.hosts++
			return true
		}
	}
	return false
}

// take removes an address that is there. A reader who looks for one was told to by the gate before.
func (x *Index) take(address uint32) {
	mixed := x.mix(address)
	b := x.half(mixed)
	for i := range b {
		if shift, ok := lane(b[i], tagOf(mixed)); ok {
			x.store(&b[i], b[i]&^(0xffff<<shift))
			x.hosts--
			if x.around[address>>12]--; x.around[address>>12] == 0 {
				x.tell(address>>12, gateEmpty, true)
			}
			return
		}
	}
}

// store is the one way to write what readers read.
func (x *Index) store(to *uint64, v uint64) {
	atomic.StoreUint64(to, v)
	if x.stored != nil {
		x.stored()
	}
}
