package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy carries requests that pass to their backends. Safe for concurrent use.
type Proxy struct {
	options Options
	limits  Limits
	judge   Judge
	log     *slog.Logger
	now     func() time.Time
	certs   *certificates
	access  *accessLog
	stats   counters

	pools    atomic.Pointer[pools]
	changing sync.Mutex // of pools

	draining atomic.Bool
	seconds  atomic.Uint32 // since start, as of the last sweep
	mu       sync.Mutex
	conns    map[*conn]struct{}
	perPeer  map[netip.Addr]int
	serving  sync.WaitGroup
	h2       *h2Server

	buffers sync.Pool // *[bufferSize]byte
	works   sync.Pool // *work
	lines   sync.Pool // *[]byte
}

// New returns a proxy that knows no backends yet. It reads the certificates: the error ([ErrOptions]) names the file.
func New(o Options) (*Proxy, error) {
	if o.Judge == nil {
		return nil, fmt.Errorf("%w: no judge", ErrOptions)
	}
	p := &Proxy{
		options: o, limits: o.Limits.withDefaults(), judge: o.Judge, log: o.Logger, now: o.Now,
		conns: make(map[*conn]struct{}), perPeer: make(map[netip.Addr]int),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.now == nil {
		p.now = time.Now
	}
	p.buffers.New = func() any { return new([bufferSize]byte) }
	p.works.New = func() any { return newWork() }
	p.lines.New = func() any { return new([]byte) }
	var err error
	if p.certs, err = newCertificates(o.Certificates, p.log); err != nil {
		return nil, err
	}
	if p.access, err = openAccessLog(o.AccessLog, p.log); err != nil {
		return nil, err
	}
	p.h2 = newH2(p)
	return p, nil
}

// Listeners are where clients come to. Each may be empty; nil listeners are left out.
type Listeners struct {
	Plain []net.Listener // HTTP/1.1, and HTTP/2 with prior knowledge
	TLS   []net.Listener // the same over TLS
}

// Run serves the listeners until ctx ends, and closes them. Then it lets what is under way come to its end, for the
// graceful period at most. It may be called once.
func (p *Proxy) Run(ctx context.Context, l Listeners) error {
	if len(l.TLS) > 0 && p.certs.empty() {
		return fmt.Errorf("%w: a port for TLS, and no certificate", ErrOptions)
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer p.access.close()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stop()
	helpers.Go(func() { p.sweep(background) })
	helpers.Go(func() { p.checkHealth(background) })
	helpers.Go(func() { p.certs.watch(background) })
	helpers.Go(func() { p.access.run(background) })
	helpers.Go(func() { p.h2.serve() })

	var accepting sync.WaitGroup
	failed := make(chan error, len(l.Plain)+len(l.TLS))
	start := func(all []net.Listener, overTLS bool) {
		for _, one := range all {
			if one != nil {
				accepting.Go(func() { failed <- p.accept(ctx, one, overTLS) })
			}
		}
	}
	start(l.Plain, false)
	start(l.TLS, true)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	l.Close()
	accepting.Wait()
	p.drain()
	return err
}

// drain ends connections that wait for a request, and waits for the others.
func (p *Proxy) drain() {
	p.draining.Store(true)
	p.expireIdle(true)
	until, cancel := context.WithTimeout(context.Background(), p.limits.GracefulPeriod)
	defer cancel()
	p.h2.shutdown(until)
	done := make(chan struct{})
	go func() { p.serving.Wait(); close(done) }()
	select {
	case <-done:
	case <-until.Done():
		p.eachConn((*conn).kill)
		<-done
	}
	for s := range p.servers() {
		s.closeIdle(time.Time{}, true)
	}
}

// accept takes connections until the listener is closed. An error that passes (no file descriptors left) is waited out.
func (p *Proxy) accept(ctx context.Context, l net.Listener, overTLS bool) error {
	wait := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		if err == nil {
			wait = 5 * time.Millisecond
			p.take(nc, overTLS)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		p.log.Error("cannot take a connection", "address", l.Addr(), "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			wait = min(2*wait, time.Second)
		}
	}
}

// take serves a connection, or closes it at once where there are too many.
func (p *Proxy) take(nc net.Conn, overTLS bool) {
	p.stats.accepted.Add(1)
	c := &conn{p: p, base: nc, Conn: nc}
	c.bottom, _ = nc.(*net.TCPConn)
	c.setPeer(nc.RemoteAddr())
	if !p.enter(c) {
		p.stats.refusedConns.Add(1)
		nc.Close()
		return
	}
	p.serving.Go(func() {
		defer p.leave(c)
		if c.begin(overTLS) {
			c.serve()
		}
	})
}

// enter counts a connection in, unless it is one too many.
func (p *Proxy) enter(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) >= p.limits.Connections {
		return false
	}
	if limit := p.limits.ConnectionsPerClient; limit > 0 && !c.trusted {
		// Who has an IPv6 address has the /64 around it.
		who := c.peer
		if prefix, err := who.Prefix(64); err == nil && who.Is6() {
			who = prefix.Addr()
		}
		if p.perPeer[who] >= limit {
			return false
		}
		c.counted = who
		p.perPeer[who]++
	}
	c.set(phaseNew)
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) leave(c *conn) {
	if c.handedOver {
		return // its socket is counted out when HTTP/2 closes it
	}
	c.close()
	p.forget(c)
}

// forget counts a connection out.
func (p *Proxy) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	if c.counted.IsValid() {
		if p.perPeer[c.counted]--; p.perPeer[c.counted] <= 0 {
			delete(p.perPeer, c.counted)
		}
	}
}

func (p *Proxy) eachConn(do func(*conn)) {
	p.mu.Lock()
	all := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		do(c)
	}
}

// trusts reports whether an address is that of a trusted proxy.
func (p *Proxy) trusts(a netip.Addr) bool {
	for _, prefix := range p.options.TrustedProxies {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}
