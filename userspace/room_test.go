package userspace

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestCheckRoom: an entry too many is refused; where there is too little room already, what takes none is not.
func TestCheckRoom(t *testing.T) {
	n := &node{config: Config{Capacity: 4, IdentifierCapacity: 1}}
	n.room.Store(2)
	on := lists.DefaultSettings()
	v4 := []lists.Entry{blackIP("192.0.2.1"), whiteIP("192.0.2.2"), blackIP("192.0.2.3")}
	v6 := blackIP("2001:db8::1")
	user := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindUsername, Value: "u"}}}
	longer := v4[0]
	longer.Reason = "scans"
	tests := []struct {
		name    string
		next    *lists.Snapshot
		changes []lists.Change
		refused bool
		ops     []lists.Operation
	}{
		{"big import that fits", snapshot(2, on, v4[:2]...), nil, false, []lists.Operation{{Op: lists.OpImport, Pack: packOf(t, v4[:1]...)}}},
		{"big import, one too many", snapshot(2, on, v4...), nil, true, []lists.Operation{{Op: lists.OpImport, Pack: packOf(t, v4[:1]...)}}},
		{"fits", snapshot(2, on, v4[:2]...), []lists.Change{{After: &v4[1]}}, false, nil},
		{"one too many", snapshot(2, on, v4...), []lists.Change{{After: &v4[2]}}, true, nil},
		{"too full, one deleted", snapshot(2, on, v4...), []lists.Change{{Before: &v6}}, false, nil},
		{"too full, switch or clear", snapshot(2, on, v4...), nil, false, nil},
		{"too full, replaced", snapshot(2, on, append(v4[1:], longer)...), []lists.Change{{Before: &v4[0], After: &longer}}, false, nil},
		{"too full, no address", snapshot(2, on, append(v4, user)...), []lists.Change{{After: &user}}, false, nil},
		{"too full, import of others", snapshot(2, on, append(v4, user)...), nil, false, []lists.Operation{{Op: lists.OpImport, Pack: packOf(t, user)}}},
		{"too full, deleted and added", snapshot(2, on, v4...), []lists.Change{{Before: &v6}, {After: &v4[2]}}, true, nil},
	}
	for _, tt := range tests {
		err := n.checkRoom(lists.Batch{Ops: tt.ops}, tt.next, tt.changes)
		if (err != nil) != tt.refused {
			t.Errorf("%s: %v", tt.name, err)
		}
		wire, ok := errors.AsType[*control.Error](err)
		if tt.refused && (!ok || !strings.Contains(wire.Message, "3 IPv4 entries and 2 protected addresses do not fit capacity = 4")) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func packOf(t *testing.T, entries ...lists.Entry) *lists.Pack {
	t.Helper()
	p := new(lists.Pack)
	for _, e := range entries {
		if err := p.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// fullNode is a node with a store of its own, that has no kernel and no room but for so many entries.
func fullNode(t *testing.T, capacity uint32) *node {
	t.Helper()
	n := &node{config: Config{Capacity: capacity, IdentifierCapacity: capacity}, log: slog.New(slog.DiscardHandler)}
	var err error
	if n.store, err = store.Open(store.Options{Dir: t.TempDir(), Check: n.checkRoom, Evict: n.evict}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) add(t *testing.T, entries ...lists.Entry) error {
	t.Helper()
	var ops []lists.Operation
	for _, e := range entries {
		ops = append(ops, add(e))
	}
	res, err := n.store.Apply(t.Context(), lists.Batch{Ops: ops, By: "detect", Via: "detect"})
	if err == nil && len(res.Outcomes) != len(ops) {
		t.Errorf("%d outcomes of %d operations", len(res.Outcomes), len(ops))
	}
	return err
}

// found is an entry of a detector that ends after so many minutes, 0: never.
func found(kind lists.Kind, value string, minutes int) lists.Entry {
	e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Decoy, ID: lists.ID{Kind: kind, Value: value}}}
	if minutes > 0 {
		e.Expires = time.Now().Add(time.Duration(minutes) * time.Minute)
	}
	return e
}

// TestEvict: of what detectors listed, what is nearest its end makes room for what they list next; never anything else.
func TestEvict(t *testing.T) {
	n := fullNode(t, 5)
	manual := blackIP("192.0.2.9")
	manual.Expires = time.Now().Add(time.Minute)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	has := func(entries ...lists.Entry) {
		t.Helper()
		for _, e := range entries {
			if _, ok := n.Snapshot().Get(e.Key); !ok {
				t.Fatalf("%s is gone", e.ID)
			}
		}
		if p := n.place(n.Snapshot(), lists.ClassIPv4); p.entries != len(entries) {
			t.Fatalf("%d entries, want %d", p.entries, len(entries))
		}
	}
	white, never, late, soon := whiteIP("192.0.2.1"), found(lists.KindIP, "192.0.2.2", 0), found(lists.KindIP, "192.0.2.3", 90), found(lists.KindIP, "192.0.2.4", 30)
	must(n.add(t, white, manual, never, late, soon))
	later := found(lists.KindIP, "192.0.2.5", 60)
	must(n.add(t, later))
	has(white, manual, never, late, later)
	soonest := found(lists.KindIP, "192.0.2.6", 1)
	must(n.add(t, soonest)) // the new one stays, though it ends first
	has(white, manual, never, late, soonest)
	must(n.add(t, never)) // was there
	has(white, manual, never, late, soonest)
	six := found(lists.KindIP, "2001:db8::1", 0)
	must(n.add(t, six, ofKind(found(lists.KindCookie, "", 0), "SID", "x"))) // each has its own room
	has(white, manual, never, late, soonest)

	for _, refused := range [][]lists.Entry{{blackIP("192.0.2.7")}, {whiteIP("192.0.2.7")}, {blackIP("192.0.2.7"), found(lists.KindIP, "192.0.2.8", 0)},
		{found(lists.KindIP, "192.0.2.10", 5), found(lists.KindIP, "192.0.2.11", 5), found(lists.KindIP, "192.0.2.12", 5), found(lists.KindIP, "192.0.2.13", 5)}} {
		before := n.Snapshot()
		err := n.add(t, refused...)
		wire, ok := errors.AsType[*control.Error](err)
		if !errors.Is(err, store.ErrRefused) || !ok || !strings.Contains(wire.Message, "lists are full") || n.Snapshot() != before {
			t.Fatalf("%d entries from %s: %v", len(refused), refused[0].Source, err)
		}
	}
	// A long one takes the room of many.
	must(n.add(t, found(lists.KindToken, "1", 10), found(lists.KindToken, "2", 20), found(lists.KindToken, "3", 30)))
	must(n.add(t, found(lists.KindToken, strings.Repeat("x", 1100), 40))) // three places; the cookie never ends
	if p := n.place(n.Snapshot(), lists.ClassIdentifier); p.entries != 5 || n.Snapshot().LenSource(lists.Blacklist, lists.Decoy) != 4+3 {
		t.Fatalf("%d places, %d entries", p.entries, n.Snapshot().LenSource(lists.Blacklist, lists.Decoy))
	}
	before := n.Snapshot()
	if err := n.add(t, found(lists.KindToken, strings.Repeat("y", 512*6), 40)); !errors.Is(err, store.ErrRefused) || n.Snapshot() != before {
		t.Fatalf("longer than there is room: %v", err)
	}

	// What another source lists too frees nothing when it goes.
	both := soonest
	both.Source = lists.ABS
	must(n.add(t, both))
	last := found(lists.KindIP, "192.0.2.14", 120)
	must(n.add(t, last))
	has(white, manual, never, soonest, last)

	var evicted []string
	for e, err := range n.History(t.Context(), 0) {
		must(err)
		if e.Note != "" && e.Before.ID.Kind == lists.KindIP {
			evicted = append(evicted, e.Before.ID.Value+" "+e.Note)
		}
	}
	want := []string{"192.0.2.3 evicted: the list is full", "192.0.2.5 evicted: the list is full", "192.0.2.4 evicted: the list is full"}
	if !slices.Equal(evicted, want) {
		t.Errorf("history says %q, want %q", evicted, want)
	}
}

func ofKind(e lists.Entry, name, value string) lists.Entry {
	e.ID.Name, e.ID.Value = name, value
	return e
}

var roomSeed = flag.Uint64("room-seed", uint64(time.Now().UnixNano()), "seed of TestEvictOrder")

// TestEvictOrder floods full lists, in batches and with deletions in between, and expects of each victim that nothing
// that may go ends sooner.
func TestEvictOrder(t *testing.T) {
	t.Logf("seed %d (-room-seed)", *roomSeed)
	r := rand.New(rand.NewPCG(*roomSeed, 1))
	n := fullNode(t, 3000) // more than are looked up at once
	next := 0
	draw := func() lists.Entry {
		next++
		return found(lists.KindToken, fmt.Sprint("token ", next), r.IntN(4)*(1+r.IntN(5000)))
	}
	for round := range 300 {
		var some []lists.Entry
		for range 1 + r.IntN(100) {
			some = append(some, draw())
		}
		before := n.Snapshot()
		if err := n.add(t, some...); err != nil {
			t.Fatal(err)
		}
		after := n.Snapshot()
		if got := after.Places(lists.Blacklist, lists.ClassIdentifier); got > 3000 || round > 150 && got < 2990 {
			t.Fatalf("seed %d: %d entries", *roomSeed, got)
		}
		var gone, stay []lists.Expendable
		for _, e := range before.Expendable(lists.ClassIdentifier, 1<<20) {
			if _, ok := after.Get(e.Key); ok {
				stay = append(stay, e)
			} else {
				gone = append(gone, e)
			}
		}
		if len(gone) > 0 && len(stay) > 0 && gone[len(gone)-1].Compare(stay[0]) > 0 {
			t.Fatalf("seed %d: round %d: %+v went before %+v", *roomSeed, round, gone[len(gone)-1], stay[0])
		}
		if len(stay) > 0 && r.IntN(3) == 0 {
			b := lists.Batch{Ops: []lists.Operation{{Op: lists.OpDeleteKey, Entry: lists.Entry{Key: stay[r.IntN(min(5, len(stay)))].Key}}}}
			if _, err := n.store.Apply(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n.evictor.evicted[lists.ClassIdentifier].Load() == 0 {
		t.Error("nothing was evicted")
	}
}

// TestAlarm: status says from four fifths on that the lists grow full, and makeRoom raises what is too small.
func TestAlarm(t *testing.T) {
	n := fullNode(t, 10)
	says := func() (all []string) {
		n.statusRoom(func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) })
		return all
	}
	for i := range 8 {
		if got := says(); len(got) != 0 {
			t.Fatalf("with %d of 10: %q", i, got)
		}
		if err := n.add(t, found(lists.KindUsername, fmt.Sprint("user ", i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"capacity: 8 places of cookies, tokens, API keys and user names, of identifier_capacity = 10; delete entries or raise it"}
	if got := says(); !slices.Equal(got, want) {
		t.Errorf("status says %q", got)
	}
	n.config.IdentifierCapacity = 3
	n.makeRoom()
	if n.config.IdentifierCapacity != 8 || n.config.Capacity != 10 {
		t.Errorf("room for %d identifiers and %d addresses", n.config.IdentifierCapacity, n.config.Capacity)
	}
}
