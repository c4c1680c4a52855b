package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/userspace/apis"
)

// dead is an address at which nobody listens.
func dead(t *testing.T) string {
	l := listen(t)
	l.Close()
	return l.Addr().String()
}

func TestBalancesAndLeavesDeadServersAlone(t *testing.T) {
	one, two := newRecorder(t, nil), newRecorder(t, nil)
	r := newRig(t, Options{}, rootAPI(one.address, dead(t), two.address))
	for _, h2 := range []bool{false, true} {
		c := web(t, h2)
		for i := range 60 {
			a, err := c.Post(fmt.Sprintf("http://%s/%d", r.plain, i), "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(a.Body)
			a.Body.Close()
			if want := fmt.Sprintf("POST /%d 5", i); string(got) != want {
				t.Fatalf("HTTP/2 %t: got %q, want %q: a server that cannot be reached is no reason to fail", h2, got, want)
			}
		}
	}
	_, first, _ := one.got()
	_, second, _ := two.got()
	if len(first)+len(second) != 120 || len(first) < 40 || len(second) < 40 {
		t.Errorf("the servers got %d and %d requests", len(first), len(second))
	}
	s := r.p.Stats()
	if s.Retries < failuresOut || s.Retries > 2*failuresOut || s.Backends[1].Well || s.Backends[1].Failures > 2*failuresOut {
		t.Errorf("counted %+v", s)
	}
	if n := strings.Count(r.log.String(), "left alone for a while"); n != 1 {
		t.Errorf("the log says %d times that a server is left alone", n)
	}

	all := newRig(t, Options{}, rootAPI(dead(t), dead(t)))
	for range 10 {
		c := all.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.expect("502 Bad Gateway", "Error: Bad Gateway")
	}
}

// TestStaleConnection: a kept connection that the server has given up is no reason to fail; a request that may have been
// acted on is not sent twice.
func TestRetriesWhereSafe(t *testing.T) {
	var count atomic.Int64
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		n := count.Add(1)
		if strings.Contains(head, "/breaks") && n%2 == 0 {
			return false // after having read the request on a kept connection
		}
		return answerOK(c, head, in)
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	for method, want := range map[string]string{"GET": "GET /breaks 0", "POST": "Error: Bad Gateway"} {
		count.Store(0)
		c := r.dial()
		c.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
		c.expect("200 OK", "GET /first 0")
		c.send("%s /breaks HTTP/1.1\r\nHost: a\r\n\r\n", method)
		if a, body := c.read(method); body != want {
			t.Errorf("%s: %s %q, want %q", method, a.Status, body, want)
		}
	}
	if s := r.p.Stats(); s.Retries != 1 || s.BackendErrors != 1 {
		t.Errorf("counted %+v", s)
	}
}

func TestQuotas(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 100)
	b := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
	})
	api := rootAPI(b)
	api.Servers[0].ConnectionsQuota = 3
	r := newRig(t, Options{}, api)
	var slow sync.WaitGroup
	for i := range 3 {
		slow.Go(func() {
			a, err := web(t, i == 0).Get("http://" + r.plain + "/slow")
			if err == nil {
				a.Body.Close()
			}
			if err != nil || a.StatusCode != 200 {
				t.Errorf("within the quota: %v %v", a, err)
			}
		})
	}
	for range 3 {
		<-arrived
	}
	for _, h2 := range []bool{false, true} {
		a, err := web(t, h2).Get("http://" + r.plain + "/")
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if a.StatusCode != 503 || string(got) != "Error: Server Quota Exceeded" {
			t.Errorf("HTTP/2 %t: over the quota: %d %q", h2, a.StatusCode, got)
		}
	}
	close(release)
	slow.Wait()
	if s := r.p.Stats(); s.Quota != 2 || s.Backends[0].Open > 3 || s.Backends[0].Failures != 0 {
		t.Errorf("counted %+v", s)
	}

	spiky := rootAPI(b)
	spiky.Servers[0].SpikeThreshold = 2
	now := time.Unix(1000, 0)
	r = newRig(t, Options{Now: func() time.Time { return now }}, spiky)
	hold := func() *client { // one connection to the server each, kept by the upgrade that it never gets to
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		return c
	}
	for _, want := range []int{200, 200} {
		if a, _ := hold().read("GET"); a.StatusCode != want {
			t.Errorf("got %d, want %d", a.StatusCode, want)
		}
		for s := range r.p.servers() { // so that the next one is a new connection
			s.closeIdle(now.Add(time.Hour), false)
		}
	}
	if a, body := hold().read("GET"); a.StatusCode != 503 {
		t.Errorf("the third connection of a second: %d %q, want 503", a.StatusCode, body)
	}
}

func TestHealthChecks(t *testing.T) {
	t.Parallel()
	var ill atomic.Bool
	var checks atomic.Int64
	b := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/health" {
			return
		}
		if checks.Add(1); ill.Load() {
			w.WriteHeader(500)
		}
	})
	api := rootAPI(b)
	api.Health = apis.Health{Enabled: true, Interval: 1, Retries: 2, URL: "/health"}
	r := newRig(t, Options{}, api)
	ask := func() int {
		a, err := web(t, false).Get("http://" + r.plain + "/")
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		return a.StatusCode
	}
	if got := ask(); got != 200 {
		t.Fatalf("well: %d", got)
	}
	ill.Store(true)
	r.eventually("the server is out", func(s Stats) bool { return !s.Backends[0].Well })
	if got := ask(); got != 503 {
		t.Errorf("ill: %d, want 503", got)
	}
	ill.Store(false)
	r.eventually("the server is back", func(s Stats) bool { return s.Backends[0].Well })
	if got := ask(); got != 200 {
		t.Errorf("well again: %d", got)
	}
	r.use(rootAPI(b)) // without checks
	before := checks.Load()
	if got := ask(); got != 200 || checks.Load() > before+1 {
		t.Errorf("changed definition: %d, %d checks", got, checks.Load()-before)
	}
}

// TestChangedDefinition: what is under way is finished by the old server, what comes after goes to the new one.
func TestChangedDefinition(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{})
	old := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "old")
	})
	b := newRecorder(t, nil)
	r := newRig(t, Options{}, rootAPI(old))
	c := r.dial()
	c.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived
	r.use(rootAPI(b.address))
	close(release)
	c.expect("200 OK", "old")
	c.send("GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("200 OK", "GET /b 0")
	r.use()
	c.send("GET /c HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("503 Service Unavailable", "Error: Unknown Hostname")
}
