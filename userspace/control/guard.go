package control

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// Delays after failed logins: a few are free, side by side too, then each doubles the time until the next attempt of the
// same user from the same place (uid or address) is looked at. Nobody is locked out for good, and nobody can delay another place.
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
	// looked is how many attempts are being looked at; before they are known to be right each counts as a failure. left is
	// closed when one of them ends.
	looked int
	left   chan struct{}
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

// enter returns when the attempt may be looked at, or the error that there are too many. After nil, leave must be called.
func (g *guard) enter(ctx context.Context, k guardKey) *Error {
	for {
		wait, left := g.reserve(k)
		switch {
		case left != nil:
			select {
			case <-left:
				continue
			case <-ctx.Done():
				return errNotLooked
			}
		case wait > mostWait:
			return &Error{Code: CodeForbidden, Message: "too many failed logins of this user from " + k.from,
				Hint: fmt.Sprintf("try again in %s; root needs no password", wait.Round(time.Second))}
		case wait > 0:
			t := time.NewTimer(wait)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				g.leave(k, loginUnknown)
				return errNotLooked
			}
		}
		return nil
	}
}

var errNotLooked = &Error{Code: CodeFailed, Message: "the call ended before its login was looked at"}

// reserve lets an attempt in that is looked at after wait. One that would wait longer than mostWait is not in; nor is one
// that gets left: whether it is free depends on those that are being looked at, so it asks again when that is closed.
func (g *guard) reserve(k guardKey) (wait time.Duration, left <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, now := g.state(k), g.now()
	if now.Sub(st.last) > forgetAfter {
		st.failures = 0
	}
	if st.failures < freeFailures {
		if st.failures+st.looked >= freeFailures {
			return 0, st.left
		}
		st.looked++
		return 0, nil
	}
	at := now
	if st.next.After(now) {
		at = st.next
	}
	if wait = at.Sub(now); wait > mostWait {
		return wait, nil
	}
	st.next = at.Add(min(firstDelay<<min(st.failures+st.looked-freeFailures, 10), mostDelay))
	st.looked++
	return wait, nil
}

// state is that of a key; held by the caller's lock.
func (g *guard) state(k guardKey) *guardState {
	st := g.states[k]
	if st == nil {
		if len(g.states) >= maxGuarded {
			g.evict()
		}
		st = &guardState{left: make(chan struct{})}
		g.states[k] = st
	}
	return st
}

// loginOutcome is what became of an attempt.
type loginOutcome uint8

const (
	loginUnknown loginOutcome = iota // not looked at after all
	loginRight
	loginWrong
)

// leave ends an attempt that was let in.
func (g *guard) leave(k guardKey, o loginOutcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.state(k)
	st.looked--
	switch o {
	case loginWrong:
		st.failures, st.last = st.failures+1, g.now()
		if st.failures == freeFailures {
			st.next = st.last.Add(firstDelay)
		}
	case loginRight:
		st.failures = 0
	}
	close(st.left)
	st.left = make(chan struct{})
	if st.failures == 0 && st.looked == 0 {
		delete(g.states, k)
	}
}

// evict forgets who failed longest ago. Those that are being looked at stay; there are no more of them than connections.
func (g *guard) evict() {
	var oldest guardKey
	var when time.Time
	for k, st := range g.states {
		if st.looked == 0 && (when.IsZero() || st.last.Before(when)) {
			oldest, when = k, st.last
		}
	}
	delete(g.states, oldest)
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
