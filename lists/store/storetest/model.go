package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/portcullis/portcullis/lists"
)

// model is a store as one would write it on paper. It knows no ends that pass.
type model struct {
	entries  []lists.Entry
	settings lists.Settings
}

// apply is lists.ApplyOps for valid batches, written a second time.
func (m *model) apply(b lists.Batch) (outcomes []lists.Outcome, counts []int) {
	outcomes, counts = []lists.Outcome{}, []int{}
	for _, op := range b.Ops {
		outcome, count := m.one(op, b.By)
		outcomes, counts = append(outcomes, outcome), append(counts, count)
	}
	return outcomes, counts
}

func (m *model) one(op lists.Operation, by string) (lists.Outcome, int) {
	switch op.Op {
	case lists.OpAdd:
		return m.add(op.Entry, by)
	case lists.OpDelete:
		return found(m.remove(func(e lists.Entry) bool { return e.List == op.List && e.ID == op.ID }))
	case lists.OpDeleteKey:
		return found(m.remove(func(e lists.Entry) bool { return e.Key == op.Entry.Key }))
	case lists.OpClear:
		return lists.Cleared, m.remove(func(e lists.Entry) bool { return e.List == op.List })
	case lists.OpClearSources:
		return lists.Cleared, m.remove(func(e lists.Entry) bool { return e.List == op.List && slices.Contains(op.Sources, e.Source) })
	}
	if next := op.Settings(m.settings); next != m.settings {
		m.settings = next
		return lists.Changed, 0
	}
	return lists.Unchanged, 0
}

func (m *model) add(e lists.Entry, by string) (lists.Outcome, int) {
	e.By = by
	i := slices.IndexFunc(m.entries, func(o lists.Entry) bool { return o.Key == e.Key })
	if i < 0 {
		m.entries = append(m.entries, e)
		return lists.Added, 1
	}
	old := &m.entries[i]
	same := old.Expires.Equal(e.Expires) && (e.Reason == "" || e.Reason == old.Reason)
	if old.Expires = e.Expires; e.Reason != "" {
		old.Reason = e.Reason
	}
	if same {
		return lists.Unchanged, 0
	}
	return lists.Replaced, 0
}

func (m *model) remove(which func(lists.Entry) bool) int {
	n := len(m.entries)
	m.entries = slices.DeleteFunc(m.entries, which)
	return n - len(m.entries)
}

func found(n int) (lists.Outcome, int) {
	if n == 0 {
		return lists.NotFound, 0
	}
	return lists.Deleted, n
}

// testModel runs random batches against the model, with a watcher that follows at its own pace. The seed of a
// failure is printed by rapid.
func testModel(t *testing.T, s Store) {
	start := time.Now().UTC().Truncate(time.Second)
	rapid.Check(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		reset := lists.Batch{Ops: []lists.Operation{
			{Op: lists.OpClear, List: lists.Whitelist}, {Op: lists.OpClear, List: lists.Blacklist},
			{Op: lists.OpSet, Settings: func(lists.Settings) lists.Settings { return lists.DefaultSettings() }},
		}}
		if _, err := s.Apply(ctx, reset); err != nil {
			t.Fatal(err)
		}
		m, w := &model{settings: lists.DefaultSettings()}, &mirror{}
		for range rapid.IntRange(1, 10).Draw(t, "batches") {
			b := drawBatch(t, start)
			if rapid.IntRange(0, 9).Draw(t, "spoil") == 0 {
				before := s.Snapshot()
				b.Ops = append(b.Ops, lists.Operation{Op: lists.OpAdd})
				if _, err := s.Apply(ctx, b); !errors.Is(err, lists.ErrInvalid) || s.Snapshot() != before {
					t.Fatalf("a spoiled batch: %v", err)
				}
				continue
			}
			before := s.Snapshot().Generation()
			r, err := s.Apply(ctx, b)
			if err != nil {
				t.Fatal(err)
			}
			outcomes, counts := m.apply(b)
			if diff := cmp.Diff(outcomes, r.Outcomes) + cmp.Diff(counts, r.Counts); diff != "" {
				t.Fatalf("result (-want +got):\n%s", diff)
			}
			m.check(t, s.Snapshot())
			if g := s.Snapshot().Generation(); g != r.Generation || g < before || g > before+1 {
				t.Fatalf("generation went from %d to %d, the result says %d", before, g, r.Generation)
			}
			if w.generation != s.Snapshot().Generation() && rapid.Bool().Draw(t, "watch") {
				u, err := s.Watch(ctx, w.generation)
				if err == nil {
					err = w.follow(u)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func (m *model) check(t *rapid.T, s *lists.Snapshot) {
	for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		var want []lists.Entry
		for _, e := range m.entries {
			if e.List == l {
				want = append(want, e)
			}
		}
		got := slices.Collect(s.Entries(l))
		for i := range got {
			got[i].Created = time.Time{}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", l, diff)
		}
	}
	if s.Settings() != m.settings {
		t.Fatalf("settings %+v, want %+v", s.Settings(), m.settings)
	}
}

func drawBatch(t *rapid.T, start time.Time) lists.Batch {
	b := lists.Batch{By: rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "by"), Via: "cli"}
	for range rapid.IntRange(0, 6).Draw(t, "ops") {
		op := lists.Operation{Op: rapid.SampledFrom([]lists.Op{
			lists.OpAdd, lists.OpAdd, lists.OpAdd, lists.OpAdd, lists.OpDelete, lists.OpDeleteKey, lists.OpClear, lists.OpClearSources, lists.OpSet,
		}).Draw(t, "op")}
		op.List = rapid.SampledFrom([]lists.List{lists.Whitelist, lists.Blacklist}).Draw(t, "list")
		op.ID = rapid.SampledFrom(identifiers()).Draw(t, "id")
		src := lists.Manual
		if op.List == lists.Blacklist {
			src = rapid.SampledFrom(lists.Sources()).Draw(t, "source")
		}
		op.Entry = entry(op.List, src, op.ID)
		op.Entry.Reason = rapid.SampledFrom([]string{"", "probing", "flood"}).Draw(t, "reason")
		if hours := rapid.IntRange(0, 2).Draw(t, "hours"); hours > 0 {
			op.Entry.Expires = start.Add(time.Duration(hours) * time.Hour)
		}
		op.Sources = []lists.Source{src, lists.Decoy}
		on := rapid.Bool().Draw(t, "on")
		op.Settings = func(s lists.Settings) lists.Settings { s.Firewall = on; return s }
		b.Ops = append(b.Ops, op)
	}
	return b
}

// identifiers are few, so that they meet again, and of every kind.
func identifiers() []lists.ID {
	ids := []lists.ID{ip("10.0.0.0/8"), ip("2001:db8::1"), ip("0.0.0.0/0")}
	for i := range 2 {
		v := fmt.Sprintf("value %d", i)
		ids = append(ids, ip(fmt.Sprintf("10.0.0.%d", i)), lists.ID{Kind: lists.KindCookie, Name: "JSESSIONID", Value: v},
			lists.ID{Kind: lists.KindAPIKey, Name: "X-API-KEY", Value: v}, lists.ID{Kind: lists.KindToken, Value: v},
			lists.ID{Kind: lists.KindUsername, Value: v})
	}
	return ids
}
