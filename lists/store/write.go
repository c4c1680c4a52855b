package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Bounds of one transaction and of what is held in memory when the disk does not take it.
const (
	maxGroup   = 256     // batches
	maxUnsaved = 100_000 // steps
)

// request is a call of Apply that waits for a writer.
type request struct {
	batch    lists.Batch
	allow    func(base, next *lists.Snapshot) error // nil: always
	result   lists.Result
	err      error
	answered bool
	done     chan struct{} // closed when result and err are set
}

// work is a batch that became something to write.
type work struct {
	applied lists.Applied
	batch   lists.Batch
	now     time.Time
}

// apply queues the batch. Whoever gets to be the writer takes all that is queued by then into one transaction, so
// that a thousand callers do not wait for a thousand fsyncs.
func (s *Store) apply(ctx context.Context, b lists.Batch, allow func(base, next *lists.Snapshot) error) (lists.Result, error) {
	r := &request{batch: b, allow: allow, done: make(chan struct{})}
	s.queueMu.Lock()
	s.queue = append(s.queue, r)
	s.queueMu.Unlock()
	select {
	case <-r.done:
		return r.result, r.err
	case <-ctx.Done():
		if s.withdraw(r) {
			return lists.Result{}, ctx.Err()
		}
		<-r.done // begun: it is a matter of milliseconds now
		return r.result, r.err
	case s.writer <- struct{}{}:
	}
	defer func() { <-s.writer }()
	for {
		select {
		case <-r.done:
			return r.result, r.err
		default:
			s.commit(s.take())
		}
	}
}

// take removes the oldest requests from the queue.
func (s *Store) take() []*request {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	n := min(len(s.queue), maxGroup)
	group := slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	return group
}

// withdraw removes a request that nobody has begun.
func (s *Store) withdraw(r *request) bool {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	if i := slices.Index(s.queue, r); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
		return true
	}
	return false
}

// commit applies the requests in one transaction and answers them. When that fails each is tried by itself, so
// that none suffers for another.
func (s *Store) commit(group []*request) {
	defer func() { // should Check or a Settings function panic, the others must not wait for ever
		for _, r := range group {
			if !r.answered {
				r.answer(lists.Result{}, fmt.Errorf("%w: the writer was interrupted", ErrNotDurable))
			}
		}
	}()
	base, now := s.Snapshot(), s.clock.Now()
	var todo []work
	var open []*request
	for _, r := range group {
		a, err := s.prepare(base, r, now)
		if err != nil {
			r.answer(lists.Result{}, err)
			continue
		}
		r.result = a.Result
		open = append(open, r)
		if len(a.Steps) > 0 {
			base = a.Next
			todo = append(todo, work{a, r.batch, now})
		}
	}
	err := s.write(todo)
	if err != nil && len(open) > 1 {
		for _, r := range open {
			s.commit([]*request{r})
		}
		return
	}
	for _, r := range open {
		r.answer(r.result, err)
	}
}

func (r *request) answer(result lists.Result, err error) {
	if r.result, r.err = result, err; err != nil {
		r.result = lists.Result{}
	}
	r.answered = true
	close(r.done)
}

// prepare works out what the batch comes to and asks whether it may.
func (s *Store) prepare(base *lists.Snapshot, r *request, now time.Time) (lists.Applied, error) {
	a, err := lists.ApplyOps(base, r.batch, now)
	if err != nil || len(a.Steps) == 0 {
		return a, err
	}
	if s.options.Evict != nil {
		if keys := s.options.Evict(r.batch, a.Next, a.Changes); len(keys) > 0 {
			if a, err = applyEvicting(base, r.batch, keys, now); err != nil {
				return a, err
			}
		}
	}
	if s.options.Check != nil {
		err = s.options.Check(r.batch, a.Next, a.Changes)
	}
	if err == nil && r.allow != nil {
		err = r.allow(base, a.Next)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return a, err
}

// noteEvicted is what the history says of an entry that made room for others.
const noteEvicted = "evicted: the list is full"

// applyEvicting is lists.ApplyOps of the batch after the entries with these keys are gone.
func applyEvicting(base *lists.Snapshot, b lists.Batch, keys []lists.Key, now time.Time) (lists.Applied, error) {
	first := make([]lists.Operation, 0, len(keys)+len(b.Ops))
	for _, k := range keys {
		first = append(first, lists.Operation{Op: lists.OpDeleteKey, Entry: lists.Entry{Key: k}})
	}
	b.Ops = append(first, b.Ops...)
	a, err := lists.ApplyOps(base, b, now)
	if err != nil {
		return a, err
	}
	steps := a.Steps
	for _, outcome := range a.Result.Outcomes[:len(keys)] {
		if outcome == lists.Deleted {
			steps[0].Note = noteEvicted
			steps = steps[1:]
		}
	}
	a.Result.Outcomes, a.Result.Counts = a.Result.Outcomes[len(keys):], a.Result.Counts[len(keys):]
	return a, nil
}

// write makes what is to do durable and publishes it, or holds it in memory if it may be held.
func (s *Store) write(todo []work) error {
	if len(todo) == 0 {
		return nil
	}
	holdable := s.holdable(todo)
	if len(s.unsaved) > 0 && holdable && s.clock.Now().Sub(s.lastTry) < time.Second {
		s.hold(todo, nil)
		return nil
	}
	err := s.save(todo)
	if err == nil {
		s.publish(todo)
		return nil
	}
	if holdable && len(todo) == 1 {
		s.hold(todo, err)
		return nil
	}
	return fmt.Errorf("%w: %w", ErrNotDurable, err)
}

// save writes what is unsaved and what is to do in one transaction. A database that turns out to be damaged or was
// removed is replaced by a new one with what is published.
func (s *Store) save(todo []work) error {
	s.lastTry = s.clock.Now()
	all := slices.Concat(s.unsaved, todo)
	err := s.db.save(all, s.lastTry, s.options.History)
	if isDamage(err) {
		if rebuildErr := s.rebuild(err); rebuildErr != nil {
			err = errors.Join(err, rebuildErr)
		} else {
			err = s.db.save(todo, s.lastTry, s.options.History) // what was unsaved is published: it is there now
		}
	}
	if err == nil {
		s.unsaved = nil
	} else if s.changed(err) {
		s.log.Error("lists could not be written", "path", s.path, "error", err)
	}
	// What failed may stand in the WAL all the same, whole, and a crash would bring it back: the next transaction writes
	// over it. So one that changes nothing is made before the refusal is answered, and again by Run until it succeeds.
	s.leftover = err != nil && s.db.save(nil, s.lastTry, s.options.History) != nil
	s.failed(err)
	return err
}

// save writes the works in one transaction; without any it writes the time alone.
func (d *database) save(all []work, now time.Time, history int) error {
	if err := d.reopen(); err != nil {
		return err
	}
	if err := d.inPlace(); err != nil {
		return err
	}
	return d.transaction(func() error {
		if d.version < schemaVersion {
			if err := d.upgrade(); err != nil {
				return err
			}
		}
		for _, w := range all {
			if err := d.write(w); err != nil {
				return err
			}
		}
		if len(all) > 0 {
			if err := d.forget(history); err != nil {
				return err
			}
		}
		return d.writeMeta(now)
	})
}

// write writes the steps of one batch and their history.
func (d *database) write(w work) error {
	a := w.applied
	if err := d.unpackFor(a.Steps); err != nil {
		return err
	}
	for i, step := range a.Steps {
		var err error
		switch c := step.Change; {
		case step.Op == lists.OpClear || step.Op == lists.OpClearSources:
			err = d.clear(step)
		case step.Op == lists.OpSet:
			d.meta.settings = a.Next.Settings()
		case step.Op == lists.OpImport:
			if err = d.putImport(step, w.now); err == nil {
				err = d.unpackFor(a.Steps[i+1:])
			}
		case c.After != nil:
			err = d.put(c.Before, *c.After, w.now)
		default:
			err = d.delete(c.Before.Key)
		}
		if err == nil {
			err = d.note(eventOf(step, w))
		}
		if err != nil {
			return err
		}
	}
	d.meta.generation = a.Next.Generation()
	d.meta.settings = a.Next.Settings()
	return nil
}

func eventOf(step lists.Step, w work) lists.Event {
	e := lists.Event{
		Generation: w.applied.Next.Generation(), Time: w.now, By: w.batch.By, Via: w.batch.Via,
		Op: step.Op, Before: step.Change.Before, After: step.Change.After, Count: step.Count, Note: step.Note,
	}
	switch {
	case w.batch.Via == viaExpiry, step.Op == lists.OpAdd && step.Change.After == nil:
		e.Note = "expired"
	case w.batch.Via == viaClock:
		e.Note = "end brought nearer: the clock went back at a reboot"
	case step.Op == lists.OpClear:
		e.Note = step.List.String()
	case step.Op == lists.OpClearSources:
		e.Note = step.List.String()
		for _, src := range step.Sources {
			e.Note += " " + src.String()
		}
	}
	return e
}

// holdable reports whether all of it may be enforced without being durable: automatic blocks, and the removal of
// what has ended, which a restart would do again.
func (s *Store) holdable(todo []work) bool {
	steps := 0
	for _, w := range s.unsaved {
		steps += len(w.applied.Steps)
	}
	for _, w := range todo {
		steps += len(w.applied.Steps)
		for _, op := range w.batch.Ops {
			if op.Op != lists.OpAdd || op.Entry.List != lists.Blacklist || op.Entry.Source == lists.Manual {
				return false
			}
		}
	}
	return steps <= maxUnsaved
}

// hold publishes what could not be written because of err (nil: not tried again yet) and keeps it for later.
func (s *Store) hold(todo []work, err error) {
	s.unsaved = append(s.unsaved, todo...)
	if err != nil {
		s.failed(err)
	} else {
		s.mu.Lock()
		for _, w := range todo {
			s.health.unsaved += len(w.applied.Steps)
		}
		s.mu.Unlock()
	}
	s.publish(todo)
}

// publish makes the works visible, each as its own generation.
func (s *Store) publish(todo []work) {
	for _, w := range todo {
		s.watch.add(w.applied)
	}
	s.current.Store(todo[len(todo)-1].applied.Next)
	s.watch.wake()
}
