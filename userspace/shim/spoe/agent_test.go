package spoe

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var unauthorized = apis.Answer{Status: 403, Reason: "Unauthorized", Body: "Error: Unauthorized"}

// blockBad blocks requests whose path contains "bad", and fails on those with "panic".
func blockBad(r *http.Request) shim.Decision {
	if strings.Contains(r.URL.Path, "panic") {
		panic("as asked for")
	}
	if strings.Contains(r.URL.Path, "bad") {
		return shim.Decision{Verdict: shim.Block, Reason: shim.Blacklisted, Answer: unauthorized}
	}
	return shim.Decision{}
}

func passes() map[string]any { return map[string]any{"block": false} }

func blocks(status int, reason, body string) map[string]any {
	return map[string]any{"block": true, "status": uint64(status), "reason": reason, "body": body}
}

func TestHello(t *testing.T) {
	p := newPeer(t, decideBy(blockBad))
	p.send(helloFrame("1.0, 2.0", "pipelining, async", 16380, false))
	f := p.receive()
	want := map[string]any{"version": "2.0", "max-frame-size": uint64(16380), "capabilities": "fragmentation,pipelining"}
	if got := p.pairs(f.payload); f.kind != frameAgentHello || !maps.Equal(got, want) {
		t.Errorf("got frame %d with %v, want %v", f.kind, got, want)
	}
	p.send(notify(0, 0, flagFin, frameDisconnect, nil))
	p.disconnected(codeNormal)
}

func TestHelloOfAHealthCheck(t *testing.T) {
	p := newPeer(t, decideBy(blockBad))
	p.send(helloFrame("2.0", "", 1<<20, true))
	want := map[string]any{"version": "2.0", "max-frame-size": uint64(65532), "capabilities": "fragmentation"}
	if got := p.pairs(p.receive().payload); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRefusedPeers(t *testing.T) {
	whole := notify(1, 1, flagFin, frameNotify, get.message())
	begun := notify(1, 1, 0, frameNotify, []byte{1})
	hello := helloFrame("2.0", "", 16380, false)
	tests := []struct {
		name    string
		greeted bool
		send    []byte
		code    uint64
	}{
		{"notify before hello", false, whole, codeInvalid},
		{"other version", false, helloFrame("1.0", "", 16380, false), codeBadVersion},
		{"tiny frames", false, helloFrame("2.0", "", 100, false), codeBadSize},
		{"hello without version", false, notify(0, 0, flagFin, frameHello, nil), codeNoVersion},
		{"hello cut off", false, notify(0, 0, flagFin, frameHello, []byte{30, 'a'}), codeInvalid},
		{"larger than agreed", true, notify(1, 1, flagFin, frameNotify, make([]byte, 20000)), codeTooBig},
		{"huge", false, []byte{0xff, 0xff, 0xff, 0xff}, codeTooBig},
		{"frame cut off", false, []byte{0, 0, 0, 1, frameHello}, codeInvalid},
		{"messages cut off", true, notify(1, 1, flagFin, frameNotify, get.message()[:20]), codeInvalid},
		{"unknown type of data", true, notify(1, 1, flagFin, frameNotify, []byte{1, 'm', 1, 1, 'a', 15}), codeInvalid},
		{"fragment of nothing", true, notify(1, 1, flagFin, frameUnset, nil), codeNotFound},
		{"interlaced", true, append(begun[:len(begun):len(begun)], begun...), codeInterlaced},
		{"fragment of another", true, append(begun[:len(begun):len(begun)], notify(2, 1, flagFin, frameUnset, nil)...), codeNotFound},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPeer(t, decideBy(blockBad))
			if test.greeted {
				p.send(hello)
				p.receive()
			}
			p.send(test.send)
			p.disconnected(test.code)
			if got := p.agent.Counts(); got != (front.Counts{}) {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	tests := []struct {
		name string
		ask  asked
		want map[string]any
	}{
		{"pass", get, passes()},
		{"block", asked{"GET", "/bad", "1.1", "192.0.2.7", "\r\n"}, blocks(403, "blacklisted", "Error: Unauthorized")},
		{"no client", asked{"GET", "/", "1.1", "", "\r\n"}, blocks(403, "undecided", "Error: Undecided")},
		{"no headers", asked{"GET", "/", "1.1", "192.0.2.7", ""}, blocks(403, "undecided", "Error: Undecided")},
		{"no path", asked{"GET", "", "1.1", "192.0.2.7", "\r\n"}, blocks(403, "undecided", "Error: Undecided")},
		{"judge fails", asked{"GET", "/panic", "1.1", "192.0.2.7", "\r\n"}, blocks(403, "undecided", "Error: Undecided")},
		{"two hosts", asked{"GET", "/", "1.1", "192.0.2.7", "host: a\r\nhost: b\r\n\r\n"}, blocks(400, "malformed", "Error: Malformed Request")},
		{"no colon", asked{"GET", "/", "1.1", "192.0.2.7", "host\r\n\r\n"}, blocks(400, "malformed", "Error: Malformed Request")},
		{"bad escape", asked{"GET", "/%zz", "1.1", "192.0.2.7", "\r\n"}, blocks(400, "malformed", "Error: Malformed Request")},
		{"too many headers", asked{"GET", "/", "1.1", "192.0.2.7", strings.Repeat("a: b\r\n", maxHeaders+1) + "\r\n"}, blocks(400, "malformed", "Error: Malformed Request")},
	}
	p := newPeer(t, decideBy(blockBad))
	p.greet()
	for i, test := range tests {
		p.send(notify(uint64(i)*1000, 7, flagFin, frameNotify, test.ask.message()))
		f := p.receive()
		if f.kind != frameAck || f.flags != flagFin || f.stream != uint64(i)*1000 || f.id != 7 {
			t.Errorf("%s: got frame %+v", test.name, f)
		}
		if d := cmp.Diff(test.want, p.variables(f.payload)); d != "" {
			t.Errorf("%s: %s", test.name, d)
		}
	}
	if got, want := p.agent.Counts(), (front.Counts{Passed: 1, Blocked: 1, Refused: 4, Undecided: 4}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

// TestRequest: what the judge gets is what the client sent.
func TestRequest(t *testing.T) {
	requests := make(chan *http.Request, 1)
	p := newPeer(t, decideBy(func(r *http.Request) shim.Decision {
		requests <- r.Clone(context.Background())
		return shim.Decision{}
	}))
	p.greet()
	ask := func(a asked) *http.Request {
		p.send(notify(1, 1, flagFin, frameNotify, a.message()))
		p.receive()
		return <-requests
	}
	r := ask(asked{"POST", "https://Shop.com:8443/a%2Fb?x=%zz", "2.0", "2001:db8::1",
		"host: shop.com\r\ncookie: a=1\r\nx_y:  v \r\ncookie: b=2\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\nempty:\r\n\r\n"})
	want := http.Header{"Cookie": {"a=1", "b=2"}, "X_y": {"v"}, "Content-Length": {"5"}, "Empty": {""}}
	if d := cmp.Diff(want, r.Header); d != "" {
		t.Error(d)
	}
	got := []string{r.Method, r.Host, r.URL.Scheme, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.RemoteAddr, r.Proto, r.RequestURI, fmt.Sprint(r.TransferEncoding)}
	if d := cmp.Diff([]string{"POST", "Shop.com:8443", "https", "/a/b", "/a%2Fb", "x=%zz", "[2001:db8::1]:0", "HTTP/2.0", "https://Shop.com:8443/a%2Fb?x=%zz", "[chunked]"}, got); d != "" {
		t.Error(d)
	}
	// Nothing of one request is in the next.
	r = ask(get)
	if d := cmp.Diff(http.Header{"User-Agent": {"curl"}}, r.Header); d != "" {
		t.Error(d)
	}
	got = []string{r.Method, r.Host, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.RemoteAddr, r.Proto, fmt.Sprint(r.TransferEncoding), fmt.Sprint(r.ContentLength)}
	if d := cmp.Diff([]string{"GET", "shop.com", "/shop", "", "a=b", "192.0.2.7:0", "HTTP/1.1", "[]", "0"}, got); d != "" {
		t.Error(d)
	}
}

func TestPipelining(t *testing.T) {
	p := newPeer(t, decideBy(blockBad))
	p.greet()
	var all []byte
	const count = 500
	for i := range uint64(count) {
		a := get
		if i%3 == 0 {
			a.url = "/bad"
		}
		all = append(all, notify(i, i+1, flagFin, frameNotify, a.message())...)
	}
	go p.conn.Write(all)
	for i := range uint64(count) {
		f := p.receive()
		if vars := p.variables(f.payload); f.stream != i || f.id != i+1 || vars["block"] != (i%3 == 0) {
			t.Fatalf("frame %d: got %d/%d %v", i, f.stream, f.id, vars)
		}
	}
}

func TestFragments(t *testing.T) {
	o := decideBy(blockBad)
	o.MaxRequest = 1000
	p := newPeer(t, o)
	p.greet()
	payload := asked{"GET", "/bad", "1.1", "192.0.2.7", "host: a\r\n\r\n"}.message()
	for cut := range len(payload) + 1 {
		p.send(notify(5, 9, 0, frameNotify, payload[:cut]), notify(5, 9, 0, frameUnset, nil), notify(5, 9, flagFin, frameUnset, payload[cut:]))
		f := p.receive()
		if d := cmp.Diff(blocks(403, "blacklisted", "Error: Unauthorized"), p.variables(f.payload)); d != "" || f.stream != 5 || f.id != 9 {
			t.Fatalf("cut at %d: %+v %s", cut, f, d)
		}
	}
	// Aborted: no answer; the next one is that of the next question.
	p.send(notify(6, 1, 0, frameNotify, payload[:10]), notify(6, 1, flagFin|flagAbort, frameUnset, nil), notify(7, 1, flagFin, frameNotify, get.message()))
	if f := p.receive(); f.stream != 7 {
		t.Errorf("got an answer to %d", f.stream)
	}
	// Longer than the limit: refused, and the connection lives on.
	p.send(notify(8, 1, 0, frameNotify, make([]byte, 600)), notify(8, 1, 0, frameUnset, make([]byte, 600)), notify(8, 1, flagFin, frameUnset, payload))
	if d := cmp.Diff(blocks(431, "too_large", "Error: Malformed Request"), p.variables(p.receive().payload)); d != "" {
		t.Error(d)
	}
	p.send(notify(9, 1, flagFin, frameNotify, get.message()))
	if d := cmp.Diff(passes(), p.variables(p.receive().payload)); d != "" {
		t.Error(d)
	}
}

func TestAnswerFitsTheFrame(t *testing.T) {
	long := strings.Repeat("x", 1000)
	p := newPeer(t, decideBy(func(*http.Request) shim.Decision {
		return shim.Decision{Verdict: shim.Refuse, Reason: shim.Detected, Answer: apis.Answer{Status: 302, Location: "/l", Body: long}}
	}))
	p.send(helloFrame("2.0", "", 512, false))
	p.receive()
	p.send(notify(1, 1, flagFin, frameNotify, get.message()))
	want := map[string]any{"block": true, "status": uint64(302), "reason": "detected", "location": "/l"}
	if d := cmp.Diff(want, p.variables(p.receive().payload)); d != "" {
		t.Error(d)
	}
}

func TestStop(t *testing.T) {
	p := newPeer(t, decideBy(blockBad))
	p.greet()
	p.stop()
	p.disconnected(codeNormal)
}

func TestTooManyConnections(t *testing.T) {
	o := decideBy(blockBad)
	o.MaxConns = 1
	p := newPeer(t, o)
	p.greet()
	first := p.conn
	p.conn = p.dial(first.RemoteAddr())
	p.closed()
	if p.agent.Overflow() != 1 {
		t.Errorf("counted %d", p.agent.Overflow())
	}
	p.conn = first
	p.send(notify(1, 1, flagFin, frameNotify, get.message()))
	p.receive()
}

// learner learns from requests of which the path says so.
type learner struct{ answers []string }

func (l *learner) Learns(d shim.Decision) bool { return d.Reason == shim.PassWhitelisted }

func (l *learner) Answered(d shim.Decision, status int) {
	l.answers = append(l.answers, fmt.Sprint(d.Client, " ", status))
}

// answerFrame tells of an answer as HAProxy does.
func answerFrame(stream, id, status uint64) []byte {
	b := append(appendString(nil, "answered"), 2)
	b = appendVarint(append(appendString(b, "id"), typeInt64), id)
	b = appendVarint(append(appendString(b, "status"), typeInt64), status)
	return notify(stream, 1, flagFin, frameNotify, b)
}

// TestLearns: only where the answer is to be learned from, a request has an id; by that its answer is told, once, over
// whatever connection.
func TestLearns(t *testing.T) {
	l := new(learner)
	p := newPeer(t, Options{Learner: l, Decide: func(r *http.Request) shim.Decision {
		d := shim.Decision{Client: netip.MustParseAddrPort(r.RemoteAddr).Addr()}
		if r.URL.Path == "/learn" {
			d.Reason = shim.PassWhitelisted
		}
		return d
	}})
	p.greet()
	ask := func(url, src string) (id uint64) {
		t.Helper()
		p.send(notify(1, 1, flagFin, frameNotify, asked{"GET", url, "1.1", src, "host: a\r\n\r\n"}.message()))
		vars := p.variables(p.receive().payload)
		id, _ = vars["id"].(uint64)
		if delete(vars, "id"); !maps.Equal(vars, passes()) {
			t.Errorf("%s: got %v", url, vars)
		}
		return id
	}
	tell := func(id, status uint64, want ...string) {
		t.Helper()
		p.send(answerFrame(7, id, status))
		if f := p.receive(); f.kind != frameAck || f.stream != 7 || len(f.payload) > 0 {
			t.Errorf("got %+v, want an acknowledgement that sets nothing", f)
		}
		if d := cmp.Diff(want, l.answers); d != "" {
			t.Errorf("id %d, status %d: %s", id, status, d)
		}
		l.answers = nil
	}
	if id := ask("/", "192.0.2.1"); id != 0 {
		t.Errorf("id %d where nothing is to be learned", id)
	}
	tell(0, 200)
	first, second := ask("/learn", "192.0.2.2"), ask("/learn", "192.0.2.3")
	if first == 0 || second != first+1 {
		t.Fatalf("ids %d, %d", first, second)
	}
	tell(first, 103) // the answer is still to come
	p.conn = p.dial(p.conn.RemoteAddr())
	p.greet()
	tell(second, 401, "192.0.2.3 401")
	tell(first, 200, "192.0.2.2 200")
	tell(first, 200)
	tell(first+MaxOpen, 200)
	for i := range uint64(MaxOpen) {
		if id := p.agent.awaited.add(shim.Decision{}); id != second+1+i {
			t.Fatalf("id %d", id)
		}
	}
	if forgotten := p.agent.awaited.add(shim.Decision{}) - MaxOpen; forgotten != second+1 {
		t.Fatal(forgotten)
	}
	tell(second+1, 200)
	tell(second+2, 200, "invalid IP 200")
	if got, want := p.agent.Counts(), (front.Counts{Passed: 3}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestVarint(t *testing.T) {
	for v, want := range map[uint64]string{0: "00", 239: "ef", 240: "f000", 2287: "ff7f", 2288: "f08000", 264431: "ffff7f", 264432: "f0808000"} {
		if got := fmt.Sprintf("%x", appendVarint(nil, v)); got != want {
			t.Errorf("%d: got %s, want %s", v, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64().Draw(t, "v")
		got, rest, err := takeVarint(append(appendVarint(nil, v), 'x'))
		if err != nil || got != v || string(rest) != "x" {
			t.Errorf("%d: got %d, %q, %v", v, got, rest, err)
		}
	})
}

// TestAllocations: a plain request costs a part of a chunk.
func TestAllocations(t *testing.T) {
	s := newBuilder()
	payload := asked{"GET", "/shop/cart?id=1", "1.1", "192.0.2.7", "host: shop.com\r\ncookie: s=1\r\nauthorization: Bearer x\r\nuser-agent: u\r\naccept: */*\r\n\r\n"}.message()
	got := testing.AllocsPerRun(100, func() {
		q, err := parseQuestion(payload)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := s.build(&q); !ok {
			t.Fatal("malformed")
		}
	})
	if got > 0 {
		t.Errorf("%v allocations, want less than 1", got)
	}
}

// TestStringsStay: what is kept of requests is what they said, whatever came after them, in whatever memory.
func TestStringsStay(t *testing.T) {
	s := newBuilder()
	var kept, want []string
	for i := range 3000 {
		url, cookie := fmt.Sprint("/", i), fmt.Sprint("s=", i)
		if i%100 == 99 {
			cookie += strings.Repeat("x", chunk*(i/100%3)/2)
		}
		q, err := parseQuestion(asked{"GET", url, "1.1", "192.0.2.7", "host: a\r\ncookie: " + cookie + "\r\n\r\n"}.message())
		if err != nil {
			t.Fatal(err)
		}
		r, ok := s.build(&q)
		if !ok {
			t.Fatal("malformed")
		}
		for _, v := range []*value{&q.method, &q.url, &q.ver, &q.hdrs} {
			clear(v.text) // as if the next frame came
		}
		kept, want = append(kept, r.RequestURI, r.Header["Cookie"][0]), append(want, url, cookie)
	}
	if d := cmp.Diff(want, kept); d != "" {
		t.Error(d)
	}
}

// TestNames: spellings of one name are one header, whether the names are remembered or no more.
func TestNames(t *testing.T) {
	s := newBuilder()
	for turn := range 3 {
		for i := range maxNames + 10 {
			lower, upper := fmt.Sprintf("x-name-%d-%d", turn%2, i), fmt.Sprintf("X-NAME-%d-%d", turn%2, i)
			payload := asked{"GET", "/", "1.1", "192.0.2.7", lower + ": a\r\nother: o\r\n" + upper + ": b\r\n" + lower + ": c\r\nOther: p\r\n\r\n"}.message()
			q, err := parseQuestion(payload)
			if err != nil {
				t.Fatal(err)
			}
			r, ok := s.build(&q)
			want := http.Header{textproto.CanonicalMIMEHeaderKey(lower): {"a", "b", "c"}, "Other": {"o", "p"}}
			if d := cmp.Diff(want, r.Header); d != "" || !ok {
				t.Fatalf("%d: %s", i, d)
			}
		}
	}
	if len(s.names) > maxNames {
		t.Errorf("%d names are remembered", len(s.names))
	}
}

func BenchmarkBuild(b *testing.B) {
	s := newBuilder()
	payload := asked{"GET", "/shop/cart?id=1", "1.1", "192.0.2.7", "host: shop.com\r\ncookie: s=1\r\nauthorization: Bearer x\r\nuser-agent: u\r\naccept: */*\r\n\r\n"}.message()
	b.ReportAllocs()
	for b.Loop() {
		q, _ := parseQuestion(payload)
		s.build(&q)
	}
}

// FuzzFrames: whatever comes, the agent neither panics nor answers what it was not asked.
func FuzzFrames(f *testing.F) {
	f.Add(get.message())
	f.Add(asked{"GET", "*", "2.0", "::1", "host: a\r\ncookie: b\r\ncookie: c\r\n\r\n"}.message())
	f.Add(parsed(answerFrame(1, 2, 200)).payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		c := conn{agent: New(decideBy(blockSoftly)), builder: newBuilder(), maxFrame: 16380, greeted: true}
		whole := c.handle(frame{kind: frameNotify, flags: flagFin, stream: 1, id: 1, payload: payload})
		answer := string(c.out)
		c.out = nil
		for i, part := range [][]byte{payload[:len(payload)/2], payload[len(payload)/2:]} {
			f := frame{kind: byte(frameNotify * (1 - i)), flags: uint32(i), stream: 1, id: 1, payload: part}
			if err := c.handle(f); i == 1 && (err == nil) != (whole == nil) {
				t.Errorf("whole: %v, in fragments: %v", whole, err)
			}
		}
		if string(c.out) != answer {
			t.Errorf("whole: %q, in fragments: %q", answer, c.out)
		}
	})
}

func parsed(raw []byte) frame {
	f, err := parseFrame(raw[4:])
	if err != nil {
		panic(err)
	}
	return f
}

func blockSoftly(r *http.Request) shim.Decision {
	if strings.Contains(r.URL.Path, "bad") {
		return shim.Decision{Verdict: shim.Block, Reason: shim.Blacklisted, Answer: unauthorized}
	}
	return shim.Decision{}
}
