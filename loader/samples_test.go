package loader

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// runs gives the frame to the program so many times.
func (j *judged) runs(t testing.TB, source string, count int) {
	t.Helper()
	copy(j.frames[0][26:30], netip.MustParseAddr(source).AsSlice())
	_, err := j.program.Run(&ebpf.RunOptions{Data: j.frames[0], Repeat: uint32(count)})
	must(t, err)
}

// TestReadSamples: samples come while they are read, and none are written before and after.
func TestReadSamples(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t)})
	m := j.l.Maps()
	replace(t, m, 2, cells{"10.0.0.0/24": drop})
	j.runs(t, "10.0.0.66", 5)
	if n, err := m.Sampled(); err != nil || n != (Sampled{}) {
		t.Fatalf("%+v, %v, though nobody reads", n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan Sample, 10_000)
	ended := make(chan error, 1)
	go func() {
		ended <- m.ReadSamples(ctx, func(batch []Sample) {
			for _, s := range batch {
				s.Packet = bytes.Clone(s.Packet)
				got <- s
			}
		})
	}()
	var first Sample
	eventually(t, "a sample", func() bool {
		j.runs(t, "10.0.0.66", 1)
		select {
		case first = <-got:
			return true
		default:
			return false
		}
	})
	if age := time.Since(first.Time); first.Interface != 1 || first.Layer3 || first.Family != "ipv4" || first.Reason != "drop_blacklisted" ||
		first.Packets != 1 || first.Length != len(j.frames[0]) || !bytes.Equal(first.Packet, j.frames[0]) || age < 0 || age > time.Minute {
		t.Errorf("%+v", first)
	}
	// A flood: what was not sampled is known by the next sample. One CPU does it in one go.
	const flood = 100_000
	j.runs(t, "10.0.0.66", flood)
	var sum uint64
	eventually(t, "a sample that tells of the flood", func() bool {
		j.runs(t, "10.0.0.66", 1)
		for {
			select {
			case s := <-got:
				sum += s.Packets
			default:
				return sum >= flood
			}
		}
	})
	cancel()
	must(t, <-ended)
	n, err := m.Sampled()
	must(t, err)
	j.runs(t, "10.0.0.66", 5)
	if after, err := m.Sampled(); err != nil || after != n || n.Written == 0 || n.Lost > 0 {
		t.Errorf("%+v after %+v, %v", after, n, err)
	}
}

// TestHits: exact accounting counts by prefix and by source, beyond a change of the entry and a replacement of the list;
// what is not listed any more is forgotten.
func TestHits(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t), Accounting: AccountingExact})
	m := j.l.Maps()
	decoy := compile.Cell{DropUntil: compile.Never, Source: lists.Decoy}
	replace(t, m, 2, cells{"10.0.0.0/24": drop, "10.0.0.66/32": decoy, "10.9.0.0/16": drop})
	j.runs(t, "10.0.0.66", 7)
	j.runs(t, "10.0.0.67", 3)
	j.runs(t, "10.9.1.1", 2)
	j.runs(t, "10.0.1.1", 2)
	size := uint64(len(j.frames[0]))
	expect := func(prefix string, packets uint64) {
		t.Helper()
		got, err := m.Hits(netip.MustParsePrefix(prefix))
		if want := (Hits{packets, packets * size}); err != nil || got != want {
			t.Errorf("%s has %+v, %v, want %+v", prefix, got, err, want)
		}
	}
	expect("10.0.0.66/32", 7)
	expect("10.0.0.0/24", 3)
	expect("10.9.0.0/16", 2)
	expect("10.0.0.0/16", 0)
	expect("2001:db8::/32", 0)

	p := netip.MustParsePrefix("10.0.0.66/32")
	later := compile.Cell{DropUntil: time.Now().Add(time.Hour).Unix(), Source: lists.Decoy}
	must(t, m.Apply(3, []compile.Rule{{Prefix: p, Cell: later}}))
	j.runs(t, "10.0.0.66", 1)
	expect("10.0.0.66/32", 8)

	all, err := m.SourceHits()
	must(t, err)
	for source, got := range all {
		want := Hits{Packets: map[lists.Source]uint64{lists.Manual: 5, lists.Decoy: 8}[source]}
		if want.Bytes = want.Packets * size; got != want {
			t.Errorf("source %s has %+v, want %+v", source, got, want)
		}
	}
	replace(t, m, 4, cells{"10.0.0.66/32": decoy, "10.0.0.0/25": drop, "10.9.0.0/16": drop})
	expect("10.0.0.66/32", 8)
	expect("10.0.0.0/24", 0) // only a longer one is listed now
	expect("10.9.0.0/16", 2)
	must(t, m.Apply(5, []compile.Rule{{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Remove: true}}))
	expect("10.9.0.0/16", 0)
	if n, err := m.Sampled(); err != nil || n.Uncounted > 0 {
		t.Errorf("%+v, %v", n, err)
	}
}

// TestIndexSays: the indexes answer, and where one does not know it asks.
func TestIndexSays(t *testing.T) {
	m := newJudged(t, Options{PinDir: pinsFor(t)}).l.Maps()
	soon := compile.Cell{DropUntil: time.Now().Add(time.Second).Unix(), Source: lists.Manual}
	hole := compile.Cell{PassUntil: compile.Never, DropUntil: compile.Never}
	replace(t, m, 2, cells{
		"10.0.0.0/24": drop, "10.0.0.66/32": hole, "10.0.1.1/32": soon,
		"2001:db8::/32": drop, "2001:db8::66/128": hole, "2001:db9::1/128": soon, "2001:dba::/65": drop,
	})
	for address, want := range map[string]string{
		"10.0.0.1": "drop", "10.0.0.66": "pass", "10.0.1.1": "ask", "10.0.2.1": "pass", "::ffff:10.0.0.1": "drop",
		"2001:db8::1": "drop", "2001:db8::66": "pass", "2001:db9::1": "ask", "2001:dba::1": "ask", "2001:dbb::1": "pass",
	} {
		if got, err := m.IndexSays(netip.MustParseAddr(address)); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", address, got, err, want)
		}
	}
	lpm := newJudged(t, Options{PinDir: pinsFor(t), Lookup: LookupLPM}).l.Maps()
	replace(t, lpm, 2, cells{"10.0.0.0/24": drop})
	if got, err := lpm.IndexSays(netip.MustParseAddr("10.0.0.1")); err != nil || got != "" {
		t.Errorf("without an index: %q, %v", got, err)
	}
}

// TestSampleLayout: decode reads a sample where the program writes it.
func TestSampleLayout(t *testing.T) {
	r := sampleReader{counts: map[sampleKey]uint64{}}
	if _, ok := r.decode(make([]byte, sampleHead+bpf.SamplePacket-1), time.Now()); ok {
		t.Error("a sample that is cut was taken")
	}
	b := make([]byte, sampleHead+bpf.SamplePacket)
	b[28], b[29] = 0xff, 0xff // more than there can be
	if s, ok := r.decode(b, time.Now()); !ok || len(s.Packet) != bpf.SamplePacket {
		t.Errorf("%t, %d bytes", ok, len(s.Packet))
	}
}
