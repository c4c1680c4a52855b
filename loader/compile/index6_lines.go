package compile

import (
	"math/bits"
	"sync/atomic"
)

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
