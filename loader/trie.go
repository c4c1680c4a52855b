package loader

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// putBatch is a system call of some 60 ms (an update takes about 1 µs), with a chance to reschedule after each element.
const putBatch = 64 << 10

// Deletes are paced. What was deleted until a grace period ends the kernel frees in one go, without a chance to reschedule,
// and takes 0.1 to 0.3 µs each. That grace period is one of tasks, a quarter of a second: nobody can wait for its end, so
// not more is deleted in that time than may be freed at once: four batches at most.
const (
	removeBatch = 8 << 10
	removePause = 60 * time.Millisecond
)

// pace follows a batch of deletes, if another is to come, and takes longer on a busy machine, as everything does there.
func pace(began time.Time) { time.Sleep(removePause + time.Since(began)) }

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
	for {
		began, n := time.Now(), min(len(keys), removeBatch)
		if _, err := t.removeBatch(keys[:n]); err != nil || n == len(keys) {
			return err
		}
		keys = keys[n:]
		pace(began)
	}
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

// sweep deletes a batch of n, and reports whether nothing is left. likely, which it shortens, are keys that the trie may
// hold: to delete a known key takes a third of the time of finding one. A guess that proves wrong is given up. Else it
// asks for the first keys anew, because a walk of an LPM map starts over when its place is deleted.
func (t trie[K]) sweep(likely *[]K) (n int, done bool, err error) {
	left := removeBatch
	if likely != nil && len(*likely) > 0 {
		tried := min(len(*likely), left)
		missing, err := t.removeBatch((*likely)[:tried])
		n = tried - missing
		if *likely = (*likely)[tried:]; missing > tried/2 || len(*likely) == 0 {
			*likely = nil
		}
		if left -= tried; err != nil || left == 0 || *likely != nil {
			return n, false, err
		}
	}
	keys := make([]K, left)
	more, err := t.first(keys)
	if err != nil || more == 0 {
		return n, more == 0, err
	}
	_, err = t.removeBatch(keys[:more])
	return n + more, more < len(keys), err
}

// first reads the first keys, as many as fit.
func (t trie[K]) first(keys []K) (int, error) { return t.after(nil, keys) }

// after reads the keys after last, as many as fit; if that is nil, or not there, the first ones.
func (t trie[K]) after(last any, keys []K) (int, error) {
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
