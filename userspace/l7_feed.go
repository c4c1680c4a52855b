package userspace

import (
	"context"
	"fmt"
	"sync"

	"github.com/portcullis/portcullis/lists"
)

// feed hands every snapshot of the store to the shim, in order, as enforcement does to the kernel. One goroutine (run)
// hands over; any may wait.
type feed struct {
	use   func(s *lists.Snapshot, changes []lists.Change, whole bool)
	store watcher

	mu      sync.Mutex
	reached uint64        // generation that the shim judges by
	moved   chan struct{} // closed when reached grows
}

func newFeed(use func(*lists.Snapshot, []lists.Change, bool), w watcher) *feed {
	return &feed{use: use, store: w, moved: make(chan struct{})}
}

// start puts the store's present state in force.
func (f *feed) start(ctx context.Context) error { return f.next(ctx, 0) }

// run follows the store until ctx ends. Call start first.
func (f *feed) run(ctx context.Context) error {
	for {
		if err := f.next(ctx, f.generation()); err != nil {
			return err
		}
	}
}

func (f *feed) next(ctx context.Context, from uint64) error {
	u, err := f.store.Watch(ctx, from)
	if err != nil {
		return fmt.Errorf("watch lists: %w", err)
	}
	f.use(u.Snapshot, u.Changes, u.Whole)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached = u.Snapshot.Generation()
	close(f.moved)
	f.moved = make(chan struct{})
	return nil
}

func (f *feed) generation() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reached
}

// wait returns once requests are judged by the generation.
func (f *feed) wait(ctx context.Context, generation uint64) error {
	for {
		f.mu.Lock()
		reached, moved := f.reached, f.moved
		f.mu.Unlock()
		if reached >= generation {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("stored, but requests are not judged by it yet: %w", context.Cause(ctx))
		}
	}
}
