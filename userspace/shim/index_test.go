package shim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// randomEntry is one of few, so that entries meet: the same identifier from several sources, in several spellings, with
// and without an end.
func randomEntry(r *rand.Rand, now time.Time) lists.Entry {
	e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Source(1 + r.IntN(3))}}
	if r.IntN(4) == 0 {
		e.List, e.Source = lists.Whitelist, lists.Manual
	}
	switch r.IntN(3) {
	case 0:
		e.Expires = now.Add(time.Duration(r.IntN(20)) * time.Second)
	case 1:
		e.Expires = now.Add(time.Hour)
	}
	n := r.IntN(6)
	switch r.IntN(5) {
	case 0:
		e.ID = lists.ID{Kind: lists.KindCookie, Name: []string{"sid", "SID"}[r.IntN(2)], Value: []string{"a", "b%41", "bA", `"a"`, "c+d", "c d"}[n]}
	case 1:
		e.ID = lists.ID{Kind: lists.KindToken, Value: []string{"t1", "t2", "e30.e30.aa", "e30.e30.ab", "e31.e30.aa", "t%31"}[n]}
	case 2:
		e.ID = lists.ID{Kind: lists.KindAPIKey, Name: []string{"X-API-KEY", "x_api_key", "api_key"}[r.IntN(3)], Value: []string{"k1", "k2", "k3", "K1", "%6b1", "k 1"}[n]}
	case 3:
		e.ID = lists.ID{Kind: lists.KindUsername, Value: []string{"alice", "Alice", "bob", "é", "É", "a,b"}[n]}
	default:
		e.ID = lists.ID{Kind: lists.KindIP, Value: []string{"192.0.2.1", "192.0.2.0/24", "192.0.0.0/16", "2001:db8::/32", "10.0.0.1", "0.0.0.0/0"}[n]}
	}
	return e
}

// probes are requests that meet those entries.
func probes() (all []*http.Request) {
	for _, v := range []string{"a", `"a"`, "b%41", "bA", "c+d", "c d"} {
		all = append(all, get("/", "Cookie: sid="+v), get("/", "Cookie: Sid="+v))
	}
	for _, v := range []string{"t1", "t%31", "e30.e30.aa", "e30.e30.ab", "e30.e30.xx", "e31.e30.aa"} {
		all = append(all, get("/", "Authorization: Bearer "+v), get("/?access_token="+v))
	}
	for _, v := range []string{"k1", "k2", "K1", "k%201"} {
		all = append(all, get("/", "X-Api-Key: "+v), get("/?api_key="+v))
	}
	for _, v := range []string{"alice", "Alice", "é", "a,b"} {
		all = append(all, get("/", "X-User: "+v))
	}
	all = append(all, get("/", "Authorization: Basic QUxJQ0U6eA=="), get("/", "Authorization: Basic Ym9iOng="))
	for _, a := range []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.3.1:1", "[2001:db8::1]:1", "10.0.0.1:1", "[2001:db9::1]:1"} {
		r := get("/")
		r.RemoteAddr = a
		all = append(all, r)
	}
	return all
}

// TestChanges: a shim that follows changes decides as one that is given the whole lists, at any time, and forgets as
// much.
func TestChanges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	start := time.Unix(1_000_000_000, 0)
	now := start
	o := Options{IPEnforcement: "l7", Now: func() time.Time { return now }}
	follows := New(o)
	follows.UseAPIs(apis.NewSet(root()))
	var snap *lists.Snapshot = snapshot(t)
	follows.Use(snap, nil, true)
	all := probes()
	for round := range 150 {
		b := lists.NewBuilder(snap)
		var changes []lists.Change
		for range 1 + r.IntN(8) {
			e := randomEntry(r, start)
			if r.IntN(3) == 0 {
				if before, ok := b.Delete(e.Key); ok {
					changes = append(changes, lists.Change{Before: &before})
				}
				continue
			}
			c := lists.Change{After: &e}
			if before, replaced := b.Put(e); replaced {
				c.Before = &before
			}
			changes = append(changes, c)
		}
		snap = b.Snapshot(uint64(round + 2))
		follows.Use(snap, changes, false)
		whole := New(o)
		whole.UseAPIs(apis.NewSet(root()))
		whole.Use(snap, nil, true)
		for _, at := range []time.Duration{0, 10 * time.Second, time.Minute, 2 * time.Hour} {
			now = start.Add(at)
			follows.clock.jumped()
			whole.clock.jumped()
			for _, p := range all {
				a, b := follows.Decide(p), whole.Decide(p)
				if a.Reason != b.Reason || a.ID != b.ID || a.Source != b.Source || a.List != b.List {
					t.Fatalf("round %d, %v later, %v %v from %s: %v by %v %v, with the whole lists %v by %v %v",
						round, at, p.URL, p.Header, p.RemoteAddr, a.Reason, a.Source, a.ID, b.Reason, b.Source, b.ID)
				}
			}
		}
		if a, b := follows.index.Load(), whole.index.Load(); a.count != b.count || a.values.live != b.values.live || a.names.live != b.names.live {
			t.Fatalf("round %d: %+v, %d values, %d names; with the whole lists %+v, %d, %d",
				round, a.count, a.values.live, a.names.live, b.count, b.values.live, b.names.live)
		}
	}
	// Changes that do not lead here are not trusted: the whole lists are read.
	never := black(lists.KindToken, "", "never-there")
	follows.Use(snap, []lists.Change{{Before: &never}}, false)
	if a := follows.index.Load(); a.values.live == 0 {
		t.Error("nothing left")
	}
}

// TestMatchIsTheSpecification: addresses are judged as the reference matcher says.
func TestMatchIsTheSpecification(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	now := time.Unix(1_000_000_000, 0)
	for range 60 {
		b := lists.NewBuilder(snapshot(t))
		for range 12 {
			if e := randomEntry(r, now.Add(-10*time.Second)); e.ID.Kind == lists.KindIP {
				b.Put(e)
			}
		}
		snap := b.Snapshot(1)
		s := New(Options{IPEnforcement: "l7", Now: func() time.Time { return now }})
		s.UseAPIs(apis.NewSet(root()))
		s.Use(snap, nil, true)
		for _, p := range probes() {
			client := ClientAddr(p, nil)
			want, by := lists.Match(snap, client, now)
			d := s.Decide(p)
			got := map[Reason]lists.Verdict{PassUnlisted: lists.Pass, PassWhitelisted: lists.PassWhitelisted, Blacklisted: lists.Drop}[d.Reason]
			if got != want || d.ID != by.ID {
				t.Fatalf("%v: %v by %v, want %v by %v", client, d.Reason, d.ID, want, by.ID)
			}
		}
	}
}

// TestConcurrent: lists and APIs are replaced while requests are judged; what is always listed is always blocked.
func TestConcurrent(t *testing.T) {
	always := black(lists.KindToken, "", "always")
	snap := snapshot(t, always)
	s := New(Options{IPEnforcement: "l7", Detect: func(*http.Request, Seen) (apis.Answer, lists.Source, bool) {
		return apis.Answer{}, 0, false
	}})
	s.Use(snap, nil, true)
	s.UseAPIs(apis.NewSet(root()))
	run(t, s)
	var wg sync.WaitGroup
	var stop atomic.Bool
	for range 4 {
		wg.Go(func() {
			all := probes()
			for i := 0; !stop.Load(); i++ {
				if d := s.Decide(get("/", "Authorization: Bearer always")); d.Verdict != Block {
					t.Errorf("passed: %v", d.Reason)
					return
				}
				d := s.Decide(all[i%len(all)])
				release := s.Hold(d, func() {})
				s.Answered(d, 200)
				s.Explain(all[i%len(all)])
				s.Stats()
				release()
			}
		})
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		e := randomEntry(r, time.Now())
		b := lists.NewBuilder(snap)
		c := lists.Change{After: &e}
		if before, replaced := b.Put(e); replaced {
			c.Before = &before
		}
		if e.List == lists.Whitelist && e.ID.Kind == lists.KindIP { // it would speak for the token
			continue
		}
		snap = b.Snapshot(uint64(i + 2))
		s.Use(snap, []lists.Change{c}, i%50 == 0)
		s.UseAPIs(apis.NewSet(root()))
	}
	stop.Store(true)
	wg.Wait()
}

// TestHold: open streams end within a second of their identity's listing, once, and no others.
func TestHold(t *testing.T) {
	snap := snapshot(t)
	s := New(l7)
	s.Use(snap, nil, true)
	s.UseAPIs(apis.NewSet(root()))
	run(t, s)
	const n = 3000
	var ended [n]atomic.Int32
	for i := range n {
		r := get("/", fmt.Sprintf("Authorization: Bearer t%d", i), fmt.Sprintf("Cookie: sid=c%d", i))
		d := s.Decide(r)
		s.Hold(d, func() { ended[i].Add(1) })
		r.Header.Del("Authorization") // what a front does to it later is its own business
	}
	released := s.Hold(s.Decide(get("/", "Authorization: Bearer t7")), func() { t.Error("ended after its release") })
	released()
	s.Hold(Decision{}, func() { t.Error("ended what was never judged") })()
	token, cookie := black(lists.KindToken, "", "t7"), black(lists.KindCookie, "sid", "c8")
	b := lists.NewBuilder(snap)
	b.Put(token)
	b.Put(cookie)
	start := time.Now()
	snap = b.Snapshot(2)
	s.Use(snap, []lists.Change{{After: &token}, {After: &cookie}}, false)
	eventually(t, "both streams end", func() bool { return ended[7].Load() == 1 && ended[8].Load() == 1 })
	t.Logf("ended after %v", time.Since(start))
	// After another listing those that have ended do not end again.
	third := black(lists.KindToken, "", "t9")
	b = lists.NewBuilder(snap)
	b.Put(third)
	s.Use(b.Snapshot(3), []lists.Change{{After: &third}}, false)
	eventually(t, "the third stream ends", func() bool { return ended[9].Load() == 1 })
	for i := range ended {
		want := int32(0)
		if i >= 7 && i <= 9 {
			want = 1
		}
		if got := ended[i].Load(); got != want {
			t.Errorf("stream %d ended %d times", i, got)
		}
	}
	s.streams.mu.Lock()
	got := len(s.streams.open)
	s.streams.mu.Unlock()
	if got != n-3 {
		t.Errorf("%d streams held, want %d", got, n-3)
	}
}

// TestExplain: what is found, how it is spelled, and why an entry counts or not.
func TestExplain(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	ended := black(lists.KindAPIKey, "X-API-KEY", "k1")
	ended.Expires = now.Add(-time.Second)
	s := newShim(t, Options{Now: func() time.Time { return now }}, []*apis.API{root()},
		ended, black(lists.KindCookie, "sid", "bad"), white(lists.KindCookie, "sid", "good"), white(lists.KindToken, "", "tok"))
	r := get("http://Shop.com:80//x", `Cookie: sid="bad"; other=1; sid=good`, "Authorization: Bearer tok", "X_api_key: k1")
	r = r.WithContext(WithClaims(context.Background(), Claims{Username: "eve"}))
	e := s.Explain(r)
	if e.Host != "shop.com" || len(e.Paths) != 2 || e.Paths[0] != (Path{"/x", "root"}) || e.Decision.Reason != PassWhitelisted || e.Decision.ID.Value != "tok" {
		t.Errorf("%+v", e)
	}
	find := func(kind lists.Kind, value string) (found []Identifier) {
		for _, id := range e.Found {
			if id.ID.Kind == kind && id.ID.Value == value {
				found = append(found, id)
			}
		}
		return found
	}
	for _, c := range []struct {
		kind  lists.Kind
		value string
		n     int
		last  Identifier
	}{
		{lists.KindIP, "192.0.2.1", 1, Identifier{ID: lists.ID{Kind: lists.KindIP, Value: "192.0.2.1"}, Where: "address", Spelling: "as it is", Canonical: true}},
		{lists.KindCookie, "bad", 1, Identifier{ID: lists.ID{Kind: lists.KindCookie, Name: "sid", Value: "bad"}, Where: "cookie sid", Spelling: "without its quotes",
			Matches: []Match{{List: lists.Blacklist, Source: lists.Manual, Counts: true}}}},
		{lists.KindCookie, "1", 2, Identifier{ID: lists.ID{Kind: lists.KindCookie, Name: "other", Value: "1"}, Where: "cookie other", Spelling: "as it is"}},
		{lists.KindAPIKey, "k1", 2, Identifier{ID: lists.ID{Kind: lists.KindAPIKey, Name: "X_api_key", Value: "k1"}, Where: "header X_api_key", Spelling: "as it is",
			Matches: []Match{{List: lists.Blacklist, Source: lists.Manual, Expires: ended.Expires.UTC(), Why: "it has ended"}}}},
		{lists.KindUsername, "eve", 1, Identifier{ID: lists.ID{Kind: lists.KindUsername, Value: "eve"}, Where: "gateway", Spelling: "as it is"}},
	} {
		found := find(c.kind, c.value)
		if len(found) != c.n || fmt.Sprint(found[len(found)-1]) != fmt.Sprint(c.last) {
			t.Errorf("%v %s: %+v, want %d, the last %+v", c.kind, c.value, found, c.n, c.last)
		}
	}
	good := find(lists.KindCookie, "good")
	if len(good) == 0 || good[0].Canonical || len(good[0].Matches) != 1 || good[0].Matches[0].Counts || good[0].Matches[0].Why == "" {
		t.Errorf("one of two cookies: %+v", good)
	}
	if tok := find(lists.KindToken, "tok"); len(tok) == 0 || !tok[0].Canonical || !tok[0].Matches[0].Counts {
		t.Errorf("the token: %+v", tok)
	}
	if st := s.Stats(); len(st.Decisions) != 0 || st.Latency.Count != 0 {
		t.Errorf("explaining was counted: %+v", st)
	}
	if e := s.Explain(get("http://shop.com/a%00")); len(e.Notes) != 1 || e.Decision.Reason != Malformed {
		t.Errorf("%+v", e)
	}
}

// TestStats: every decision is counted once, by reason and kind, and timed.
func TestStats(t *testing.T) {
	s := newShim(t, l7, []*apis.API{root()}, black(lists.KindToken, "", "bad"), white(lists.KindIP, "", "192.0.2.7"))
	for range 100 {
		s.Decide(get("/", "Authorization: Bearer bad"))
		s.Decide(get("/"))
	}
	r := get("/")
	r.RemoteAddr = "192.0.2.7:1"
	s.Decide(r)
	st := s.Stats()
	want := map[Reason]map[lists.Kind]uint64{Blacklisted: {lists.KindToken: 100}, PassUnlisted: {0: 100}, PassWhitelisted: {lists.KindIP: 1}}
	if fmt.Sprint(st.Decisions) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", st.Decisions, want)
	}
	if st.Latency.Count != 201 || st.Latency.Sum <= 0 || len(st.Latency.Buckets) != len(bounds) {
		t.Errorf("%+v", st.Latency)
	}
	below := uint64(0)
	for _, ns := range bounds {
		n, ok := st.Latency.Buckets[time.Duration(ns).Seconds()]
		if !ok || n < below || n > 201 {
			t.Errorf("bucket %d ns: %d after %d", ns, n, below)
		}
		below = n
	}
	for r := range Reason(reasons) {
		if r.String() == "" || r.String() == "unknown" {
			t.Errorf("reason %d has no word", r)
		}
	}
}

// TestTagsAreNotEnough: a value whose quick hash is that of a listed one is not taken for it.
func TestTagsAreNotEnough(t *testing.T) {
	s := newShim(t, l7, []*apis.API{root()}, black(lists.KindToken, "", "bad"))
	r := get("/", "Authorization: Bearer bad")
	if d := s.Decide(r); d.Verdict != Block {
		t.Fatalf("%v", d.Reason)
	}
	changed := 0
	for _, sh := range s.index.Load().values.shards {
		if sh == nil {
			continue
		}
		for i := range sh.slots {
			if sh.slots[i].meta != 0 {
				sh.slots[i].sum[1] ^= 1
				changed++
			}
		}
	}
	if d := s.Decide(r); changed != 1 || d.Verdict != Pass {
		t.Errorf("with another value of the same hash listed (%d): %v", changed, d.Reason)
	}
}
