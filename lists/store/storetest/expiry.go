package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// late is how long after its end an entry may still be there: the second that is promised, and a busy machine.
const late = 10 * time.Second

// testExpiry: an entry goes when its end comes, not before, and a watcher is told; one whose end was moved stays.
func testExpiry(t *testing.T, s Store) {
	ends := time.Now().Add(2 * time.Second)
	short := entry(lists.Blacklist, lists.ABS, ip("192.0.2.1"))
	white := entry(lists.Whitelist, lists.Manual, ip("192.0.2.2"))
	moved := entry(lists.Blacklist, lists.Manual, ip("192.0.2.3"))
	stays := entry(lists.Blacklist, lists.Manual, ip("192.0.2.4"))
	short.Expires, white.Expires, moved.Expires = ends, ends, ends
	apply(t, s, add(short, white, moved, stays),
		[]lists.Outcome{lists.Added, lists.Added, lists.Added, lists.Added}, []int{1, 1, 1, 1})
	moved.Expires = ends.Add(time.Hour)
	apply(t, s, add(moved), []lists.Outcome{lists.Replaced}, []int{0})

	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var m mirror
	for m.generation == 0 || has(m, short.Key) || has(m, white.Key) {
		u, err := s.Watch(ctx, m.generation)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.follow(u); err != nil {
			t.Fatal(err)
		}
		if !has(m, moved.Key) || !has(m, stays.Key) {
			t.Fatalf("generation %d lacks an entry whose end has not come", m.generation)
		}
		if now := time.Now(); now.Before(ends) && !(has(m, short.Key) && has(m, white.Key)) {
			t.Fatalf("an entry went %v before its end", ends.Sub(now))
		}
	}
	if after := time.Since(ends); after > late {
		t.Errorf("entries went %v after their end", after)
	}
}

func has(m mirror, k lists.Key) bool {
	_, ok := m.entries[k]
	return ok
}
