package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

func TestForwardsOnKeptConnections(t *testing.T) {
	b := newRecorder(t, nil)
	r := newRig(t, Options{}, rootAPI(b.address))
	c := r.dial()
	for i := range 3 {
		c.send("GET /a?x=%d HTTP/1.1\r\nHost: shop.com\r\nUser-Agent: t\r\n\r\n", i)
		c.expect("200 OK", fmt.Sprintf("GET /a?x=%d 0", i))
		c.send("POST /p HTTP/1.1\r\nHost: shop.com\r\nContent-Length: 5\r\n\r\nhello")
		c.expect("200 OK", "POST /p 5")
		c.send("PUT /c HTTP/1.1\r\nHost: shop.com\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
		c.expect("200 OK", "PUT /c 5")
	}
	_, heads, conns := b.got()
	if want := "GET /a?x=0 HTTP/1.1\r\nHost: shop.com\r\nUser-Agent: t\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.com\r\n\r\n"; heads[0] != want {
		t.Errorf("backend got %q, want %q", heads[0], want)
	}
	if len(heads) != 9 || conns != 1 {
		t.Errorf("backend got %d requests on %d connections, want 9 on 1", len(heads), conns)
	}
	if s := r.p.Stats(); s.Passed != 9 || s.Accepted != 1 || s.Connections != 1 || s.Malformed != 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestAnswersOfOurs(t *testing.T) {
	t.Parallel()
	b := newRecorder(t, nil)
	r := newRig(t, Options{}, &apis.API{ID: "shop", Hostname: "shop.com", URL: "/shop", Servers: servers(b.address)},
		&apis.API{ID: "empty", Hostname: "shop.com", URL: "/empty"})
	r.judge.decide = func(q *http.Request) (shim.Decision, bool) { return blocked, q.Header.Get("Cookie") == "bad=1" }
	tests := []struct{ request, status, body string }{
		{"GET /shop HTTP/1.1\r\nHost: shop.com\r\nCookie: bad=1\r\n\r\n", "403 Unauthorized", "Error: Unauthorized"},
		{"POST /shop HTTP/1.1\r\nHost: shop.com\r\nCookie: bad=1\r\nContent-Length: 3\r\n\r\nabc", "403 Unauthorized", "Error: Unauthorized"},
		{"GET /other HTTP/1.1\r\nHost: shop.com\r\n\r\n", "503 Service Unavailable", "Error: Unknown API"},
		{"GET /shop HTTP/1.1\r\nHost: else.com\r\n\r\n", "503 Service Unavailable", "Error: Unknown Hostname"},
		{"GET /shop HTTP/1.1\r\n\r\n", "400 Bad Request", "Error: Malformed Request"},
		{"GET /shop HTTP/1.1\r\nHost: shop.com\r\nExpect: a cake\r\n\r\n", "417 Expectation Failed", "Error: Unknown Expectation"},
	}
	for _, test := range tests {
		c := r.dial()
		c.send("%s", test.request)
		if a := c.expect(test.status, test.body); !a.Close {
			t.Errorf("%q: the connection is kept", test.request)
		}
		c.expectEnd()
	}
	c := r.dial()
	c.send("GET /empty/x HTTP/1.1\r\nHost: shop.com\r\n\r\n")
	c.expect("503 Service Unavailable", "Error: No Server Configured")
	if !strings.Contains(r.log.String(), "api=empty") {
		t.Errorf("the log does not name the API without a server:\n%s", r.log)
	}
	if _, heads, _ := b.got(); len(heads) != 0 {
		t.Errorf("backend got %q", heads)
	}
	if s := r.p.Stats(); s.Blocked != 2 || s.Refused != 2 || s.Malformed != 1 || s.NoServer != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestAnswerIsReadWhileSending: a client that sends a large body, of which nothing is read, still reads its answer.
func TestAnswerIsReadWhileSending(t *testing.T) {
	r := newRig(t, Options{}, rootAPI())
	r.judge.decide = func(*http.Request) (shim.Decision, bool) { return blocked, true }
	for range 20 {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n%s", strings.Repeat("x", 500000))
		c.expect("403 Unauthorized", "Error: Unauthorized")
	}
}

func TestForwardedFor(t *testing.T) {
	t.Parallel()
	const forged = "X-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nTrue-Client-IP: 1.2.3.4\r\n"
	for _, trusted := range []bool{false, true} {
		b := newRecorder(t, nil)
		o := Options{}
		want := []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: a"}
		if trusted {
			o.TrustedProxies = []netip.Prefix{loopback}
			want = []string{"X-Forwarded-For: 1.2.3.4, 127.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: a",
				"X_Forwarded_For: 1.1.1.1", "Forwarded: for=1.2.3.4", "X-Real-IP: 1.2.3.4", "True-Client-IP: 1.2.3.4"}
		}
		r := newRig(t, o, rootAPI(b.address))
		c := r.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", forged)
		c.read("GET")
		_, heads, _ := b.got()
		lines := strings.Split(strings.TrimSpace(heads[0]), "\r\n")[2:]
		if !slices.Equal(lines, want) {
			t.Errorf("trusted %t: backend got %q, want %q", trusted, lines, want)
		}
	}
}

func TestHopByHop(t *testing.T) {
	t.Parallel()
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 Fine\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Trailer: t\r\nContent-Length: 9\r\n\r\n")
		return true
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, Cookie\r\nX-Mine: 1\r\nCookie: s=1\r\nProxy-Connection: x\r\nKeep-Alive: 1\r\nTE: trailers, deflate\r\nX-Kept: 1\r\n\r\n")
	a, body := c.read("GET")
	if a.Status != "200 Fine" || body != "hi" || a.Header.Get("X-Hop") != "" || a.Header.Get("Keep-Alive") != "" || a.Header.Get("X-End") != "2" ||
		a.Trailer.Get("X-Trailer") != "t" || a.Trailer.Get("Content-Length") != "" || !a.Close {
		t.Errorf("client got %q %v %v %q close %t", a.Status, a.Header, a.Trailer, body, a.Close)
	}
	_, heads, _ := b.got()
	lines := strings.Split(strings.TrimSpace(heads[0]), "\r\n")[2:]
	want := []string{"Cookie: s=1", "X-Kept: 1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: a", "TE: trailers"}
	if !slices.Equal(lines, want) {
		t.Errorf("backend got %q, want %q", lines, want)
	}
}

func TestFramingOfAnswers(t *testing.T) {
	answers := map[string]string{
		"/length":  "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
		"/chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"/end":     "HTTP/1.1 200 OK\r\n\r\nbody",
		"/old":     "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
		"/none":    "HTTP/1.1 204 No Content\r\n\r\n",
		"/same":    "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
		"/early":   "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
		"/empty":   "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
		"/both":    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"/101":     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"/noise":   "SSH-2.0-OpenSSH 9.2\r\n\r\n",
		"/lf":      "HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
		"/extra":   "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
	}
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		path := strings.Fields(head)[1]
		text := answers[path]
		if strings.HasPrefix(head, "HEAD ") {
			text = strings.TrimSuffix(text, "body")
			if i := strings.Index(text, "\r\n\r\n4"); i >= 0 { // a chunk
				text = text[:i+4]
			}
		}
		_, _ = io.WriteString(c, text)
		return path != "/end" && path != "/old" && path != "/noise" && path != "/lf"
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	body := map[string]string{"/none": "", "/same": "", "/empty": ""}
	for _, path := range []string{"/length", "/chunked", "/end", "/old", "/none", "/same", "/early", "/empty", "/both", "/101", "/noise", "/lf", "/extra", "/length"} {
		c := r.dial()
		for _, method := range []string{"GET", "HEAD", "GET"} {
			c.send("%s %s HTTP/1.1\r\nHost: a\r\n\r\n", method, path)
			a, got := c.read(method)
			if a.StatusCode == http.StatusEarlyHints {
				a, got = c.read(method)
			}
			want, status := "body", strings.Fields(answers[path])[1]
			if w, ok := body[path]; ok {
				want = w
			}
			switch path {
			case "/both", "/101", "/noise", "/lf":
				want, status = "Error: Bad Gateway", "502"
			case "/early":
				status = "200"
			}
			if method == "HEAD" {
				want = ""
			}
			if got != want || fmt.Sprint(a.StatusCode) != status || a.Close {
				t.Errorf("%s %s: got %d %q close %t, want %s %q", method, path, a.StatusCode, got, a.Close, status, want)
			}
		}
		c.Close()
	}
	c := r.dial() // a client of HTTP/1.0 gets no chunks
	c.send("GET /chunked HTTP/1.0\r\n\r\n")
	if a, got := c.read("GET"); got != "body" || len(a.TransferEncoding) != 0 || !a.Close {
		t.Errorf("HTTP/1.0: got %q %v close %t", got, a.TransferEncoding, a.Close)
	}
}

// TestBrokenAnswerIsNoWholeOne: what breaks off must not look like what came to its end.
func TestBrokenAnswerIsNoWholeOne(t *testing.T) {
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n")
		return false
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	for _, version := range []string{"1.1", "1.0"} {
		c := r.dial()
		c.send("GET / HTTP/%s\r\nHost: a\r\n\r\n", version)
		a, err := http.ReadResponse(c.in, nil)
		if err != nil {
			continue // the reset came before the head was read
		}
		if body, err := io.ReadAll(a.Body); err == nil {
			t.Errorf("HTTP/%s: got %q as a whole body", version, body)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	const size = 8 << 20
	data := make([]byte, size)
	_, _ = rand.Read(data)
	sum := sha256.Sum256(data)
	backend := httpBackend(t, func(w http.ResponseWriter, q *http.Request) {
		h := sha256.New()
		n, _ := io.Copy(h, q.Body)
		if q.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		w.Header().Set("X-Got", fmt.Sprintf("%d %x", n, h.Sum(nil)))
		_, _ = w.Write(data)
	})
	r := newRig(t, Options{}, rootAPI(backend))
	for _, path := range []string{"/length", "/chunked"} {
		var body io.Reader = bytes.NewReader(data)
		if path == "/chunked" {
			body = io.MultiReader(body) // of unknown length
		}
		q, _ := http.NewRequest("POST", "http://"+r.plain+path, body)
		a, err := web(t, false).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil || !bytes.Equal(got, data) || a.Header.Get("X-Got") != fmt.Sprintf("%d %x", size, sum) {
			t.Errorf("%s: %d bytes back, %v; backend got %s", path, len(got), err, a.Header.Get("X-Got"))
		}
	}
}

func TestContinue(t *testing.T) {
	t.Parallel()
	b := newRecorder(t, nil)
	r := newRig(t, Options{}, rootAPI(b.address))
	r.judge.decide = func(q *http.Request) (shim.Decision, bool) { return blocked, q.URL.Path == "/bad" }
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	if a, _ := c.read("POST"); a.StatusCode != 100 {
		t.Fatalf("got %s, want 100", a.Status)
	}
	c.send("abc")
	c.expect("200 OK", "POST / 3")
	if raw, _, _ := b.got(); strings.Contains(raw, "Expect") {
		t.Errorf("backend got %q", raw)
	}
	c.send("POST /bad HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	c.expect("403 Unauthorized", "Error: Unauthorized") // and no 100 before it
}

// TestEarlyAnswer: a backend that answers before it has read the body, and closes.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		_, _ = io.CopyN(io.Discard, in, 1<<20)
		return false
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\nabc")
	if a := c.expect("413 Too Much", "no"); !a.Close {
		t.Error("the connection is kept, with a body under way")
	}
	c.expectEnd()
}

func TestTunnel(t *testing.T) {
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		if !strings.Contains(head, "Upgrade: websocket\r\n") || !strings.Contains(head, "Connection: Upgrade\r\n") {
			return answerOK(c, head, in)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
		_, _ = io.Copy(c, in)
		return false
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	open := func() *client {
		c := r.dial()
		c.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n")
		if a, _ := c.read("GET"); a.StatusCode != 101 || a.Header.Get("Sec-Websocket-Accept") != "x" {
			t.Fatalf("got %s %v", a.Status, a.Header)
		}
		c.echo("", "hello")
		return c
	}
	c := open()
	c.echo("ping", "ping")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.expectEnd()

	c = open()
	began := time.Now()
	testenv.Eventually(t, patience, "the tunnel is held", func() error {
		if n := r.judge.holding(); n != 1 {
			return fmt.Errorf("%d streams are held", n)
		}
		return nil
	})
	r.judge.list()
	if _, err := c.in.ReadByte(); err == nil {
		t.Error("the tunnel of a listed client goes on")
	}
	t.Logf("ended %v after the listing", time.Since(began))
	r.eventually("tunnels are counted", func(s Stats) bool { return s.Tunnels == 2 && s.Ended == 1 && s.Active == 0 && s.Connections == 0 })

	// Neither h2c nor an upgrade with a body is passed on as one.
	for _, q := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nab",
	} {
		c := r.dial()
		c.send("%s", q)
		if a, _ := c.read("GET"); a.StatusCode != 200 {
			t.Errorf("%q: got %s", q, a.Status)
		}
		_, heads, _ := b.got()
		if head := heads[len(heads)-1]; strings.Contains(strings.ToLower(head), "upgrade") {
			t.Errorf("%q: backend got %q", q, head)
		}
	}
}

// echo sends and then expects.
func (c *client) echo(send, want string) {
	c.t.Helper()
	if _, err := io.WriteString(c, send); err != nil {
		c.t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.in, got); err != nil || string(got) != want {
		c.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func TestInternalURL(t *testing.T) {
	t.Parallel()
	b := newRecorder(t, nil)
	api := &apis.API{ID: "shop", Hostname: "*", URL: "/shop", InternalURL: "/v2/store", Servers: servers(b.address)}
	root := &apis.API{ID: "root", Hostname: "*", URL: "/", InternalURL: "/legacy", Servers: servers(b.address)}
	r := newRig(t, Options{}, api, root)
	c := r.dial()
	for target, want := range map[string]string{
		"/shop": "/v2/store", "/shop/a%20b?q=%zz": "/v2/store/a%20b?q=%zz", "/sho%70/a%2Fb": "/v2/store/a/b", "/shop/": "/v2/store/", "/x": "/legacy/x", "/": "/legacy/",
	} {
		c.send("GET %s HTTP/1.1\r\nHost: a\r\n\r\n", target)
		c.expect("200 OK", "GET "+want+" 0")
	}
}

// TestReasonPhrase: ASE's own examples leave response_def empty; a decoy without a phrase would be known by that.
func TestReasonPhrase(t *testing.T) {
	for a, want := range map[apis.Answer]string{
		{Status: 200}:                         "HTTP/1.1 200 OK\r\n",
		{Status: 403, Reason: "Unauthorized"}: "HTTP/1.1 403 Unauthorized\r\n",
		{Status: 599}:                         "HTTP/1.1 599 \r\n",
	} {
		if got := string(appendAnswer(nil, a, false, false, false)); !strings.HasPrefix(got, want) {
			t.Errorf("%+v: %q, want it to begin with %q", a, got, want)
		}
	}
}
