package sideband

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

// newShim knows one API and a list.
func newShim(blacklisted ...lists.ID) *shim.Shim {
	s := shim.New(shim.Options{})
	s.UseAPIs(apis.NewSet(&apis.API{ID: "shop", Hostname: "shop.com", URL: "/shop", Protocol: "https", EnableBlocking: true}))
	b := lists.NewBuilder(nil)
	for _, id := range blacklisted {
		b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Unix(1, 0)})
	}
	b.Set(lists.DefaultSettings())
	s.Use(b.Snapshot(1), nil, true)
	return s
}

func post(h http.Handler, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func clean(url string, headers ...string) string {
	all := `{"host":"shop.com"}`
	for i := 0; i < len(headers); i += 2 {
		all += fmt.Sprintf(`,{%q:%q}`, headers[i], headers[i+1])
	}
	return fmt.Sprintf(`{"source_ip":"192.0.2.1","source_port":1,"method":"GET","url":%q,"headers":[%s]}`, url, all)
}

func TestAnswers(t *testing.T) {
	token := lists.ID{Kind: lists.KindToken, Value: "bad"}
	s := New(Options{Shim: newShim(token)})
	tests := []struct {
		name, path, body string
		header           []string
		status           int
		text             string
		counts           front.Counts
	}{
		{"clean", "/ase/request", clean("/shop"), nil, 200, "", front.Counts{Passed: 1}},
		{"blocked", "/ase/request", clean("/shop", "authorization", "Bearer bad"), nil, 403, "Error: Unauthorized", front.Counts{Blocked: 1}},
		{"blocked, of several", "/ase/request", clean("/shop", "authorization", "Bearer a,Bearer bad"), nil, 403, "Error: Unauthorized", front.Counts{Blocked: 1}},
		{"unknown API", "/ase/request", clean("/other"), nil, 503, "Error: Unknown API", front.Counts{Refused: 1}},
		{"unknown host", "/ase/request", strings.Replace(clean("/shop"), "shop.com", "a.com", 1), nil, 503, "Error: Unknown Hostname", front.Counts{Refused: 1}},
		{"two hosts", "/ase/request", clean("/shop", "Host", "a.com"), nil, 403, "Error: Malformed Request", front.Counts{Refused: 1}},
		{"no JSON", "/ase/request", "x", nil, 400, "Error: Malformed Request", front.Counts{Undecided: 1}},
		{"no method", "/ase/request", `{"url":"/"}`, nil, 400, "Error: Malformed Request", front.Counts{Undecided: 1}},
		{"too long", "/ase/request", strings.Repeat(" ", MaxBody+1), nil, 413, "Error: Malformed Request", front.Counts{Undecided: 1}},
		{"a response", "/ase/response", `{"response_code":"200","headers":[]}`, nil, 200, "", front.Counts{}},
		{"a response, wrapped", "/ase/response", `{"ASEPayload":{"response_code":404}}`, nil, 200, "", front.Counts{}},
		{"a response without status", "/ase/response", `{}`, nil, 400, "Error: Malformed Request", front.Counts{Undecided: 1}},
		{"another path", "/ase/nothing", "", nil, 404, "404 page not found\n", front.Counts{}},
	}
	for _, test := range tests {
		before := s.Counts()
		status, text := post(s.Handler(), test.path, test.body, test.header...)
		after := s.Counts()
		moved := front.Counts{Passed: after.Passed - before.Passed, Blocked: after.Blocked - before.Blocked, Refused: after.Refused - before.Refused,
			Undecided: after.Undecided - before.Undecided}
		if status != test.status || text != test.text || moved != test.counts {
			t.Errorf("%s: %d %q, counts %+v; want %d %q, %+v", test.name, status, text, moved, test.status, test.text, test.counts)
		}
	}
}

func TestAuthentication(t *testing.T) {
	on := false
	s := New(Options{Shim: newShim(), Authenticate: func() bool { return on }, Valid: func(token string) bool { return token == "right" }})
	for _, test := range []struct {
		on     bool
		token  string
		status int
	}{{false, "", 200}, {false, "wrong", 200}, {true, "", 401}, {true, "wrong", 401}, {true, "right", 200}} {
		on = test.on
		if status, _ := post(s.Handler(), "/ase/request", clean("/shop"), "ASE-Token", test.token); status != test.status {
			t.Errorf("authentication %v, token %q: %d, want %d", test.on, test.token, status, test.status)
		}
	}
}

// TestCorrelation: the response belongs to the request with its id, once, in time, and to none if two have it.
func TestCorrelation(t *testing.T) {
	now := time.Unix(0, 0)
	client := func(i byte) shim.Decision { return shim.Decision{Client: netip.AddrFrom4([4]byte{i})} }
	c := newCorrelation(3)
	expect := func(what, id string, at time.Time, want byte) {
		t.Helper()
		if d, ok := c.take(id, at); ok != (want != 0) || ok && d.Client != client(want).Client {
			t.Errorf("%s: %v, %v, want %d", what, d.Client, ok, want)
		}
	}
	c.add("", client(9), now)
	expect("no id", "", now, 0)
	c.add("a", client(1), now)
	expect("the first time", "a", now, 1)
	expect("the second time", "a", now, 0)
	c.add("b", client(2), now)
	c.add("b", client(3), now)
	c.add("b", client(4), now)
	expect("one of three", "b", now, 0)
	expect("another of three", "b", now, 0)
	c.add("late", client(5), now)
	expect("after a minute", "late", now.Add(openFor), 0)
	for i := range byte(10) {
		c.add(fmt.Sprint(i), client(i+1), now)
	}
	if len(c.byID) != 3 || c.oldest.Len() != 3 {
		t.Errorf("%d remembered, want 3", len(c.byID))
	}
	expect("the oldest of too many", "0", now, 0)
	expect("the newest of too many", "9", now, 10)
}

// TestOpenRequestsAreSmall: a gateway that never tells of responses, or is kept from it, does not have us hold its
// clients' requests, however long these are.
func TestOpenRequestsAreSmall(t *testing.T) {
	settings := lists.DefaultSettings()
	settings.ASEDetectedAttack = true
	b := lists.NewBuilder(nil)
	b.Set(settings)
	answered := false
	judge := shim.New(shim.Options{Detect: func(_ *http.Request, seen shim.Seen) (a apis.Answer, source lists.Source, ok bool) {
		token, _ := seen.Credentials.Learnable()
		answered = token.Value != ""
		return a, source, false
	}})
	judge.UseAPIs(apis.NewSet(&apis.API{ID: "shop", Hostname: "*", URL: "/", EnableBlocking: true}))
	judge.Use(b.Snapshot(1), nil, true)
	s := New(Options{Shim: judge})
	long := strings.Repeat("x", 100_000)
	const token = "0123456789abcdefghij"
	before := heapBytes()
	for i := range 500 {
		status, _ := post(s.Handler(), "/ase/request", clean("/shop", "authorization", "Bearer "+token, "x-long", long), "X-CorrelationID", fmt.Sprint("id", i))
		if status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	if grown := heapBytes() - before; grown > 8<<20 {
		t.Errorf("500 open requests of 100 KB hold %d KB", grown>>10)
	}
	if answered {
		t.Error("learned before the backend has answered")
	}
	post(s.Handler(), "/ase/response", `{"response_code":200}`, "X-CorrelationID", "id3")
	post(s.Handler(), "/ase/request", clean("/shop", "authorization", "Bearer "+token))
	if !answered {
		t.Error("what is kept of a request is not enough to learn from its response")
	}
}

func heapBytes() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestServe: over one kept connection and over closed ones, until it is told to end.
func TestServe(t *testing.T) {
	s := New(Options{Shim: newShim()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	for _, keep := range []bool{true, false} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: !keep}}
		for range 3 {
			resp, err := client.Post("http://"+l.Addr().String()+"/ase/request", "text/plain; charset=ISO-8859-1", strings.NewReader(clean("/shop")))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("keep-alive %v: %s", keep, resp.Status)
			}
		}
		resp, err := client.Get("http://" + l.Addr().String() + "/ase")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("GET /ase: %s", resp.Status)
		}
		client.CloseIdleConnections()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
