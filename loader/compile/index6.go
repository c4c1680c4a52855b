package compile

import (
	"math/bits"
	"net/netip"
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
