package shim

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// TestChangesFindTheirStreams: whatever a change of lists blocks is among the streams that it is looked for in.
func TestChangesFindTheirStreams(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	for _, scope := range []string{"request", "identifier"} {
		s := New(Options{IPEnforcement: "l7", WhitelistScope: scope})
		s.UseAPIs(apis.NewSet(root()))
		snap := snapshot(t)
		s.Use(snap, nil, true)
		all := probes()
		for _, text := range []string{badJWT, "e30.e30.ab"} {
			all = append(all, get("/", "Authorization: Bearer "+text, "Cookie: a=b; sid=a; sid=b%41", "X-Api-Key: k1", "X-User: alice"), get("/?x_api_key=k1&access_token="+text, "Cookie: SID=c+d"))
		}
		blocked, named := 0, 0
		for round := range 300 {
			if round%10 == 0 { // else soon everybody is listed
				snap = snapshot(t)
				s.Use(snap, nil, true)
			}
			var held []*stream
			for _, p := range all {
				if d := s.Decide(p); d.Verdict == Pass {
					held = append(held, &stream{request: d.seen.request, due: true})
					s.streams.open[held[len(held)-1]] = struct{}{}
					held[len(held)-1].end = func() {}
				}
			}
			s.streams.appendDue(nil, false)
			s.sweep(held) // now they are known
			b := lists.NewBuilder(snap)
			var changes []lists.Change
			for range 1 + r.IntN(3) {
				e := randomEntry(r, time.Now().Add(time.Hour))
				c := lists.Change{}
				if all := slices.Collect(snap.Entries(lists.Whitelist)); len(all) > 0 && r.IntN(3) == 0 {
					before, ok := b.Delete(all[r.IntN(len(all))].Key)
					if !ok {
						continue
					}
					c.Before = &before
				} else {
					c.After = &e
					if before, replaced := b.Put(e); replaced {
						c.Before = &before
					}
				}
				changes = append(changes, c)
			}
			snap = b.Snapshot(uint64(round + 2))
			s.Use(snap, changes, false)
			due := s.streams.appendDue(nil, false)
			named += len(due)
			for _, st := range held {
				w := new(work)
				s.prepare(w, time.Since(s.began))
				var d Decision
				if s.judge(w, &st.request, &d); d.Verdict == Block {
					if blocked++; !st.due {
						t.Fatalf("round %d: %v is blocked by %v, and not looked at for %+v", round, st.request.header, d.ID, changes)
					}
				}
			}
			clear(s.streams.open)
		}
		t.Logf("scope %s: %d blocked, %d looked at, of %d", scope, blocked, named, 300*len(all))
		if blocked < 100 || named > 300*len(all)/3 {
			t.Errorf("%d blocked, %d looked at: the changes test little", blocked, named)
		}
	}
}

// TestNewNamesFindTheirStreams: what is listed under a name that meant nothing when a stream was last judged ends it.
func TestNewNamesFindTheirStreams(t *testing.T) {
	for name, r := range map[string]struct {
		request *http.Request
		entry   lists.Entry
	}{
		"cookie": {get("/", "Cookie: a=1; Wanted%5FLater=x"), black(lists.KindCookie, "wanted_later", "x")},
		"header": {get("/", "Wanted-Later: x"), black(lists.KindAPIKey, "wanted_later", "x")},
		"query":  {get("/?a=1&wanted-later=x"), black(lists.KindAPIKey, "Wanted_Later", "x")},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(l7)
			s.UseAPIs(apis.NewSet(root()))
			snap := snapshot(t, black(lists.KindCookie, "other", "y"))
			s.Use(snap, nil, true)
			st := &stream{request: s.Decide(r.request).seen.request}
			s.streams.open[st] = struct{}{}
			s.sweep(s.streams.appendDue(nil, false))
			b := lists.NewBuilder(snap)
			b.Put(r.entry)
			s.Use(b.Snapshot(2), []lists.Change{{After: &r.entry}}, false)
			if due := s.streams.appendDue(nil, false); !slices.Contains(due, st) {
				t.Error("the stream is not looked at")
			}
			if d := s.Decide(r.request); d.Verdict != Block {
				t.Errorf("%v: the entry names no such request", d.Reason)
			}
		})
	}
}

// TestExpensiveStreamsHoldUpNoOther: ten thousand streams are held, half of them made to be long to read, while lists
// change all the time; those of a client that is listed end soon, and no others.
func TestExpensiveStreamsHoldUpNoOther(t *testing.T) {
	snap := snapshot(t, black(lists.KindCookie, "JSESSIONID", "x"), white(lists.KindCookie, "JSESSIONID", "y"))
	s := New(l7)
	s.Use(snap, nil, true)
	s.UseAPIs(apis.NewSet(root()))
	run(t, s)
	const n = 5000
	var ended atomic.Int32
	dear := get("/", "Cookie: JSESSIONID="+strings.Repeat(`%u0041\"é+`, 2500))
	start := processorTime()
	d := s.Decide(dear)
	if d.Verdict != Pass {
		t.Fatalf("%v", d.Reason)
	}
	t.Logf("the expensive ones take %v each, cost %d", processorTime()-start, d.seen.cost)
	for i := range n {
		s.Hold(d, func() { t.Error("an innocent stream was ended") })
		cheap := s.Decide(get("/", fmt.Sprintf("Authorization: Bearer t%d", i/10), "Cookie: JSESSIONID=good"))
		s.Hold(cheap, func() { ended.Add(1) })
	}
	var mu sync.Mutex
	generation := uint64(2)
	add := func(e lists.Entry) {
		mu.Lock()
		defer mu.Unlock()
		b := lists.NewBuilder(snap)
		b.Put(e)
		snap = b.Snapshot(generation)
		s.Use(snap, []lists.Change{{After: &e}}, false)
		generation++
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				add(black(lists.KindCookie, "JSESSIONID", fmt.Sprint("other", i)))
			}
		}
	})
	defer others.Wait()
	defer close(stop)
	for round := range 3 {
		listed := time.Now()
		add(black(lists.KindToken, "", fmt.Sprint("t", round)))
		eventually(t, "the client's streams end", func() bool { return ended.Load() >= int32(10*(round+1)) })
		took := time.Since(listed)
		t.Logf("ended after %v", took)
		if took > 5*time.Second { // a second, and what a busy machine adds to it; to read all takes a minute
			t.Errorf("ended only after %v", took)
		}
		if got := ended.Load(); got != int32(10*(round+1)) {
			t.Errorf("%d streams ended, want %d", got, 10*(round+1))
		}
	}
}

// TestMillionAtOnceEndsStreams: changes after which all that is held is judged again, a million imported and definitions
// updated, end the streams of the ten thousand clients that they concern soon, and no others, though as many streams as
// that were made to be long to read.
func TestMillionAtOnceEndsStreams(t *testing.T) {
	const n = 10_000
	million := bulk(1_000_000)
	with := func(tokens ...string) *lists.Snapshot {
		b := lists.NewBuilder(million)
		for _, token := range tokens {
			b.Put(black(lists.KindToken, "", token))
		}
		return b.Snapshot(uint64(1 + len(tokens)))
	}
	open := root()
	open.EnableBlocking = false
	s := New(l7)
	s.Use(snapshot(t), nil, true)
	s.UseAPIs(apis.NewSet(open))
	run(t, s)
	var ended atomic.Int32
	dear := s.Decide(get("/", "Cookie: JSESSIONID="+strings.Repeat(`%u0041\"é+`, 2500)))
	hold := func(token string) {
		for range n {
			s.Hold(s.Decide(get("/", "Authorization: Bearer "+token, "Cookie: JSESSIONID=good; a=b", "X-Api-Key: k", "X-User: alice")), func() { ended.Add(1) })
		}
	}
	for range n {
		s.Hold(dear, func() { t.Error("an innocent stream was ended") })
	}
	hold("imported")
	hold("innocent")
	for _, change := range []struct {
		what string
		make func()
		want int32
	}{
		{"imported, where lists are not enforced", func() { s.Use(with("imported"), nil, true) }, 0},
		{"definitions updated", func() { s.UseAPIs(apis.NewSet(root())) }, n},
		{"another import", func() { hold("again"); s.Use(with("imported", "again"), nil, true) }, 2 * n},
	} {
		change.make()
		made := time.Now()
		eventually(t, change.what+": the streams end", func() bool { return ended.Load() >= change.want })
		took := time.Since(made)
		t.Logf("%s: %d streams ended after %v", change.what, change.want, took)
		if took > 5*time.Second { // a second, and what a busy machine adds to it; to read all takes minutes
			t.Errorf("%s: ended only after %v", change.what, took)
		}
	}
	if got := ended.Load(); got != 2*n {
		t.Errorf("%d streams ended, want %d", got, 2*n)
	}
}
