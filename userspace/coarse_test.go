package userspace

import (
	"testing"
	"time"
)

// TestCoarse: the clock follows, and is not asked each time.
func TestCoarse(t *testing.T) {
	asked := 0
	start := time.Unix(1_000_000_000, 0)
	clock := coarse(func() time.Time { asked++; return start.Add(time.Duration(asked) * time.Hour) })
	began := time.Now()
	calls := 0
	for clock().Equal(start.Add(time.Hour)) && time.Since(began) < 10*time.Second {
		calls++
	}
	if asked != 2 {
		t.Errorf("asked %d times in %v, want a second time after %v", asked, time.Since(began), coarseness)
	}
	if calls < 2 {
		t.Errorf("asked each time")
	}
}
