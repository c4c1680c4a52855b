package sideband

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/portcullis/portcullis/userspace/shim"
)

// Bounds of the requests that a response is awaited for: so many, so long. Beyond MaxOpen the oldest are forgotten.
const (
	MaxOpen   = 1 << 14
	openFor   = time.Minute
	maxCorrID = 256 // bytes of a correlation id
)

// correlation remembers decisions until the response comes. Safe for concurrent use.
type correlation struct {
	mu     sync.Mutex
	max    int
	byID   map[string]*list.Element
	oldest *list.List // of waiting
}

type waiting struct {
	id       string
	decision shim.Decision
	since    time.Time
	twice    bool // two requests have the id: nobody can tell which a response belongs to
}

func newCorrelation(max int) *correlation {
	return &correlation{max: max, byID: make(map[string]*list.Element), oldest: list.New()}
}

// add remembers a decision. Of two with one id neither is learned from: ids may come from clients.
func (c *correlation) add(id string, d shim.Decision, now time.Time) {
	if id == "" || len(id) > maxCorrID {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.oldest.Front(); e != nil && (c.oldest.Len() >= c.max || now.Sub(e.Value.(waiting).since) >= openFor); e = c.oldest.Front() {
		c.drop(e)
	}
	id = strings.Clone(id) // it may lie in a header that is longer
	if e := c.byID[id]; e != nil {
		w := e.Value.(waiting)
		e.Value = waiting{id: id, since: w.since, twice: true}
		return
	}
	c.byID[id] = c.oldest.PushBack(waiting{id: id, decision: d.ForAnswer(), since: now})
}

// take returns the decision that a response belongs to, and forgets it.
func (c *correlation) take(id string, now time.Time) (shim.Decision, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[id]
	if e == nil || e.Value.(waiting).twice {
		return shim.Decision{}, false
	}
	c.drop(e)
	w := e.Value.(waiting)
	return w.decision, now.Sub(w.since) < openFor
}

func (c *correlation) drop(e *list.Element) {
	delete(c.byID, e.Value.(waiting).id)
	c.oldest.Remove(e)
}
