package userspace

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/portcullis/portcullis/lists"
)

func TestIPEnforcement(t *testing.T) {
	front := CheckConfig{GatewayConfig{Listen: "127.0.0.1:1"}}
	for _, test := range []struct {
		config Config
		want   string
	}{
		{Config{Interfaces: []string{"eth0"}}, "kernel"},
		{Config{CheckEndpoint: front}, "l7"},
		{Config{Interfaces: []string{"eth0"}, CheckEndpoint: front}, "both"},
		{Config{Interfaces: []string{"eth0"}, CheckEndpoint: front, IPEnforcement: "kernel"}, "kernel"},
		{Config{Interfaces: []string{"eth0"}, CheckEndpoint: front, IPEnforcement: "l7"}, "l7"},
	} {
		if got := test.config.ipEnforcement(); got != test.want {
			t.Errorf("%v: %s, want %s", test.config, got, test.want)
		}
	}
}

// TestFeed: every generation reaches the shim in order, and who waits is told.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := lists.DefaultSettings()
		s := &fakeStore{first: snapshot(1, on), updates: make(chan lists.Update)}
		var got []uint64
		var whole []bool
		f := newFeed(func(s *lists.Snapshot, _ []lists.Change, w bool) {
			got, whole = append(got, s.Generation()), append(whole, w)
		}, s)
		if err := f.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.run(ctx) }()
		waited := make(chan error)
		go func() { waited <- f.wait(t.Context(), 3) }()
		entry := blackIP("192.0.2.1")
		for g := uint64(2); g <= 3; g++ {
			select {
			case err := <-waited:
				t.Fatalf("waited only until %d: %v", g-1, err)
			default:
			}
			s.updates <- lists.Update{Snapshot: snapshot(g, on, entry), Changes: []lists.Change{{After: &entry}}}
			synctest.Wait()
		}
		if err := <-waited; err != nil {
			t.Error(err)
		}
		late, stop := context.WithCancel(t.Context())
		stop()
		if err := f.wait(late, 4); !errors.Is(err, context.Canceled) {
			t.Errorf("wait for what never comes: %v", err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
		if len(got) != 3 || got[2] != 3 || !whole[0] || whole[1] || whole[2] || f.generation() != 3 {
			t.Errorf("the shim was given %v, whole %v; generation %d", got, whole, f.generation())
		}
	})
}

// TestFeedBypass: while the emergency switch is on, the shim is told that the firewall is off; the lists stay.
func TestFeedBypass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := lists.DefaultSettings()
		entry := blackIP("192.0.2.1")
		s := &fakeStore{first: snapshot(1, on, entry), updates: make(chan lists.Update)}
		var got []bool
		f := newFeed(func(s *lists.Snapshot, changes []lists.Change, whole bool) {
			if s.Len(lists.Blacklist) != 1 || s.Generation() == 1 && len(got) > 0 && (whole || len(changes) > 0) {
				t.Errorf("was given generation %d with %d entries, %v, whole %t", s.Generation(), s.Len(lists.Blacklist), changes, whole)
			}
			got = append(got, s.Settings().Firewall)
		}, s)
		if err := f.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var bypass atomic.Bool
		f.bypass = bypass.Load
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.run(ctx) }()
		step := func(to bool) {
			bypass.Store(to)
			time.Sleep(2 * bypassEvery)
			synctest.Wait()
		}
		step(true)
		s.updates <- lists.Update{Snapshot: snapshot(2, on, entry)}
		synctest.Wait()
		step(true)
		step(false)
		cancel()
		<-done
		if want := []bool{true, false, false, true}; !slices.Equal(got, want) {
			t.Errorf("firewall was %v, want %v", got, want)
		}
	})
}
