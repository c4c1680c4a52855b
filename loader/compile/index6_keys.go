package compile

import (
	"encoding/binary"
	"net/netip"
)

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
