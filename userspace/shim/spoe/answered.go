package spoe

import (
	"math/rand/v2"
	"net/http"
	"sync"

	"github.com/portcullis/portcullis/userspace/shim"
)

// Learner is told what backends answered; a [shim.Shim] is one. Safe for concurrent use.
type Learner interface {
	// Learns reports whether anything is to be learned from the answer to a request.
	Learns(shim.Decision) bool
	// Answered tells the status of that answer.
	Answered(d shim.Decision, status int)
}

// MaxOpen bounds the requests whose answers are awaited: of more, the oldest are forgotten.
const MaxOpen = 1 << 14

// awaited are requests that may be learned from once HAProxy tells what their backends answered, which may be over another
// connection. Safe for concurrent use.
type awaited struct {
	mu   sync.Mutex
	next uint64         // id of the next one
	ring []awaitedEntry // an id's place is its remainder
}

type awaitedEntry struct {
	id       uint64
	decision shim.Decision
}

// newAwaited begins with an id that nobody knows from a run before: HAProxy may still hold those.
func newAwaited() *awaited { return &awaited{next: 1 + rand.Uint64N(1<<62)} }

// add returns the id to ask for.
func (a *awaited) add(d shim.Decision) (id uint64) {
	d = d.ForAnswer()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ring == nil {
		a.ring = make([]awaitedEntry, MaxOpen)
	}
	id = a.next
	a.next++
	a.ring[id%MaxOpen] = awaitedEntry{id, d}
	return id
}

// take returns a request, and forgets it.
func (a *awaited) take(id uint64) (d shim.Decision, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ring == nil || a.ring[id%MaxOpen].id != id || id == 0 {
		return d, false
	}
	e := &a.ring[id%MaxOpen]
	d = e.decision
	*e = awaitedEntry{}
	return d, true
}

// learn takes note of what a backend answered. HAProxy tells only of requests that were given an id.
func (a *Agent) learn(q *question) {
	if a.options.Learner == nil || q.id.kind != typeInt64 || q.status.num < http.StatusOK {
		return
	}
	if d, ok := a.awaited.take(q.id.num); ok {
		a.options.Learner.Answered(d, int(q.status.num))
	}
}
