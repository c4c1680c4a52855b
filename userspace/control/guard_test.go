package control

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestGuardDelays(t *testing.T) {
	clock := newTestClock()
	g := newGuard(clock.Now)
	k := g.key("admin", true, fmt.Sprint(1000))
	for i := range freeFailures {
		if d := g.reserve(k); d != 0 {
			t.Fatalf("attempt %d waits %v", i+1, d)
		}
		g.failed(k)
	}
	want := firstDelay
	for i := range 8 {
		d := g.reserve(k)
		if d != want {
			t.Fatalf("attempt %d waits %v, want %v", freeFailures+i+1, d, want)
		}
		clock.add(d)
		g.failed(k)
		if want = min(want*2, mostDelay); i == 0 {
			want = firstDelay // the delay after a reserved attempt counts the failures before it
		}
	}
	if d := g.reserve(g.key("admin", true, fmt.Sprint(1001))); d != 0 {
		t.Errorf("another uid waits %v", d)
	}
	if d := g.reserve(g.key("other", true, fmt.Sprint(1000))); d != 0 {
		t.Errorf("another user waits %v", d)
	}

	// Attempts side by side queue up; a long queue is refused, and refused attempts make it no longer.
	last, refused := time.Duration(0), 0
	for range 100 {
		d := g.reserve(k)
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
	if err := g.wait(context.Background(), k); err == nil || err.Code != CodeForbidden {
		t.Errorf("wait at the end of the queue: %v", err)
	}
	clock.add(forgetAfter + time.Minute)
	if d := g.reserve(k); d != 0 {
		t.Errorf("after %v it still waits %v", forgetAfter, d)
	}
}

// TestGuardIsBounded: names and uids without number make it no larger.
func TestGuardIsBounded(t *testing.T) {
	clock := newTestClock()
	g := newGuard(clock.Now)
	for i := range 20_000 {
		g.failed(g.key(fmt.Sprint("user", i), false, fmt.Sprint(0)))
		clock.add(time.Millisecond)
	}
	if n := len(g.states); n > 64 {
		t.Errorf("unknown names take %d places", n)
	}
	for i := range 5 * maxGuarded {
		g.failed(g.key("admin", true, fmt.Sprint(i)))
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
		if d := g.reserve(k); d != 0 {
			t.Fatalf("attempt %d waits %v", i+1, d)
		}
		g.failed(k)
	}
	for address, waits := range map[string]bool{"2001:db8::ffff:1": true, "2001:db8:0:1::1": false, "192.0.2.1": false} {
		if d := g.reserve(from(address)); (d > 0) != waits {
			t.Errorf("an attempt from %s waits %v", address, d)
		}
	}
}
