package loader

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// Since 6.14 LPM tries free what is deleted by way of lists of their own, one a CPU: the first 100 or so at once, the
// rest when something else is deleted on that CPU after a grace period. In a trie that nobody writes to any more, that
// moment never comes, and all of a million entries stays allocated. So a few more are put in and deleted.
const (
	drainKeys   = 160 // more than a CPU keeps for itself (96)
	drainRounds = 3   // a round starts what the next one, a grace period later, ends
	drainEvery  = time.Second / 2
)

// drain has the kernel free what was deleted from the idle tries, in short rounds, one a call.
func (m *Maps) drain() {
	if m.draining == 0 || time.Since(m.drained) < drainEvery {
		return
	}
	m.draining--
	m.drained = time.Now()
	idle := &m.sides[1-m.words.active()]
	if err := onEachCPU(func() error {
		if err := drainTrie(idle.v4, func(i uint32) (k bpf.KeyV4) {
			k.Prefixlen = 32
			binary.BigEndian.PutUint32(k.Addr[:], i)
			return k
		}); err != nil {
			return err
		}
		return drainTrie(idle.v6, func(i uint32) (k bpf.KeyV6) {
			k.Prefixlen = 128
			binary.BigEndian.PutUint32(k.Addr[12:], i)
			return k
		})
	}); err != nil {
		m.log.Warn("kernel memory of replaced lists may not be freed before the next replacement", "error", err)
	}
}

// drainTrie needs a trie that is empty and that no program reads.
func drainTrie[K key](t trie[K], key func(i uint32) K) error {
	keys, cells := make([]K, drainKeys), make([]bpf.Cell, drainKeys)
	for i := range keys {
		keys[i] = key(uint32(i))
	}
	if err := t.put(keys, cells); err != nil {
		return err
	}
	return t.remove(keys)
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
