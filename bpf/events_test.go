package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// samples empties the ring.
func (k *kernel) samples(t testing.TB) (all []Sample) {
	t.Helper()
	r, err := ringbuf.NewReader(k.Maps[MapSamples])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.SetDeadline(time.Unix(1, 0))
	for {
		record, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		var s Sample
		if err == nil {
			err = binary.Read(bytes.NewReader(record.RawSample), binary.LittleEndian, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
}

// sampled sums what the program says of the samples.
func (k *kernel) sampled(t testing.TB) (sum Sampled) {
	t.Helper()
	var perCPU []Sampled
	if err := k.Maps[MapSampled].Lookup(uint32(0), &perCPU); err != nil {
		t.Fatal(err)
	}
	for _, n := range perCPU {
		sum.Written += n.Written
		sum.Lost += n.Lost
		sum.Uncounted += n.Uncounted
	}
	return sum
}

// TestSamples: while somebody watches, each drop is told with the head of its packet, and no pass is; while nobody
// does, nothing is written.
func TestSamples(t *testing.T) {
	k := load(t)
	long := append(ipv4(source4), bytes.Repeat([]byte("0123456789"), 200)...)
	for _, tt := range []struct {
		name   string
		frame  []byte
		layer3 bool
		family Family
		reason Reason
	}{
		{"IPv4", ethernet(protoIPv4, plain4), false, FamilyIPv4, DropBlacklisted},
		{"IPv6 in a VLAN", ethernet(protoQ, tag(7, protoIPv6), plain6), false, FamilyIPv6, DropBlacklisted},
		{"long", ethernet(protoIPv4, long), false, FamilyIPv4, DropBlacklisted},
		{"layer 3", plain4, true, FamilyIPv4, DropBlacklisted},
		{"layer 3, long", long, true, FamilyIPv4, DropBlacklisted},
		{"too short", ethernet(protoIPv4, plain4[:19]), false, FamilyIPv4, DropShort},
		{"version", ethernet(protoIPv4, plain6), false, FamilyIPv4, DropVersion},
		{"unlisted", ethernet(protoIPv4, ipv4("203.0.113.1")), false, FamilyIPv4, PassUnlisted},
	} {
		k.fill(t, 0, entry{source4 + "/32", listed}, entry{source6 + "/128", listed})
		progs := []string{ProgEth, ProgEthFrags}
		if tt.layer3 {
			progs = []string{ProgL3, ProgL3Frags}
		}
		for _, prog := range progs {
			for _, linear := range []int{-1, 0, 20, 200} {
				if k.Programs[prog] == nil || linear >= 0 && (prog == ProgEth || prog == ProgL3) {
					continue
				}
				k.set(t, Control{Layout: Layout, Watch: monotonic(t) - 1})
				k.expect(t, prog, tt.frame, linear, tt.family, tt.reason)
				if got := k.samples(t); len(got) != 0 {
					t.Fatalf("%s, %s: %d samples though nobody watches any more", tt.name, prog, len(got))
				}
				k.set(t, Control{Layout: Layout, Watch: monotonic(t) + hour})
				before, began := k.sampled(t), bootNow(t)
				if _, ok := k.run(t, prog, tt.frame, linear); !ok {
					continue
				}
				got := k.samples(t)
				if !tt.reason.Drops() {
					if len(got) != 0 || k.sampled(t) != before {
						t.Fatalf("%s, %s: %d samples of what passes", tt.name, prog, len(got))
					}
					continue
				}
				if n := k.sampled(t); len(got) != 1 || n.Written != before.Written+1 || n.Lost != before.Lost {
					t.Fatalf("%s, %s: %d samples, %+v after %+v; want one", tt.name, prog, len(got), n, before)
				}
				s := got[0]
				size := min(len(tt.frame), SamplePacket)
				if s.Time < began || s.Time > bootNow(t) || s.Length != uint32(len(tt.frame)) || Family(s.Family) != tt.family ||
					Reason(s.Reason) != tt.reason || s.Layer3 != map[bool]uint32{true: 1}[tt.layer3] || s.Packets == 0 {
					t.Errorf("%s, %s: %+v", tt.name, prog, s)
				}
				if int(s.Captured) != size || !bytes.Equal(s.Packet[:size], tt.frame[:size]) {
					t.Errorf("%s, %s, %d linear: %d bytes captured, want the first %d: %x", tt.name, prog, linear, s.Captured, size, s.Packet[:s.Captured])
				}
			}
		}
	}
}

// stayOnCPU keeps the test on one CPU: a long run of a program may else be moved in its middle, to counters of
// another.
func stayOnCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	cpu := 0
	for !before.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}

// TestSamplesAreFew: a flood gives a burst and then one sample an interval; the last tells how many packets there were.
func TestSamplesAreFew(t *testing.T) {
	stayOnCPU(t)
	k := load(t)
	k.fill(t, 0, everyoneV4...)
	k.set(t, Control{Layout: Layout, Watch: monotonic(t) + hour})
	const flood = 500_000
	began := time.Now()
	if _, err := k.Programs[ProgEth].Run(&ebpf.RunOptions{Data: ethernet(protoIPv4, plain4), Repeat: flood}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	got, counted := k.samples(t), k.sampled(t)
	const tick = 10 * time.Millisecond // of the coarse clock, at most
	most := SampleBurst + int((took+tick)/SampleInterval) + 1
	if len(got) < SampleBurst || uint64(len(got)) != counted.Written || int(counted.Written+counted.Lost) > most {
		t.Errorf("%d samples, %+v, of a flood of %v; want %d to %d", len(got), counted, took, SampleBurst, most)
	}
	t.Logf("%d samples of %d packets in %v", len(got), flood, took)
	for i, s := range got {
		if i > 0 && s.Packets <= got[i-1].Packets || s.Packets > flood || s.Cpu != got[0].Cpu {
			t.Fatalf("sample %d has %d packets on CPU %d after %d on %d", i, s.Packets, s.Cpu, got[max(0, i-1)].Packets, got[0].Cpu)
		}
	}
	if n := k.tallies(t)[Way(FamilyIPv4, DropBlacklisted)].Packets; n != flood {
		t.Errorf("%d packets counted, want %d", n, flood)
	}
}

// TestSamplesLost: what finds the ring full is counted, and dropped all the same.
func TestSamplesLost(t *testing.T) {
	k := loadMode(t, ModeLPM, func(s *ebpf.CollectionSpec) error {
		s.Maps[MapSamples].MaxEntries = 64 << 10
		return nil
	})
	k.fill(t, 0, everyoneV4...)
	k.set(t, Control{Layout: Layout, Watch: monotonic(t) + hour})
	perCPU := make([]Count, ebpf.MustPossibleCPU())
	runs := 2 * int(k.Maps[MapSamples].MaxEntries()) / (binary.Size(Sample{}) * SampleBurst)
	for range runs {
		if err := k.Maps[MapCounters].Put(Way(FamilyIPv4, DropBlacklisted), perCPU); err != nil { // a burst may come again
			t.Fatal(err)
		}
		action, err := k.Programs[ProgEth].Run(&ebpf.RunOptions{Data: ethernet(protoIPv4, plain4), Repeat: uint32(SampleBurst)})
		if err != nil || action != xdpDrop {
			t.Fatal(action, err)
		}
	}
	n := k.sampled(t)
	if got := k.samples(t); uint64(len(got)) != n.Written || n.Lost == 0 || n.Written+n.Lost < uint64(runs*SampleBurst) {
		t.Errorf("%d samples read, %+v, want some lost of %d", len(got), n, runs*SampleBurst)
	}
}

// hitsKey is the key of a prefix in [MapPrefixes].
func hitsKey(prefix string) KeyV6 {
	p := netip.MustParsePrefix(prefix)
	key := KeyV6{Prefixlen: uint32(p.Bits()), Addr: p.Addr().As16()}
	if p.Addr().Is4() {
		key.Prefixlen += 96
	}
	return key
}

// TestAccounting: exact, each drop is counted for the cell it is due to and by source, also where an index could drop;
// sampled, nothing is.
func TestAccounting(t *testing.T) {
	for _, exact := range []bool{false, true} {
		k := loadMode(t, ModeIndexed, func(s *ebpf.CollectionSpec) error {
			s.Maps[MapPrefixes].MaxEntries = 4
			return s.Variables[VarAccounting].Set(map[bool]uint32{true: AccountingExact, false: AccountingSampled}[exact])
		})
		x := newTestIndex(t, k, 0)
		x.code(t, source4, CodeDrop, 0)
		cell := func(source, length uint8) Cell { return Cell{DropUntil: Never, Source: source, Length: length} }
		hole := Cell{PassUntil: Never, DropUntil: Never, Source: 1, Length: 32}
		k.fill(t, 0, entry{"198.51.100.0/22", cell(3, 22)}, entry{source4 + "/32", cell(1, 32)}, entry{"198.51.100.8/32", hole},
			entry{source6 + "/128", cell(1, 128)}, entry{"2001:db8:8000::/33", cell(4, 33)})
		want := map[string]Hits{}
		bySource := map[uint32]Hits{}
		for _, p := range []struct {
			packet []byte
			prefix string // that it is counted for
			source uint32
		}{
			{plain4, source4 + "/32", 1}, {plain4, source4 + "/32", 1}, {mappedPlain, source4 + "/32", 1},
			{ipv4("198.51.100.255"), "198.51.100.0/22", 3}, {ipv4("198.51.100.8"), "", 0}, {ipv4("203.0.113.1"), "", 0},
			{plain6, source6 + "/128", 1}, {ipv6("2001:db8:ffff::1", 17, 64, udp()...), "2001:db8:8000::/33", 4},
		} {
			frame := encapsulations[0].wrap(p.packet)
			if _, err := k.Programs[ProgEth].Run(&ebpf.RunOptions{Data: frame}); err != nil {
				t.Fatal(err)
			}
			if exact && p.prefix != "" {
				h, s := want[p.prefix], bySource[p.source]
				want[p.prefix] = Hits{Packets: h.Packets + 1, Bytes: h.Bytes + uint64(len(frame))}
				bySource[p.source] = Hits{Packets: s.Packets + 1, Bytes: s.Bytes + uint64(len(frame))}
			}
		}
		var key KeyV6
		var h Hits
		count := 0
		for all := k.Maps[MapPrefixes].Iterate(); all.Next(&key, &h); count++ {
		}
		if count != len(want) {
			t.Errorf("exact %t: %d prefixes are counted, want %d", exact, count, len(want))
		}
		for prefix, w := range want {
			if err := k.Maps[MapPrefixes].Lookup(hitsKey(prefix), &h); err != nil || h != w {
				t.Errorf("exact %t: %s has %+v, %v, want %+v", exact, prefix, h, err, w)
			}
		}
		for source := range k.Maps[MapSources].MaxEntries() {
			var perCPU []Hits
			if err := k.Maps[MapSources].Lookup(source, &perCPU); err != nil {
				t.Fatal(err)
			}
			var sum Hits
			for _, h := range perCPU {
				sum.Packets += h.Packets
				sum.Bytes += h.Bytes
			}
			if sum != bySource[source] {
				t.Errorf("exact %t: source %d has %+v, want %+v", exact, source, sum, bySource[source])
			}
		}
	}
}

// TestUncounted: a prefix more than there is room for is dropped all the same, and that it was not counted is.
func TestUncounted(t *testing.T) {
	k := loadMode(t, ModeLPM, func(s *ebpf.CollectionSpec) error { return s.Variables[VarAccounting].Set(AccountingExact) })
	k.fill(t, 0, entry{source4 + "/32", Cell{DropUntil: Never, Source: 1, Length: 32}}, entry{"203.0.113.0/24", Cell{DropUntil: Never, Source: 1, Length: 24}})
	for _, source := range []string{source4, "203.0.113.1", "203.0.113.2"} {
		if action, err := k.Programs[ProgEth].Run(&ebpf.RunOptions{Data: encapsulations[0].wrap(ipv4(source))}); err != nil || action != xdpDrop {
			t.Fatal(action, err)
		}
	}
	if n := k.sampled(t); n.Uncounted != 2 {
		t.Errorf("%+v, want 2 uncounted", n)
	}
}
