package compile

import (
	"encoding/binary"
	"slices"
)

// sortKey is an IPv4 prefix as a number that sorts as [compare] does, and where it was found.
type sortKey struct {
	key   uint64 // address, then length: 40 bits
	place uint32
}

// sorted returns what was found in the order of [compare], those of one prefix as they were found. IPv4, of which
// there are many, is sorted byte by byte: a tenth of the time that comparing takes.
func sorted(found []listed) []listed {
	keys := make([]sortKey, 0, len(found))
	var six []listed
	for i, f := range found {
		if !f.prefix.Addr().Is4() {
			six = append(six, f)
			continue
		}
		four := f.prefix.Addr().As4()
		keys = append(keys, sortKey{uint64(binary.BigEndian.Uint32(four[:]))<<8 | uint64(f.prefix.Bits()), uint32(i)})
	}
	spare := make([]sortKey, len(keys))
	for shift := 0; shift < 40; shift += 8 {
		var ends [257]int
		for _, k := range keys {
			ends[k.key>>shift&255+1]++
		}
		for i := range 256 {
			ends[i+1] += ends[i]
		}
		for _, k := range keys {
			b := k.key >> shift & 255
			spare[ends[b]] = k
			ends[b]++
		}
		keys, spare = spare, keys
	}
	out := make([]listed, 0, len(found))
	for _, k := range keys {
		out = append(out, found[k.place])
	}
	slices.SortStableFunc(six, func(a, b listed) int { return compare(a.prefix, b.prefix) })
	return append(out, six...)
}
