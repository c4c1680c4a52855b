package loader

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// Since 6.14 LPM tries free what is deleted by way of lists of their own, one a CPU: the first 100 or so at once, the
// rest when something else is deleted on that CPU after a grace period. In a trie that nobody writes to any more, that
// moment never comes, and what was deleted last stays allocated. So a few more are put in and deleted.
const (
	drainKeys   = 160 // more than a CPU keeps for itself (96)
	drainRounds = 3   // a round starts what the next one, a grace period later, ends
	drainEvery  = time.Second / 2
)

// idle is what is known of the tries that no program reads. Locked by who writes to these, after Maps.writing.
type idle struct {
	sync.Mutex
	full     bool        // they may hold something
	swept    int         // deleted since they were last drained
	likely4  []bpf.KeyV4 // that they may hold
	likely6  []bpf.KeyV6
	draining int         // so many more rounds
	old      []*ebpf.Map // tries of the maps that these took the place of
}

// discards leaves tries that no program reads to Sweep, which closes them.
func (m *Maps) discards(tries []*ebpf.Map) {
	m.idle.Lock()
	defer m.idle.Unlock()
	m.idle.old = append(m.idle.old, tries...)
}

// discarded takes one of them, nil: there is none.
func (m *Maps) discarded() *ebpf.Map {
	m.idle.Lock()
	defer m.idle.Unlock()
	if len(m.idle.old) == 0 {
		return nil
	}
	t := m.idle.old[0]
	m.idle.old = m.idle.old[1:]
	return t
}

// Sweep empties the tries that the last [Maps.Replace] left, and those of maps that these took the place of, and has the kernel free their memory: in batches, and no
// faster than that gets done, so that the kernel is never busy with it for long. That takes some seconds a million.
// It returns once nothing is left to do, or with ctx's error, and may run beside all other methods.
func (m *Maps) Sweep(ctx context.Context) error {
	for t := m.discarded(); t != nil; t = m.discarded() {
		if err := discard(ctx, t, true); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			m.log.Debug("a trie of earlier maps is freed full", "error", err)
		}
	}
	for {
		began := time.Now()
		wait, err := m.sweep()
		if err != nil || wait < 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait + time.Since(began)): // see pace
		}
	}
}

// sweep does a part, and returns how long to wait until the next; less than 0: there is none.
func (m *Maps) sweep() (wait time.Duration, err error) {
	leave, err := m.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	m.idle.Lock()
	defer m.idle.Unlock()
	i := &m.idle
	switch {
	case i.full:
		if err := m.sweepBatch(); err != nil {
			return 0, err
		}
		if !i.full && i.swept > drainKeys { // fewer are freed or not: nobody sees it
			i.draining = drainRounds
		}
		return removePause, nil
	case i.draining > 0:
		i.draining--
		i.swept = 0
		return drainEvery, m.idleSide().drain()
	}
	return -1, nil
}

// sweepBatch deletes some of what the idle tries hold.
func (m *Maps) sweepBatch() error {
	i := &m.idle
	s := m.idleSide()
	n, done, err := s.v4.sweep(&i.likely4)
	i.swept += n
	if done && err == nil {
		n, done, err = s.v6.sweep(&i.likely6)
		i.swept += n
	}
	if err != nil {
		return fmt.Errorf("empty tries that are not in use: %w", err)
	}
	i.full = !done
	return nil
}

// emptyIdle does at once what Sweep has not done yet, or what a process left that was killed in the middle, and keeps the
// lease of the indexes meanwhile. The kernel then frees that in one go, 40 ms a million: rare, and better than ten seconds in
// which the lists are not those that somebody waits for.
func (m *Maps) emptyIdle(ctx context.Context) error {
	m.idle.draining = 0
	for {
		if err := m.sweepBatch(); err != nil || !m.idle.full {
			return err
		}
		m.renew(nil)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// idleSide is that which no program reads.
func (m *Maps) idleSide() *side { return &m.sides[1-m.words.active()] }

// drain needs tries that are empty and that no program reads.
func (s *side) drain() error {
	return onEachCPU(func() error {
		if err := s.v4.drain(); err != nil {
			return err
		}
		return s.v6.drain()
	})
}

func (t trie[K]) drain() error {
	keys, cells := make([]K, drainKeys), make([]bpf.Cell, drainKeys)
	for i := range keys {
		keys[i] = hostKey[K](uint32(i))
	}
	if err := t.put(keys, cells); err != nil {
		return err
	}
	return t.remove(keys)
}

// hostKey is the key of the i-th address.
func hostKey[K key](i uint32) (k K) {
	switch k := any(&k).(type) {
	case *bpf.KeyV4:
		k.Prefixlen = 32
		binary.BigEndian.PutUint32(k.Addr[:], i)
	case *bpf.KeyV6:
		k.Prefixlen = 128
		binary.BigEndian.PutUint32(k.Addr[12:], i)
	}
	return k
}

// onEachCPU calls f on every CPU that the calling thread may use.
func onEachCPU(f func() error) error {
	runtime.LockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("read CPU affinity: %w", err)
	}
	var failed error
	for cpu := 0; cpu < len(all)*64 && failed == nil; cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if failed = unix.SchedSetaffinity(0, &one); failed == nil {
			failed = f()
		}
	}
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		return fmt.Errorf("give CPU affinity back: %w", err) // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return failed
}
