package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/portcullis/portcullis/userspace/apis"
)

var (
	errNoServer = errors.New("no server is configured")
	errAllDown  = errors.New("every server is down")
	errQuota    = errors.New("at its quota")
)

// Passive checks: a server that could not be reached so often in a row is not asked for a while, unless all are like
// that.
const (
	failuresOut = 3
	outFor      = 10 * time.Second
)

// Kept connections to a server: how many, and for how long unused.
const (
	maxIdle  = 256
	idleKept = 30 * time.Second
)

// server is one backend of one API. Safe for concurrent use.
type server struct {
	apis.Server
	api     string
	address string
	tls     *tls.Config // nil: plain
	health  apis.Health
	timeout time.Duration // of a dial
	log     *slog.Logger
	now     func() time.Time

	active   atomic.Int64  // requests
	open     atomic.Int64  // connections
	failures atomic.Int64  // in a row
	outUntil atomic.Int64  // Unix nanoseconds
	unwell   atomic.Bool   // by the active check
	failed   atomic.Uint64 // for metrics
	turn     atomic.Uint64 // of its pool, in which it was picked last

	mu     sync.Mutex
	idle   []*upstream // the last one is the freshest
	closed bool
	second int64 // of spike
	spike  int   // connections opened in that second

	transports sync.Once
	http1      *http.Transport // for what comes by HTTP/2
	http2      *http.Transport // for gRPC
}

// upstream is one connection to a server.
type upstream struct {
	net.Conn
	server *server
	used   bool // it has carried an exchange before
	since  time.Time
	raw    syscall.RawConn
	peek   func(fd uintptr) bool
	alive  bool // what peek found
	once   sync.Once
}

// Close closes the connection, and counts it out.
func (u *upstream) Close() error {
	u.once.Do(func() { u.server.open.Add(-1) })
	return u.Conn.Close()
}

// ReadFrom lets the kernel carry bodies over where both sides are plain TCP.
func (u *upstream) ReadFrom(r io.Reader) (int64, error) { return io.Copy(u.Conn, r) }

// get returns a connection: a kept one that is fit, unless fresh, else a new one.
func (s *server) get(ctx context.Context, fresh bool) (*upstream, error) {
	for !fresh {
		s.mu.Lock()
		n := len(s.idle)
		if n == 0 {
			s.mu.Unlock()
			break
		}
		u := s.idle[n-1]
		s.idle[n-1] = nil
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		if u.fit() {
			return u, nil
		}
		u.Close()
	}
	return s.dial(ctx)
}

// put keeps a connection whose exchange is over.
func (s *server) put(u *upstream, now time.Time) {
	u.used, u.since = true, now
	s.mu.Lock()
	if !s.closed && len(s.idle) < maxIdle {
		s.idle = append(s.idle, u)
		u = nil
	}
	s.mu.Unlock()
	if u != nil {
		u.Close()
	}
}

// fit reports whether nothing has come over a kept connection: an end, or bytes that no request asked for and that
// would be taken for the next one's answer.
func (u *upstream) fit() bool {
	if u.raw == nil {
		return true // TLS: an end shows in the first read
	}
	u.alive = false
	return u.raw.Read(u.peek) == nil && u.alive
}

func (s *server) dial(ctx context.Context) (*upstream, error) {
	if err := s.admit(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", s.address)
	if err == nil && s.tls != nil {
		t := tls.Client(c, s.tls)
		if err = t.HandshakeContext(ctx); err != nil {
			c.Close()
		}
		c = t
	}
	if err != nil {
		s.open.Add(-1)
		s.fail(err)
		return nil, err
	}
	u := &upstream{Conn: c, server: s}
	if t, ok := c.(*net.TCPConn); ok {
		if u.raw, err = t.SyscallConn(); err != nil {
			u.Close()
			return nil, err
		}
		var one [1]byte
		u.peek = func(fd uintptr) bool {
			_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			u.alive = err == syscall.EAGAIN
			return true
		}
	}
	return u, nil
}

// admit counts a new connection against the server's quotas.
func (s *server) admit() error {
	if n := s.open.Add(1); s.ConnectionsQuota > 0 && n > int64(s.ConnectionsQuota) {
		s.open.Add(-1)
		return errQuota
	}
	if s.SpikeThreshold == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now().Unix(); now != s.second {
		s.second, s.spike = now, 0
	}
	if s.spike++; s.spike > s.SpikeThreshold {
		s.open.Add(-1)
		return errQuota
	}
	return nil
}

// fail notes that the server could not be reached, or broke an exchange.
func (s *server) fail(err error) {
	s.failed.Add(1)
	if s.failures.Add(1) >= failuresOut && s.outUntil.Swap(s.now().Add(outFor).UnixNano()) < s.now().UnixNano() {
		s.log.Warn("backend fails, and is left alone for a while", "api", s.api, "server", s.address, "for", outFor, "error", err)
	}
}

// well notes that the server answered.
func (s *server) well() {
	if s.failures.Load() != 0 {
		s.failures.Store(0)
		s.outUntil.Store(0)
	}
}

// closeIdle closes kept connections that were not used since; all of them for good if the server is given up.
func (s *server) closeIdle(since time.Time, forGood bool) {
	s.mu.Lock()
	n := 0
	for n < len(s.idle) && (forGood || s.idle[n].since.Before(since)) {
		n++
	}
	old := append([]*upstream(nil), s.idle[:n]...)
	s.idle = append(s.idle[:0], s.idle[n:]...)
	s.closed = s.closed || forGood
	s.mu.Unlock()
	for _, u := range old {
		u.Close()
	}
	if forGood {
		h1, h2 := s.roundTrippers()
		h1.CloseIdleConnections()
		h2.CloseIdleConnections()
	}
}

// roundTrippers are net/http's own ways to the server, under the same quotas.
func (s *server) roundTrippers() (http1, http2 *http.Transport) {
	s.transports.Do(func() {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) }
		base := func() *http.Transport {
			return &http.Transport{
				DialContext: dial, DialTLSContext: dial, DisableCompression: true, MaxIdleConnsPerHost: maxIdle,
				IdleConnTimeout: idleKept, MaxResponseHeaderBytes: maxAnswerHead, Protocols: new(http.Protocols),
			}
		}
		s.http1, s.http2 = base(), base()
		s.http1.Protocols.SetHTTP1(true)
		if s.tls == nil {
			s.http2.Protocols.SetUnencryptedHTTP2(true)
			return
		}
		s.http2.Protocols.SetHTTP2(true)
		s.http2.DialTLSContext, s.http2.TLSClientConfig = nil, s.tls.Clone()
		s.http2.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dialPlain(ctx) }
	})
	return s.http1, s.http2
}

// dialPlain is dial for who speaks TLS himself.
func (s *server) dialPlain(ctx context.Context) (net.Conn, error) {
	if err := s.admit(); err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: s.timeout}
	c, err := d.DialContext(ctx, "tcp", s.address)
	if err != nil {
		s.open.Add(-1)
		s.fail(err)
		return nil, err
	}
	return &upstream{Conn: c, server: s}, nil
}

// pool are the servers of one API. Immutable but for the state of its servers.
type pool struct {
	api     *apis.API
	servers []*server
	turn    atomic.Uint64
}

// pick returns the server with the fewest requests among those that are well, in turns where several have; not: those
// not to pick. With none well it takes one that is only left alone for its failures; errors say why there is none.
func (p *pool) pick(now int64, not []*server) (*server, error) {
	if len(p.servers) == 0 {
		return nil, errNoServer
	}
	if len(p.servers) == 1 && len(not) == 0 {
		if s := p.servers[0]; !s.unwell.Load() {
			return s, nil
		}
		return nil, errAllDown
	}
	var best, spare *server
	var least int64
next:
	for _, s := range p.servers {
		for _, tried := range not {
			if tried == s {
				continue next
			}
		}
		switch {
		case s.unwell.Load():
		case s.outUntil.Load() > now:
			if spare == nil || s.turn.Load() < spare.turn.Load() {
				spare = s
			}
		default:
			if n := s.active.Load(); best == nil || n < least || n == least && s.turn.Load() < best.turn.Load() {
				best, least = s, n
			}
		}
	}
	if best == nil {
		best = spare
	}
	if best == nil {
		return nil, errAllDown
	}
	best.turn.Store(p.turn.Add(1))
	return best, nil
}

// hostPort of a definition's server.
func hostPort(s apis.Server) string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }
