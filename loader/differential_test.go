package loader

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gaissmai/bart"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of TestDifferential; 0: by the clock")
	probesFlag = flag.Int("probes", 1_000_000, "packets that TestDifferential tries")
)

// TestDifferential gives random nested and expiring lists of both families to the kernel, by Replace and by Apply,
// and asks the attached program and the map about every edge of every prefix and about random sources. The
// reference matcher must agree, at times around every end.
func TestDifferential(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	g := newGateway(t)
	d := &differential{r: rand.New(rand.NewPCG(seed, 0)), table: compile.New(), frames: [2][]byte{frame("10.0.0.1"), frame("2001:db8::1")}}
	l := open(t, Options{PinDir: g.pins, Boot: d.boot})
	_, err := l.Attach("gw")
	must(t, err)
	d.maps = l.Maps()
	d.maps.Follow(d.table)
	d.program, err = ebpf.LoadPinnedProgram(l.dir.prog("gw"), nil)
	must(t, err)
	defer d.program.Close()
	start := time.Now()
	rounds, probes := 0, *probesFlag
	if testing.Short() {
		probes /= 20
	}
	for ; d.probes < probes; rounds++ {
		if err := d.round(uint64(rounds + 1)); err != nil {
			t.Fatalf("round %d, -seed=%d: %v", rounds, seed, err)
		}
	}
	fmt.Printf("differential: seed %d, %d packets against %d lists, %d dropped, %d whitelisted, %v\n",
		seed, d.probes, rounds, d.verdicts[lists.Drop], d.verdicts[lists.PassWhitelisted], time.Since(start).Round(time.Millisecond))
	state, err := d.maps.Index()
	must(t, err)
	if state.Mismatches > 0 || state.Checked == 0 {
		t.Errorf("-seed=%d: the kernel's self-check saw %d of %d packets judged otherwise by the tries", seed, state.Mismatches, state.Checked)
	}
	for v, n := range d.verdicts {
		if n == 0 {
			t.Errorf("no packet had verdict %d", v)
		}
	}
}

type differential struct {
	r       *rand.Rand
	maps    *Maps
	program *ebpf.Program
	table   *compile.Table
	now     time.Time // of the round; a second of it is half an hour of the kernel's
	frames  [2][]byte // IPv4, IPv6

	snapshot *lists.Snapshot
	bart     [2]*bart.Lite // the outside oracle: whitelist and blacklist as they are now, by the words of nobody here
	probes   int
	verdicts [3]int
}

// Rounds are at different moments of a made-up time, in which entries end at 100, 200 and 300.
var moments = []int64{1, 99, 100, 101, 199, 200, 201, 299, 300, 1000}

func (d *differential) boot(t time.Time) time.Duration {
	return max(1, bootTime(time.Now())+t.Sub(d.now)*1800)
}

// round makes a list, then changes it step by step, and compares.
func (d *differential) round(generation uint64) error {
	d.now = time.Unix(moments[d.r.IntN(len(moments))], 0)
	b := lists.NewBuilder(nil)
	for range 1 + d.r.IntN(30) {
		b.Put(d.entry())
	}
	d.snapshot = b.Snapshot(generation)
	var protected []netip.Prefix
	if d.r.IntN(3) == 0 {
		protected = append(protected, d.prefix())
	}
	d.table.Reset(d.snapshot, protected)
	if err := d.maps.Replace(context.Background(), generation, d.table.All(), 0, nil); err != nil {
		return err
	}
	if err := d.compare(protected); err != nil {
		return fmt.Errorf("replaced: %w", err)
	}
	for range 120 { // a replacement waits for a grace period, a change does not
		b := lists.NewBuilder(d.snapshot)
		var changes []lists.Change
		for range 1 + d.r.IntN(10) {
			changes = append(changes, d.change(b))
		}
		d.snapshot = b.Snapshot(generation)
		if err := d.maps.Apply(generation, d.table.Apply(changes)); err != nil {
			return err
		}
		if err := d.compare(protected); err != nil {
			return fmt.Errorf("applied: %w", err)
		}
	}
	return nil
}

func (d *differential) change(b *lists.Builder) lists.Change {
	l := []lists.List{lists.Whitelist, lists.Blacklist}[d.r.IntN(2)]
	there := slices.Collect(d.snapshot.Entries(l))
	if len(there) > 0 && d.r.IntN(2) == 0 {
		if e, ok := b.Delete(there[d.r.IntN(len(there))].Key); ok {
			return lists.Change{Before: &e}
		}
	}
	e := d.entry()
	if before, replaced := b.Put(e); replaced {
		return lists.Change{Before: &before, After: &e}
	}
	return lists.Change{After: &e}
}

func (d *differential) entry() lists.Entry {
	id, ok := lists.PrefixID(d.prefix())
	if !ok {
		panic("not a prefix")
	}
	e := lists.Entry{Key: lists.Key{List: lists.Whitelist, Source: lists.Manual, ID: id}, Created: time.Unix(1, 0)}
	if d.r.IntN(3) > 0 {
		e.List, e.Source = lists.Blacklist, lists.Source(1+d.r.IntN(int(lists.MissingToken)))
	}
	if end := d.r.Int64N(4) * 100; end > 0 {
		e.Expires = time.Unix(end, 0)
	}
	return e
}

// bases are what prefixes nest around; none is an address that the program passes whatever is listed.
var bases = []netip.Addr{
	netip.MustParseAddr("10.1.128.7"), netip.MustParseAddr("10.1.127.255"), netip.MustParseAddr("203.0.113.200"),
	netip.MustParseAddr("2001:db8::8000:1"), netip.MustParseAddr("2001:db8:0:1::"), netip.MustParseAddr("fd00:1:2:3:4:5:6:7"),
}

func (d *differential) prefix() netip.Prefix {
	a := bases[d.r.IntN(len(bases))]
	bits := d.r.IntN(a.BitLen() + 1)
	b := a.AsSlice()
	if bits > 0 && d.r.IntN(2) == 0 {
		b[(bits-1)/8] ^= 0x80 >> ((bits - 1) % 8) // the sibling
	}
	a, _ = netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits).Masked()
}

// compare tries every edge, and as many random addresses.
func (d *differential) compare(protected []netip.Prefix) error {
	var edges []netip.Addr
	for p := range d.table.All() {
		last := lastOf(p)
		edges = append(edges, p.Addr(), last, p.Addr().Prev(), last.Next())
	}
	for range len(edges) {
		edges = append(edges, d.within(d.prefix()))
	}
	if err := d.maps.Renew(); err != nil {
		return err
	}
	d.consult(protected)
	for _, a := range edges {
		if !a.IsValid() || a.IsUnspecified() || a.IsLinkLocalUnicast() && a.Is6() || a.Is4In6() {
			continue // no source, or judged by other rules
		}
		if err := d.probe(a, protected); err != nil {
			return err
		}
	}
	return nil
}

// consult fills the outside oracle.
func (d *differential) consult(protected []netip.Prefix) {
	for i, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		d.bart[i] = new(bart.Lite)
		d.snapshot.Prefixes(l, func(p netip.Prefix, _ lists.Source, expires time.Time) bool {
			if expires.IsZero() || d.now.Before(expires) {
				d.bart[i].Insert(p)
			}
			return true
		})
	}
	for _, p := range protected {
		d.bart[0].Insert(p)
	}
}

func (d *differential) within(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] ^= byte(d.r.UintN(2)) << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// probe compares the reference with the table, with the map and with the program.
func (d *differential) probe(a netip.Addr, protected []netip.Prefix) error {
	want, by := lists.Match(d.snapshot, a, d.now)
	if slices.ContainsFunc(protected, func(p netip.Prefix) bool { return p.Contains(a) }) {
		want = lists.PassWhitelisted
	}
	if outside := d.bart[1].Contains(a) && !d.bart[0].Contains(a); outside != (want == lists.Drop) {
		return fmt.Errorf("%s at %d: bart drops it: %v, the reference says %v by %v", a, d.now.Unix(), outside, want, by)
	}
	got, cell := d.table.Lookup(a, d.now)
	held, found, err := d.maps.Lookup(a)
	if err != nil {
		return err
	}
	if found != (cell != compile.Cell{}) || held.Source != cell.Source || held.Protected != cell.Protected {
		return fmt.Errorf("%s: map holds %+v (%v), want %+v", a, held, found, cell)
	}
	f := d.frames[0]
	if a.Is6() {
		f = d.frames[1]
		copy(f[22:38], a.AsSlice())
	} else {
		copy(f[26:30], a.AsSlice())
	}
	action, err := d.program.Run(&ebpf.RunOptions{Data: f})
	if err != nil {
		return err
	}
	const xdpDrop = 1
	if got != want || (action == xdpDrop) != (want == lists.Drop) {
		return fmt.Errorf("%s at %d: program says %d, table %v (%+v), reference %v by %v", a, d.now.Unix(), action, got, cell, want, by)
	}
	d.probes++
	d.verdicts[want]++
	return nil
}
