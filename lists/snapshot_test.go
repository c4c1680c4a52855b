package lists

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// model is a snapshot as one would write it on paper: entries in order, searched from the front.
type model struct {
	entries  []Entry
	settings Settings
}

func (m *model) put(e Entry) (Entry, bool) {
	if i := m.index(e.Key); i >= 0 {
		before := m.entries[i]
		m.entries[i] = e
		return before, true
	}
	m.entries = append(m.entries, e)
	return Entry{}, false
}

func (m *model) index(k Key) int {
	return slices.IndexFunc(m.entries, func(e Entry) bool { return e.Key == k })
}

func (m *model) delete(k Key) (Entry, bool) {
	if i := m.index(k); i >= 0 {
		before := m.entries[i]
		m.entries = slices.Delete(slices.Clone(m.entries), i, i+1)
		return before, true
	}
	return Entry{}, false
}

func (m *model) clear(l List, sources ...Source) int {
	n := len(m.entries)
	m.entries = slices.DeleteFunc(slices.Clone(m.entries), func(e Entry) bool {
		return e.List == l && (len(sources) == 0 || slices.Contains(sources, e.Source))
	})
	return n - len(m.entries)
}

func (m *model) filter(f func(Entry) bool) []Entry {
	var out []Entry
	for _, e := range m.entries {
		if f(e) {
			out = append(out, e)
		}
	}
	return out
}

func (m *model) clone() *model { return &model{slices.Clone(m.entries), m.settings} }

// check compares every question a snapshot answers.
func (m *model) check(t interface{ Fatalf(string, ...any) }, s *Snapshot) {
	if s.Settings() != m.settings {
		t.Fatalf("settings %+v, want %+v", s.Settings(), m.settings)
	}
	for _, l := range []List{Whitelist, Blacklist} {
		want := m.filter(func(e Entry) bool { return e.List == l })
		if diff := cmp.Diff(want, slices.Collect(s.Entries(l))); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", l, diff)
		}
		if s.Len(l) != len(want) {
			t.Fatalf("Len(%s) = %d, want %d", l, s.Len(l), len(want))
		}
		families := map[bool]map[ID]bool{true: {}, false: {}}
		for _, e := range want {
			if p, ok := e.ID.Prefix(); ok {
				families[p.Addr().Is4()][e.ID] = true
			}
		}
		if v4, v6 := s.LenPrefixes(l); v4 != len(families[true]) || v6 != len(families[false]) {
			t.Fatalf("LenPrefixes(%s) = %d, %d, want %d, %d", l, v4, v6, len(families[true]), len(families[false]))
		}
		for _, src := range Sources() {
			section := m.filter(func(e Entry) bool { return e.List == l && e.Source == src })
			if diff := cmp.Diff(section, slices.Collect(s.Section(l, src))); diff != "" || s.LenSource(l, src) != len(section) {
				t.Fatalf("section %s, LenSource %d (-want +got):\n%s", src, s.LenSource(l, src), diff)
			}
		}
	}
	for _, now := range []int64{0, 250, 500, 1000} {
		due := m.filter(func(e Entry) bool { return e.Expired(time.Unix(now, 0)) })
		slices.SortStableFunc(due, func(a, b Entry) int { return int(a.List) - int(b.List) })
		if diff := cmp.Diff(due, slices.Collect(s.Due(time.Unix(now, 0)))); diff != "" {
			t.Fatalf("Due(%d) (-want +got):\n%s", now, diff)
		}
	}
	for _, e := range m.entries {
		if got, ok := s.Get(e.Key); !ok || got != e {
			t.Fatalf("Get(%v) = %v, %v", e.Key, got, ok)
		}
		want := m.filter(func(o Entry) bool { return o.List == e.List && o.ID == e.ID })
		slices.SortFunc(want, func(a, b Entry) int { return int(a.Source) - int(b.Source) })
		if diff := cmp.Diff(want, s.Find(e.List, e.ID)); diff != "" {
			t.Fatalf("Find(%v) (-want +got):\n%s", e.ID, diff)
		}
	}
}

// drawEntry draws from few identifiers, so that they meet again.
func drawEntry(t *rapid.T) Entry {
	e := Entry{Created: time.Unix(rapid.Int64Range(0, 1000).Draw(t, "created"), 0).UTC(), By: "admin"}
	e.List = rapid.SampledFrom([]List{Whitelist, Blacklist, Blacklist}).Draw(t, "list")
	e.Source = Manual
	if e.List == Blacklist {
		e.Source = rapid.SampledFrom(Sources()).Draw(t, "source")
	}
	if rapid.Bool().Draw(t, "ends") {
		e.Expires = time.Unix(rapid.Int64Range(1, 1000).Draw(t, "expires"), 0).UTC()
	}
	e.Reason = rapid.SampledFrom([]string{"", "probing", "flood"}).Draw(t, "reason")
	e.ID = drawID(t)
	return e
}

func drawID(t *rapid.T) ID {
	n := rapid.IntRange(1, 10).Draw(t, "n")
	switch kind := rapid.SampledFrom([]Kind{KindIP, KindIP, KindCookie, KindToken, KindAPIKey, KindUsername}).Draw(t, "kind"); kind {
	case KindIP:
		return ID{Kind: kind, Value: rapid.SampledFrom([]string{
			fmt.Sprintf("10.0.0.%d", n), fmt.Sprintf("10.%d.0.0/16", n), fmt.Sprintf("2001:db8::%x", n), fmt.Sprintf("2001:db8:%x::/48", n), "0.0.0.0/0", "::/0",
		}).Draw(t, "ip")}
	case KindCookie, KindAPIKey:
		return ID{kind, fmt.Sprintf("name%d", n%2), fmt.Sprintf("value%d", n)}
	default:
		return ID{Kind: kind, Value: fmt.Sprintf("value%d", n)}
	}
}

// TestSnapshotModel builds generation upon generation and holds each of them, and all earlier ones, to the model.
func TestSnapshotModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var snap *Snapshot
		m := &model{}
		var olds []*Snapshot
		var oldModels []*model
		for g := range rapid.IntRange(1, 6).Draw(t, "generations") {
			b := NewBuilder(snap)
			for range rapid.IntRange(0, 30).Draw(t, "steps") {
				step(t, b, m)
			}
			snap = b.Snapshot(uint64(g + 1))
			if snap.Generation() != uint64(g+1) {
				t.Fatalf("generation %d, want %d", snap.Generation(), g+1)
			}
			olds, oldModels = append(olds, snap), append(oldModels, m.clone())
			for i := range olds {
				oldModels[i].check(t, olds[i])
			}
		}
	})
}

func step(t *rapid.T, b *Builder, m *model) {
	e := drawEntry(t)
	switch rapid.IntRange(0, 9).Draw(t, "step") {
	case 0, 1, 2, 3, 4, 5:
		want, wantOK := m.put(e)
		if got, ok := b.Put(e); got != want || ok != wantOK {
			t.Fatalf("Put(%v) = %v, %v; want %v, %v", e, got, ok, want, wantOK)
		}
	case 6, 7:
		want, wantOK := m.delete(e.Key)
		if got, ok := b.Delete(e.Key); got != want || ok != wantOK {
			t.Fatalf("Delete(%v) = %v, %v; want %v, %v", e.Key, got, ok, want, wantOK)
		}
	case 8:
		var sources []Source
		if rapid.Bool().Draw(t, "some") {
			sources = []Source{e.Source, Decoy}
		}
		if got, want := b.Clear(e.List, sources...), m.clear(e.List, sources...); got != want {
			t.Fatalf("Clear(%v, %v) = %d, want %d", e.List, sources, got, want)
		}
	case 9:
		m.settings.LogLevel = e.Reason
		b.Set(m.settings)
	}
}

// TestSnapshotGrowth reaches what small models do not: many pages, split shards, holes and rebuilding.
func TestSnapshotGrowth(t *testing.T) {
	const n = 20_000
	b := NewBuilder(nil)
	entry := func(i int) Entry {
		e := Entry{Key: Key{Blacklist, Sources()[i%7], ID{KindToken, "", fmt.Sprint("token", i/7)}}, Created: time.Unix(int64(i), 0).UTC()}
		if i%2 == 0 {
			e.ID = ID{KindIP, "", fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)}
		}
		return e
	}
	for i := range n {
		b.Put(entry(i))
	}
	full := b.Snapshot(1)
	// Delete all but every tenth, a few in each generation, then everything.
	snap := full
	for i := 0; i < n; {
		b := NewBuilder(snap)
		for range 500 {
			if i%10 != 0 {
				if before, ok := b.Delete(entry(i).Key); !ok || before != entry(i) {
					t.Fatalf("Delete %d: %v, %v", i, before, ok)
				}
			}
			i++
		}
		snap = b.Snapshot(snap.Generation() + 1)
	}
	want := &model{}
	for i := 0; i < n; i += 10 {
		want.entries = append(want.entries, entry(i))
	}
	want.check(t, snap)
	if got := snap.tables[1].slots; got > 3*snap.Len(Blacklist)+64*pageLen {
		t.Errorf("%d slots for %d entries: holes are not reclaimed", got, snap.Len(Blacklist))
	}
	i := 0
	for e := range full.Entries(Blacklist) {
		if e != entry(i) {
			t.Fatalf("entry %d of the first snapshot is %v now", i, e)
		}
		if _, ok := full.Get(e.Key); !ok {
			t.Fatalf("entry %d of the first snapshot is not found any more", i)
		}
		i++
	}
	if i != n {
		t.Fatalf("the first snapshot yields %d entries now", i)
	}
}

// TestSnapshotConcurrent lets readers look at a snapshot while the next ones are made (the race detector watches).
func TestSnapshotConcurrent(t *testing.T) {
	b := NewBuilder(nil)
	for i := range 2000 {
		b.Put(Entry{Key: Key{Blacklist, Manual, ID{KindIP, "", fmt.Sprintf("10.0.%d.%d", i>>8, i&255)}}})
	}
	base := b.Snapshot(1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				n := 0
				for e := range base.Entries(Blacklist) {
					if _, ok := base.Get(e.Key); ok {
						n++
					}
				}
				if n != 2000 {
					t.Errorf("a reader saw %d entries", n)
				}
			}
		})
	}
	wg.Go(func() {
		snap := base
		for i := range 2000 {
			b := NewBuilder(snap)
			b.Delete(Key{Blacklist, Manual, ID{KindIP, "", fmt.Sprintf("10.0.%d.%d", i>>8, i&255)}})
			b.Put(Entry{Key: Key{Blacklist, ABS, ID{KindIP, "", fmt.Sprintf("10.1.%d.%d", i>>8, i&255)}}})
			snap = b.Snapshot(snap.Generation() + 1)
		}
		if snap.Len(Blacklist) != 2000 || snap.LenSource(Blacklist, ABS) != 2000 {
			t.Errorf("the writer ended with %d", snap.Len(Blacklist))
		}
	})
	wg.Wait()
}

// TestSnapshotZero: a snapshot nobody made answers like an empty one.
func TestSnapshotZero(t *testing.T) {
	var s Snapshot
	k := Key{Blacklist, Manual, ID{KindIP, "", "1.1.1.1"}}
	if _, ok := s.Get(k); ok || s.Find(Blacklist, k.ID) != nil || s.Len(9) != 0 || s.LenSource(Blacklist, 99) != 0 || s.Generation() != 0 {
		t.Error("the zero snapshot holds something")
	}
	for e := range s.Section(0, 0) {
		t.Error(e)
	}
	if next := NewBuilder(&s).Snapshot(1); next.Len(Blacklist) != 0 {
		t.Error("something came from nothing")
	}
}

// million returns a snapshot of n IP entries of which some share reason and comment.
func million(n int) *Snapshot {
	b := NewBuilder(nil)
	for i := range n {
		b.Put(Entry{Key: Key{Blacklist, ABS, ID{KindIP, "", fmt.Sprintf("%d.%d.%d.%d", i>>24+11, i>>16&255, i>>8&255, i&255)}},
			Created: time.Unix(1, 0), Expires: time.Unix(1e10, 0), Reason: "data exfiltration", By: "abs"})
	}
	return b.Snapshot(1)
}

// TestSnapshotMemory holds a million IP entries to 200 bytes each, all in.
func TestSnapshotMemory(t *testing.T) {
	const n = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	s := million(n)
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%d IP entries: built in %v, %.1f bytes each", s.Len(Blacklist), took, each)
	if each > 200 {
		t.Errorf("an entry takes %.1f bytes", each)
	}
	runtime.KeepAlive(s)
}

func BenchmarkPutAmongMillion(b *testing.B) {
	s := million(1_000_000)
	e := Entry{Key: Key{Blacklist, Manual, ID{KindIP, "", "1.2.3.4"}}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e.ID.Value = fmt.Sprintf("1.%d.%d.%d", i>>16&255, i>>8&255, i&255)
		next := NewBuilder(s)
		next.Put(e)
		s = next.Snapshot(s.Generation() + 1)
	}
}

func BenchmarkBuildMillion(b *testing.B) {
	for b.Loop() {
		million(1_000_000)
	}
}

func BenchmarkEntriesMillion(b *testing.B) {
	s := million(1_000_000)
	for b.Loop() {
		for range s.Entries(Blacklist) {
		}
	}
}
