package shim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

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
			for b.Loop() {
				s.Decide(c.r)
			}
		})
	}
}

// BenchmarkDecideCold looks for other identifiers each time, so that the table is not in the processor's caches.
func BenchmarkDecideCold(b *testing.B) {
	s := New(l7)
	s.Use(million(), nil, true)
	s.UseAPIs(apis.NewSet(root()))
	all := make([]*http.Request, 1<<14)
	for i := range all {
		all[i] = five()
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], rand.Uint32())
		all[i].RemoteAddr = fmt.Sprintf("%d.%d.%d.%d:80", a[0], a[1], a[2], a[3])
		all[i].Header.Set("Cookie", fmt.Sprintf("theme=dark; JSESSIONID=%032x; lang=en", rand.Uint64()))
		all[i].Header.Set("Authorization", fmt.Sprintf("Bearer token-%040x", rand.Uint64()))
		all[i].Header.Set("X-User", fmt.Sprintf("user%d@example.net", rand.Uint64()))
		all[i].URL.RawQuery = fmt.Sprintf("page=2&api_key=key-%x", rand.Uint64())
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Decide(all[i&(1<<14-1)])
		i++
	}
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

// TestMemory: what an entry takes in the shim, beside the snapshot.
func TestMemory(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 100_000
	}
	snap := bulk(n)
	s := New(Options{})
	before := heap()
	s.Use(snap, nil, true)
	per := float64(heap()-before) / float64(n)
	t.Logf("%.1f bytes an entry", per)
	if per > 60 {
		t.Errorf("%.1f bytes an entry, want at most 60", per)
	}
	// The same one by one, as changes: every shard has grown on its own.
	grown := New(Options{})
	grown.UseAPIs(apis.NewSet(root()))
	before = heap()
	var batch []lists.Change
	for e := range snap.Entries(lists.Blacklist) {
		if batch = append(batch, lists.Change{After: &e}); len(batch) == 900 {
			grown.Use(snap, batch, false)
			batch = batch[:0]
		}
	}
	grown.Use(snap, batch, false)
	per = float64(heap()-before) / float64(n)
	t.Logf("%.1f bytes an entry after changes", per)
	if per > 60 {
		t.Errorf("%.1f bytes an entry after changes, want at most 60", per)
	}
	if got := grown.index.Load().values.live; got != n {
		t.Errorf("%d listings of %d entries", got, n)
	}
	if d := grown.Decide(get("/", "X-User: user3@example.com")); d.Verdict != Block {
		t.Errorf("after changes: %v", d.Reason)
	}
	// A change is in force when Use returns, and Use returns soon.
	worst := time.Duration(0)
	for i := range 50 {
		e := black(lists.KindToken, "", fmt.Sprint("new", i))
		start := time.Now()
		s.Use(snap, []lists.Change{{After: &e}}, false)
		worst = max(worst, time.Since(start))
		if m := s.index.Load(); m.count.black[lists.KindToken] == 0 {
			t.Fatal("not there")
		}
	}
	t.Logf("worst change %v", worst)
	runtime.KeepAlive(snap)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
