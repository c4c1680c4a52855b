package proxy

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// inner is a request that must never reach a backend as one: it is hidden in another.
const inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

// smuggling are inputs of one connection. refused: the first request is answered 400 (431, where it says so) and the
// connection ends. Otherwise what is inside is a body, and passes as one.
var smuggling = []struct {
	name, send string
	status     int
}{
	{"CL and TE", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE and CL", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + inner + "\r\n0\r\n\r\n", 400},
	{"two CL that differ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 43\r\n\r\n" + inner, 400},
	{"two equal CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n" + inner, 400},
	{"CL list", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 43\r\n\r\n" + inner, 400},
	{"CL with a sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd" + inner, 400},
	{"negative CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n" + inner, 400},
	{"hexadecimal CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd" + inner, 400},
	{"empty CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n" + inner, 400},
	{"huge CL", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n" + inner, 400},
	{"CL with underscore", "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 43\r\n\r\n" + inner, 400},
	{"TE with underscore", "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE xchunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE list", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nabcd" + inner, 400},
	{"TE twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE chunked twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE with a vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE quoted", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE with space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE folded", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE in a folded line", "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE after a bare LF", "POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE after a bare CR", "POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner, 400},
	{"TE after NUL", "POST / HTTP/1.1\r\nHost: a\r\nX: y\x00Transfer-Encoding: chunked\r\n\r\n", 400},
	{"TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n" + inner, 400},
	{"bare LF", "GET / HTTP/1.1\nHost: a\n\n" + inner, 400},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n" + inner, 400},
	{"CR CR LF", "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n" + inner, 400},
	{"header without a colon", "GET / HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n", 400},
	{"empty name", "GET / HTTP/1.1\r\nHost: a\r\n: foo\r\n\r\n", 400},
	{"first header begins with a space", "GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", 400},
	{"name with NUL", "GET / HTTP/1.1\r\nHost: a\r\nX\x00Y: z\r\n\r\n", 400},
	{"name in parentheses", "GET / HTTP/1.1\r\nHost: a\r\n(X): z\r\n\r\n", 400},
	{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
	{"two equal hosts", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400},
	{"no host", "GET / HTTP/1.1\r\nX: y\r\n\r\n", 400},
	{"host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
	{"host with a user", "GET / HTTP/1.1\r\nHost: x@a\r\n\r\n", 400},
	{"host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
	{"absolute target of another host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"absolute target with a user", "GET http://x@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target of another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target without a slash", "GET admin HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target that is a host", "GET @b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with a tab", "GET /\tHTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with a space", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with a bad escape", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with NUL", "GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with dots", "GET /a/../smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with escaped dots", "GET /a/%2e%2E/smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with dots and a parameter", "GET /a/..;x=1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with backslashes", "GET /a\\..\\smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"target with a fragment", "GET /a#/../smuggled HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"* for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"HTTP/0.9", "GET /smuggled\r\n", 400},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400},
	{"HTTP/2.0 in words", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400},
	{"lower case version", "GET / http/1.1\r\nHost: a\r\n\r\n", 400},
	{"a preface later", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 200},
	{"a handshake", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
	{"empty lines", "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"Connection that is no token", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x y\r\n\r\n", 400},
	{"too many headers", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 101) + "\r\n", 431},
	{"a header bomb", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 1<<16) + "\r\n\r\n", 431},

	{"chunk size with 0x", chunked("0x5\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk size with a sign", chunked("+5\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk size with a space before", chunked(" 5\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk size with a space after", chunked("5 \r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk size beyond all numbers", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"huge chunk size", chunked("fffffffffffffff\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"no chunk size", chunked("\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk longer than it says", chunked("4\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk that ends with LF", chunked("5\r\nhello\n0\r\n\r\n" + inner), 400},
	{"chunk line that ends with LF", chunked("5\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk extension with LF", chunked("5;x\nhello\r\n0\r\n\r\n" + inner), 400},
	{"chunk extension with CR", chunked("5;x\rhello\r\n0\r\n\r\n" + inner), 400},
	{"long chunk extension", chunked("5;" + strings.Repeat("x", 1000) + "\r\nhello\r\n0\r\n\r\n" + inner), 400},
	{"many trailers", chunked("0\r\n" + strings.Repeat("X: y\r\n", 100) + "\r\n" + inner), 400},
	{"folded trailer", chunked("0\r\nX: y\r\n z\r\n\r\n" + inner), 400},

	{"a request as a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + inner, 200},
	{"a request as a chunk", chunked("23\r\n" + inner + "\r\n0\r\n\r\n"), 200},
	{"a request in an extension", chunked("5;x=\"GET /smuggled HTTP/1.1\"\r\nhello\r\n0\r\n\r\n"), 200},
	{"a request as a trailer", chunked("5\r\nhello\r\n0\r\nHost: b\r\nContent-Length: 38\r\nTransfer-Encoding: x\r\nCookie: s=1\r\nAuthorization: Bearer x\r\n\r\n"), 200},
	{"a body for GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n" + inner, 200},
	{"an upgrade that is not", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n", 200},
	{"an upper case encoding", "POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n23\r\n" + inner + "\r\n0\r\n\r\n", 200},
	{"an absolute target", "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", 200},
	{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200},
	{"one empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
}

func chunked(body string) string {
	return "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
}

// plainHead is what a backend may get: nothing in it can be read in two ways.
var plainHead = regexp.MustCompile(`^[A-Z]+ [!-~]+ HTTP/1\.1\r\nHost: a\r\n(?:[A-Za-z0-9-]+: [^\r\n\x00]*\r\n)*\r\n$`)

// TestNothingIsSmuggled sends each input, and after it an honest request on the same connection, to a backend that keeps
// every byte: what it got is what was judged, one request for one, framed in one way.
func TestNothingIsSmuggled(t *testing.T) {
	for _, test := range smuggling {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newRecorder(t, nil)
			r := newRig(t, Options{}, rootAPI(b.address))
			c := r.dial()
			c.send("%s", test.send)
			if test.status == 200 {
				c.send("GET /honest HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			} else {
				_ = c.Conn.(*net.TCPConn).CloseWrite()
			}
			a, body := c.read("GET")
			if a.StatusCode != test.status {
				t.Errorf("answered %s %q, want %d", a.Status, body, test.status)
			}
			if test.status == 400 && body != "Error: Malformed Request" || test.status != 200 && !a.Close {
				t.Errorf("answered %q, close %t", body, a.Close)
			}
			_, _ = io.Copy(io.Discard, c.in) // until the proxy ends the connection
			_ = c.Close()
			if err := r.end(); err != nil {
				t.Error(err)
			}
			b.settle()
			raw, heads, _ := b.got()
			checkReached(t, raw, heads, r.judge.all(), test.status != 200)
			if s := r.p.Stats(); s.BackendErrors != 0 || s.Backends[0].Failures != 0 {
				t.Errorf("counted against the backend: %+v", s)
			}
		})
	}
}

// checkReached compares what a backend got with what was judged. refused: the request was, for its body perhaps, after
// it was judged and before or after the backend was asked.
func checkReached(t *testing.T, raw string, heads, judged []string, refused bool) {
	t.Helper()
	var reached []string
	for _, head := range heads {
		if !plainHead.MatchString(head) || !framedOnce(head) {
			t.Errorf("backend got the head %q", head)
		}
		words := strings.Fields(head)
		reached = append(reached, words[0]+" a "+words[1])
		if words[1] == "/smuggled" {
			t.Errorf("smuggled: %q", head)
		}
	}
	if refused && len(reached) < len(judged) {
		judged = judged[:len(reached)]
	}
	if !slices.Equal(reached, judged) {
		t.Errorf("backend got %q, judged were %q", reached, judged)
	}
	for _, secret := range []string{"Bearer x", "Cookie: s=1"} {
		if strings.Contains(raw, secret) {
			t.Errorf("%q reached the backend in a trailer", secret)
		}
	}
}

// framing lines in any spelling, and those that are right.
var (
	framingLine = regexp.MustCompile(`(?i)\n(content[-_]length|transfer[-_]encoding)\s*:`)
	goodFraming = regexp.MustCompile(`\r\n(Transfer-Encoding: chunked|Content-Length: [0-9]+)\r\n`)
)

func framedOnce(head string) bool {
	n := len(framingLine.FindAllString(head, -1))
	return n == 0 || n == 1 && goodFraming.MatchString(head)
}

// TestMutatedRequests: whatever bytes come, the backend gets what was judged and nothing else, and the proxy lives.
func TestMutatedRequests(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	b := newRecorder(t, nil)
	r := newRig(t, Options{}, rootAPI(b.address))
	pieces := []string{"\r\n", "\n", "\r", " ", "\t", ":", "\x00", "0", "chunked", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "Host: b\r\n", "\v", "%2e%2e/", "\xff"}
	count := 400
	if testing.Short() {
		count = 50
	}
	for range count {
		text := []byte(smuggling[random.IntN(len(smuggling))].send)
		for range 1 + random.IntN(3) {
			at := random.IntN(len(text) + 1)
			switch random.IntN(3) {
			case 0:
				text = slices.Insert(text, at, []byte(pieces[random.IntN(len(pieces))])...)
			case 1:
				text = slices.Delete(text, at, min(len(text), at+1+random.IntN(3)))
			default:
				if at < len(text) {
					text[at] = byte(random.IntN(256))
				}
			}
			if len(text) == 0 {
				text = []byte("x")
			}
		}
		c, err := net.Dial("tcp", r.plain)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err = c.Write(text); err == nil {
			_ = c.(*net.TCPConn).CloseWrite()
			_, err = io.Copy(io.Discard, bufio.NewReader(c))
		}
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Errorf("%q: no end", text)
		}
		c.Close()
	}
	_, heads, _ := b.got()
	judged := make(map[string]int)
	for _, j := range r.judge.all() {
		words := strings.SplitN(j, " ", 3)
		judged[words[0]+" "+words[2]+" HTTP/1.1"]++
	}
	for _, head := range heads {
		line, _, _ := strings.Cut(head, "\r\n")
		if judged[line]--; judged[line] < 0 {
			t.Errorf("backend got %q, which was not judged", head)
		}
		if !framedOnce(head) {
			t.Errorf("backend got the head %q", head)
		}
	}
	t.Logf("%d requests of %d inputs reached the backend", len(heads), count)
	c := r.dial()
	c.send("GET /alive HTTP/1.1\r\nHost: a\r\n\r\n")
	c.expect("200 OK", "GET /alive 0")
}

// TestUnaskedAnswers: what a backend sends without having been asked is nobody's answer.
func TestUnaskedAnswers(t *testing.T) {
	sent := make(chan struct{}, 1)
	b := newRecorder(t, func(c net.Conn, head string, in *bufio.Reader) bool {
		keep := answerOK(c, head, in)
		if strings.Contains(head, "/late") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
			sent <- struct{}{}
		}
		return keep
	})
	r := newRig(t, Options{}, rootAPI(b.address))
	for i := range 20 {
		c := r.dial()
		c.send("GET /late%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		c.expect("200 OK", fmt.Sprintf("GET /late%d 0", i))
		<-sent // over loopback it is there then
		c.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
		if a, body := c.read("GET"); a.StatusCode != http.StatusOK || body != "GET /next 0" {
			t.Fatalf("got %s %q", a.Status, body)
		}
	}
}
