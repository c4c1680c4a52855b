package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

// packOf is an import of the entries of a batch.
func packOf(t testing.TB, b lists.Batch) lists.Batch {
	t.Helper()
	var p lists.Pack
	for _, op := range b.Ops {
		if err := p.Add(op.Entry); err != nil {
			t.Fatal(err)
		}
	}
	b.Ops = []lists.Operation{{Op: lists.OpImport, Pack: &p}}
	return b
}

// state is everything a snapshot holds, in order.
func state(s *lists.Snapshot) []lists.Entry {
	return slices.Concat(slices.Collect(s.Entries(lists.Whitelist)), slices.Collect(s.Entries(lists.Blacklist)))
}

// TestImportedEntriesAreLikeOthers gives random batches to two stores, one of which imports what the other adds, and
// opens them again and again: they hold the same.
func TestImportedEntriesAreLikeOthers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dirs := [2]string{t.TempDir(), t.TempDir()}
	var stores [2]*Store
	reopen := func() {
		for i, dir := range dirs {
			if stores[i] != nil {
				if err := stores[i].Close(); err != nil {
					t.Fatal(err)
				}
			}
			stores[i], _ = open(t, Options{Dir: dir})
		}
		if diff := cmp.Diff(state(stores[0].Snapshot()), state(stores[1].Snapshot())); diff != "" {
			t.Fatalf("(-added +imported):\n%s", diff)
		}
	}
	reopen()
	created := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	first := adds(0, 1000, lists.ABS)
	for i := range first.Ops {
		first.Ops[i].Entry.Created = created
	}
	apply(t, stores[0], first)
	apply(t, stores[1], packOf(t, first))
	if n := len(stores[1].db.filters.lists[1]); n < 2 {
		t.Fatalf("%d chunks were written", n)
	}
	for range 24 {
		b := randomAdds(rnd, created)
		switch {
		case len(b.Ops) > 0:
			apply(t, stores[0], b)
			apply(t, stores[1], packOf(t, b))
		case rnd.IntN(3) > 0:
			b = lists.Batch{By: "admin", Via: "cli"}
			for range 1 + rnd.IntN(5) {
				id := ipAt(rnd.IntN(5000))
				b.Ops = append(b.Ops, lists.Operation{Op: lists.OpDelete, List: lists.Blacklist, ID: id})
			}
			apply(t, stores[0], b)
			apply(t, stores[1], b)
		default:
			b := lists.Batch{Ops: []lists.Operation{{Op: lists.OpClearSources, List: lists.Blacklist, Sources: []lists.Source{lists.Decoy}}}}
			apply(t, stores[0], b)
			apply(t, stores[1], b)
		}
		if diff := cmp.Diff(state(stores[0].Snapshot()), state(stores[1].Snapshot())); diff != "" {
			t.Fatalf("(-added +imported):\n%s", diff)
		}
		if rnd.IntN(4) == 0 {
			reopen()
		}
	}
	clear := lists.Batch{Ops: []lists.Operation{{Op: lists.OpClear, List: lists.Blacklist}}}
	apply(t, stores[0], clear)
	apply(t, stores[1], clear)
	reopen()
}

// randomAdds are up to 900 adds of either list, some of them twice, or none.
func randomAdds(rnd *rand.Rand, created time.Time) lists.Batch {
	b := lists.Batch{By: "admin", Via: "cli"}
	if rnd.IntN(2) == 0 {
		return b
	}
	seen := map[lists.Key]bool{}
	for range rnd.IntN(900) {
		e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: ipAt(rnd.IntN(5000))}, Created: created}
		switch rnd.IntN(10) {
		case 0:
			e.Source = lists.Decoy
		case 1:
			e.ID = lists.ID{Kind: lists.KindCookie, Name: "S", Value: fmt.Sprint(rnd.IntN(50))}
		case 2:
			e.List, e.Reason = lists.Whitelist, "ours"
		case 3:
			e.ID, _ = lists.PrefixID(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(rnd.IntN(256)), 15: 1}), 64+rnd.IntN(65)))
			e.Expires = created.Add(48 * time.Hour)
		}
		if !seen[e.Key] {
			seen[e.Key] = true
			b.Ops = append(b.Ops, lists.Operation{Op: lists.OpAdd, Entry: e})
		}
	}
	return b
}

// TestImportIsOneEvent: a generation and an event, however many entries.
func TestImportIsOneEvent(t *testing.T) {
	s, _ := open(t, Options{Dir: t.TempDir()})
	apply(t, s, adds(0, 10, lists.Manual))
	before := s.Snapshot().Generation()
	b := packOf(t, adds(5, 1000, lists.Manual))
	r := apply(t, s, b)
	want := lists.Result{Generation: before + 1, Outcomes: []lists.Outcome{lists.Added}, Counts: []int{995}, Imported: lists.Imported{Added: 995, Unchanged: 5}}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for e, err := range s.History(context.Background(), 1) {
		if err != nil || e.Op != lists.OpImport || e.Count != 995 || e.Note != "blacklist 995 added, 0 updated" || e.By != "abs" {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if r := apply(t, s, b); r.Generation != before+1 || r.Outcomes[0] != lists.Unchanged || r.Imported.Unchanged != 1000 {
		t.Errorf("the same again: %+v", r)
	}
}

// TestDatabaseOfVersion1 is read, and upgraded at once.
func TestDatabaseOfVersion1(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, Options{Dir: dir})
	apply(t, s, adds(0, 100, lists.Manual))
	want := state(s.Snapshot())
	m := s.db.meta
	settings := `{"firewall":true,"abs":false,"abs_attack":false,"ase_detected_attack":false,"audit":true,"log_level":"info"}`
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	m = s.db.meta // with the time of closing
	tamper(t, s.path, fmt.Sprintf(`DROP TABLE whitelist_bulk; DROP TABLE blacklist_bulk; ALTER TABLE meta DROP COLUMN key_id; PRAGMA user_version=1;
		UPDATE meta SET schema=1, settings='%s', sum=%d`, settings, m.checksum(1, settings)))
	s, _ = open(t, Options{Dir: dir})
	if s.Status().Degraded != "" || s.db.version != schemaVersion {
		t.Fatalf("version %d, degraded: %q", s.db.version, s.Status().Degraded)
	}
	if diff := cmp.Diff(want, state(s.Snapshot())); diff != "" {
		t.Fatal(diff)
	}
	apply(t, s, packOf(t, adds(50, 1000, lists.Manual)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = open(t, Options{Dir: dir})
	if n := s.Snapshot().Len(lists.Blacklist); n != 1050 || s.Status().Degraded != "" || s.db.version != schemaVersion {
		t.Errorf("%d entries, version %d, degraded: %q", n, s.db.version, s.Status().Degraded)
	}
}

// TestImportedEntriesEnd: what was imported with an end is removed when it comes, and survives in copies until then.
func TestImportedEntriesEnd(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, Options{Dir: dir})
	b := adds(0, 30_000, lists.Manual)
	end := s.Clock().Now().Add(time.Hour)
	for i := range b.Ops {
		if i%3 > 0 {
			b.Ops[i].Entry.Expires = end
		}
	}
	apply(t, s, packOf(t, b))
	want := state(s.Snapshot())
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tamper(t, s.path, "UPDATE blacklist_bulk SET sum = sum + 1 WHERE seq > 5000 AND seq < 9000")
	s, _ = open(t, Options{Dir: dir})
	if s.Status().Degraded == "" {
		t.Fatal("a damaged chunk was read")
	}
	if diff := cmp.Diff(want, state(s.Snapshot())); diff != "" {
		t.Fatalf("from the copy (-want +got):\n%s", diff)
	}

	start := time.Now()
	for rest := 30_000; rest > 10_000; {
		a := lists.ExpireDue(s.Snapshot(), end.Add(time.Second), maxExpire)
		if err := s.write([]work{{a, lists.Batch{By: "portcullis", Via: viaExpiry}, end}}); err != nil {
			t.Fatal(err)
		}
		if now := s.Snapshot().Len(lists.Blacklist); now >= rest {
			t.Fatalf("%d entries, before %d", now, rest)
		} else {
			rest = now
		}
	}
	t.Logf("20,000 of 30,000 removed in %v", time.Since(start))
	want = state(s.Snapshot())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = open(t, Options{Dir: dir})
	if got := state(s.Snapshot()); len(got) != 10_000 || !cmp.Equal(want, got) {
		t.Errorf("%d entries after opening", len(got))
	}
}

// TestImportMillion prints what an import of a million addresses costs the store.
func TestImportMillion(t *testing.T) {
	const n = 1_000_000
	dir := t.TempDir()
	s, _ := open(t, Options{Dir: dir})
	rnd := rand.New(rand.NewPCG(1, 2))
	start := time.Now()
	var p lists.Pack
	for range n {
		v := rnd.Uint32()
		e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual}}
		if err := p.AddPrefix(e, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), 32)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("pack: %v, %d bytes", time.Since(start), p.Size())
	b := lists.Batch{By: "admin", Via: "cli", Ops: []lists.Operation{{Op: lists.OpImport, Pack: &p}}}
	start = time.Now()
	if _, err := lists.ApplyOps(s.Snapshot(), b, time.Now()); err != nil {
		t.Fatal(err)
	}
	t.Logf("work out: %v", time.Since(start))
	runtime.GC()
	start = time.Now()
	r := apply(t, s, b)
	took := time.Since(start)
	t.Logf("work out and write: %v, database %d KB, %+v", took, s.Status().DatabaseSize>>10, r.Imported)
	if took > 10*time.Second {
		t.Errorf("import took %v", took)
	}
	one := slices.Collect(p.All())[n/2].ID
	start = time.Now()
	apply(t, s, lists.Batch{By: "admin", Via: "cli", Ops: []lists.Operation{{Op: lists.OpDelete, List: lists.Blacklist, ID: one}}})
	t.Logf("delete one of it: %v", time.Since(start))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	s, _ = open(t, Options{Dir: dir})
	t.Logf("open: %v", time.Since(start))
	if got := s.Snapshot().Len(lists.Blacklist); got != r.Imported.Added-1 {
		t.Errorf("%d entries after opening, want %d", got, r.Imported.Added-1)
	}
}
