package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// testIndex is an index that a test writes word by word, on one side.
type testIndex struct {
	k        *kernel
	words    Control
	segments map[int]*ebpf.Map
}

// monotonic is the clock that the lease is on.
func monotonic(t testing.TB) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

// newTestIndex has cells and 2^16 buckets of two halves, and a lease of an hour.
func newTestIndex(t testing.TB, k *kernel, side uint32) *testIndex {
	t.Helper()
	x := &testIndex{k: k, segments: map[int]*ebpf.Map{}, words: Control{Layout: Layout, Index: side, Lease: monotonic(t) + hour}}
	x.words.Sides[side].Multiply = [2]uint32{0x9e3779b1, 0x85ebca77}
	x.words.Sides[side].Shift = 15
	for slot := range SlotBuckets + 2 {
		x.segment(t, slot)
	}
	k.set(t, x.words)
	return x
}

func (x *testIndex) segment(t testing.TB, slot int) {
	t.Helper()
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(spec.Maps[MapIndex].InnerMap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	x.segments[slot] = m
	if err := x.k.Maps[MapIndex].Put(x.words.Index*uint32(IndexSlots)+uint32(slot), m); err != nil {
		t.Fatal(err)
	}
}

// word changes one.
func word(t testing.TB, m *ebpf.Map, line uint32, number uint32, f func(uint64) uint64) {
	t.Helper()
	var l [8]uint64
	if err := m.Lookup(line, &l); err != nil {
		t.Fatal(err)
	}
	l[number] = f(l[number])
	if err := m.Put(line, l); err != nil {
		t.Fatal(err)
	}
}

func number(source string) uint32 {
	a := netip.MustParseAddr(source).As4()
	return binary.BigEndian.Uint32(a[:])
}

// code gives a /24 a code, and its /20 a first leaf.
func (x *testIndex) code(t testing.TB, source string, code, leaf uint64) {
	t.Helper()
	n := number(source)
	cell := n >> 12
	word(t, x.segments[SlotCells+int(cell>>18)], cell>>3&0x7fff, cell&7, func(w uint64) uint64 {
		at := n >> 8 & 15 * 2
		return w&0xffffffff&^(3<<at) | code<<at | leaf<<32
	})
	x.gate(t, n, GateCell, true)
}

// gate sets or clears a bit of a /20.
func (x *testIndex) gate(t testing.TB, n uint32, bit uint64, set bool) {
	t.Helper()
	n >>= 12
	bit <<= n & 31 * 2
	word(t, x.k.Maps[MapGate], x.words.Index*uint32(GateLines)+n>>8, n>>5&7, func(w uint64) uint64 {
		if set {
			return w | bit
		}
		return w &^ bit
	})
}

// mixed is where an address is in the buckets, by the words of portcullis.h.
func (x *testIndex) mixed(n uint32) uint32 {
	s := x.words.Sides[x.words.Index]
	n *= s.Multiply[0]
	n ^= n >> 15
	n *= s.Multiply[1]
	return n ^ n>>13
}

// half is the line that an address may be in, and the first word of its half.
func (x *testIndex) half(n uint32) (m *ebpf.Map, line, first uint32) {
	half := x.mixed(n) >> 15
	return x.segments[SlotBuckets+int(half>>16)], half >> 1 & 0x7fff, half & 1 * 4
}

// host puts an address into a place of its half of a bucket.
func (x *testIndex) host(t testing.TB, n uint32, place uint32) {
	t.Helper()
	m, line, first := x.half(n)
	word(t, m, line, first+place/4, func(w uint64) uint64 {
		at := place % 4 * 16
		return w&^(0xffff<<at) | uint64(x.mixed(n)&0x7fff)<<at
	})
	x.gate(t, n, GateEmpty, false)
}

func (x *testIndex) expect(t *testing.T, source string, want Reason) {
	t.Helper()
	x.k.expect(t, ProgEth, encapsulations[0].wrap(ipv4(source)), -1, FamilyIPv4, want)
	x.k.expect(t, ProgL3, ipv4(source), -1, FamilyIPv4, want)
	x.k.expect(t, ProgL3, ipv6("::ffff:"+source, 17, 64, udp()...), -1, FamilyIPv6, want)
}

// withoutTag finds an address whose tag is 0: no bucket may seem to hold it, though free places are 0.
func (x *testIndex) withoutTag(t testing.TB) string {
	t.Helper()
	for n := uint32(11 << 24); n < 12<<24; n++ {
		if x.mixed(n)&0x7fff == 0 {
			return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))).String()
		}
	}
	t.Fatal("no such address")
	return ""
}

// otherHalf finds an address that belongs to the same bucket, but to the other half of it.
func (x *testIndex) otherHalf(t testing.TB, source string) string {
	t.Helper()
	want := x.mixed(number(source))>>15 ^ 1
	for n := uint32(11 << 24); n < 1<<31; n++ {
		if m := x.mixed(n); m>>15 == want && m&0x7fff != 0 {
			return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))).String()
		}
	}
	t.Fatal("no such address")
	return ""
}

// checked makes the next packet of every counter one that is not judged by the tries as well, and returns what the
// self-check has found so far.
func (k *kernel) checked(t testing.TB, packets uint64) (sum Check) {
	t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(Families * Reasons) {
		if err := k.Maps[MapCounters].Put(i, slices.Repeat([]Count{{Packets: packets}}, cpus)); err != nil {
			t.Fatal(err)
		}
	}
	var all []Check
	if err := k.Maps[MapChecks].Lookup(uint32(0), &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		sum.Packets += c.Packets
		sum.Mismatches += c.Mismatches
	}
	return sum
}

// TestIndex gives every kind of answer the index has, on both sides, against tries that say the opposite: so it
// shows who answered.
func TestIndex(t *testing.T) {
	for side := range uint32(2) {
		t.Run(fmt.Sprintf("side %d", side), func(t *testing.T) {
			k := loadMode(t, ModeIndexed)
			k.checked(t, 1)
			k.fill(t, 0, entry{"0.0.0.0/0", listed}, entry{"198.51.100.0/24", allowed}, entry{"203.0.113.0/24", allowed})
			k.set(t, Control{Layout: Layout, Index: side})
			(&testIndex{k: k}).expect(t, "198.51.100.7", PassWhitelisted) // no index yet
			(&testIndex{k: k}).expect(t, "10.0.0.1", DropBlacklisted)

			x := newTestIndex(t, k, side)
			x.expect(t, "10.0.0.1", PassIndex)
			for place := range uint32(16) {
				for _, host := range [...]string{"198.51.100.7", x.otherHalf(t, "198.51.100.7")} {
					n := number(host)
					x.host(t, n, place)
					x.expect(t, host, DropBlacklisted)
					x.expect(t, "198.51.100.8", PassIndex)
					x.gate(t, n, GateEmpty, true)
					x.expect(t, host, PassIndex)
					x.gate(t, n, GateEmpty, false)
					m, line, first := x.half(n)
					word(t, m, line, first+place/4, func(uint64) uint64 { return 0 })
					word(t, m, line, (first^4)+place/4, func(uint64) uint64 { return ^uint64(0) >> 1 &^ 0x8000800080008000 })
					x.expect(t, host, PassIndex) // whatever the other half holds
					word(t, m, line, (first^4)+place/4, func(uint64) uint64 { return 0 })
				}
			}
			none := x.withoutTag(t)
			x.expect(t, none, PassIndex)
			x.host(t, number("198.51.100.7"), 5)

			x.code(t, "198.51.99.0", CodeDrop, 0) // another /24 of the /20: the bucket still counts for this one
			x.expect(t, "198.51.100.7", DropBlacklisted)
			x.expect(t, "198.51.99.255", DropBlacklisted)
			x.code(t, "198.51.100.0", CodeDrop, 0)
			x.expect(t, "198.51.100.0", DropBlacklisted)
			x.expect(t, "198.51.101.0", PassIndex)
			x.code(t, "198.51.100.0", CodeAsk, 0)
			x.expect(t, "198.51.100.7", PassWhitelisted)
			x.gate(t, number("198.51.100.0"), GateCell, false) // as if the cell were 0
			x.expect(t, "198.51.100.7", DropBlacklisted)
			x.expect(t, "198.51.100.0", PassIndex)
			x.gate(t, number("198.51.100.0"), GateCell, true)

			x.code(t, "198.51.97.0", CodeLeaf, 0)
			x.code(t, "198.51.100.0", CodeLeaf, 65535) // the second leaf of the /20, in the next segment
			x.expect(t, "198.51.100.7", PassWhitelisted)
			x.segment(t, SlotLeaves+1)
			x.expect(t, "198.51.100.7", PassIndex)
			for _, last := range []uint32{0, 7, 63, 64, 128, 255} {
				word(t, x.segments[SlotLeaves+1], 0, last>>6, func(w uint64) uint64 { return w | 1<<(last&63) })
				x.expect(t, fmt.Sprintf("198.51.100.%d", last), DropBlacklisted)
				x.expect(t, fmt.Sprintf("198.51.100.%d", last^1), PassIndex)
			}
		})
	}
}

// TestIndexLease: a drop of the index counts while the lease holds, then the tries decide; a pass always counts.
func TestIndexLease(t *testing.T) {
	k := loadMode(t, ModeIndexed)
	k.checked(t, 1)
	k.fill(t, 0, entry{"198.51.100.0/24", allowed}, entry{"10.0.0.0/8", listed})
	x := newTestIndex(t, k, 0)
	x.code(t, "198.51.100.0", CodeDrop, 0)
	x.expect(t, "198.51.100.7", DropBlacklisted)
	const soon = uint64(100 * time.Millisecond)
	x.words.Lease = monotonic(t) + soon
	k.set(t, x.words)
	x.expect(t, "198.51.100.7", DropBlacklisted)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if action, _ := k.run(t, ProgL3, ipv4("198.51.100.7"), -1); action == xdpAction(PassWhitelisted) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the index dropped for 10 s after its lease")
		}
	}
	if now := monotonic(t); now < x.words.Lease {
		t.Errorf("the lease ended %d ns early", x.words.Lease-now)
	}
	x.expect(t, "198.51.100.7", PassWhitelisted)
	x.expect(t, "10.0.0.1", PassIndex)
}

// TestSelfCheck: of every counter one packet in 1024 is judged by both; where they disagree, the tries win, and it is
// counted, but not while somebody changes them.
func TestSelfCheck(t *testing.T) {
	k := loadMode(t, ModeIndexed)
	k.fill(t, 0, entry{"198.51.100.0/24", allowed}, entry{"10.0.0.0/8", listed})
	x := newTestIndex(t, k, 1)
	x.code(t, "198.51.100.0", CodeDrop, 0)
	x.code(t, "10.1.0.0", CodeDrop, 0)
	var want Check
	for _, c := range []struct {
		name    string
		source  string
		packets uint64
		changes uint32
		reason  Reason
		checks  Check
	}{
		{"not its turn", "198.51.100.7", 1023, 0, DropBlacklisted, Check{}},
		{"drop for pass", "198.51.100.7", 1024, 0, PassWhitelisted, Check{Packets: 1, Mismatches: 1}},
		{"pass for drop", "10.0.0.1", 2048, 0, DropBlacklisted, Check{Packets: 1, Mismatches: 1}},
		{"while it changes", "10.0.0.1", 0, 7, DropBlacklisted, Check{Packets: 1}},
		{"both pass", "192.0.2.1", 0, 0, PassIndex, Check{Packets: 1}},
		{"both drop", "10.1.0.1", 0, 2, DropBlacklisted, Check{Packets: 1}},
		{"the tries had to be asked anyway", "fe00::1", 0, 0, PassUnlisted, Check{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x.words.Changes = c.changes
			k.set(t, x.words)
			k.checked(t, c.packets)
			packet, family := ipv6(c.source, 17, 64, udp()...), FamilyIPv6
			if netip.MustParseAddr(c.source).Is4() {
				packet, family = ipv4(c.source), FamilyIPv4
			}
			k.expect(t, ProgL3, packet, -1, family, c.reason)
			want.Packets += c.checks.Packets
			want.Mismatches += c.checks.Mismatches
			if got := k.checked(t, 1); got != want {
				t.Errorf("checked %+v, want %+v", got, want)
			}
		})
	}
}
