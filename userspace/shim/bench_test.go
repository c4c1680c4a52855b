package shim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// bulk makes n entries of the four kinds that have values, and addresses.
func bulk(n int) *lists.Snapshot {
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	for i := range n {
		var e lists.Entry
		switch i % 5 {
		case 0:
			e = black(lists.KindCookie, "JSESSIONID", fmt.Sprintf("%032x", i))
		case 1:
			e = black(lists.KindToken, "", fmt.Sprintf("token-%040x", i))
		case 2:
			e = black(lists.KindAPIKey, "X-API-KEY", fmt.Sprintf("key-%d", i))
		case 3:
			e = black(lists.KindUsername, "", fmt.Sprintf("user%d@example.com", i))
		default:
			e = black(lists.KindIP, "", fmt.Sprintf("100.%d.%d.%d", i>>16, i>>8&255, i&255))
		}
		b.Put(e)
	}
	return b.Snapshot(1)
}

// five is a request with five identifiers, as browsers and clients send them.
func five() *http.Request {
	return get("/shop/cart?page=2&api_key=8c7b1f",
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Accept-Language: en-US,en;q=0.5", "Accept-Encoding: gzip, deflate, br",
		"Cookie: theme=dark; JSESSIONID=0123456789abcdef0123456789abcdef; lang=en",
		"Authorization: Bearer 2YotnFZFEjr1zCsicMWpAA2YotnFZFEjr1zCsicMWpAA", "X-User: alice@example.com")
}

var million = sync.OnceValue(func() *lists.Snapshot { return bulk(1_000_000) })

func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct {
		name string
		n    int
		r    *http.Request
	}{
		{"five/empty", 0, five()},
		{"five/million", 1_000_000, five()},
		{"jwt/million", 1_000_000, get("/", "Authorization: Bearer "+badJWT)},
		{"blocked/million", 1_000_000, get("/", "X-User: user3@example.com")},
	} {
		b.Run(c.name, func(b *testing.B) {
			snap := bulk(c.n)
			if c.n == 1_000_000 {
				snap = million()
			}
			s := New(l7)
			s.Use(snap, nil, true)
			s.UseAPIs(apis.NewSet(root()))
			b.ReportAllocs()
			b.ResetTimer()
			start := processorTime()
			for b.Loop() {
				s.Decide(c.r)
			}
			b.ReportMetric(float64(processorTime()-start)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkDecideCold looks for other identifiers each time, so that the table is not in the processor's caches.
func BenchmarkDecideCold(b *testing.B) {
	s := New(l7)
	s.Use(million(), nil, true)
	s.UseAPIs(apis.NewSet(root()))
	type values struct{ cookie, token, user, query, remote string }
	all := make([]values, 1<<14)
	for i := range all {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], rand.Uint32())
		all[i] = values{
			fmt.Sprintf("theme=dark; JSESSIONID=%032x; lang=en", rand.Uint64()),
			fmt.Sprintf("Bearer token-%040x", rand.Uint64()),
			fmt.Sprintf("user%d@example.net", rand.Uint64()),
			fmt.Sprintf("page=2&api_key=key-%x", rand.Uint64()),
			fmt.Sprintf("%d.%d.%d.%d:80", a[0], a[1], a[2], a[3]),
		}
	}
	r := five()
	b.ReportAllocs()
	b.ResetTimer()
	start := processorTime()
	i := 0
	for b.Loop() {
		v := &all[i&(1<<14-1)]
		r.Header["Cookie"][0], r.Header["Authorization"][0], r.Header["X-User"][0] = v.cookie, v.token, v.user
		r.URL.RawQuery, r.RemoteAddr = v.query, v.remote
		s.Decide(r)
		i++
	}
	b.ReportMetric(float64(processorTime()-start)/float64(b.N), "cpu-ns/op")
}

func BenchmarkUse(b *testing.B) {
	s := New(Options{})
	snap := million()
	s.Use(snap, nil, true)
	b.Run("change", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			e := black(lists.KindToken, "", fmt.Sprint("new", i))
			s.Use(snap, []lists.Change{{After: &e}}, false)
		}
	})
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			s.Use(snap, nil, true)
		}
	})
}

// TestDecideAllocatesNothing: on every path that passes.
func TestDecideAllocatesNothing(t *testing.T) {
	jwt := get("/", "Authorization: Bearer "+badJWT)
	entries := []lists.Entry{
		black(lists.KindCookie, "JSESSIONID", "x"), black(lists.KindToken, "", "x"), black(lists.KindAPIKey, "X-API-KEY", "x"),
		black(lists.KindUsername, "", "x"), black(lists.KindIP, "", "10.0.0.0/8"), black(lists.KindToken, "", badJWT+"x"),
		white(lists.KindCookie, "JSESSIONID", "good"), white(lists.KindToken, "", "good"), white(lists.KindIP, "", "192.0.2.7"),
	}
	s := newShim(t, l7, []*apis.API{root()}, entries...)
	fromGood := five()
	fromGood.RemoteAddr = "192.0.2.7:1"
	for name, c := range map[string]struct {
		r    *http.Request
		want Reason
	}{
		"five": {five(), PassUnlisted}, "cookie": {get("/Upper", "Cookie: JSESSIONID=good"), PassWhitelisted},
		"token": {get("/", "Authorization: Bearer good"), PassWhitelisted}, "ip": {fromGood, PassWhitelisted},
		"jwt": {func() *http.Request { jwt.Header.Set("Authorization", "Bearer e30.e30.x"); return jwt }(), PassUnlisted},
	} {
		if d := s.Decide(c.r); d.Reason != c.want {
			t.Errorf("%s: %v by %v", name, d.Reason, d.ID)
		}
		if n := testing.AllocsPerRun(500, func() { s.Decide(c.r) }); n >= 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestMillionMemory: what an entry takes in the shim, beside the snapshot, and that a change is in force when Use
// returns, which is soon.
func TestMillionMemory(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	snap := bulk(n)
	s := New(Options{})
	s.UseAPIs(apis.NewSet(root()))
	before := heap()
	s.Use(snap, nil, true)
	if per := float64(heap()-before) / float64(n); per > 60 {
		t.Errorf("%.1f bytes an entry, want at most 60", per)
	} else {
		t.Logf("%.1f bytes an entry", per)
	}
	var all []time.Duration
	for i := range 200 {
		e := black(lists.KindToken, "", fmt.Sprint("new", i))
		start := time.Now()
		s.Use(snap, []lists.Change{{After: &e}}, false)
		all = append(all, time.Since(start))
		if d := s.Decide(get("/", "Authorization: Bearer "+e.ID.Value)); d.Verdict != Block {
			t.Fatalf("%v after Use: %v", e.ID, d.Reason)
		}
	}
	slices.Sort(all)
	t.Logf("a change takes %v, the slowest of %d %v", all[len(all)/2], len(all), all[len(all)-1])
	if all[len(all)/2] > 10*time.Millisecond {
		t.Errorf("a change takes %v, want at most 10 ms", all[len(all)/2])
	}
	runtime.KeepAlive(snap)
}

// TestMemoryAfterChanges: shards that have grown one by one waste no more.
func TestMemoryAfterChanges(t *testing.T) {
	const n = 100_000
	snap := bulk(n)
	s := New(Options{})
	s.UseAPIs(apis.NewSet(root()))
	before := heap()
	var batch []lists.Change
	for e := range snap.Entries(lists.Blacklist) {
		if batch = append(batch, lists.Change{After: &e}); len(batch) == 900 {
			s.Use(snap, batch, false)
			batch = batch[:0]
		}
	}
	s.Use(snap, batch, false)
	batch = nil
	per := float64(heap()-before) / n
	t.Logf("%.1f bytes an entry", per)
	if per > 60 {
		t.Errorf("%.1f bytes an entry, want at most 60", per)
	}
	if got := s.index.Load().values.live; got != n {
		t.Errorf("%d listings of %d entries", got, n)
	}
	if d := s.Decide(get("/", "X-User: user3@example.com")); d.Verdict != Block {
		t.Errorf("after changes: %v", d.Reason)
	}
	runtime.KeepAlive(snap)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// processorTime is what this process has used: it says what deciding costs on a machine that does other things too.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
