package check

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts an endpoint and returns where.
func serve(t *testing.T, decide func(*http.Request) shim.Decision) (*Endpoint, string) {
	t.Helper()
	return serveWith(t, Options{Decide: decide})
}

func serveWith(t *testing.T, o Options) (*Endpoint, string) {
	t.Helper()
	l, err := front.Listen(front.Place{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	e := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return e, l.Addr().String()
}

// ask sends a question as it goes over the wire, without Connection and the empty line.
func ask(t *testing.T, address, raw string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	raw = strings.ReplaceAll(strings.TrimSpace(raw), "\n", "\r\n") + "\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	a, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a, string(body)
}

// nginx is the head of a question of nginx.
const nginx = "GET /check/nginx HTTP/1.1\nHost: portcullis\nX-Original-Method: POST\nX-Original-Uri: /a%2Fb?c=d\nX-Original-Proto: https\n" +
	"X-Original-Host: shop.com\nX-Original-Version: HTTP/2.0\nX-Original-Client: 192.0.2.7\n"

const forward = "GET /check/forward HTTP/1.1\nHost: portcullis\nX-Forwarded-Method: POST\nX-Forwarded-Uri: /a%2Fb?c=d\nX-Forwarded-Proto: https\n" +
	"X-Forwarded-Host: shop.com\n"

// TestRebuild: what is judged is the client's request, and what the gateway said of it is not part of it.
func TestRebuild(t *testing.T) {
	tests := []struct {
		name, raw, want string
		header          http.Header
	}{
		{"nginx", nginx + "Cookie: a=1\nCookie: b=2\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-Uri: /spoofed\nX-Forwarded-Method: PUT",
			"POST shop.com https /a/b c=d 192.0.2.7:0 HTTP/2.0",
			http.Header{"Cookie": {"a=1", "b=2"}, "X-Forwarded-For": {"1.1.1.1"}, "X-Forwarded-Uri": {"/spoofed"}, "X-Forwarded-Method": {"PUT"}}},
		{"nginx without host", strings.Replace(nginx, "X-Original-Host: shop.com\n", "", 1), "POST  https /a/b c=d 192.0.2.7:0 HTTP/2.0", http.Header{}},
		{"forward, one hop", forward + "X-Forwarded-For: 192.0.2.7\nX-Original-Uri: /spoofed\nAuthorization: Bearer x",
			"POST shop.com https /a/b c=d 192.0.2.7:0 HTTP/1.1", http.Header{"X-Original-Uri": {"/spoofed"}, "Authorization": {"Bearer x"}}},
		{"forward, several hops", forward + "X-Forwarded-For: 9.9.9.9, garbage ,10.0.0.1\nX-Forwarded-For: 10.0.0.2,[2001:db8::1]:80",
			"POST shop.com https /a/b c=d [2001:db8::1]:0 HTTP/1.1", http.Header{"X-Forwarded-For": {"9.9.9.9, garbage ,10.0.0.1", "10.0.0.2"}}},
		{"envoy", "PUT /check/envoy/x%20y?z HTTP/1.1\nHost: shop.com\nX-Forwarded-Proto: http\nX-Forwarded-For: 192.0.2.7\nContent-Length: 0\nX-Envoy-Internal: true",
			"PUT shop.com http /x y z 192.0.2.7:0 HTTP/1.1", http.Header{"Content-Length": {"0"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got *http.Request
			_, address := serve(t, func(r *http.Request) shim.Decision {
				got = r
				return shim.Decision{}
			})
			if a, _ := ask(t, address, test.raw); a.StatusCode != http.StatusNoContent {
				t.Fatalf("status %d", a.StatusCode)
			}
			line := fmt.Sprint(got.Method, " ", got.Host, " ", got.URL.Scheme, " ", got.URL.Path, " ", got.URL.RawQuery, " ", got.RemoteAddr, " ", got.Proto)
			if line != test.want {
				t.Errorf("got %q, want %q", line, test.want)
			}
			delete(got.Header, "Connection") // that of ask
			if d := cmp.Diff(test.header, got.Header); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestUndecided: a question that leaves something out or says it twice passes nothing.
func TestUndecided(t *testing.T) {
	without := func(raw, line string) string {
		if !strings.Contains(raw, line) {
			t.Fatalf("no %q in %q", line, raw)
		}
		return strings.Replace(raw, line+"\n", "", 1)
	}
	whole := forward + "X-Forwarded-For: 192.0.2.7\n"
	tests := map[string]string{
		"two targets":           nginx + "X-Original-Uri: /",
		"two spelled otherwise": nginx + "x-original-URI: /",
		"two clients":           nginx + "X-Original-Client: 192.0.2.8",
		"two hosts":             nginx + "X-Original-Host: other",
		"two methods":           whole + "X-Forwarded-Method: GET",
		"no target":             without(nginx, "X-Original-Uri: /a%2Fb?c=d"),
		"no method":             without(nginx, "X-Original-Method: POST"),
		"no scheme":             without(nginx, "X-Original-Proto: https"),
		"no client":             without(nginx, "X-Original-Client: 192.0.2.7"),
		"odd scheme":            strings.Replace(nginx, "https", "gopher", 1),
		"odd client":            strings.Replace(nginx, "192.0.2.7", "unix:", 1),
		"no hop":                forward,
		"odd hop":               forward + "X-Forwarded-For: 192.0.2.7, unknown",
		"nginx's in forward":    strings.Replace(nginx, "/check/nginx", "/check/forward", 1),
		"envoy without path":    "GET /check/%65nvoy/x HTTP/1.1\nHost: a\nX-Forwarded-Proto: http\nX-Forwarded-For: 192.0.2.7",
	}
	for name, raw := range tests {
		e, address := serve(t, func(r *http.Request) shim.Decision {
			t.Errorf("%s: judged", name)
			return shim.Decision{}
		})
		a, body := ask(t, address, raw)
		if a.StatusCode != 403 || body != "Error: Undecided" || a.Header.Get("X-Portcullis-Reason") != "undecided" {
			t.Errorf("%s: got %d %q", name, a.StatusCode, body)
		}
		if got, want := e.Counts(), (front.Counts{Undecided: 1}); got != want {
			t.Errorf("%s: counted %+v, want %+v", name, got, want)
		}
	}
}

func TestUnknownPath(t *testing.T) {
	e, address := serve(t, nil)
	for _, path := range []string{"/", "/check", "/check/nginx/", "/check/nginx/x", "/check/envoy"} {
		if a, _ := ask(t, address, "GET "+path+" HTTP/1.1\nHost: a"); a.StatusCode != 404 {
			t.Errorf("%s: got %d", path, a.StatusCode)
		}
	}
	if got, want := e.Counts(), (front.Counts{Undecided: 5}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestAnswers(t *testing.T) {
	decisions := map[string]shim.Decision{
		"/pass":     {},
		"/block":    {Verdict: shim.Block, Reason: shim.Blacklisted, Answer: apis.Answer{Status: 403, Body: "Error: Unauthorized"}},
		"/unknown":  {Verdict: shim.Refuse, Reason: shim.UnknownAPI, Answer: apis.Answer{Status: 503, Body: "Error: Unknown API"}},
		"/decoy":    {Verdict: shim.Refuse, Reason: shim.Detected, Answer: apis.Answer{Status: 200, Body: "welcome"}},
		"/redirect": {Verdict: shim.Refuse, Reason: shim.Detected, Answer: apis.Answer{Status: 302, Location: "https://a/"}},
	}
	e, address := serve(t, func(r *http.Request) shim.Decision {
		d, ok := decisions[r.URL.Path]
		if !ok {
			panic("no such path")
		}
		return d
	})
	type answer struct {
		status                       int
		reason, real, location, body string
	}
	tests := []struct {
		way, path string
		want      answer
	}{
		{"nginx", "/pass", answer{status: 204}},
		{"forward", "/pass", answer{status: 204}},
		{"nginx", "/block", answer{403, "blacklisted", "403", "", "Error: Unauthorized"}},
		{"forward", "/block", answer{403, "blacklisted", "", "", "Error: Unauthorized"}},
		{"nginx", "/unknown", answer{403, "unknown_api", "503", "", "Error: Unknown API"}},
		{"forward", "/unknown", answer{503, "unknown_api", "", "", "Error: Unknown API"}},
		{"nginx", "/decoy", answer{403, "detected", "200", "", "welcome"}},
		{"forward", "/decoy", answer{403, "detected", "200", "", "welcome"}},
		{"nginx", "/redirect", answer{403, "detected", "302", "https://a/", ""}},
		{"forward", "/redirect", answer{302, "detected", "", "https://a/", ""}},
		{"nginx", "/panic", answer{403, "undecided", "403", "", "Error: Undecided"}},
		{"forward", "/%zz", answer{400, "malformed", "", "", "Error: Malformed Request"}},
	}
	for _, test := range tests {
		raw := strings.Replace(nginx, "/a%2Fb?c=d", test.path, 1)
		if test.way == "forward" {
			raw = strings.Replace(forward, "/a%2Fb?c=d", test.path, 1) + "X-Forwarded-For: 192.0.2.7"
		}
		a, body := ask(t, address, raw)
		got := answer{a.StatusCode, a.Header.Get("X-Portcullis-Reason"), a.Header.Get("X-Portcullis-Status"), a.Header.Get("Location"), body}
		if got != test.want {
			t.Errorf("%s %s: got %+v, want %+v", test.way, test.path, got, test.want)
		}
	}
	if got, want := e.Counts(), (front.Counts{Passed: 2, Blocked: 2, Refused: 7, Undecided: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestTooManyConnections(t *testing.T) {
	e, address := serveWith(t, Options{MaxConns: 2, Decide: func(*http.Request) shim.Decision { return shim.Decision{} }})
	var open []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	third, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	_ = third.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := third.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third connection is not closed: %v", err)
	}
	if e.Overflow() != 1 {
		t.Errorf("counted %d", e.Overflow())
	}
	_ = open[0].SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(open[0], strings.ReplaceAll(nginx, "\n", "\r\n")+"\r\n"); err != nil {
		t.Fatal(err)
	}
	if a, err := http.ReadResponse(bufio.NewReader(open[0]), nil); err != nil || a.StatusCode != http.StatusNoContent {
		t.Errorf("the first connection: %v, %v", a, err)
	}
}
