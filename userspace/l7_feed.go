package userspace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// bypassEvery is how often the emergency switch is looked at: it is a word in the kernel's maps, which anybody with the
// rights writes without a daemon.
const bypassEvery = time.Second

// feed hands every snapshot of the store to the shim, in order, as enforcement does to the kernel. One goroutine (run)
// hands over; any may wait.
type feed struct {
	use   func(s *lists.Snapshot, changes []lists.Change, whole bool)
	store watcher
	// bypass reports whether everything is to pass; nil: there is no such switch. Set it before run.
	bypass func() bool

	snapshot *lists.Snapshot
	bypassed bool // the shim was told so

	mu      sync.Mutex
	reached uint64        // generation that the shim judges by
	moved   chan struct{} // closed when reached grows
}

func newFeed(use func(*lists.Snapshot, []lists.Change, bool), w watcher) *feed {
	return &feed{use: use, store: w, moved: make(chan struct{})}
}

// start puts the store's present state in force.
func (f *feed) start(ctx context.Context) error { return f.next(ctx, 0) }

// run follows the store, and the bypass, until ctx ends. Call start first.
func (f *feed) run(ctx context.Context) error {
	for {
		next, cancel := context.WithTimeout(ctx, bypassEvery)
		err := f.next(next, f.generation())
		cancel()
		switch {
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			f.followBypass()
		case err != nil:
			return err
		}
	}
}

func (f *feed) next(ctx context.Context, from uint64) error {
	u, err := f.store.Watch(ctx, from)
	if err != nil {
		return fmt.Errorf("watch lists: %w", err)
	}
	f.snapshot, f.bypassed = u.Snapshot, f.bypass != nil && f.bypass()
	f.use(f.view(), u.Changes, u.Whole)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reached = u.Snapshot.Generation()
	close(f.moved)
	f.moved = make(chan struct{})
	return nil
}

// followBypass tells the shim if the switch was turned.
func (f *feed) followBypass() {
	if f.bypass == nil || f.bypass() == f.bypassed {
		return
	}
	f.bypassed = !f.bypassed
	f.use(f.view(), nil, false)
}

// view is the snapshot as the shim is to judge by: in bypass with the firewall off, so that requests pass as packets do.
func (f *feed) view() *lists.Snapshot {
	if !f.bypassed {
		return f.snapshot
	}
	on := f.snapshot.Settings()
	on.Firewall = false
	b := lists.NewBuilder(f.snapshot)
	b.Set(on)
	return b.Snapshot(f.snapshot.Generation())
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
