package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/portcullis/portcullis/userspace/control"
)

var sameRates = cmp.Options{cmp.AllowUnexported(entryRate{}, sourceRate{}), cmpopts.SortSlices(func(a, b entryRate) bool { return a.PPS < b.PPS }),
	cmpopts.SortSlices(func(a, b sourceRate) bool { return a.PPS < b.PPS })}

// TestTallyEstimates: a sample stands for those that were dropped without one.
func TestTallyEstimates(t *testing.T) {
	tl := newTally()
	now := tl.since.Add(2 * time.Second)
	tl.add(control.Drop{Entry: "10.0.0.0/8", EntrySource: "manual", Packets: 10, Length: 100}, now)
	tl.add(control.Drop{Entry: "10.0.0.1", EntrySource: "decoy", Packets: 1, Length: 60}, now)
	tl.add(control.Drop{Entry: "10.0.0.0/8", EntrySource: "manual", Packets: 30, Length: 100}, now)
	sources, entries := tl.estimate(now)
	if d := cmp.Diff([]entryRate{{entryName{"10.0.0.0/8", "manual"}, amount{20, 16000}}, {entryName{"10.0.0.1", "decoy"}, amount{.5, 240}}}, entries, sameRates); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]sourceRate{{"manual", amount{20, 16000}}, {"decoy", amount{.5, 240}}}, sources, sameRates); d != "" {
		t.Error(d)
	}
	if sources, entries := tl.estimate(now.Add(time.Second)); len(sources)+len(entries) > 0 {
		t.Errorf("the next interval begins with %v, %v", sources, entries)
	}
}

// TestTallyExact: counts are compared with the ones before, also where they began anew, and added up over the prefixes of an
// entry.
func TestTallyExact(t *testing.T) {
	tl := newTally()
	at := time.Now()
	add := func(prefix string, hits control.Hits) {
		tl.add(control.Drop{Entry: "10.0.0.0/8", EntrySource: "manual", Prefix: prefix, Packets: 1000, Hits: &hits}, at)
	}
	add("10.0.0.0/8", control.Hits{Packets: 100, Bytes: 6000})
	add("10.1.0.0/16", control.Hits{Packets: 500, Bytes: 30000})
	add("10.1.0.0/16", control.Hits{Packets: 510, Bytes: 30600}) // the first is what to compare with
	add("10.2.0.0/16", control.Hits{Packets: 7, Bytes: 420})
	prefixes := []string{"10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"}
	got := tl.exact(prefixes, []control.Hits{{Packets: 140, Bytes: 8400}, {Packets: 20, Bytes: 1200}, {Packets: 7, Bytes: 420}}, at.Add(2*time.Second))
	if d := cmp.Diff([]entryRate{{entryName{"10.0.0.0/8", "manual"}, amount{30, 14400}}}, got, sameRates); d != "" {
		t.Error(d)
	}
	if n := len(tl.names()); n != 2 {
		t.Errorf("%d prefixes are kept, want the 2 that dropped something", n)
	}
	if sources, entries := tl.estimate(at.Add(2 * time.Second)); len(sources)+len(entries) > 0 {
		t.Error("samples were added to counts")
	}
}
