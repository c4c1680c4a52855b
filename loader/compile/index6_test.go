package compile

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

func seeds(r *rand.Rand) [3]uint64 { return [3]uint64{r.Uint64(), r.Uint64(), r.Uint64()} }

func newTestIndex6(t testing.TB, table *Table, m *memory, r *rand.Rand) *Index6 {
	t.Helper()
	var f Filling6
	for p, c := range table.All6() {
		f.Add(p, c, soon)
	}
	x, err := f.Index(m, seeds(r))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func wanted6(table *Table, a netip.Addr) Answer {
	_, c := table.Lookup(a, time.Unix(noon, 0))
	return [...]Answer{AnswerPass, AnswerDrop, AnswerAsk}[c.class(soon)]
}

// check6 compares an index with the table. It may ask where something has to be asked about, and in the /64s of
// lengths that it does not have.
func check6(t *testing.T, x *Index6, table *Table, probes []netip.Addr, mayAsk func(netip.Addr) bool) (asked int) {
	t.Helper()
	for _, a := range probes {
		got, want := x.Answer(a), wanted6(table, a)
		if got == AnswerAsk {
			asked++
		}
		if got == want || got == AnswerAsk && mayAsk(a) {
			continue
		}
		t.Fatalf("seed %d: index answers %d for %s, want %d", *indexSeed, got, a, want)
	}
	return asked
}

func always(netip.Addr) bool { return true }

// asked6 are the /64s with lengths that the index does not have.
func asked6(table *Table, also map[netip.Prefix]bool) func(netip.Addr) bool {
	for p := range table.All6() {
		if odd(p) {
			also[netip.PrefixFrom(p.Addr(), 64).Masked()] = true
		}
	}
	return func(a netip.Addr) bool { return also[netip.PrefixFrom(a, 64).Masked()] }
}

// edges6 are the first and last address of every prefix in a table, their neighbours, and one inside.
func edges6(r *rand.Rand, table *Table) (probes []netip.Addr) {
	for p := range table.All6() {
		first, last, inside := p.Addr().As16(), p.Addr().As16(), p.Addr().As16()
		for i := p.Bits(); i < 128; i++ {
			last[i/8] |= 0x80 >> (i % 8)
			inside[i/8] |= byte(r.Uint32N(2)) << (7 - i%8)
		}
		for _, a := range []netip.Addr{netip.AddrFrom16(first), netip.AddrFrom16(last)} {
			probes = append(probes, a, a.Next(), a.Prev())
		}
		probes = append(probes, netip.AddrFrom16(inside))
	}
	return slices.DeleteFunc(probes, func(a netip.Addr) bool { return !a.Is6() || a.Is4In6() })
}

// feed6 makes prefixes that nest around few addresses.
type feed6 struct {
	feed
	aim  []netip.Addr
	odds bool // lengths of which the index has none
}

func addr6(high, low uint64) netip.Addr {
	b := binary.BigEndian.AppendUint64(nil, high)
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, low)))
}

func (f *feed6) prefix() netip.Prefix {
	r := f.r
	high, low := halves(f.aim[r.IntN(len(f.aim))])
	bits := []int{128, 128, 64, 64, 56, 48, 48, 32, 32, 1 + r.IntN(64), 1 + r.IntN(64), 17 + r.IntN(48)}[r.IntN(12)]
	switch {
	case r.IntN(30) == 0:
		bits = r.IntN(2) * r.IntN(17)
	case f.odds && r.IntN(12) == 0:
		bits = 65 + r.IntN(63)
	}
	if bits <= 64 {
		high ^= r.Uint64N(4) << (64 - bits) // beside it
	} else {
		low ^= r.Uint64N(4) << (128 - bits)
	}
	return netip.PrefixFrom(addr6(high, low), bits).Masked()
}

func (f *feed6) change(t *testing.T) lists.Change {
	t.Helper()
	return f.changeOf(t, f.prefix())
}

func newFeed6(r *rand.Rand, odds bool) *feed6 {
	f := &feed6{feed: feed{r: r, entries: map[lists.Key]lists.Entry{}}, odds: odds}
	for range 3 {
		f.aim = append(f.aim, addr6(0x2001<<48|r.Uint64N(1<<48), r.Uint64()))
	}
	high, low := halves(f.aim[0])
	f.aim = append(f.aim, addr6(high^1<<20, low), addr6(high, low^1<<30), addr6(0, 7), addr6(1<<63-1, 1))
	return f
}

// TestIndex6FollowsTheTable changes random lists of nested prefixes, and compares at every edge before, during and
// after every change.
func TestIndex6FollowsTheTable(t *testing.T) {
	rounds, changes := 8, 80
	if testing.Short() {
		rounds, changes = 4, 40
	}
	t.Logf("seed %d (-index-seed)", *indexSeed)
	for round := range rounds {
		r := rand.New(rand.NewPCG(*indexSeed, uint64(round)))
		table, m := New(), &memory{left: 1000}
		f := newFeed6(r, round%2 == 1)
		var batch []lists.Change
		for range r.IntN(20) {
			batch = append(batch, f.change(t))
		}
		table.Apply(batch)
		x := newTestIndex6(t, table, m, r)
		odds := map[netip.Prefix]bool{}
		asked6(table, odds)
		for range changes {
			before := edges6(r, table)
			held := make([]Answer, len(before))
			for i, a := range before {
				held[i] = wanted6(table, a)
			}
			batch = batch[:0]
			for range 1 + r.IntN(1+r.IntN(30)) {
				batch = append(batch, f.change(t))
			}
			rules := table.Apply(batch)
			mayAsk := asked6(table, odds)
			x.Ask(rules)
			for i, a := range before { // what it still says of itself must have held and hold
				if got := x.Answer(a); got != AnswerAsk && (got != held[i] || got != wanted6(table, a)) {
					t.Fatalf("seed %d: before the tries have the change the index answers %d for %s, it was %d and will be %d",
						*indexSeed, got, a, held[i], wanted6(table, a))
				}
			}
			x.Write(x.Plan(table, rules, soon))
			if x.mixer.GateShift == 0 { // it began with nothing, and has no room
				check6(t, x, table, slices.Concat(before, edges6(r, table)), always)
				x = newTestIndex6(t, table, m, r)
				continue
			}
			check6(t, x, table, slices.Concat(before, edges6(r, table)), mayAsk)
		}
		fresh := newTestIndex6(t, table, &memory{left: 1000}, r)
		check6(t, fresh, table, edges6(r, table), asked6(table, map[netip.Prefix]bool{}))
		if fresh.Nets() > x.Nets() || fresh.Hosts() != x.Hosts() || fresh.lost > 0 || x.lost > 0 {
			t.Errorf("seed %d: %d nets and %d hosts (%d lost), made anew %d and %d (%d)", *indexSeed, x.Nets(), x.Hosts(), x.lost, fresh.Nets(), fresh.Hosts(), fresh.lost)
		}
		batch = batch[:0]
		for _, e := range f.entries {
			batch = append(batch, lists.Change{Before: &e})
		}
		rules := table.Apply(batch)
		x.Ask(rules)
		x.Write(x.Plan(table, rules, soon))
		if x.Hosts() != 0 || x.Nets() > len(odds) {
			t.Errorf("seed %d: %d hosts and %d nets left of nothing", *indexSeed, x.Hosts(), x.Nets())
		}
	}
}

// TestIndex6AllLengths lists a prefix of every length around one address, each in turn passing or dropping.
func TestIndex6AllLengths(t *testing.T) {
	r := rand.New(rand.NewPCG(*indexSeed, 7))
	center := addr6(0x2001<<48|r.Uint64N(1<<48), r.Uint64())
	b := lists.NewBuilder(nil)
	for bits := range 129 {
		id, _ := lists.PrefixID(netip.PrefixFrom(center, bits).Masked())
		e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}}
		if bits%3 == 2 {
			e.List, e.Expires = lists.Whitelist, time.Unix(noon+3600, 0)
		}
		b.Put(e)
	}
	table := New()
	table.Reset(b.Snapshot(1), nil)
	x := newTestIndex6(t, table, &memory{left: 1000}, r)
	check6(t, x, table, edges6(r, table), asked6(table, map[netip.Prefix]bool{}))
}

// TestIndex6Crowds fills few lines beyond what they hold: what finds no place in either of two is asked about, and
// a new index is wanted.
func TestIndex6Crowds(t *testing.T) {
	r := rand.New(rand.NewPCG(*indexSeed, 8))
	for bits, n := range map[int]int{128: 150_000, 48: 300_000} {
		table, random := New(), lists.NewBuilder(nil)
		for range n {
			id, _ := lists.PrefixID(netip.PrefixFrom(addr6(2<<60|r.Uint64N(1<<60), r.Uint64()), bits).Masked())
			random.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}})
		}
		first := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindIP, Value: "2000::/64"}}}
		table.Apply([]lists.Change{{After: &first}})
		x := newTestIndex6(t, table, &memory{left: 1000}, r)
		if x.Crowded() {
			t.Error("crowded by one entry")
		}
		table.Reset(random.Snapshot(1), nil)
		var rules []Rule
		for p, c := range table.All6() {
			rules = append(rules, Rule{Prefix: p, Cell: c, New: true})
		}
		x.Ask(rules)
		x.Write(x.Plan(table, rules, soon))
		var probes []netip.Addr // a fifth of all edges: what is wrong is so for many
		for i, a := range edges6(r, table) {
			if i%5 == 0 {
				probes = append(probes, a)
			}
		}
		asked := check6(t, x, table, probes, always)
		if !x.Crowded() || x.lost == 0 {
			t.Errorf("/%d: not crowded by %d entries, %d of them lost", bits, n, x.lost)
		}
		grown := newTestIndex6(t, table, &memory{left: 1000}, r)
		if again := check6(t, grown, table, probes, always); grown.Crowded() || grown.lost > n/10_000 || again > 2*7*grown.lost {
			t.Errorf("/%d: grown, it asks about %d of %d and has lost %d", bits, again, len(probes), grown.lost)
		}
		t.Logf("/%d: asked about %d of %d; grown from %d to %d KiB", bits, asked, len(probes), x.Bytes()>>10, grown.Bytes()>>10)
		x = grown
		gone := rules[:n*2/3]
		for i := range gone {
			gone[i].Remove, gone[i].Cell = true, Cell{}
			table.nodes.Delete(gone[i].Prefix)
		}
		x.Ask(gone)
		x.Write(x.Plan(table, gone, soon))
		check6(t, x, table, probes, always)
		if !x.Crowded() {
			t.Error("two thirds are gone, and no new index is wanted")
		}
	}
}

// TestIndex6Size prints the memory and holds it to what is promised, for lists of every length and for the mix of the
// benchmark: 8 MiB, 42 bytes an address, 180 any other entry.
func TestIndex6Size(t *testing.T) {
	r := rand.New(rand.NewPCG(*indexSeed, 9))
	size := func(name string, n, hosts int, length func() int) {
		t.Helper()
		var f Filling6
		for range n {
			f.Add(netip.PrefixFrom(addr6(r.Uint64(), r.Uint64()), length()).Masked(), Cell{DropUntil: Never}, soon)
		}
		start := time.Now()
		x, err := f.Index(&memory{left: 1000}, seeds(r))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d entries, %s: %d KiB, filled in %v", n, name, x.Bytes()>>10, time.Since(start).Round(time.Millisecond))
		if limit := 8<<20 + 42*hosts + 180*(n-hosts); x.Bytes() > limit {
			t.Errorf("more than %d KiB", limit>>10)
		}
		if x.lost > n/10_000 {
			t.Errorf("%d of them found no room", x.lost)
		}
	}
	const n = 100_000
	size("/128", n, n, func() int { return 128 })
	for _, bits := range []int{127, 96, 65, 64, 61, 56, 53, 48, 45, 40, 33, 32, 29, 20} {
		size("/"+strconv.Itoa(bits), n, 0, func() int { return bits })
	}
	const many = 1_000_000
	size("55 % /128, 30 % /64, 10 % /48, 5 % /32", many, many/2, func() int {
		return []int{128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 64, 64, 64, 64, 64, 64, 48, 48, 32}[r.IntN(20)]
	})
}

// TestIndex6WithoutMemory: no index is better than half of one.
func TestIndex6WithoutMemory(t *testing.T) {
	for left := range 3 {
		var f Filling6
		f.Add(netip.MustParsePrefix("2001:db8::/32"), Cell{DropUntil: Never}, soon)
		if _, err := f.Index(&memory{left: left}, [3]uint64{1, 2, 3}); err == nil {
			t.Errorf("made from %d segments", left)
		}
	}
}

// TestIndex6WhitelistOnly: what drops nothing takes no memory.
func TestIndex6WhitelistOnly(t *testing.T) {
	var f Filling6
	f.Add(netip.MustParsePrefix("2001:db8::/32"), Cell{PassUntil: Never}, soon)
	x, err := f.Index(&memory{}, [3]uint64{1, 2, 3})
	if err != nil || x.Bytes() != 0 || x.Answer(netip.MustParseAddr("2001:db8::1")) != AnswerPass || x.Crowded() {
		t.Errorf("%v, %d bytes", err, x.Bytes())
	}
}
