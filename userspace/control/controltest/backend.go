// Package controltest lets tests run against the control API without kernel and disk: a node in memory, and a server
// for it.
package controltest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// Backend is a node in memory: it applies batches as a store does, and forgets them with the process. It removes no
// entry when its end comes. Safe for concurrent use.
type Backend struct {
	// Refuse, if set, sees each request before it is applied; what it returns is the answer. Set it before use.
	Refuse func(control.Request) error
	// Base is what Status answers with, besides generation, entries and settings. Set it before use.
	Base control.Status

	mu       sync.Mutex
	snapshot *lists.Snapshot
	events   []lists.Event
	requests []control.Request
}

// NewBackend is a new node: empty lists, default settings.
func NewBackend() *Backend {
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	return &Backend{
		snapshot: b.Snapshot(1),
		Base: control.Status{
			Version: "test", Mode: "inline", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Timezone: "UTC",
			Memory: control.Memory{Configured: 128 << 20},
		},
	}
}

// Apply makes the change.
func (n *Backend) Apply(_ context.Context, r control.Request) (control.Reply, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requests = append(n.requests, r)
	if n.Refuse != nil {
		if err := n.Refuse(r); err != nil {
			return control.Reply{}, err
		}
	}
	step := &step{Builder: lists.NewBuilder(n.snapshot), settings: n.snapshot.Settings(), generation: n.snapshot.Generation() + 1, batch: r.Batch}
	var out lists.Result
	for i, op := range r.Batch.Ops {
		outcome, count, err := step.apply(op)
		if err != nil {
			return control.Reply{}, &control.Error{Code: control.CodeInvalid, Message: fmt.Sprintf("operation %d: %v", i+1, err)}
		}
		out.Imported = step.imported
		out.Outcomes, out.Counts = append(out.Outcomes, outcome), append(out.Counts, count)
	}
	if step.changed && !r.DryRun {
		step.Set(step.settings)
		n.snapshot = step.Snapshot(step.generation)
		n.events = append(n.events, step.events...)
	}
	out.Generation = n.snapshot.Generation()
	return control.Reply{Result: out}, nil
}

// Snapshot returns the present state.
func (n *Backend) Snapshot() *lists.Snapshot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.snapshot
}

// Status returns Base with what the lists say.
func (n *Backend) Status() control.Status {
	s := n.Snapshot()
	st := n.Base
	st.Settings = s.Settings()
	st.Entries = map[string]int{"whitelist": s.Len(lists.Whitelist), "blacklist": s.Len(lists.Blacklist)}
	st.Generation.Store, st.Generation.Kernel = s.Generation(), s.Generation()
	return st
}

// History yields what was applied, newest first.
func (n *Backend) History(_ context.Context, limit int) iter.Seq2[lists.Event, error] {
	n.mu.Lock()
	events := slices.Clone(n.events)
	n.mu.Unlock()
	slices.Reverse(events)
	if limit > 0 && len(events) > limit {
		events = events[:limit]
	}
	return func(yield func(lists.Event, error) bool) {
		for _, e := range events {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Requests returns what was asked for so far, refused requests included.
func (n *Backend) Requests() []control.Request {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.requests)
}

// step is a batch being applied.
type step struct {
	*lists.Builder
	settings   lists.Settings
	generation uint64
	batch      lists.Batch
	events     []lists.Event
	changed    bool
	imported   lists.Imported
}

func (s *step) apply(op lists.Operation) (lists.Outcome, int, error) {
	event := lists.Event{Generation: s.generation, Time: time.Now().UTC().Round(time.Second), By: s.batch.By, Via: s.batch.Via, Op: op.Op}
	switch op.Op {
	case lists.OpAdd:
		return s.add(op.Entry, event)
	case lists.OpDelete:
		count := 0
		for src := lists.Manual; src <= lists.MissingToken; src++ {
			count += s.remove(lists.Key{List: op.List, Source: src, ID: op.ID}, event)
		}
		return deleted(count), count, nil
	case lists.OpDeleteKey:
		count := s.remove(op.Entry.Key, event)
		return deleted(count), count, nil
	case lists.OpClear, lists.OpClearSources:
		event.Count = s.Clear(op.List, op.Sources...)
		s.record(event)
		return lists.Cleared, event.Count, nil
	case lists.OpImport:
		return s.takeOver(op.Pack, event)
	case lists.OpSet:
		s.settings = op.Settings(s.settings)
		s.record(event)
		return lists.Changed, 0, nil
	}
	return 0, 0, fmt.Errorf("%s: no such operation", op.Op)
}

func (s *step) record(e lists.Event) { s.events, s.changed = append(s.events, e), true }

func (s *step) add(e lists.Entry, event lists.Event) (lists.Outcome, int, error) {
	if e.Expired(time.Now()) {
		return 0, 0, fmt.Errorf("%w: %s ends at %s, which is past", lists.ErrInvalid, e.ID, e.Expires)
	}
	before, replaced := s.Put(e)
	event.After = &e
	if !replaced {
		s.record(event)
		return lists.Added, 1, nil
	}
	e.Created = before.Created
	s.Put(e)
	if before.Expires.Equal(e.Expires) && before.Reason == e.Reason && before.Comment == e.Comment {
		return lists.Unchanged, 0, nil
	}
	event.Before = &before
	s.record(event)
	return lists.Replaced, 1, nil
}

// takeOver is an import: an event for each entry, unlike a store's.
func (s *step) takeOver(pack *lists.Pack, event lists.Event) (lists.Outcome, int, error) {
	for e := range pack.All() {
		outcome, _, err := s.add(e, event)
		switch {
		case err != nil:
			return 0, 0, err
		case outcome == lists.Added:
			s.imported.Added++
		case outcome == lists.Replaced:
			s.imported.Replaced++
		default:
			s.imported.Unchanged++
		}
	}
	return lists.Added, s.imported.Added, nil
}

func (s *step) remove(k lists.Key, event lists.Event) int {
	before, ok := s.Delete(k)
	if !ok {
		return 0
	}
	event.Before = &before
	s.record(event)
	return 1
}

func deleted(count int) lists.Outcome {
	if count == 0 {
		return lists.NotFound
	}
	return lists.Deleted
}
