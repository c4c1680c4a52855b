package compile_test

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gaissmai/bart"
	"pgregory.net/rapid"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// entry is on a list until Unix second end; 0 is for ever.
func entry(l lists.List, src lists.Source, value string, end int64) lists.Entry {
	id, _, err := lists.ParseID(lists.KindIP, "", value)
	if err != nil {
		panic(err)
	}
	e := lists.Entry{Key: lists.Key{List: l, Source: src, ID: id}, Created: time.Unix(1, 0).UTC()}
	if end != 0 {
		e.Expires = time.Unix(end, 0).UTC()
	}
	return e
}

// drawPrefix draws from few enough prefixes that they nest and meet: near two addresses of each family, any length.
func drawPrefix(t *rapid.T) netip.Prefix {
	base := netip.MustParseAddr(rapid.SampledFrom([]string{"10.1.128.7", "10.1.127.255", "2001:db8::8000:1", "2001:db8:0:1::"}).Draw(t, "base"))
	bits := rapid.OneOf(rapid.IntRange(0, base.BitLen()), rapid.IntRange(base.BitLen()-4, base.BitLen())).Draw(t, "bits")
	p, err := base.Prefix(bits)
	if err != nil {
		t.Fatal(err)
	}
	if rapid.Bool().Draw(t, "sibling") && bits > 0 {
		p = sibling(p)
	}
	return p
}

// sibling flips the last bit of the prefix.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	b[(p.Bits()-1)/8] ^= 0x80 >> ((p.Bits() - 1) % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

func drawEntry(t *rapid.T) lists.Entry {
	l := rapid.SampledFrom([]lists.List{lists.Whitelist, lists.Blacklist, lists.Blacklist}).Draw(t, "list")
	src := lists.Manual
	if l == lists.Blacklist {
		src = lists.Source(rapid.IntRange(int(lists.Manual), int(lists.MissingToken)).Draw(t, "source"))
	}
	return entry(l, src, drawPrefix(t).String(), rapid.SampledFrom([]int64{0, 0, 100, 200, 300}).Draw(t, "end"))
}

// times are around every end that drawEntry gives.
var times = []time.Time{
	time.Unix(1, 0), time.Unix(99, 999_999_999), time.Unix(100, 0), time.Unix(101, 0),
	time.Unix(199, 0), time.Unix(200, 0), time.Unix(299, 5), time.Unix(300, 0), time.Unix(1e9, 0),
}

// edges are the addresses at the ends of the prefixes, and one beyond.
func edges(prefixes iterable) []netip.Addr {
	found := map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("fd00::1"): true}
	for p := range prefixes {
		first, last := p.Addr(), lastOf(p)
		for _, a := range []netip.Addr{first, last, first.Prev(), last.Next()} {
			if a.IsValid() {
				found[a] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), netip.Addr.Compare)
}

type iterable = func(yield func(netip.Prefix) bool)

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// model is a map as the kernel has it, in its plainest form.
type model map[netip.Prefix]compile.Cell

func (m model) lookup(a netip.Addr) (c compile.Cell) {
	best := -1
	for p, cell := range m {
		if p.Contains(a) && p.Bits() > best {
			best, c = p.Bits(), cell
		}
	}
	return c
}

func (m model) step(t *rapid.T, r compile.Rule) {
	_, there := m[r.Prefix]
	if r.New == there {
		t.Fatalf("rule %+v: New, but the prefix is there: %v", r, there)
	}
	if r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6() {
		t.Fatalf("rule %+v is not canonical", r)
	}
	if !r.Remove {
		m[r.Prefix] = r.Cell
		return
	}
	if r.Cell != (compile.Cell{}) || !there {
		t.Fatalf("removal %+v has a cell, or was not there", r)
	}
	delete(m, r.Prefix)
}

// replay applies rules one by one. At every step each address must meet the cell it had or the one it will have.
func (m model) replay(t *rapid.T, rules []compile.Rule, probes []netip.Addr) {
	before := maps.Clone(m)
	after := maps.Clone(m)
	for _, r := range rules {
		after.step(t, r)
	}
	for i, r := range rules {
		m.step(t, r)
		for _, a := range probes {
			was, is, will := before.lookup(a), m.lookup(a), after.lookup(a)
			if is != was && is != will {
				t.Fatalf("step %d (%+v): %s meets %+v, had %+v, will have %+v", i, r, a, is, was, will)
			}
		}
	}
}

// TestApply drives a table and a model map with the same changes and compares them with everything else that
// knows the answer: a fresh table, the reference matcher, and bart.
//
// It runs more cases than rapid's own default; -rapid.checks=N asks for another number.
func TestApply(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		must(t, checks.Value.Set("2000"))
	}
	rapid.Check(t, func(t *rapid.T) {
		table, kernel := compile.New(), model{}
		var protected []netip.Prefix
		current := lists.NewBuilder(nil).Snapshot(1)
		for generation := range rapid.Uint64Range(1, 6).Draw(t, "rounds") {
			var rules []compile.Rule
			if rapid.IntRange(0, 4).Draw(t, "protect") == 0 {
				protected = rapid.SliceOfN(rapid.Custom(drawPrefix), 0, 3).Draw(t, "protected")
				rules = table.Protect(protected)
			} else {
				var changes []lists.Change
				current, changes = drawChanges(t, current, generation+2)
				rules = table.Apply(changes)
			}
			probes := edges(func(yield func(netip.Prefix) bool) {
				for p := range kernel {
					if !yield(p) {
						return
					}
				}
				for _, r := range rules {
					if !yield(r.Prefix) {
						return
					}
				}
			})
			kernel.replay(t, rules, probes)
			compareAll(t, table, kernel, current, protected)
			compareVerdicts(t, table, current, protected, probes)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// drawChanges changes a snapshot and lists the changes, as a store does.
func drawChanges(t *rapid.T, s *lists.Snapshot, generation uint64) (*lists.Snapshot, []lists.Change) {
	b := lists.NewBuilder(s)
	there := slices.Concat(slices.Collect(s.Entries(lists.Whitelist)), slices.Collect(s.Entries(lists.Blacklist)))
	// What was added is offered for deletion too, within the same changes.
	var changes []lists.Change
	for range rapid.IntRange(1, 6).Draw(t, "changes") {
		if len(there) > 0 && rapid.IntRange(0, 2).Draw(t, "delete") > 0 {
			e := rapid.SampledFrom(there).Draw(t, "deleted")
			if before, ok := b.Delete(e.Key); ok {
				changes = append(changes, lists.Change{Before: &before})
			}
			continue
		}
		e := drawEntry(t)
		c := lists.Change{After: &e}
		if before, replaced := b.Put(e); replaced {
			c.Before = &before
		}
		changes = append(changes, c)
		there = append(there, e)
	}
	user := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindUsername, Value: "10.0.0.1"}}}
	return b.Snapshot(generation), append(changes, lists.Change{After: &user})
}

func compareAll(t *rapid.T, table *compile.Table, kernel model, s *lists.Snapshot, protected []netip.Prefix) {
	fresh := compile.New()
	fresh.Reset(s, protected)
	all, want := model(maps.Collect(table.All())), model(maps.Collect(fresh.All()))
	if !maps.Equal(all, want) {
		t.Fatalf("table holds %v, a fresh one %v", all, want)
	}
	if !maps.Equal(kernel, want) {
		t.Fatalf("map holds %v, want %v", kernel, want)
	}
	v4, v6 := table.Len()
	var last netip.Prefix
	for p := range table.All() {
		if p.Addr().Is4() {
			v4--
		} else {
			v6--
		}
		if last.IsValid() && (p.Addr().Less(last.Addr()) || p.Addr() == last.Addr() && p.Bits() <= last.Bits()) {
			t.Fatalf("All yields %s after %s", p, last)
		}
		last = p
	}
	if v4 != 0 || v6 != 0 {
		t.Fatalf("Len is off by %d, %d", v4, v6)
	}
}

// compareVerdicts asks the table, the reference matcher and bart about every probe at every time.
func compareVerdicts(t *rapid.T, table *compile.Table, s *lists.Snapshot, protected []netip.Prefix, probes []netip.Addr) {
	for _, now := range times {
		var white, black bart.Lite
		for e := range s.Entries(lists.Whitelist) {
			if p, ok := e.ID.Prefix(); ok && !e.Expired(now) {
				white.Insert(p)
			}
		}
		for e := range s.Entries(lists.Blacklist) {
			if p, ok := e.ID.Prefix(); ok && !e.Expired(now) {
				black.Insert(p)
			}
		}
		for _, a := range probes {
			want, by := lists.Match(s, a, now)
			if covers(protected, a) {
				want = lists.PassWhitelisted
			}
			got, cell := table.Lookup(a, now)
			if got != want {
				t.Fatalf("%s at %v: table says %v (%+v), reference %v (%v)", a, now, got, cell, want, by)
			}
			if outside := !white.Contains(a) && !covers(protected, a) && black.Contains(a); outside != (got == lists.Drop) {
				t.Fatalf("%s at %v: table says %v, bart says drop is %v", a, now, got, outside)
			}
			if cell.Protected != covers(protected, a) {
				t.Fatalf("%s: Protected is %v", a, cell.Protected)
			}
			if until, source := lasting(s, a); cell.DropUntil != until || cell.Source != source {
				t.Fatalf("%s: cell %+v, want until %d by source %d", a, cell, until, source)
			}
		}
	}
}

// lasting returns the blacklist's part of the cell of an address, by looking at every entry: the latest end, and of
// equals the most specific, then the first in the order of sources.
func lasting(s *lists.Snapshot, a netip.Addr) (until int64, source lists.Source) {
	bits := -1
	for e := range s.Entries(lists.Blacklist) {
		p, ok := e.ID.Prefix()
		if !ok || !p.Contains(a) {
			continue
		}
		end := compile.Never
		if !e.Expires.IsZero() {
			end = e.Expires.Unix()
		}
		if end > until || end == until && (p.Bits() > bits || p.Bits() == bits && e.Source < source) {
			until, source, bits = end, e.Source, p.Bits()
		}
	}
	return until, source
}

func covers(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// TestApplySteps shows the order of steps where it matters.
func TestApplySteps(t *testing.T) {
	black := func(p string) *lists.Entry { e := entry(lists.Blacklist, lists.Manual, p, 0); return &e }
	white := func(p string) *lists.Entry { e := entry(lists.Whitelist, lists.Manual, p, 0); return &e }
	both := compile.Cell{PassUntil: compile.Never, DropUntil: compile.Never, Source: lists.Manual}
	drop := compile.Cell{DropUntil: compile.Never, Source: lists.Manual}
	pass := compile.Cell{PassUntil: compile.Never}
	table := compile.New()
	for _, step := range []struct {
		change lists.Change
		want   []compile.Rule
	}{
		{lists.Change{After: black("10.0.0.0/8")}, []compile.Rule{{Prefix: prefix("10.0.0.0/8"), Cell: drop, New: true}}},
		{lists.Change{After: white("10.1.0.0/16")}, []compile.Rule{{Prefix: prefix("10.1.0.0/16"), Cell: both, New: true}}},
		{lists.Change{After: black("10.1.2.3")}, []compile.Rule{{Prefix: prefix("10.1.2.3/32"), Cell: both, New: true}}},
		// What lies below is rewritten before the prefix around it goes.
		{lists.Change{Before: black("10.0.0.0/8")}, []compile.Rule{
			{Prefix: prefix("10.1.0.0/16"), Cell: pass}, {Prefix: prefix("10.0.0.0/8"), Remove: true},
		}},
		{lists.Change{Before: white("10.1.0.0/16")}, []compile.Rule{
			{Prefix: prefix("10.1.2.3/32"), Cell: drop}, {Prefix: prefix("10.1.0.0/16"), Remove: true},
		}},
		{lists.Change{Before: black("10.9.9.9")}, nil}, // was not there
		{lists.Change{After: black("10.1.2.3")}, nil},  // was there
	} {
		if got := table.Apply([]lists.Change{step.change}); !slices.Equal(got, step.want) {
			t.Errorf("%s: got\n%+v, want\n%+v", show(step.change), got, step.want)
		}
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func show(c lists.Change) string {
	if c.After != nil {
		return fmt.Sprintf("add %v", c.After.Key)
	}
	return fmt.Sprintf("delete %v", c.Before.Key)
}

// TestMapped: IPv4-mapped prefixes and addresses belong to IPv4; wider ones do not cover it.
func TestMapped(t *testing.T) {
	table := compile.New()
	b := lists.NewBuilder(nil)
	b.Put(entry(lists.Blacklist, lists.Manual, "::/0", 0))
	table.Reset(b.Snapshot(1), []netip.Prefix{prefix("::ffff:192.0.2.7/120"), {}})
	now := time.Unix(5, 0)
	for a, want := range map[string]lists.Verdict{
		"192.0.2.9": lists.PassWhitelisted, "::ffff:192.0.2.9": lists.PassWhitelisted,
		"::ffff:10.0.0.1": lists.Pass, "10.0.0.1": lists.Pass, "2001:db8::1": lists.Drop,
	} {
		if got, _ := table.Lookup(netip.MustParseAddr(a), now); got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
	if v4, v6 := table.Len(); v4 != 1 || v6 != 1 {
		t.Errorf("Len is %d, %d", v4, v6)
	}
}

// TestPassOnly: where somebody else acts on the blacklist, a table holds what passes and nothing else.
func TestPassOnly(t *testing.T) {
	white, black := entry(lists.Whitelist, lists.Manual, "10.1.0.0/16", 0), entry(lists.Blacklist, lists.Manual, "10.0.0.0/8", 0)
	later := entry(lists.Blacklist, lists.ABS, "10.1.2.3", 0)
	b := lists.NewBuilder(nil)
	b.Put(white)
	b.Put(black)
	table := compile.New()
	table.PassOnly = true
	table.Reset(b.Snapshot(1), nil)
	if rules := table.Apply([]lists.Change{{After: &later}, {Before: &black}, {Before: &later}}); len(rules) != 0 {
		t.Errorf("changes of the blacklist came to %v", rules)
	}
	got := maps.Collect(table.All())
	if want := (compile.Cell{PassUntil: compile.Never}); len(got) != 1 || got[prefix("10.1.0.0/16")] != want {
		t.Errorf("table holds %v", got)
	}
}
