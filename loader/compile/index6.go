package compile

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// The layout of an IPv6 index, as bpf/portcullis.h describes it.
const (
	// RootWords hold 16 bits for each /16.
	RootWords = 1 << 16 / 4
	// Index6Slots is how many segments an IPv6 index may have.
	Index6Slots = 400

	slotGates6 = 0
	slotNets6  = 16
	slotHosts6 = 144

	levelNets  = 12 // the longest that nets hold: /64
	levelHosts = 13

	answer6   = 3
	answerAll = 3 // the tries know, for good
	levelAt6  = 2
	level6    = 15 << levelAt6
	second6   = 1 << 6
	spilled6  = 1 << 7
	rootAt6   = 13 // of a root's answer
	ask6      = 1 << 15

	gatesASegment6   = 1 << 20
	linesASegment6   = 1 << 15
	gateBitsMax6     = 24
	netSegmentsMax6  = slotHosts6 - slotNets6
	hostSegmentsMax6 = Index6Slots - slotHosts6
	netsASegment6    = linesASegment6 * 4 // what a filling counts on: half of the places
	hostsASegment6   = linesASegment6 * 2
	staleMin6        = 64 << 10
	lostMax6         = 1024
)

// Mixer6 is what a reader needs to find lines. GateShift 0: there is nothing but the root.
type Mixer6 struct {
	Multiply    [2]uint64 // odd
	Step        uint64    // odd
	GateShift   uint32    // 64 - log2(gates)
	Nets, Hosts uint32    // lines
}

// Index6 holds the IPv6 verdicts that need no clock in a form that is read in few memory accesses: see
// bpf/portcullis.h. The zero value is of no use, see [Filling6]. It has the size that it was made with, and leaves to
// the tries what finds no room. Its methods are not safe for concurrent use, and who reads it while one that writes
// runs may find anything.
type Index6 struct {
	mixer    Mixer6
	segments [Index6Slots][]uint64
	root     []uint64

	nets, hosts int // in their tables
	stale       int // taken out, though the gates still tell of them
	lost        int // found no room
	lostAtFirst int // of these, when it was filled
}

// newIndex6 makes an index that drops nothing, with room for prefixes and single addresses; without segments if there
// are none of either. It fails as memory.Segment does.
func newIndex6(memory Memory, seeds [3]uint64, nets, hosts int) (*Index6, error) {
	x := &Index6{root: memory.Gate()}
	m := &x.mixer
	m.Multiply, m.Step = [2]uint64{seeds[0] | 1, seeds[1] | 1}, seeds[2]|1
	if nets+hosts == 0 {
		return x, nil
	}
	gates := bits.Len(gatesASegment6 - 1)
	for gates < gateBitsMax6 && (nets+hosts)*3/2 > 1<<gates {
		gates++
	}
	m.GateShift = uint32(64 - gates)
	netSegments := min(netSegmentsMax6, 1+nets/netsASegment6)
	hostSegments := min(hostSegmentsMax6, 1+hosts/hostsASegment6)
	m.Nets, m.Hosts = uint32(netSegments*linesASegment6), uint32(hostSegments*linesASegment6)
	for _, part := range [][2]int{{slotGates6, 1 << gates / gatesASegment6}, {slotNets6, netSegments}, {slotHosts6, hostSegments}} {
		for slot := range part[1] {
			var err error
			if x.segments[part[0]+slot], err = memory.Segment(part[0] + slot); err != nil {
				return nil, err
			}
		}
	}
	return x, nil
}

// Mixer is for readers.
func (x *Index6) Mixer() Mixer6 { return x.mixer }

// Nets counts the prefixes of the index's own lengths, which others are written out as.
func (x *Index6) Nets() int { return x.nets }

// Hosts counts the single addresses.
func (x *Index6) Hosts() int { return x.hosts }

// Bytes is the memory of all segments.
func (x *Index6) Bytes() int {
	n := 0
	for _, s := range x.segments {
		n += len(s) * 8
	}
	return n
}

// Crowded reports whether a new index would serve the same list better: it is too small, or its gates tell of much that
// is gone.
func (x *Index6) Crowded() bool {
	m := x.mixer
	if x.stale > max(staleMin6, (x.nets+x.hosts)/2) {
		return true
	}
	if m.Nets == netSegmentsMax6*linesASegment6 || m.Hosts == hostSegmentsMax6*linesASegment6 {
		return false // no new one would be larger
	}
	return x.lost > 0 && m.GateShift == 0 || x.lost-x.lostAtFirst > lostMax6 ||
		x.nets*2 > int(m.Nets)*11 || x.hosts*2 > int(m.Hosts)*5
}

// indexed6 is a prefix that the index can hold: one of its lengths. Level 0 is a /16 in the root.
type indexed6 struct {
	high, low uint64
	level     uint32
}

func halves(a netip.Addr) (high, low uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// length is that of a level's prefixes; not of levelHosts.
func length(level uint32) int { return 16 + 4*int(level) }

// at is the key of a level that contains an address.
func at(high, low uint64, level uint32) indexed6 {
	if level == levelHosts {
		return indexed6{high, low, level}
	}
	return indexed6{high &^ (1<<(64-length(level)) - 1), 0, level}
}

// prefix is what the key stands for.
func (k indexed6) prefix() netip.Prefix {
	if k.level == levelHosts {
		return key6{k.high, k.low, 128}.prefix()
	}
	return key6{k.high, 0, uint8(length(k.level))}.prefix()
}

// odd reports whether there is no level that a prefix can be written out in: its /64 is left to the tries.
func odd(p netip.Prefix) bool { return p.Bits() > 64 && p.Bits() < 128 }

// level6Of is the level that a prefix is written in, and how many keys it takes.
func level6Of(p netip.Prefix) (level uint32, keys int) {
	switch n := p.Bits(); {
	case n == 128:
		return levelHosts, 1
	case n > 64:
		return levelNets, 1
	default:
		level = uint32(max(0, (n+3)/4-4))
		return level, 1 << (length(level) - n)
	}
}

// keys6 calls f for every key that a prefix is written as.
func keys6(p netip.Prefix, f func(indexed6)) {
	level, n := level6Of(p)
	high, low := halves(p.Addr())
	first := at(high, low, level)
	for i := range uint64(n) {
		k := first
		if level < levelHosts {
			k.high |= i << (64 - length(level))
		}
		f(k)
	}
}

func (x *Index6) mix(v uint64) uint64 {
	v *= x.mixer.Multiply[0]
	v ^= v >> 32
	v *= x.mixer.Multiply[1]
	return v ^ v>>29
}

func (x *Index6) mixed(k indexed6) uint64 {
	v := x.mix(k.high + x.mixer.Step*uint64(k.level))
	if k.level == levelHosts {
		return x.mix(v + k.low)
	}
	return v
}

// line is the words among which a mixed key has its place.
func (x *Index6) line(level uint32, mixed uint64) []uint64 {
	slot, lines := slotNets6, x.mixer.Nets
	if level == levelHosts {
		slot, lines = slotHosts6, x.mixer.Hosts
	}
	if lines == 0 {
		return nil
	}
	n := int((mixed >> 32) * uint64(lines) >> 32)
	return x.segments[slot+n/linesASegment6][n%linesASegment6*8:][:8]
}

// place is one of a line that a key has or may have.
type place struct {
	words []uint64
	word  uint64 // that stands there, without an answer
	n     int    // which of words
}

// look finds a key in a line, or the first free place; n is -1 if there is neither.
func look(words []uint64, word uint64, k indexed6) (p place, found bool) {
	p = place{words, word, -1}
	for i := range placesOf(k.level, words) {
		w := words[i]
		switch {
		case w&level6 == 0:
			if p.n < 0 {
				p.n = i
			}
		case (w^word)&^(answer6|spilled6) == 0 && (k.level < levelHosts || words[i+4] == k.high):
			return place{words, word, i}, true
		}
	}
	return p, false
}

// find looks for a key where it may be; if it is not found, p is the place for it.
func (x *Index6) find(k indexed6) (p place, found bool) {
	mixed := x.mixed(k)
	first := x.line(k.level, mixed)
	p, found = look(first, mixed<<8|uint64(k.level)<<levelAt6, k)
	if found || first == nil || p.n >= 0 && first[0]&spilled6 == 0 {
		return p, found
	}
	mixed = bits.RotateLeft64(mixed, 32)
	other, found := look(x.line(k.level, mixed), mixed<<8|second6|uint64(k.level)<<levelAt6, k)
	if found || p.n < 0 {
		return other, found
	}
	return p, false
}

// has reports whether a key is there; not of level 0.
func (x *Index6) has(k indexed6) bool {
	_, found := x.find(k)
	return found
}

// push makes a free place in the first line of a key, which is full like its second one: it moves what is there to a
// second line. n is -1 if that is not possible either.
func (x *Index6) push(k indexed6) place {
	mixed := x.mixed(k)
	line := x.line(k.level, mixed)
	for i := range placesOf(k.level, line) {
		w := line[i]
		if w&second6 != 0 {
			continue
		}
		moved := bits.RotateLeft64(x.unshorten(w>>8, mixed, k.level), 32)
		to, _ := look(x.line(k.level, moved), moved<<8|second6|w&level6, indexed6{level: k.level})
		if to.n < 0 {
			continue
		}
		store(&line[0], line[0]|spilled6)
		if k.level == levelHosts {
			store(&to.words[to.n+4], line[i+4])
		}
		store(&to.words[to.n], to.word|w&answer6|to.words[to.n]&spilled6)
		store(&line[i], line[i]&spilled6)
		return place{line, mixed<<8 | uint64(k.level)<<levelAt6, i}
	}
	return place{n: -1}
}

// placesOf is how many words of a line may be keys.
func placesOf(level uint32, line []uint64) int {
	if level == levelHosts {
		return len(line) / 2
	}
	return len(line)
}

// unshorten returns the 64 bits that have these low 56 and the line that others have too. There is one such number: the
// lines are far more than 256.
func (x *Index6) unshorten(low, others uint64, level uint32) uint64 {
	lines := uint64(x.mixer.Nets)
	if level == levelHosts {
		lines = uint64(x.mixer.Hosts)
	}
	// The high 32 bits begin at the line's share of 2^32, rounded up.
	line := (others >> 32) * lines >> 32
	first := (line<<32 + lines - 1) / lines
	high := first&^(1<<24-1) | low>>32
	if high < first {
		high += 1 << 24
	}
	return high<<32 | low&(1<<32-1)
}

// put gives a key an answer.
func (x *Index6) put(k indexed6, answer uint64) {
	if k.level == 0 {
		set16(x.root, k.high>>48, answer6<<rootAt6, answer<<rootAt6)
		return
	}
	p, found := x.find(k)
	if found {
		if p.words[p.n]&answer6 != answerAll {
			store(&p.words[p.n], p.words[p.n]&^answer6|answer)
		}
		return
	}
	if p.n < 0 && x.mixer.GateShift != 0 {
		p = x.push(k)
	}
	if p.n < 0 {
		x.lost++
		x.tell(k, ask6)
		return
	}
	if p.word&second6 != 0 {
		first := x.line(k.level, x.mixed(k))
		store(&first[0], first[0]|spilled6)
	}
	if k.level == levelHosts {
		store(&p.words[p.n+4], k.high)
		x.hosts++
	} else {
		x.nets++
	}
	store(&p.words[p.n], p.word|answer|p.words[p.n]&spilled6)
	x.tell(k, 1<<(k.level-1))
}

// take removes a key, unless it is for good.
func (x *Index6) take(k indexed6) {
	if k.level == 0 {
		x.put(k, 0)
		return
	}
	p, found := x.find(k)
	if !found || p.words[p.n]&answer6 == answerAll {
		return
	}
	store(&p.words[p.n], p.words[p.n]&spilled6)
	x.stale++
	if k.level == levelHosts {
		x.hosts--
	} else {
		x.nets--
	}
}

// tell sets a bit where readers look before they look for a key.
func (x *Index6) tell(k indexed6, bit uint64) {
	gates, n := x.gateOf(k)
	set16(gates, n, 0, bit)
}

// gateOf finds the 16 bits that tell of a key: in the root or in a segment of gates.
func (x *Index6) gateOf(k indexed6) (words []uint64, n uint64) {
	if k.level < 4 || x.mixer.GateShift == 0 {
		return x.root, k.high >> 48
	}
	v := k.high &^ (1<<32 - 1)
	if k.level >= 8 {
		v = k.high &^ (1<<16 - 1)
	}
	n = v * x.mixer.Multiply[0] >> x.mixer.GateShift
	return x.segments[slotGates6+n/gatesASegment6], n % gatesASegment6
}

func get16(words []uint64, n uint64) uint64 { return words[n/4] >> (n % 4 * 16) & 0xffff }

func set16(words []uint64, n, clear, set uint64) {
	shift := n % 4 * 16
	if v := words[n/4]&^(clear<<shift) | set<<shift; v != words[n/4] {
		store(&words[n/4], v)
	}
}

func store(to *uint64, v uint64) { atomic.StoreUint64(to, v) }

func (x *Index6) rootAnswer(n uint64) uint64 { return get16(x.root, n) >> rootAt6 & answer6 }

// Answer reads the index as the program does.
func (x *Index6) Answer(a netip.Addr) Answer {
	high, low := halves(a)
	mask := get16(x.root, high>>48)
	for level := uint32(4); level <= levelHosts && x.mixer.GateShift != 0; level++ {
		gates, n := x.gateOf(indexed6{high, low, level})
		mask |= get16(gates, n) & (1<<(level-1) | ask6)
	}
	if mask&ask6 != 0 {
		return AnswerAsk
	}
	for level := uint32(levelHosts); level > 0; level-- {
		if mask>>(level-1)&1 == 0 {
			continue
		}
		if p, found := x.find(at(high, low, level)); found {
			return min(Answer(p.words[p.n]&answer6), AnswerAsk)
		}
	}
	return min(Answer(mask>>rootAt6&answer6), AnswerAsk)
}
