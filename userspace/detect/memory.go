package detect

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is remembered of clients: so many, so long. Beyond MaxClients the oldest are forgotten.
const (
	MaxClients = 1 << 16
	Memory     = 24 * time.Hour
)

// memory is a bounded set of clients with the time at which each came in. Safe for concurrent use.
type memory struct {
	mu     sync.Mutex
	max    int
	since  map[netip.Addr]*list.Element
	oldest *list.List   // of visit
	count  atomic.Int64 // so that requests need no lock while nobody is remembered
}

type visit struct {
	client netip.Addr
	at     time.Time
}

func newMemory(max int) *memory {
	return &memory{max: max, since: make(map[netip.Addr]*list.Element), oldest: list.New()}
}

// add remembers a client; fresh: it was not there.
func (m *memory) add(client netip.Addr, now time.Time) (fresh bool) {
	if !client.IsValid() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	if m.since[client] != nil {
		return false
	}
	m.since[client] = m.oldest.PushBack(visit{client, now})
	m.count.Add(1)
	if m.oldest.Len() > m.max {
		m.drop(m.oldest.Front())
	}
	return true
}

func (m *memory) has(client netip.Addr, now time.Time) bool {
	if m.count.Load() == 0 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	return m.since[client] != nil
}

func (m *memory) forget(now time.Time) {
	for e := m.oldest.Front(); e != nil && now.Sub(e.Value.(visit).at) >= Memory; e = m.oldest.Front() {
		m.drop(e)
	}
}

func (m *memory) drop(e *list.Element) {
	delete(m.since, m.oldest.Remove(e).(visit).client)
	m.count.Add(-1)
}
