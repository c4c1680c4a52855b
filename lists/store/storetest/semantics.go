package storetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

func ip(value string) lists.ID { return lists.ID{Kind: lists.KindIP, Value: value} }

func entry(l lists.List, src lists.Source, id lists.ID) lists.Entry {
	return lists.Entry{Key: lists.Key{List: l, Source: src, ID: id}}
}

func add(entries ...lists.Entry) lists.Batch {
	b := lists.Batch{By: "admin", Via: "cli"}
	for _, e := range entries {
		b.Ops = append(b.Ops, lists.Operation{Op: lists.OpAdd, Entry: e})
	}
	return b
}

func one(op lists.Operation) lists.Batch {
	return lists.Batch{By: "admin", Via: "cli", Ops: []lists.Operation{op}}
}

// apply applies a batch that must succeed, with these outcomes and counts, and looks at the generation.
func apply(t *testing.T, s Store, b lists.Batch, outcomes []lists.Outcome, counts []int) lists.Result {
	t.Helper()
	before := s.Snapshot().Generation()
	r, err := s.Apply(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(outcomes, r.Outcomes); diff != "" {
		t.Fatalf("outcomes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(counts, r.Counts); diff != "" {
		t.Fatalf("counts (-want +got):\n%s", diff)
	}
	want := before
	for i, o := range outcomes {
		if o == lists.Added || o == lists.Replaced || o == lists.Deleted || o == lists.Changed || o == lists.Cleared && counts[i] > 0 {
			want = before + 1
		}
	}
	if got := s.Snapshot().Generation(); r.Generation != want || got != want || s.Status().Generation != want {
		t.Fatalf("generation: result %d, snapshot %d, status %d; want %d", r.Generation, got, s.Status().Generation, want)
	}
	return r
}

// holds compares the list with entries in order; times are not looked at.
func holds(t *testing.T, s Store, l lists.List, want ...lists.Entry) {
	t.Helper()
	got := slices.Collect(s.Snapshot().Entries(l))
	for i := range got {
		got[i].Created = time.Time{}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", l, diff)
	}
	if n := s.Status().Entries[l]; n != len(want) {
		t.Fatalf("status counts %d entries, want %d", n, len(want))
	}
}

func testNew(t *testing.T, s Store) {
	snap := s.Snapshot()
	if snap.Generation() == 0 || snap.Settings() != lists.DefaultSettings() || snap.Len(lists.Whitelist)+snap.Len(lists.Blacklist) != 0 {
		t.Fatalf("a new store has generation %d, settings %+v", snap.Generation(), snap.Settings())
	}
	if st := s.Status(); st.Degraded != "" || st.LastError != "" {
		t.Fatalf("a new store is degraded: %+v", st)
	}
}

func testAdd(t *testing.T, s Store) {
	start := time.Now().Add(-2 * time.Second)
	e := entry(lists.Blacklist, lists.Manual, ip("1.1.1.1"))
	apply(t, s, add(e), []lists.Outcome{lists.Added}, []int{1})
	e.By = "admin"
	holds(t, s, lists.Blacklist, e)
	holds(t, s, lists.Whitelist)
	if got := s.Snapshot().Find(lists.Blacklist, e.ID)[0].Created; got.Before(start) || got.After(time.Now().Add(2*time.Second)) {
		t.Errorf("created %v", got)
	}
	apply(t, s, add(e), []lists.Outcome{lists.Unchanged}, []int{0})

	// Another source is another entry of the same identifier; the whitelist is another list.
	decoy := entry(lists.Blacklist, lists.Decoy, e.ID)
	decoy.By = "detect"
	apply(t, s, add(decoy, entry(lists.Whitelist, lists.Manual, e.ID)), []lists.Outcome{lists.Added, lists.Added}, []int{1, 1})
	holds(t, s, lists.Blacklist, e, decoy)
	if got := s.Snapshot().Find(lists.Blacklist, e.ID); len(got) != 2 || got[0].Source != lists.Manual || got[1].Source != lists.Decoy {
		t.Errorf("Find: %v", got)
	}
	// Twice in one batch: the second finds the first.
	twice := entry(lists.Blacklist, lists.Manual, ip("2001:db8::/32"))
	apply(t, s, add(twice, twice), []lists.Outcome{lists.Added, lists.Unchanged}, []int{1, 0})
}

func testReplace(t *testing.T, s Store) {
	first, second := entry(lists.Blacklist, lists.Manual, ip("1.1.1.1")), entry(lists.Blacklist, lists.Manual, ip("2.2.2.2"))
	first.Reason, first.Comment, first.By = "probing", "ticket 12", "alice"
	apply(t, s, add(first, second), []lists.Outcome{lists.Added, lists.Added}, []int{1, 1})
	created := s.Snapshot().Find(lists.Blacklist, first.ID)[0].Created
	second.By = "admin"

	again := entry(lists.Blacklist, lists.Manual, first.ID)
	again.Expires, again.By = time.Now().UTC().Truncate(time.Second).Add(time.Hour), "bob"
	apply(t, s, add(again), []lists.Outcome{lists.Replaced}, []int{0})
	want := first // place, who and texts stay
	want.Expires = again.Expires
	holds(t, s, lists.Blacklist, want, second)
	if got := s.Snapshot().Find(lists.Blacklist, first.ID)[0].Created; !got.Equal(created) {
		t.Errorf("created moved from %v to %v", created, got)
	}
	again.Reason = "flood"
	apply(t, s, add(again), []lists.Outcome{lists.Replaced}, []int{0})
	want.Reason = "flood"
	holds(t, s, lists.Blacklist, want, second)

	again.Expires = time.Time{}
	apply(t, s, add(again), []lists.Outcome{lists.Replaced}, []int{0})
	want.Expires = time.Time{}
	holds(t, s, lists.Blacklist, want, second)
}

func testDelete(t *testing.T, s Store) {
	id := lists.ID{Kind: lists.KindCookie, Name: "JSESSIONID", Value: "cookie_1.4"}
	manual, abs := entry(lists.Blacklist, lists.Manual, id), entry(lists.Blacklist, lists.ABS, id)
	white := entry(lists.Whitelist, lists.Manual, id)
	apply(t, s, add(manual, abs, white), []lists.Outcome{lists.Added, lists.Added, lists.Added}, []int{1, 1, 1})
	manual.By, abs.By, white.By = "admin", "admin", "admin"

	apply(t, s, one(lists.Operation{Op: lists.OpDeleteKey, Entry: abs}), []lists.Outcome{lists.Deleted}, []int{1})
	holds(t, s, lists.Blacklist, manual)
	apply(t, s, one(lists.Operation{Op: lists.OpDeleteKey, Entry: abs}), []lists.Outcome{lists.NotFound}, []int{0})
	apply(t, s, add(abs), []lists.Outcome{lists.Added}, []int{1})
	holds(t, s, lists.Blacklist, manual, abs)
	apply(t, s, one(lists.Operation{Op: lists.OpDelete, List: lists.Blacklist, ID: id}), []lists.Outcome{lists.Deleted}, []int{2})
	holds(t, s, lists.Blacklist)
	holds(t, s, lists.Whitelist, white)
	apply(t, s, one(lists.Operation{Op: lists.OpDelete, List: lists.Blacklist, ID: id}), []lists.Outcome{lists.NotFound}, []int{0})
	other := id
	other.Name = "other"
	apply(t, s, one(lists.Operation{Op: lists.OpDelete, List: lists.Whitelist, ID: other}), []lists.Outcome{lists.NotFound}, []int{0})
}

func testClear(t *testing.T, s Store) {
	manual, decoy := entry(lists.Blacklist, lists.Manual, ip("1.1.1.1")), entry(lists.Blacklist, lists.Decoy, ip("2.2.2.2"))
	white := entry(lists.Whitelist, lists.Manual, ip("1.1.1.1"))
	method := entry(lists.Blacklist, lists.Method, ip("1.1.1.1"))
	for _, e := range []*lists.Entry{&manual, &decoy, &white, &method} {
		e.By = "admin"
	}
	apply(t, s, add(manual, decoy, method, white), []lists.Outcome{lists.Added, lists.Added, lists.Added, lists.Added}, []int{1, 1, 1, 1})
	sources := lists.Operation{Op: lists.OpClearSources, List: lists.Blacklist, Sources: []lists.Source{lists.Decoy, lists.Method, lists.Decoy}}
	apply(t, s, one(sources), []lists.Outcome{lists.Cleared}, []int{2})
	holds(t, s, lists.Blacklist, manual)
	apply(t, s, one(sources), []lists.Outcome{lists.Cleared}, []int{0})
	sources.Sources = nil
	apply(t, s, one(sources), []lists.Outcome{lists.Cleared}, []int{0})
	holds(t, s, lists.Blacklist, manual)
	clear := lists.Operation{Op: lists.OpClear, List: lists.Blacklist}
	apply(t, s, one(clear), []lists.Outcome{lists.Cleared}, []int{1})
	holds(t, s, lists.Blacklist)
	holds(t, s, lists.Whitelist, white)
	// What follows a clear in the batch is there.
	b := one(clear)
	b.Ops = append(b.Ops, add(decoy).Ops...)
	apply(t, s, b, []lists.Outcome{lists.Cleared, lists.Added}, []int{0, 1})
	holds(t, s, lists.Blacklist, decoy)
}

func testSettings(t *testing.T, s Store) {
	off := one(lists.Operation{Op: lists.OpSet, Settings: func(s lists.Settings) lists.Settings { s.Firewall = false; return s }})
	apply(t, s, off, []lists.Outcome{lists.Changed}, []int{0})
	want := lists.DefaultSettings()
	want.Firewall = false
	if got := s.Snapshot().Settings(); got != want {
		t.Fatalf("settings %+v", got)
	}
	apply(t, s, off, []lists.Outcome{lists.Unchanged}, []int{0})
	apply(t, s, add(entry(lists.Blacklist, lists.Manual, ip("1.1.1.1"))), []lists.Outcome{lists.Added}, []int{1})
	if got := s.Snapshot().Settings(); got != want {
		t.Fatalf("settings %+v after an add", got)
	}
}

func testRefusals(t *testing.T, s Store) {
	good := entry(lists.Blacklist, lists.Manual, ip("1.1.1.1"))
	past, listless, sourceless, white, raw, long, control := good, good, good, good, good, good, good
	past.Expires = time.Now().Add(-time.Minute)
	listless.List = 0
	sourceless.Source = 99
	white.List, white.Source = lists.Whitelist, lists.ABS
	raw.ID.Value = "10.0.0.1/8"
	long.Comment = strings.Repeat("x", lists.MaxText+1)
	control.Reason = "a\nb"
	set := func(f func(lists.Settings) lists.Settings) lists.Batch {
		return one(lists.Operation{Op: lists.OpSet, Settings: f})
	}
	for name, b := range map[string]lists.Batch{
		"past end": add(past), "no list": add(listless), "no source": add(sourceless), "automatic whitelist": add(white),
		"not canonical": add(raw), "long comment": add(long), "control character": add(control), "no operation": one(lists.Operation{}),
		"nothing to set": set(nil), "log level": set(func(s lists.Settings) lists.Settings { s.LogLevel = "loud"; return s }),
		"no list to clear": one(lists.Operation{Op: lists.OpClear}), "nothing to delete": one(lists.Operation{Op: lists.OpDelete, List: lists.Blacklist}),
		"no source to clear": one(lists.Operation{Op: lists.OpClearSources, List: lists.Blacklist, Sources: []lists.Source{0}}),
	} {
		before := s.Snapshot()
		if r, err := s.Apply(context.Background(), b); !errors.Is(err, lists.ErrInvalid) || r.Outcomes != nil || s.Snapshot() != before {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func testAtomic(t *testing.T, s Store) {
	apply(t, s, add(entry(lists.Blacklist, lists.Manual, ip("1.1.1.1"))), []lists.Outcome{lists.Added}, []int{1})
	before := s.Snapshot()
	b := add(entry(lists.Blacklist, lists.Manual, ip("2.2.2.2")))
	b.Ops = append(b.Ops, lists.Operation{Op: lists.OpClear, List: lists.Blacklist})
	b.Ops = append(b.Ops, add(entry(lists.Blacklist, lists.Manual, ip("3.3.3.3/8"))).Ops...)
	_, err := s.Apply(context.Background(), b)
	if !errors.Is(err, lists.ErrInvalid) || !strings.Contains(err.Error(), "operation 3 of 3") {
		t.Fatalf("error %v", err)
	}
	if s.Snapshot() != before {
		t.Fatal("a refused batch changed something")
	}
	if r, err := s.Apply(context.Background(), lists.Batch{}); err != nil || r.Generation != before.Generation() || s.Snapshot() != before {
		t.Fatalf("an empty batch: %v, %v", r, err)
	}
}

func testCanceled(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// It may still be applied, but it must say what happened.
	_, err := s.Apply(ctx, add(entry(lists.Blacklist, lists.Manual, ip("1.1.1.1"))))
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := s.Snapshot().Len(lists.Blacklist); (n == 1) != (err == nil) {
		t.Fatalf("%d entries after %v", n, err)
	}
	if _, err := s.Watch(ctx, s.Snapshot().Generation()); !errors.Is(err, context.Canceled) {
		t.Fatalf("Watch: %v", err)
	}
}
