package shim

import (
	"math"
	"sync"
)

// memory remembers fingerprints for a time. It is bounded: what is remembered longest makes room. Safe for concurrent
// use; the zero value is not: use newMemory.
type memory struct {
	shards [memoryShards]memoryShard
}

// Sizes: a bucket is what one fingerprint may be in.
const (
	memoryShards = 32
	memoryWays   = 4
)

type memoryShard struct {
	mu      sync.Mutex
	buckets [][memoryWays]remembered
}

type remembered struct {
	sum   [2]uint64
	until uint32 // Unix seconds, 0: free
	by    uint32 // what the one who remembered wants to know
}

// newMemory returns one that holds about n, at 24 bytes each.
func newMemory(n int) *memory {
	m := new(memory)
	for i := range m.shards {
		m.shards[i].buckets = make([][memoryWays]remembered, max(1, n/memoryShards/memoryWays))
	}
	return m
}

func (m *memory) bucket(sum [2]uint64) (*memoryShard, *[memoryWays]remembered) {
	s := &m.shards[sum[0]%memoryShards]
	return s, &s.buckets[sum[1]%uint64(len(s.buckets))]
}

// remember keeps the fingerprint until then, a time in Unix seconds.
func (m *memory) remember(sum [2]uint64, until int64, by uint32) {
	s, b := m.bucket(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	to := 0
	for i := range b {
		if b[i].sum == sum {
			to = i
			break
		}
		if b[i].until < b[to].until {
			to = i
		}
	}
	b[to] = remembered{sum, uint32(min(max(until, 0), math.MaxUint32)), by}
}

// knows reports whether the fingerprint is remembered, and by what.
func (m *memory) knows(sum [2]uint64, now int64) (by uint32, ok bool) {
	s, b := m.bucket(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b {
		if b[i].sum == sum {
			return b[i].by, int64(b[i].until) > now
		}
	}
	return 0, false
}

func (m *memory) forget(sum [2]uint64) {
	s, b := m.bucket(sum)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b {
		if b[i].sum == sum {
			b[i] = remembered{}
		}
	}
}
