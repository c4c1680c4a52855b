package lists

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func blackIP(value string, expires time.Time) Entry {
	return Entry{Key: Key{Blacklist, Manual, ID{KindIP, "", value}}, Expires: expires}
}

func mustApply(t *testing.T, base *Snapshot, now time.Time, ops ...Operation) Applied {
	t.Helper()
	a, err := ApplyOps(base, Batch{Ops: ops, By: "admin"}, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestApplyOpsExpired: what is past its end counts as absent, whether or not it was removed.
func TestApplyOpsExpired(t *testing.T) {
	short, long := blackIP("1.1.1.1", noon.Add(time.Minute)), blackIP("2.2.2.2", time.Time{})
	base := mustApply(t, nil, noon, Operation{Op: OpAdd, Entry: short}, Operation{Op: OpAdd, Entry: long}).Next
	later := noon.Add(time.Minute)

	a := mustApply(t, base, later, Operation{Op: OpDelete, List: Blacklist, ID: short.ID})
	if a.Result.Outcomes[0] != NotFound || a.Next != base || a.Steps != nil {
		t.Errorf("delete: %+v", a)
	}
	short.Expires = later.Add(time.Hour)
	a = mustApply(t, base, later, Operation{Op: OpAdd, Entry: short})
	if a.Result.Outcomes[0] != Added || a.Result.Counts[0] != 1 || len(a.Changes) != 2 || a.Changes[0].After != nil || a.Changes[1].Before != nil {
		t.Errorf("add: %+v", a)
	}
	got := slices.Collect(a.Next.Entries(Blacklist))
	if len(got) != 2 || got[1].ID != short.ID || !got[1].Created.Equal(later) {
		t.Errorf("an entry that comes again is not a new one at the end: %v", got)
	}
	// An ended entry of one source goes with a living one of another.
	decoy := blackIP("1.1.1.1", time.Time{})
	decoy.Source = Decoy
	a = mustApply(t, base, later, Operation{Op: OpAdd, Entry: decoy}, Operation{Op: OpDelete, List: Blacklist, ID: decoy.ID})
	if a.Result.Outcomes[1] != Deleted || a.Result.Counts[1] != 1 || a.Next.Len(Blacklist) != 1 {
		t.Errorf("delete of both: %+v", a.Result)
	}
	if _, err := ApplyOps(base, Batch{Ops: []Operation{{Op: OpAdd, Entry: blackIP("3.3.3.3", later)}}}, later); err == nil {
		t.Error("an entry that ends now was accepted")
	}
	// Fractions of a second never shorten an entry.
	a = mustApply(t, base, later, Operation{Op: OpAdd, Entry: blackIP("3.3.3.3", later.Add(time.Nanosecond))})
	if e, _ := a.Next.Get(blackIP("3.3.3.3", later).Key); !e.Expires.Equal(later.Add(time.Second)) {
		t.Errorf("ends %v", e.Expires)
	}
}

func TestExpireDue(t *testing.T) {
	var ops []Operation
	for i := range 1000 {
		ops = append(ops, Operation{Op: OpAdd, Entry: blackIP(fmt.Sprintf("10.0.%d.%d", i>>8, i&255), noon.Add(time.Duration(1+i)*time.Second))})
	}
	white := blackIP("9.9.9.9", noon.Add(time.Second))
	white.List = Whitelist
	base := mustApply(t, nil, noon, append(ops, Operation{Op: OpAdd, Entry: white})...).Next
	if a := ExpireDue(base, noon, 100); a.Next != base || a.Steps != nil {
		t.Errorf("too early: %d", len(a.Steps))
	}
	a := ExpireDue(base, noon.Add(300*time.Second), 1000)
	if len(a.Steps) != 301 || len(a.Changes) != 301 || a.Next.Len(Blacklist) != 700 || a.Next.Len(Whitelist) != 0 || a.Next.Generation() != 2 || base.Len(Blacklist) != 1000 {
		t.Errorf("%d steps, %d left", len(a.Steps), a.Next.Len(Blacklist))
	}
	if a := ExpireDue(base, noon.Add(time.Hour), 10); len(a.Steps) != 10 {
		t.Errorf("%d steps, the limit is 10", len(a.Steps))
	}
}

// TestApplyOpsWhole: a big clear is not listed, but what is added beside it is, so that a guard sees it.
func TestApplyOpsWhole(t *testing.T) {
	b := NewBuilder(nil)
	for i := range maxListed + 1 {
		b.Put(blackIP(fmt.Sprintf("10.0.%d.%d", i>>8, i&255), time.Time{}))
	}
	base := b.Snapshot(7)
	for _, clear := range []Operation{{Op: OpClear, List: Blacklist}, {Op: OpClearSources, List: Blacklist, Sources: []Source{Manual, ABS}}} {
		a := mustApply(t, base, noon, clear, Operation{Op: OpAdd, Entry: blackIP("0.0.0.0/0", time.Time{})})
		if !a.Whole || len(a.Changes) != 1 || a.Changes[0].After.ID.Value != "0.0.0.0/0" || a.Result.Counts[0] != maxListed+1 || a.Next.Len(Blacklist) != 1 || len(a.Steps) != 2 {
			t.Errorf("%v: whole %v, changes %v", clear.Op, a.Whole, a.Changes)
		}
	}
	a := mustApply(t, base, noon, Operation{Op: OpDelete, List: Blacklist, ID: ID{KindIP, "", "10.0.0.0"}}, Operation{Op: OpClear, List: Blacklist})
	if a.Whole || len(a.Changes) != maxListed+1 || a.Result.Counts[1] != maxListed {
		t.Errorf("a clear of %d: whole %v, %d changes", maxListed, a.Whole, len(a.Changes))
	}
}

func TestSettingsDiff(t *testing.T) {
	old := DefaultSettings()
	next := Settings{ABS: true, Audit: true, LogLevel: "debug"}
	if got := next.diff(old); got != "firewall disabled, abs enabled, log_level debug" {
		t.Error(got)
	}
	if got := old.diff(next); got != "firewall enabled, abs disabled, log_level info" {
		t.Error(got)
	}
}
