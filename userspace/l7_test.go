package userspace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/portcullis/portcullis/lists"
)

func TestIPEnforcement(t *testing.T) {
	front := CheckConfig{Listen: "127.0.0.1:1"}
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
