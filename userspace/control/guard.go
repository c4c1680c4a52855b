package control

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// Delays after failed logins: a few are free, then each doubles the time until the next attempt of the same user
// from the same place (uid or address) is looked at. Nobody is locked out for good, and nobody can delay another place.
const (
	freeFailures = 3
	firstDelay   = 250 * time.Millisecond
	mostDelay    = 4 * time.Second
	mostWait     = 10 * time.Second // longer queues are refused at once
	forgetAfter  = 15 * time.Minute
	maxGuarded   = 1024
	maxReports   = 10 // audit lines a minute
)

type guardKey struct {
	user string // or the number of a bucket: names that are no account are without number
	from string // "uid 1000", or of who calls over the network the address
}

type guardState struct {
	failures int
	last     time.Time // of the last failure
	next     time.Time // when the next attempt is looked at
}

// guard slows down who guesses passwords. Its memory is bounded.
type guard struct {
	now  func() time.Time
	seed maphash.Seed

	mu      sync.Mutex
	states  map[guardKey]*guardState
	minute  time.Time
	reports int // in this minute
	omitted int // since the last one that was reported
}

func newGuard(now func() time.Time) *guard {
	return &guard{now: now, seed: maphash.MakeSeed(), states: map[guardKey]*guardState{}}
}

// key is what failures are counted under. A name that is no account is slowed down as one that is: who guesses must
// not learn from delays which names exist.
func (g *guard) key(user string, known bool, from string) guardKey {
	if !known {
		user = fmt.Sprint("bucket ", maphash.String(g.seed, user)%64) // no account has a space in its name
	}
	return guardKey{user: user, from: from}
}

// reserve returns how long this attempt has to wait. Attempts side by side queue up behind each other.
func (g *guard) reserve(k guardKey) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, now := g.states[k], g.now()
	if st == nil || st.failures < freeFailures {
		return 0
	}
	if now.Sub(st.last) > forgetAfter {
		delete(g.states, k)
		return 0
	}
	at := now
	if st.next.After(now) {
		at = st.next
	}
	if at.Sub(now) <= mostWait {
		st.next = at.Add(min(firstDelay<<min(st.failures-freeFailures, 10), mostDelay))
	}
	return at.Sub(now)
}

// wait returns when the attempt may be looked at, or the error that there are too many.
func (g *guard) wait(ctx context.Context, k guardKey) *Error {
	d := g.reserve(k)
	if d <= 0 {
		return nil
	}
	if d > mostWait {
		return &Error{Code: CodeForbidden, Message: "too many failed logins of this user from " + k.from,
			Hint: fmt.Sprintf("try again in %s; root needs no password", d.Round(time.Second))}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return &Error{Code: CodeFailed, Message: "the call ended before its login was looked at"}
	}
}

func (g *guard) failed(k guardKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.states[k]
	if st == nil {
		if len(g.states) >= maxGuarded {
			g.evict()
		}
		st = &guardState{}
		g.states[k] = st
	}
	st.failures, st.last = st.failures+1, g.now()
	if st.failures == freeFailures {
		st.next = st.last.Add(firstDelay)
	}
}

// evict forgets who failed longest ago.
func (g *guard) evict() {
	var oldest guardKey
	var when time.Time
	for k, st := range g.states {
		if when.IsZero() || st.last.Before(when) {
			oldest, when = k, st.last
		}
	}
	delete(g.states, oldest)
}

func (g *guard) succeeded(k guardKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.states, k)
}

// mayReport bounds the audit lines that failed logins make; omitted is how many made none since the last.
func (g *guard) mayReport() (omitted int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.now(); now.Sub(g.minute) >= time.Minute || now.Before(g.minute) {
		g.minute, g.reports = now, 0
	}
	if g.reports >= maxReports {
		g.omitted++
		return 0, false
	}
	g.reports++
	omitted, g.omitted = g.omitted, 0
	return omitted, true
}
