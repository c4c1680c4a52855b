package control

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// attempt lets one in that would be looked at after what is returned.
func attempt(t *testing.T, g *guard, k guardKey) time.Duration {
	t.Helper()
	wait, left := g.reserve(k)
	if left != nil {
		t.Fatal("it depends on another attempt")
	}
	return wait
}

func TestGuardDelays(t *testing.T) {
	clock := newTestClock()
	g := newGuard(clock.Now)
	k := g.key("admin", true, fmt.Sprint(1000))
	for i := range freeFailures {
		if d := attempt(t, g, k); d != 0 {
			t.Fatalf("attempt %d waits %v", i+1, d)
		}
		g.leave(k, loginWrong)
	}
	want := firstDelay
	for i := range 8 {
		d := attempt(t, g, k)
		if d != want {
			t.Fatalf("attempt %d waits %v, want %v", freeFailures+i+1, d, want)
		}
		clock.add(d)
		g.leave(k, loginWrong)
		if want = min(want*2, mostDelay); i == 0 {
			want = firstDelay // the delay after a reserved attempt counts the failures before it
		}
	}
	if d := attempt(t, g, g.key("admin", true, fmt.Sprint(1001))); d != 0 {
		t.Errorf("another uid waits %v", d)
	}
	if d := attempt(t, g, g.key("other", true, fmt.Sprint(1000))); d != 0 {
		t.Errorf("another user waits %v", d)
	}

	// Attempts side by side queue up; a long queue is refused, and refused attempts make it no longer.
	last, refused := time.Duration(0), 0
	for range 100 {
		d := attempt(t, g, k)
		if d < last {
			t.Fatalf("attempt waits %v, the one before %v", d, last)
		}
		if last = d; d > mostWait {
			refused++
		}
	}
	if last > mostWait+mostDelay || refused < 90 {
		t.Errorf("the last of the queue waits %v, %d refused", last, refused)
	}
	if err := g.enter(context.Background(), k); err == nil || err.Code != CodeForbidden {
		t.Errorf("wait at the end of the queue: %v", err)
	}
	clock.add(forgetAfter + time.Minute)
	if d := attempt(t, g, k); d != 0 {
		t.Errorf("after %v it still waits %v", forgetAfter, d)
	}
}

// guess is a wrong attempt.
func guess(g *guard, k guardKey) {
	g.reserve(k)
	g.leave(k, loginWrong)
}

// TestGuardSideBySide: a hundred guesses at once get no more free looks than one after the other; a hundred right ones all get in.
func TestGuardSideBySide(t *testing.T) {
	for _, outcome := range []loginOutcome{loginWrong, loginRight} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuard(time.Now)
			k := g.key("admin", true, "uid 1000")
			began := time.Now()
			var mu sync.Mutex
			free, late, refused := 0, 0, 0
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					err := g.enter(t.Context(), k)
					mu.Lock()
					switch {
					case err != nil:
						refused++
					case time.Since(began) < firstDelay:
						free++
					default:
						late++
					}
					mu.Unlock()
					if err == nil {
						time.Sleep(time.Millisecond) // it is looked at
						g.leave(k, outcome)
					}
				})
			}
			all.Wait()
			switch {
			case outcome == loginRight && free != 100:
				t.Errorf("of 100 right ones %d were looked at at once, %d late, %d never", free, late, refused)
			case outcome == loginWrong && (free != freeFailures || late > 10 || refused == 0 || free+late+refused != 100):
				t.Errorf("of 100 guesses %d were looked at at once, %d late, %d never", free, late, refused)
			}
			if outcome == loginRight && len(g.states) != 0 {
				t.Errorf("%d places are taken when all is over", len(g.states))
			}
		})
	}
}

// TestGuardCallEnds: whoever waits and hangs up leaves the queue.
func TestGuardCallEnds(t *testing.T) {
	g := newGuard(newTestClock().Now)
	k := g.key("admin", true, "uid 1000")
	for range freeFailures {
		attempt(t, g, k)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.enter(ended, k); err != errNotLooked {
		t.Errorf("behind those being looked at: %v", err)
	}
	for range freeFailures {
		g.leave(k, loginWrong)
	}
	if err := g.enter(ended, k); err != errNotLooked {
		t.Errorf("in the queue: %v", err)
	}
	if n := g.states[k].looked; n != 0 {
		t.Errorf("%d are being looked at", n)
	}
}

// TestGuardIsBounded: names and uids without number make it no larger.
func TestGuardIsBounded(t *testing.T) {
	clock := newTestClock()
	g := newGuard(clock.Now)
	for i := range 20_000 {
		guess(g, g.key(fmt.Sprint("user", i), false, fmt.Sprint(0)))
		clock.add(time.Millisecond)
	}
	if n := len(g.states); n > 64 {
		t.Errorf("unknown names take %d places", n)
	}
	for i := range 5 * maxGuarded {
		guess(g, g.key("admin", true, fmt.Sprint(i)))
		clock.add(time.Millisecond)
	}
	if n := len(g.states); n > maxGuarded {
		t.Errorf("%d places are taken", n)
	}
	if _, ok := g.states[g.key("admin", true, fmt.Sprint(5*maxGuarded-1))]; !ok {
		t.Error("the newest failure was forgotten first")
	}
}

// TestGuardKnowsNetworks: who has an IPv6 network does not guess anew from each of its addresses.
func TestGuardKnowsNetworks(t *testing.T) {
	g := newGuard(newTestClock().Now)
	from := func(address string) guardKey { return g.key("admin", true, placeOf(netip.MustParseAddr(address))) }
	for i := range freeFailures {
		k := from(fmt.Sprintf("2001:db8::%x", i))
		if d := attempt(t, g, k); d != 0 {
			t.Fatalf("attempt %d waits %v", i+1, d)
		}
		g.leave(k, loginWrong)
	}
	for address, waits := range map[string]bool{"2001:db8::ffff:1": true, "2001:db8:0:1::1": false, "192.0.2.1": false} {
		if d := attempt(t, g, from(address)); (d > 0) != waits {
			t.Errorf("an attempt from %s waits %v", address, d)
		}
	}
}
