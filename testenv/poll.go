package testenv

import (
	"testing"
	"time"
)

// pollEvery is how often a condition is looked at.
const pollEvery = 5 * time.Millisecond

// pause waits for one polling interval. It is the one place where this package waits blindly.
func pause() { <-time.After(pollEvery) }

// Poll calls cond until it returns nil or the time is over; it then returns what cond last said.
func Poll(within time.Duration, cond func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := cond()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		pause()
	}
}

// Eventually fails the test if cond does not come to return nil in time.
func Eventually(t testing.TB, within time.Duration, what string, cond func() error) {
	t.Helper()
	if err := Poll(within, cond); err != nil {
		t.Fatalf("%s: not within %v: %v", what, within, err)
	}
}
