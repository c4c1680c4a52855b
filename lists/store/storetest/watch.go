package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

// deadline bounds everything that a test waits for.
const deadline = 30 * time.Second

// mirror follows a store by Watch alone.
type mirror struct {
	generation uint64
	entries    map[lists.Key]lists.Entry
	settings   lists.Settings
}

// follow takes over one update, looking whether the changes begin where the mirror is.
func (m *mirror) follow(u lists.Update) error {
	if u.Snapshot.Generation() <= m.generation && m.generation != 0 {
		return fmt.Errorf("Watch(%d) answered with generation %d", m.generation, u.Snapshot.Generation())
	}
	m.generation, m.settings = u.Snapshot.Generation(), u.Snapshot.Settings()
	if u.Whole {
		m.entries = all(u.Snapshot)
		return nil
	}
	for _, c := range u.Changes {
		k := keyOf(c)
		was, there := m.entries[k]
		if there != (c.Before != nil) || there && was != *c.Before {
			return fmt.Errorf("change of %v begins with %v, it was %v", k, c.Before, was)
		}
		if delete(m.entries, k); c.After != nil {
			m.entries[k] = *c.After
		}
	}
	if diff := cmp.Diff(all(u.Snapshot), m.entries); diff != "" {
		return fmt.Errorf("the changes to generation %d do not lead to its snapshot (-want +got):\n%s", m.generation, diff)
	}
	return nil
}

func keyOf(c lists.Change) lists.Key {
	if c.Before != nil {
		return c.Before.Key
	}
	return c.After.Key
}

func all(s *lists.Snapshot) map[lists.Key]lists.Entry {
	m := map[lists.Key]lists.Entry{}
	for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		for e := range s.Entries(l) {
			m[e.Key] = e
		}
	}
	return m
}

func testWatch(t *testing.T, s Store) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var m mirror
	step := func(whole bool) {
		t.Helper()
		u, err := s.Watch(ctx, m.generation)
		if err != nil {
			t.Fatal(err)
		}
		if u.Whole != whole {
			t.Fatalf("Watch(%d): whole is %v", m.generation, u.Whole)
		}
		if err := m.follow(u); err != nil {
			t.Fatal(err)
		}
	}
	step(true)
	batches := []lists.Batch{
		add(entry(lists.Blacklist, lists.Manual, ip("1.1.1.1")), entry(lists.Whitelist, lists.Manual, ip("1.1.1.1"))),
		add(entry(lists.Blacklist, lists.Decoy, ip("1.1.1.1"))),
		one(lists.Operation{Op: lists.OpDelete, List: lists.Blacklist, ID: ip("1.1.1.1")}),
		add(entry(lists.Blacklist, lists.Decoy, ip("1.1.1.1"))),
		one(lists.Operation{Op: lists.OpSet, Settings: func(s lists.Settings) lists.Settings { s.Audit = !s.Audit; return s }}),
		one(lists.Operation{Op: lists.OpClear, List: lists.Blacklist}),
	}
	for i, b := range batches {
		if _, err := s.Apply(ctx, b); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // one generation, then two at once
			step(false)
		}
		if i == 2 {
			step(false)
		}
	}
	if m.settings.Audit {
		t.Error("the switch did not arrive")
	}

	// A watcher that waits is woken.
	got := make(chan error, 1)
	go func(from uint64) {
		u, err := s.Watch(ctx, from)
		if err == nil {
			err = m.follow(u)
		}
		got <- err
	}(m.generation)
	if _, err := s.Apply(ctx, batches[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	// A generation that never was.
	if u, err := s.Watch(ctx, m.generation+1000); err != nil || !u.Whole {
		t.Fatalf("Watch of the future: %+v, %v", u, err)
	}
}

func testWatchTooOld(t *testing.T, s Store) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	first := s.Snapshot().Generation()
	for i := range 4 {
		var entries []lists.Entry
		for j := range 2500 {
			entries = append(entries, entry(lists.Blacklist, lists.ABS, ip(fmt.Sprintf("10.%d.%d.%d", i, j>>8, j&255))))
		}
		if _, err := s.Apply(ctx, add(entries...)); err != nil {
			t.Fatal(err)
		}
	}
	m := mirror{generation: first, entries: map[lists.Key]lists.Entry{}}
	u, err := s.Watch(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.follow(u); err != nil { // whole or not, it must be right
		t.Fatal(err)
	}
	if _, err := s.Apply(ctx, one(lists.Operation{Op: lists.OpClear, List: lists.Blacklist})); err != nil {
		t.Fatal(err)
	}
	if u, err = s.Watch(ctx, m.generation); err != nil {
		t.Fatal(err)
	}
	if err := m.follow(u); err != nil || len(m.entries) != 0 {
		t.Fatalf("%d entries after a clear, %v", len(m.entries), err)
	}
}

// testConcurrent: many writers at once lose nothing, see their own writes, and every watcher follows.
func testConcurrent(t *testing.T, s Store) {
	const writers, each = 32, 20
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var writing, watching sync.WaitGroup
	last := make(chan uint64)
	for range 3 {
		watching.Go(func() {
			var m mirror
			until := uint64(0)
			for until == 0 || m.generation < until {
				u, err := s.Watch(ctx, m.generation)
				if err == nil {
					err = m.follow(u)
				}
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case until = <-last:
				default:
				}
			}
			if len(m.entries) != writers*each/2 {
				t.Errorf("a watcher ended with %d entries", len(m.entries))
			}
		})
	}
	var mu sync.Mutex
	generations := map[uint64]bool{}
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				id := ip(fmt.Sprintf("10.0.%d.%d", w, i))
				r, err := s.Apply(ctx, add(entry(lists.Blacklist, lists.Manual, id)))
				if err == nil && i%2 == 1 {
					r, err = s.Apply(ctx, one(lists.Operation{Op: lists.OpDelete, List: lists.Blacklist, ID: id}))
				}
				snap := s.Snapshot()
				if err != nil || snap.Generation() < r.Generation || (len(snap.Find(lists.Blacklist, id)) == 1) != (i%2 == 0) {
					t.Errorf("writer %d, %v: %v", w, id, err)
					return
				}
				mu.Lock()
				if generations[r.Generation] {
					t.Errorf("two batches made generation %d", r.Generation)
				}
				generations[r.Generation] = true
				mu.Unlock()
			}
		})
	}
	writing.Wait()
	// One more change wakes those who watch after they were told where it ends.
	r, err := s.Apply(ctx, one(lists.Operation{Op: lists.OpSet, Settings: func(s lists.Settings) lists.Settings { s.ABS = !s.ABS; return s }}))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { watching.Wait(); close(done) }()
	for running := true; running; {
		select {
		case last <- r.Generation:
		case <-done:
			running = false
		case <-time.After(10 * time.Millisecond): // a watcher that waits at the end is told by a further change
			if r, err = s.Apply(ctx, one(lists.Operation{Op: lists.OpSet, Settings: func(s lists.Settings) lists.Settings { s.ABS = !s.ABS; return s }})); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := slices.Max(slices.Collect(maps.Keys(generations))); got > s.Snapshot().Generation() || s.Snapshot().Len(lists.Blacklist) != writers*each/2 {
		t.Errorf("generation %d, last batch %d, %d entries", s.Snapshot().Generation(), got, s.Snapshot().Len(lists.Blacklist))
	}
}
