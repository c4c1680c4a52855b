package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what comes at once on a machine that has nothing else to do.
const patience = 20 * time.Second

// judge passes what its function passes, and remembers what it was told.
type judge struct {
	shim   *shim.Shim // decides where decide is nil
	decide func(*http.Request) (shim.Decision, bool)

	mu       sync.Mutex
	judged   []string // "METHOD host target"
	answered []int
	held     map[int]func()
	holds    int
}

func (j *judge) Decide(r *http.Request) shim.Decision {
	j.mu.Lock()
	j.judged = append(j.judged, r.Method+" "+r.Host+" "+r.RequestURI)
	j.mu.Unlock()
	if j.decide != nil {
		if d, ok := j.decide(r); ok {
			return d
		}
	}
	return j.shim.Decide(r)
}

func (j *judge) Trailers(d shim.Decision, late http.Header) shim.Decision {
	return j.shim.Trailers(d, late)
}

func (j *judge) Answered(_ shim.Decision, status int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.answered = append(j.answered, status)
}

func (j *judge) Hold(d shim.Decision, end func()) func() {
	release := j.shim.Hold(d, end)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.holds++
	n := j.holds
	j.held[n] = end
	return func() {
		release()
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.held, n)
	}
}

// list ends what is held, as when its client is listed.
func (j *judge) list() {
	j.mu.Lock()
	held := j.held
	j.held = make(map[int]func())
	j.mu.Unlock()
	for _, end := range held {
		end()
	}
}

func (j *judge) holding() int { j.mu.Lock(); defer j.mu.Unlock(); return len(j.held) }

func (j *judge) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.judged...)
}

// rig is a proxy that runs, with a port for each way to come.
type rig struct {
	t          *testing.T
	p          *Proxy
	judge      *judge
	plain, tls string
	end        func() error // ends Run and returns its error; also called when the test ends
	log        *lockedBuffer
}

// blocked is what the judge says of who is listed.
var blocked = shim.Decision{Verdict: shim.Block, Reason: shim.Blacklisted, Answer: apis.Answer{Status: 403, Reason: "Unauthorized", Body: "Error: Unauthorized"}}

func noDetector(*http.Request, shim.Seen) (apis.Answer, lists.Source, bool) {
	return apis.Answer{}, 0, false
}

// newRig runs a proxy before these APIs, on ports of its own.
func newRig(t *testing.T, o Options, all ...*apis.API) *rig {
	t.Helper()
	l := Listeners{Plain: []net.Listener{listen(t)}}
	if len(o.Certificates) > 0 {
		l.TLS = []net.Listener{listen(t)}
	}
	return newRigOn(t, o, l, all...)
}

func newRigOn(t *testing.T, o Options, l Listeners, all ...*apis.API) *rig {
	t.Helper()
	r := &rig{t: t, judge: &judge{shim: shim.New(shim.Options{TrustedProxies: o.TrustedProxies, Detect: noDetector}), held: make(map[int]func())}, log: new(lockedBuffer)}
	o.Logger = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.Judge = r.judge
	if o.Limits.GracefulPeriod == 0 {
		o.Limits.GracefulPeriod = 3 * time.Second
	}
	var err error
	if r.p, err = New(o); err != nil {
		t.Fatal(err)
	}
	r.use(all...)
	r.plain = l.Plain[0].Addr().String()
	if len(l.TLS) > 0 {
		r.tls = l.TLS[0].Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.p.Run(ctx, l) }()
	r.end = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := r.end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the proxy:\n%s", r.log)
		}
	})
	return r
}

func (r *rig) use(all ...*apis.API) {
	set := apis.NewSet(all...)
	r.judge.shim.UseAPIs(set)
	r.p.UseAPIs(set)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// rootAPI sends everything to these backends.
func rootAPI(backends ...string) *apis.API {
	return &apis.API{ID: "root", Protocol: "http", Hostname: "*", URL: "/", EnableBlocking: true, Servers: servers(backends...)}
}

func servers(addresses ...string) (all []apis.Server) {
	for _, a := range addresses {
		host, port, _ := net.SplitHostPort(a)
		n, _ := strconv.Atoi(port)
		all = append(all, apis.Server{Host: host, Port: n})
	}
	return all
}

// recorder is a raw backend: it keeps every byte that it gets, and answers each head it sees, and then its body, in the
// way of answer. It reads as the most lenient backend: a line may end with LF alone.
type recorder struct {
	address string
	answer  func(c net.Conn, head string, in *bufio.Reader) (keep bool)
	deaf    bool   // it keeps nothing; set before it is asked
	settle  func() // waits until all that it was sent is read; the proxy must have ended

	mu    sync.Mutex
	bytes bytes.Buffer
	heads []string
	conns int
}

func newRecorder(t *testing.T, answer func(net.Conn, string, *bufio.Reader) bool) *recorder {
	t.Helper()
	if answer == nil {
		answer = answerOK
	}
	b := &recorder{answer: answer}
	l := listen(t)
	b.address = l.Addr().String()
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			b.mu.Unlock()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			all.Go(func() { defer stop(); defer c.Close(); b.serve(c) })
		}
	})
	b.settle = func() { l.Close(); all.Wait() }
	t.Cleanup(func() { cancel(); b.settle() })
	return b
}

func (b *recorder) serve(c net.Conn) {
	in := bufio.NewReader(io.TeeReader(c, b))
	for {
		var head strings.Builder
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			head.WriteString(line)
			if strings.TrimRight(line, "\r\n") == "" {
				break
			}
		}
		b.mu.Lock()
		b.heads = append(b.heads, head.String())
		b.mu.Unlock()
		if !b.answer(c, head.String(), in) {
			return
		}
	}
}

// Write keeps what comes in.
func (b *recorder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deaf {
		return len(p), nil
	}
	return b.bytes.Write(p)
}

func (b *recorder) got() (raw string, heads []string, conns int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes.String(), append([]string(nil), b.heads...), b.conns
}

// answerOK reads the body as the head frames it, and says how long it was.
func answerOK(c net.Conn, head string, in *bufio.Reader) bool {
	r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head), in)))
	if err != nil {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	text := fmt.Sprintf("%s %s %d", r.Method, r.RequestURI, len(body))
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(text))
	if err == nil && r.Method != http.MethodHead {
		_, err = io.WriteString(c, text)
	}
	return err == nil
}

// httpBackend is a backend of net/http.
func httpBackend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l := listen(t)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: protocols, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

// client is a raw connection to the proxy.
type client struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func (r *rig) dial() *client { return dialRaw(r.t, r.plain) }

func dialRaw(t *testing.T, address string) *client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{c, t, bufio.NewReader(c)}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, format, args...); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// read returns the next answer; the reason phrase is in Status.
func (c *client) read(method string) (*http.Response, string) {
	c.t.Helper()
	a, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read answer: %v", err)
	}
	body, err := io.ReadAll(a.Body)
	if err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	return a, string(body)
}

// expect reads the next answer, which must have this status line and body.
func (c *client) expect(status, body string) *http.Response {
	c.t.Helper()
	a, got := c.read("GET")
	if a.Status != status || got != body {
		c.t.Fatalf("got %q, %q, want %q, %q", a.Status, got, status, body)
	}
	return a
}

// expectEnd: the proxy ends the connection, and nothing more comes.
func (c *client) expectEnd() {
	c.t.Helper()
	if b, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		c.t.Fatalf("got byte %q, %v, want the connection's end", b, err)
	}
}

// web is a net/http client that trusts any certificate; h2: it speaks HTTP/2 alone.
func web(t *testing.T, h2 bool) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	protocols.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// lockedBuffer is a log that tests read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// eventually polls the statistics.
func (r *rig) eventually(what string, cond func(Stats) bool) {
	r.t.Helper()
	testenv.Eventually(r.t, patience, what, func() error {
		if s := r.p.Stats(); !cond(s) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")
