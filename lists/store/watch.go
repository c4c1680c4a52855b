package store

import (
	"context"
	"sync"

	"github.com/portcullis/portcullis/lists"
)

// maxLog is how many changes are kept for those who watch.
const maxLog = 4096

// watchLog remembers the latest changes and wakes those who wait for the next. The zero value is not ready: see
// start.
type watchLog struct {
	mu      sync.Mutex
	changed chan struct{} // closed at the next change
	stopped chan struct{} // closed by stop
	log     []logged      // generations without a gap, the newest last
	size    int           // changes in log
}

type logged struct {
	generation uint64
	changes    []lists.Change
}

func (w *watchLog) start() {
	w.changed, w.stopped = make(chan struct{}), make(chan struct{})
}

func (w *watchLog) stop() { close(w.stopped) }

// add remembers a generation that is about to be published.
func (w *watchLog) add(a lists.Applied) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.Whole {
		w.log, w.size = nil, 0
		return
	}
	w.log = append(w.log, logged{a.Next.Generation(), a.Changes})
	w.size += len(a.Changes)
	for len(w.log) > 0 && (w.size > maxLog || len(w.log) > maxLog) {
		w.size -= len(w.log[0].changes)
		w.log = w.log[1:]
	}
}

// wake tells those who wait that something is published.
func (w *watchLog) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

// since returns the changes after generation from up to the snapshot, or that they are not known one by one.
func (w *watchLog) since(from uint64, snap *lists.Snapshot) (changes []lists.Change, whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if from == 0 || from > snap.Generation() || len(w.log) == 0 || w.log[0].generation > from+1 {
		return nil, true
	}
	for _, l := range w.log {
		if l.generation > from && l.generation <= snap.Generation() {
			changes = append(changes, l.changes...)
		}
	}
	return changes, false
}

// Watch blocks until there is something other than generation from, or ctx ends (its error is returned), or the
// store is closed ([ErrClosed]). from 0 returns at once with Whole, and so does a generation that the store never
// had. Changes are empty when only the switches changed.
func (s *Store) Watch(ctx context.Context, from uint64) (lists.Update, error) {
	for {
		s.watch.mu.Lock()
		changed := s.watch.changed
		s.watch.mu.Unlock()
		select {
		case <-s.watch.stopped:
			return lists.Update{}, ErrClosed
		default:
		}
		if snap := s.Snapshot(); snap.Generation() != from {
			changes, whole := s.watch.since(from, snap)
			return lists.Update{Snapshot: snap, Changes: changes, Whole: whole}, nil
		}
		select {
		case <-changed:
		case <-s.watch.stopped:
		case <-ctx.Done():
			return lists.Update{}, ctx.Err()
		}
	}
}
