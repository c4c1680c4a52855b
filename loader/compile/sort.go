package compile

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"

	"github.com/portcullis/portcullis/lists"
)

// listed is one entry on its way into the table; list 0 is a protected prefix.
type listed struct {
	prefix netip.Prefix
	until  int64
	list   lists.List
	source lists.Source
}

// found are the entries of a snapshot. The zero value is empty.
type found struct {
	four []listed4
	six  []listed
}

// listed4 is one of IPv4, of which there are many: address, length, list, source, in a number that sorts as [compare]
// does.
type listed4 struct {
	key   uint64
	until int64
}

func (f *found) add(l listed) {
	if !l.prefix.Addr().Is4() {
		f.six = append(f.six, l)
		return
	}
	a := l.prefix.Addr().As4()
	key := uint64(binary.BigEndian.Uint32(a[:]))<<32 | uint64(l.prefix.Bits())<<24 | uint64(l.list)<<8 | uint64(l.source)
	f.four = append(f.four, listed4{key, l.until})
}

func (l listed4) listed() listed {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(l.key>>32))
	return listed{netip.PrefixFrom(netip.AddrFrom4(a), int(l.key>>24&0xff)), l.until, lists.List(l.key >> 8), lists.Source(l.key)}
}

// sort brings them into the order of [compare]. IPv4 is sorted byte by byte: a tenth of the time that comparing takes.
func (f *found) sort() {
	spare := make([]listed4, len(f.four))
	for shift := 24; shift < 64; shift += 8 {
		var ends [257]int
		for _, l := range f.four {
			ends[l.key>>shift&255+1]++
		}
		for i := range 256 {
			ends[i+1] += ends[i]
		}
		for _, l := range f.four {
			b := l.key >> shift & 255
			spare[ends[b]] = l
			ends[b]++
		}
		f.four, spare = spare, f.four
	}
	slices.SortStableFunc(f.six, func(a, b listed) int { return compare(a.prefix, b.prefix) })
}

// all yields them in their order.
func (f *found) all() iter.Seq[listed] {
	return func(yield func(listed) bool) {
		for _, l := range f.four {
			if !yield(l.listed()) {
				return
			}
		}
		for _, l := range f.six {
			if !yield(l) {
				return
			}
		}
	}
}
