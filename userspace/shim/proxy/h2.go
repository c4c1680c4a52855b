package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

// h2Server serves HTTP/2 by net/http, and forwards by httputil.
type h2Server struct {
	p       *Proxy
	server  *http.Server
	forward *httputil.ReverseProxy
	queue   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

// Bounds of what one HTTP/2 connection may reset: above, it is closed (CVE-2023-44487).
const (
	resetsMin   = 200
	resetsShare = 2 // one in so many streams
)

type h2Key struct{}

// h2Conn counts the streams of a connection.
type h2Conn struct {
	c               *conn
	streams, resets atomic.Int64
}

func newH2(p *Proxy) *h2Server {
	s := &h2Server{p: p, queue: make(chan net.Conn), done: make(chan struct{})}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.server = &http.Server{
		Handler: s, Protocols: protocols, MaxHeaderBytes: p.limits.HeaderBytes, IdleTimeout: p.limits.IdleTimeout,
		ReadHeaderTimeout: p.limits.HeaderTimeout, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: p.limits.Streams, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10,
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second,
		},
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			c := connOf(nc)
			if c.ctx != nil {
				ctx = shim.WithClaims(ctx, shim.ClaimsOf(c.ctx))
			}
			return context.WithValue(ctx, h2Key{}, &h2Conn{c: c})
		},
	}
	s.forward = &httputil.ReverseProxy{
		Rewrite: s.rewrite, Transport: s, ErrorHandler: s.failed, BufferPool: bulkPool{},
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	return s
}

// Accept hands over what take was given: the server's listener.
func (s *h2Server) Accept() (net.Conn, error) {
	select {
	case nc := <-s.queue:
		return nc, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (s *h2Server) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// Addr is nobody's.
func (s *h2Server) Addr() net.Addr { return &net.TCPAddr{} }

func (s *h2Server) take(nc net.Conn) {
	select {
	case s.queue <- nc:
	case <-s.done:
		nc.Close()
	}
}

func (s *h2Server) serve() { _ = s.server.Serve(s) }

func (s *h2Server) shutdown(ctx context.Context) {
	if s.server.Shutdown(ctx) != nil {
		s.server.Close()
	}
}

// stream is one request.
type stream struct {
	http.ResponseWriter
	s      *h2Server
	d      shim.Decision
	target string
	in     *http.Request
	late   http.Header                   // trailers that the backend gets, once they have come
	ruling atomic.Pointer[shim.Decision] // that refuses them
	entry  logEntry
	cancel context.CancelCauseFunc
	idle   *time.Timer
	limit  time.Duration
	moved  atomic.Int64 // Unix second of the last time idle was set
	tried  []*server

	given, writing atomic.Bool // given up; writing to the client
	mu             sync.Mutex
	done           bool // the handler has returned
}

type streamKey struct{}

var (
	errListed = errors.New("the client was listed")
	errIdle   = errors.New("nothing moved for too long")
)

// ServeHTTP judges and forwards one stream.
func (s *h2Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	hc := r.Context().Value(h2Key{}).(*h2Conn)
	hc.streams.Add(1)
	st := &stream{ResponseWriter: rw, s: s, entry: logEntry{started: s.p.now(), proto: "HTTP/2.0", method: r.Method, host: r.Host, path: r.URL.Path, remote: hc.c.peer}}
	defer func() {
		if late := st.ruling.Load(); late != nil {
			st.d = *late
			s.p.stats.count(st.d)
		}
		s.noteReset(r, hc, st)
		s.p.logEntry(&st.entry, &st.d)
	}()
	if answer, ok := s.check(r); !ok {
		st.answer(answer)
		return
	}
	if r.Header.Get("Host") != "" {
		r.Header.Del("Host") // the same as :authority, by check
	}
	st.entry.judged = true
	st.d = s.p.judge.Decide(r)
	if s.p.access != nil {
		st.entry.note(r, &st.d)
	}
	s.p.stats.count(st.d)
	if st.d.Verdict != shim.Pass {
		st.answer(st.d.Answer)
		return
	}
	st.target = backendTarget(r.RequestURI, r.URL.Path, st.d.API)
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), streamKey{}, st))
	defer cancel(nil)
	st.cancel, st.limit = cancel, s.p.limits.AnswerTimeout
	if isGRPC(r) {
		st.limit = s.p.limits.TunnelTimeout
	}
	st.idle = time.AfterFunc(st.limit, func() { st.give(errIdle) })
	defer st.finish()
	defer st.idle.Stop()
	release := s.p.judge.Hold(st.d, func() {
		s.p.stats.ended.Add(1)
		st.give(errListed)
	})
	defer release()
	st.in = r
	r = r.WithContext(ctx)
	r.Body = &streamBody{r.Body, st}
	s.forward.ServeHTTP(st, r)
}

// give ends the stream. Who does not read is not waited for: a write to it fails, too.
func (st *stream) give(why error) {
	st.cancel(why)
	st.given.Store(true)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.writing.Load() && !st.done {
		_ = http.NewResponseController(st.ResponseWriter).SetWriteDeadline(time.Now())
	}
}

// finish says that the handler is about to return: nothing may touch its writer afterwards.
func (st *stream) finish() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.done = true
}

// check refuses what HTTP/1.1's reader would.
func (s *h2Server) check(r *http.Request) (apis.Answer, bool) {
	fields := 0
	for name, values := range r.Header {
		if fields += len(values); strings.IndexByte(name, '_') >= 0 && framesMessage(name) {
			s.p.stats.malformed.Add(1)
			return answerMalformed, false
		}
	}
	hosts := r.Header["Host"]
	switch {
	case fields > s.p.limits.HeaderFields:
		s.p.stats.tooLarge.Add(1)
		return answerTooLarge, false
	case r.Method == http.MethodConnect, !isToken(r.Method), r.Host == "" || !validHost(r.Host), len(hosts) > 1 || len(hosts) == 1 && !strings.EqualFold(hosts[0], r.Host),
		r.URL.Path != "*" && (r.URL.Path == "" || r.URL.Path[0] != '/'), hasDots(r.URL.Path), strings.ContainsAny(r.RequestURI, " #\x7f"),
		len(r.Header["Content-Length"]) > 1:
		s.p.stats.malformed.Add(1)
		return answerMalformed, false
	}
	return apis.Answer{}, true
}

func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// noteReset closes the connection of a client that opens streams to throw them away.
func (s *h2Server) noteReset(r *http.Request, hc *h2Conn, st *stream) {
	if r.Context().Err() == nil || st.entry.status != 0 {
		return
	}
	s.p.stats.resets.Add(1)
	if n := hc.resets.Add(1); n > resetsMin && n > hc.streams.Load()/resetsShare {
		s.p.stats.rapidResets.Add(1)
		hc.c.kill()
	}
}

// answer sends one of ours.
func (st *stream) answer(a apis.Answer) {
	if a.Location != "" {
		st.Header().Set("Location", oneLine(a.Location))
	}
	if a.Body != "" {
		st.Header().Set("Content-Type", contentType(a.Body))
	}
	st.WriteHeader(statusOf(a))
	n, _ := io.WriteString(st.ResponseWriter, a.Body)
	st.entry.bytes += int64(n)
}

// WriteHeader notes the status.
func (st *stream) WriteHeader(status int) {
	if status >= 200 {
		st.entry.status = status
		if st.idle != nil {
			st.s.p.judge.Answered(st.d, status)
		}
	}
	st.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (st *stream) Write(b []byte) (int, error) {
	st.writing.Store(true)
	defer st.writing.Store(false)
	if st.given.Load() {
		return 0, context.Canceled
	}
	n, err := st.ResponseWriter.Write(b)
	st.entry.bytes += int64(n)
	st.progress()
	return n, err
}

// FlushError waits for the client as Write does.
func (st *stream) FlushError() error {
	st.writing.Store(true)
	defer st.writing.Store(false)
	if st.given.Load() {
		return context.Canceled
	}
	return http.NewResponseController(st.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (st *stream) Unwrap() http.ResponseWriter { return st.ResponseWriter }

// progress sets the time anew after which the stream is given up, once a second at most.
func (st *stream) progress() {
	if now := st.s.p.now().Unix(); st.idle != nil && st.moved.Swap(now) != now {
		st.idle.Reset(st.limit)
	}
}

// streamBody notes progress.
type streamBody struct {
	io.ReadCloser
	st *stream
}

// Read reads; with the end come the trailers.
func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.st.progress()
	if err == io.EOF && b.st.refusesTrailers() {
		return n, errTrailers
	}
	if err == io.EOF {
		for name := range b.st.late {
			b.st.late[name] = b.st.in.Trailer[name]
		}
	}
	return n, err
}

// refusesTrailers judges what came after the body, of what was announced: net/http hides the rest, from backends too.
func (st *stream) refusesTrailers() bool {
	if len(st.in.Trailer) == 0 {
		return false
	}
	late := make(http.Header)
	for name, values := range st.in.Trailer {
		if keepsTrailer(name) && len(values) > 0 {
			late[name] = values
		}
	}
	d := st.s.p.judge.Trailers(st.d, late)
	if d.Verdict == shim.Pass {
		return false
	}
	st.ruling.Store(&d)
	st.cancel(errTrailers)
	return true
}

// rewrite makes the backend's request as HTTP/1.1's writer does.
func (s *h2Server) rewrite(r *httputil.ProxyRequest) {
	st := r.In.Context().Value(streamKey{}).(*stream)
	hc := r.In.Context().Value(h2Key{}).(*h2Conn)
	if u, err := url.ParseRequestURI(st.target); err == nil {
		r.Out.URL = u
	}
	r.Out.URL.Scheme, r.Out.URL.Host = "http", "backend" // RoundTrip knows
	r.Out.Host = r.In.Host
	for name := range r.Out.Header {
		if isForwarding(name) {
			delete(r.Out.Header, name)
		}
	}
	r.Out.Header.Del("Expect")
	if _, ok := r.Out.Header["User-Agent"]; !ok {
		r.Out.Header.Set("User-Agent", "") // none, instead of net/http's
	}
	c := hc.c
	xff, proto, host := c.peer.String(), "http", r.In.Host
	if c.tls != nil {
		proto = "https"
	}
	if c.trusted {
		for name, values := range r.In.Header {
			if isForwarding(name) {
				r.Out.Header[name] = values
			}
		}
		if before := strings.Join(r.In.Header["X-Forwarded-For"], ", "); before != "" {
			xff = before + ", " + xff
		}
		proto, host = lastOr(r.In.Header["X-Forwarded-Proto"], proto), lastOr(r.In.Header["X-Forwarded-Host"], host)
	}
	r.Out.Header.Set("X-Forwarded-For", xff)
	r.Out.Header.Set("X-Forwarded-Proto", proto)
	r.Out.Header.Set("X-Forwarded-Host", host)
}

func lastOr(values []string, other string) string {
	if len(values) == 0 {
		return other
	}
	return values[len(values)-1]
}

// RoundTrip sends a request to a server of its API; to another one where the first could not be reached.
func (s *h2Server) RoundTrip(r *http.Request) (*http.Response, error) {
	st := r.Context().Value(streamKey{}).(*stream)
	pool := s.p.pools.Load().find(st.d.API)
	if pool == nil || len(pool.servers) == 0 {
		s.p.noServer(st.d.API)
		return nil, errNoServer
	}
	body := r.Body
	for try := 1; ; try++ {
		sv, err := pool.pick(s.p.now().UnixNano(), st.tried)
		if err != nil {
			return nil, err
		}
		out := r.Clone(r.Context())
		out.URL.Host = sv.address
		if sv.tls != nil {
			out.URL.Scheme = "https"
		}
		if body != nil && body != http.NoBody {
			out.Body = io.NopCloser(body)
		}
		out.Trailer = st.trailers()
		way, h2 := sv.roundTrippers()
		if isGRPC(r) {
			way = h2
		}
		sv.active.Add(1)
		a, err := way.RoundTrip(out)
		if err == nil {
			sv.well()
			st.entry.server = sv.address
			a.Body = &answerBody{a.Body, sv, sync.Once{}}
			return a, nil
		}
		sv.active.Add(-1)
		if try == maxTries || !unreached(err) || r.Context().Err() != nil {
			return nil, err
		}
		st.tried = append(st.tried, sv)
		if len(st.tried) == len(pool.servers) {
			return nil, err
		}
		s.p.stats.retries.Add(1)
	}
}

// trailers are those of the request that a backend may get: net/http knows their names before their values.
func (st *stream) trailers() http.Header {
	st.late = nil
	for name := range st.in.Trailer {
		if passesTrailer(st.d.API, name) {
			if st.late == nil {
				st.late = make(http.Header)
			}
			st.late[name] = nil
		}
	}
	return st.late
}

// unreached: no byte of the request was sent.
func unreached(err error) bool {
	var op *net.OpError
	return errors.Is(err, errQuota) || errors.As(err, &op) && op.Op == "dial"
}

// answerBody counts the request out when its answer is read.
type answerBody struct {
	io.ReadCloser
	server *server
	once   sync.Once
}

// Close closes.
func (b *answerBody) Close() error {
	b.once.Do(func() { b.server.active.Add(-1) })
	return b.ReadCloser.Close()
}

// failed answers where no backend has.
func (s *h2Server) failed(rw http.ResponseWriter, r *http.Request, err error) {
	st := r.Context().Value(streamKey{}).(*stream)
	switch cause := context.Cause(r.Context()); {
	case cause == errListed:
		panic(http.ErrAbortHandler)
	case cause == errTrailers:
		st.answer(st.ruling.Load().Answer)
	case cause == errIdle:
		s.p.stats.backendTimeouts.Add(1)
		st.answer(answerGateTimeout)
	case cause != nil: // the client has gone
		s.p.stats.clientGone.Add(1)
		panic(http.ErrAbortHandler)
	case errors.Is(err, errNoServer):
		st.answer(answerNoServer)
	case errors.Is(err, errAllDown):
		st.answer(answerDown)
	case errors.Is(err, errQuota):
		s.p.stats.quota.Add(1)
		st.answer(answerFull)
	default:
		s.p.stats.backendErrors.Add(1)
		st.answer(answerBadGateway)
	}
}

// bulkPool lends buffers to httputil.
type bulkPool struct{}

var bulk = sync.Pool{New: func() any { return new([bulkSize]byte) }}

// Get returns a buffer.
func (bulkPool) Get() []byte { return bulk.Get().(*[bulkSize]byte)[:] }

// Put takes it back.
func (bulkPool) Put(b []byte) { bulk.Put((*[bulkSize]byte)(b)) }
