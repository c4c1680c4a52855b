package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
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

// TestSamplesAreFew: a flood gives a burst and then one sample an interval; the last tells how many packets there were.
func TestSamplesAreFew(t *testing.T) {
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

// TestAccounting: exact, each drop is counted in the cell it is due to and by source, also where an index could drop;
// sampled, nothing is.
func TestAccounting(t *testing.T) {
	for _, exact := range []bool{false, true} {
		k := loadMode(t, ModeIndexed, func(s *ebpf.CollectionSpec) error {
			return s.Variables[VarAccounting].Set(map[bool]uint32{true: AccountingExact, false: AccountingSampled}[exact])
		})
		x := newTestIndex(t, k, 0)
		x.code(t, source4, CodeDrop, 0)
		other := Cell{DropUntil: Never, Source: 3}
		k.fill(t, 0, entry{"198.51.100.0/24", other}, entry{source4 + "/32", listed}, entry{"198.51.100.8/32", both}, entry{source6 + "/128", listed})
		for _, f := range [][]byte{
			ethernet(protoIPv4, plain4), ethernet(protoIPv4, plain4), ethernet(protoIPv4, ipv4("198.51.100.1")),
			ethernet(protoIPv6, plain6), ethernet(protoIPv6, mappedPlain), ethernet(protoIPv4, ipv4("203.0.113.1")),
		} {
			if _, err := k.Programs[ProgEth].Run(&ebpf.RunOptions{Data: f}); err != nil {
				t.Fatal(err)
			}
		}
		want4 := Hits{Packets: 3, Bytes: uint64(2*len(ethernet(protoIPv4, plain4)) + len(ethernet(protoIPv6, mappedPlain)))}
		net4 := Hits{Packets: 1, Bytes: uint64(len(ethernet(protoIPv4, plain4)))}
		want6 := Hits{Packets: 1, Bytes: uint64(len(ethernet(protoIPv6, plain6)))}
		bySource := map[uint32]Hits{1: {Packets: 4, Bytes: want4.Bytes + want6.Bytes}, 3: net4}
		if !exact {
			want4, net4, want6, bySource = Hits{}, Hits{}, Hits{}, nil
		}
		var c Cell
		for _, cell := range []struct {
			m    string
			key  any
			want Hits
		}{
			{MapV4A, KeyV4{Prefixlen: 32, Addr: [4]byte{198, 51, 100, 7}}, want4},
			{MapV4A, KeyV4{Prefixlen: 24, Addr: [4]byte{198, 51, 100}}, net4},
			{MapV4A, KeyV4{Prefixlen: 32, Addr: [4]byte{198, 51, 100, 8}}, Hits{}},
			{MapV6A, KeyV6{Prefixlen: 128, Addr: [16]byte{0x20, 1, 0xd, 0xb8, 0, 7, 15: 9}}, want6},
		} {
			if err := k.Maps[cell.m].Lookup(cell.key, &c); err != nil {
				t.Fatal(err)
			}
			if c.Hits != cell.want {
				t.Errorf("exact %t: %+v has %+v, want %+v", exact, cell.key, c.Hits, cell.want)
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
