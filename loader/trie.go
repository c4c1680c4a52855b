package loader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// Sizes of batches. Updates take about 1 µs each, so a system call takes some 60 ms, with a chance to reschedule
// after each element; deletes are kept shorter because what they free is freed in one go after a grace period.
const (
	putBatch    = 64 << 10
	removeBatch = 8 << 10
)

// trie is an LPM map with the manners that LPM maps need.
type trie[K key] struct {
	m *ebpf.Map
}

// put writes cells in order. A batch that fails is written again one by one: what is written twice is the same,
// and the count that the kernel returns with an error means different things in different versions.
func (t trie[K]) put(keys []K, cells []bpf.Cell) error {
	for len(keys) > 0 {
		n := min(len(keys), putBatch)
		if err := t.putBatch(keys[:n], cells[:n]); err != nil {
			return err
		}
		keys, cells = keys[n:], cells[n:]
	}
	return nil
}

func (t trie[K]) putBatch(keys []K, cells []bpf.Cell) error {
	if len(keys) > 1 {
		if _, err := t.m.BatchUpdate(keys, cells, nil); err == nil {
			return nil
		}
	}
	for i := range keys {
		err := patiently(func() error { return t.m.Update(&keys[i], &cells[i], ebpf.UpdateAny) })
		if errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("%w: %d prefixes", ErrFull, t.m.MaxEntries())
		}
		if err != nil {
			return fmt.Errorf("update map: %w", err)
		}
	}
	return nil
}

// remove deletes keys in order; one that is not there is passed over.
func (t trie[K]) remove(keys []K) error {
	for len(keys) > 0 {
		n := min(len(keys), removeBatch)
		if _, err := t.removeBatch(keys[:n]); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// removeBatch also counts the keys that were not there, 0 if a batch went through whole.
func (t trie[K]) removeBatch(keys []K) (missing int, err error) {
	if len(keys) > 1 {
		if _, err := t.m.BatchDelete(keys, nil); err == nil {
			return 0, nil
		}
	}
	for i := range keys {
		err := patiently(func() error { return t.m.Delete(&keys[i]) })
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			missing++
		case err != nil:
			return missing, fmt.Errorf("delete from map: %w", err)
		}
	}
	return missing, nil
}

// emptyOf empties the trie, which holds most of keys in all likelihood: to delete a known key takes a third of
// the time of finding one. A guess that proves wrong is given up.
func (t trie[K]) emptyOf(ctx context.Context, keys []K) error {
	for len(keys) > 0 && ctx.Err() == nil {
		n := min(len(keys), removeBatch)
		missing, err := t.removeBatch(keys[:n])
		if err != nil {
			return err
		}
		if missing > n/2 {
			break
		}
		keys = keys[n:]
	}
	return t.empty(ctx)
}

// empty deletes everything, in paced batches: freeing a trie of a million in one go would hold a CPU for 0.4 s.
// Each round asks for the first keys anew, because a walk of an LPM map starts over when its place is deleted.
func (t trie[K]) empty(ctx context.Context) error {
	keys := make([]K, removeBatch)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := t.first(keys)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if err := t.remove(keys[:n]); err != nil {
			return err
		}
	}
}

// first reads the first keys, as many as fit.
func (t trie[K]) first(keys []K) (int, error) {
	var last any
	for n := range keys {
		err := patiently(func() error { return t.m.NextKey(last, &keys[n]) })
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("walk map: %w", err)
		}
		last = &keys[n]
	}
	return len(keys), nil
}

// patiently calls f again, for up to a second or so, while it fails with what passes by itself: the kernel gives
// these when memory or a lock of the map cannot be had at this moment (all of them at times since 6.14).
func patiently(f func() error) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := f()
		switch {
		case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EDEADLK),
			errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EAGAIN):
		default:
			return err
		}
		if wait > 512*time.Millisecond {
			return err
		}
		time.Sleep(wait)
	}
}
