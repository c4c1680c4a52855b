package bpf

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// testIndex6 is an IPv6 index that a test writes word by word, on one side, by the words of portcullis.h.
type testIndex6 struct {
	k        *kernel
	words    Control
	segments map[int]*ebpf.Map
}

const gateBits6 = 20

// newTestIndex6 has gates, two segments of nets, three of hosts, and a lease of an hour.
func newTestIndex6(t testing.TB, k *kernel, side uint32) *testIndex6 {
	t.Helper()
	x := &testIndex6{k: k, segments: map[int]*ebpf.Map{}, words: Control{Layout: Layout, Index6: side, Lease: monotonic(t) + hour}}
	s := &x.words.Sides6[side]
	s.Multiply = [2]uint64{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9}
	s.Step, s.GateShift, s.On = 0x94d049bb133111eb, 64-gateBits6, 1
	s.Nets, s.Hosts = 2*uint32(SegmentLines), 3*uint32(SegmentLines)
	for _, slot := range []int{SlotGates6, SlotNets6, SlotNets6 + 1, SlotHosts6, SlotHosts6 + 1, SlotHosts6 + 2} {
		x.segment(t, slot)
	}
	k.set(t, x.words)
	return x
}

func (x *testIndex6) segment(t testing.TB, slot int) {
	t.Helper()
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(spec.Maps[MapIndex6].InnerMap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	x.segments[slot] = m
	if err := x.k.Maps[MapIndex6].Put(x.key(slot), m); err != nil {
		t.Fatal(err)
	}
}

func (x *testIndex6) key(slot int) uint32 { return x.words.Index6*uint32(Index6Slots) + uint32(slot) }

func number6(source string) (high, low uint64) {
	a := netip.MustParseAddr(source).As16()
	return binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
}

// bits16 changes one of the numbers of 16 bits in a map of lines.
func bits16(t testing.TB, m *ebpf.Map, first uint32, at uint32, f func(uint64) uint64) {
	t.Helper()
	word(t, m, first+at>>5, at>>2&7, func(w uint64) uint64 {
		shift := at & 3 * 16
		return w&^(0xffff<<shift) | f(w>>shift&0xffff)<<shift
	})
}

// root changes the 16 bits of a /16.
func (x *testIndex6) root(t testing.TB, source string, v uint64) {
	t.Helper()
	high, _ := number6(source)
	bits16(t, x.k.Maps[MapRoot6], x.words.Index6*uint32(Root6Lines), uint32(high>>48), func(uint64) uint64 { return v })
}

// gate sets bits in a gate: that of the first 32 or 48 bits.
func (x *testIndex6) gate(t testing.TB, source string, first int, v uint64) {
	t.Helper()
	high, _ := number6(source)
	at := high >> (64 - first) << (64 - first) * x.words.Sides6[x.words.Index6].Multiply[0] >> (64 - gateBits6)
	bits16(t, x.segments[SlotGates6], 0, uint32(at), func(was uint64) uint64 { return was | v })
}

func (x *testIndex6) mix(v uint64) uint64 {
	s := x.words.Sides6[x.words.Index6]
	v *= s.Multiply[0]
	v ^= v >> 32
	v *= s.Multiply[1]
	return v ^ v>>29
}

// put writes the prefix of a source into a place of its first line or its second one, over what was there, without
// telling root or gates. It returns the line's map and number.
func (x *testIndex6) put(t testing.TB, source string, level uint64, answer uint64, second bool, place uint32) (*ebpf.Map, uint32) {
	t.Helper()
	high, low := number6(source)
	step := x.words.Sides6[x.words.Index6].Step * level
	slot, lines := SlotNets6, x.words.Sides6[x.words.Index6].Nets
	var mixed uint64
	if level == Level6Hosts {
		slot, lines = SlotHosts6, x.words.Sides6[x.words.Index6].Hosts
		mixed = x.mix(x.mix(high+step) + low)
	} else {
		shift := 48 - 4*level
		mixed = x.mix(high>>shift<<shift + step)
	}
	value := level<<Level6Shift | answer
	if second {
		mixed = bits.RotateLeft64(mixed, 32)
		value |= Second6
	}
	line := uint32(mixed >> 32 * uint64(lines) >> 32)
	m, n := x.segments[slot+int(line)/SegmentLines], line%uint32(SegmentLines)
	word(t, m, n, place, func(was uint64) uint64 { return mixed<<8 | value | was&Spilled6 })
	if level == Level6Hosts {
		word(t, m, n, place+4, func(uint64) uint64 { return high })
	}
	return m, n
}

func (x *testIndex6) clear(t testing.TB, m *ebpf.Map, line uint32) {
	t.Helper()
	if err := m.Put(line, [8]uint64{}); err != nil {
		t.Fatal(err)
	}
}

// expect asks every kind of program.
func (x *testIndex6) expect(t *testing.T, source string, want Reason) {
	t.Helper()
	packet := ipv6(source, 17, 64, udp()...)
	x.k.expect(t, ProgEth, encapsulations[0].wrap(packet), -1, FamilyIPv6, want)
	x.k.expect(t, ProgL3, packet, -1, FamilyIPv6, want)
	if x.k.frags {
		x.k.expect(t, ProgEthFrags, encapsulations[0].wrap(packet), -1, FamilyIPv6, want)
		x.k.expect(t, ProgL3Frags, packet, 20, FamilyIPv6, want)
	}
}

// level6 are the lengths of levels 1 to 13.
var level6 = []int{20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 128}

// tell sets the bit of a level where a reader looks for it.
func (x *testIndex6) tell(t testing.TB, source string, level uint64) {
	t.Helper()
	switch bit := uint64(1) << (level - 1); {
	case level < 4:
		x.root(t, source, bit)
	case level < 8:
		x.gate(t, source, 32, bit)
	default:
		x.gate(t, source, 48, bit)
	}
}

// opposite are tries that say the opposite of what an index with nothing in it says, but for 2001:db8::/32 and 2008::/16.
func opposite(t testing.TB, k *kernel) {
	t.Helper()
	k.checked(t, 1)
	k.fill(t, 0, entry{"::/0", listed}, entry{"2001:db8::/32", allowed}, entry{"2008::/16", allowed})
}

// TestIndex6Levels finds a prefix of every length that the index has, in every place of both its lines, and nothing
// beside it.
func TestIndex6Levels(t *testing.T) {
	for side := range uint32(2) {
		k := loadMode(t, ModeIndexed)
		opposite(t, k)
		const source = "2001:db8:1234:5678:9abc:def0:1234:5678"
		(&testIndex6{k: k}).expect(t, source, PassWhitelisted) // no index yet
		(&testIndex6{k: k}).expect(t, "2001:db9::1", DropBlacklisted)
		for i, length := range level6 {
			x := newTestIndex6(t, k, side)
			k.checked(t, 1) // far from a self-check
			level := uint64(i + 1)
			outside := flipped(source, length-1)
			x.expect(t, source, PassIndex)
			places := uint32(8)
			if level == Level6Hosts {
				places = 4
			}
			for place := range places {
				m, n := x.put(t, source, level, Answer6Drop, false, place)
				if place == 0 {
					x.expect(t, source, PassIndex) // nothing tells of it
					x.tell(t, source, level)
				}
				x.expect(t, source, DropBlacklisted)
				if length < 128 {
					x.expect(t, flipped(source, length), DropBlacklisted)
				}
				x.expect(t, outside, PassIndex)
				x.put(t, source, level, Answer6Ask, false, place)
				x.expect(t, source, PassWhitelisted)
				x.put(t, source, level, Answer6Always, false, place)
				x.expect(t, source, PassWhitelisted)
				x.put(t, source, level, Answer6Pass, false, place)
				x.expect(t, source, PassIndex)
				x.clear(t, m, n)

				other, at := x.put(t, source, level, Answer6Drop, true, place)
				x.expect(t, source, PassIndex) // the first line does not say that there is more
				word(t, m, n, 0, func(w uint64) uint64 { return w | Spilled6 })
				x.expect(t, source, DropBlacklisted)
				x.expect(t, outside, PassIndex)
				x.clear(t, other, at)
				x.clear(t, m, n)
			}
			if level == Level6Hosts { // a word that is another address's: the high half tells
				m, n := x.put(t, source, level, Answer6Drop, false, 2)
				word(t, m, n, 6, func(w uint64) uint64 { return w ^ 1<<17 })
				x.expect(t, source, PassIndex)
			}
		}
	}
}

// flipped is an address with one bit changed.
func flipped(source string, bit int) string {
	a := netip.MustParseAddr(source).As16()
	a[bit/8] ^= 0x80 >> (bit % 8)
	return netip.AddrFrom16(a).String()
}

// TestIndex6 gives the answers that do not come from one prefix: longest first, the root's, and those to ask the tries.
func TestIndex6(t *testing.T) {
	k := loadMode(t, ModeIndexed)
	opposite(t, k)
	x := newTestIndex6(t, k, 1)
	const source = "2001:db8:1234:5678:9abc:def0:1234:5678"
	t.Run("the longest decides", func(t *testing.T) {
		answers := []uint64{Answer6Drop, Answer6Pass}
		for level := Level6Hosts; level > 0; level-- { // the longer ones are there when a shorter comes
			x.put(t, source, level, answers[level%2], false, 0)
			if level >= 4 {
				x.tell(t, source, level)
			}
		}
		x.root(t, source, 7)
		x.expect(t, source, PassIndex)
		for i, length := range level6[:12] {
			want := PassIndex
			if answers[(i+1)%2] == Answer6Drop {
				want = DropBlacklisted
			}
			x.expect(t, flipped(source, length), want)
		}
	})
	t.Run("root", func(t *testing.T) {
		x.root(t, "2008::", Answer6Drop<<Root6Shift)
		x.expect(t, "2008::1", DropBlacklisted)
		x.root(t, "2008::", Answer6Drop<<Root6Shift|7)
		x.expect(t, "2008::1", DropBlacklisted)
		x.expect(t, "2002::1", PassIndex)
		x.put(t, "2008::", 2, Answer6Pass, false, 0) // something longer
		x.expect(t, "2008::1", PassIndex)
		x.root(t, "2008::", Answer6Ask<<Root6Shift)
		x.expect(t, "2008::1", PassWhitelisted)
		x.root(t, "2008::", Answer6Pass<<Root6Shift)
		x.expect(t, "2008::1", PassIndex)
	})
	t.Run("ask", func(t *testing.T) {
		x.root(t, "2003::", Ask6)
		x.expect(t, "2003::1", DropBlacklisted)
		x.gate(t, "2004::", 32, Ask6)
		x.expect(t, "2004::1", DropBlacklisted)
		x.expect(t, "2004:1::1", PassIndex)
		x.gate(t, "2005:0:1::", 48, Ask6)
		x.expect(t, "2005:0:1::1", DropBlacklisted)
		x.expect(t, "2005:0:2::1", PassIndex)
		x.gate(t, "2006:0:3::", 48, 0x78) // not a level of this gate
		x.put(t, "2006::", 4, Answer6Drop, false, 0)
		x.expect(t, "2006:0:3::1", PassIndex)
	})
	t.Run("while somebody writes", func(t *testing.T) {
		x.words.Changes6 = 7
		k.set(t, x.words)
		x.expect(t, "2007::1", DropBlacklisted)
		x.words.Changes6 = 8
		k.set(t, x.words)
		x.expect(t, "2007::1", PassIndex)
	})
	t.Run("nothing but the root", func(t *testing.T) {
		was := x.words.Sides6[1]
		x.words.Sides6[1].GateShift = 0
		k.set(t, x.words)
		x.expect(t, source, PassIndex)
		x.root(t, "2001::", Answer6Drop<<Root6Shift)
		x.expect(t, source, DropBlacklisted)
		x.root(t, "2001::", 0)
		x.words.Sides6[1].On = 0
		k.set(t, x.words)
		x.expect(t, "2007::1", DropBlacklisted)
		x.words.Sides6[1] = was
		k.set(t, x.words)
		x.expect(t, "2007::1", PassIndex)
	})
	t.Run("other sources", func(t *testing.T) {
		k.fill(t, 0, entry{"10.0.0.0/8", listed})
		k.expect(t, ProgL3, ipv6("::ffff:10.0.0.1", 17, 64, udp()...), -1, FamilyIPv6, DropBlacklisted)
		opposite(t, k)
		x.root(t, "fe80::", Answer6Drop<<Root6Shift)
		x.expect(t, "fe80::1", PassLinkLocal)
		x.root(t, "::", Answer6Drop<<Root6Shift)
		x.expect(t, "::", PassUnspecified)
		x.expect(t, "::1", DropBlacklisted)
	})
	t.Run("segments that are not there", func(t *testing.T) {
		for _, slot := range []int{SlotHosts6, SlotHosts6 + 1, SlotHosts6 + 2, SlotNets6, SlotNets6 + 1, SlotGates6} {
			if err := k.Maps[MapIndex6].Delete(x.key(slot)); err != nil {
				t.Fatal(err)
			}
			if slot >= SlotHosts6+2 {
				x.expect(t, source, PassWhitelisted)
			}
		}
		x.expect(t, "2007::1", DropBlacklisted)
	})
}

// TestIndex6Lease: a drop counts while the lease holds, then the tries decide; a pass always counts.
func TestIndex6Lease(t *testing.T) {
	k := loadMode(t, ModeIndexed)
	opposite(t, k)
	x := newTestIndex6(t, k, 0)
	x.root(t, "2001::", Answer6Drop<<Root6Shift)
	x.expect(t, "2001:db8::1", DropBlacklisted)
	x.words.Lease = monotonic(t) - uint64(time.Second)
	k.set(t, x.words)
	x.expect(t, "2001:db8::1", PassWhitelisted)
	x.expect(t, "2002::1", PassIndex)
}

// TestSelfCheck6 is TestSelfCheck for IPv6.
func TestSelfCheck6(t *testing.T) {
	k := loadMode(t, ModeIndexed)
	k.fill(t, 0, entry{"2001:db8::/32", allowed}, entry{"2002::/16", listed}, entry{"2003::/16", listed})
	x := newTestIndex6(t, k, 1)
	x.root(t, "2001::", Answer6Drop<<Root6Shift)
	x.root(t, "2003::", Answer6Drop<<Root6Shift)
	var want Check
	for _, c := range []struct {
		source  string
		packets uint64
		changes uint32
		reason  Reason
		checks  Check
	}{
		{"2001:db8::1", 1023, 0, DropBlacklisted, Check{}},
		{"2001:db8::1", 1024, 0, PassWhitelisted, Check{Packets: 1, Mismatches: 1}},
		{"2002::1", 2048, 0, DropBlacklisted, Check{Packets: 1, Mismatches: 1}},
		{"2002::1", 0, 7, DropBlacklisted, Check{Packets: 1}},
		{"2004::1", 0, 0, PassIndex, Check{Packets: 1}},
		{"2003::1", 0, 0, DropBlacklisted, Check{Packets: 1}},
	} {
		t.Run(fmt.Sprintf("%s %d %d", c.source, c.packets, c.changes), func(t *testing.T) {
			x.words.Changes = c.changes
			k.set(t, x.words)
			k.checked(t, c.packets)
			k.expect(t, ProgL3, ipv6(c.source, 17, 64, udp()...), -1, FamilyIPv6, c.reason)
			want.Packets += c.checks.Packets
			want.Mismatches += c.checks.Mismatches
			if got := k.checked(t, 1); got != want {
				t.Errorf("checked %+v, want %+v", got, want)
			}
		})
	}
}
