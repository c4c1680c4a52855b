package proxy

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// phase is what a connection waits for. With the second it began (or saw a byte last) it makes the connection's state,
// one word: the sweeper expires a connection by exchanging the very word it judged.
type phase uint8

const (
	phaseIdle     phase = iota // the next request
	phaseNew                   // the first byte
	phaseHead                  // the rest of a request's header, or of a handshake
	phaseExchange              // backend and client, in both directions
	phaseTunnel                // the same after an upgrade
	phaseLinger                // the client to read the last answer
	phaseHanded                // HTTP/2 has it
	phaseExpired
)

func pack(ph phase, second uint32) uint64       { return uint64(ph)<<32 | uint64(second) }
func unpack(s uint64) (ph phase, second uint32) { return phase(s >> 32), uint32(s) }
func (c *conn) expired() bool                   { ph, _ := unpack(c.state.Load()); return ph == phaseExpired }
func (l Limits) timeout(ph phase) time.Duration {
	switch ph {
	case phaseIdle:
		return l.IdleTimeout
	case phaseNew, phaseHead:
		return l.HeaderTimeout
	case phaseExchange:
		return l.AnswerTimeout
	case phaseTunnel:
		return l.TunnelTimeout
	case phaseLinger:
		return lingerFor
	}
	return 0
}

// set begins a phase, or marks progress in it. It returns false if the connection has expired.
func (c *conn) set(ph phase) bool {
	next := pack(ph, c.p.seconds.Load())
	for {
		old := c.state.Load()
		if was, _ := unpack(old); was == phaseExpired {
			return false
		}
		if old == next || c.state.CompareAndSwap(old, next) {
			return true
		}
	}
}

// sweep looks at every connection once a second until ctx ends.
func (p *Proxy) sweep(ctx context.Context) {
	started := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.seconds.Store(uint32(time.Since(started) / time.Second))
		p.eachConn((*conn).look)
		if draining := p.draining.Load(); draining || p.crowded() {
			p.expireIdle(draining)
		}
		for s := range p.servers() {
			s.closeIdle(p.now().Add(-idleKept), false)
		}
	}
}

// crowded: nine in ten of the connections that may be are there.
func (p *Proxy) crowded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return 10*len(p.conns) > 9*p.limits.Connections
}

// expireIdle ends connections that wait for a request: those for more than a second, or all of them. One on which
// nothing was asked yet always has that second: its client may not know that we end. Headers under way have three.
func (p *Proxy) expireIdle(all bool) {
	now := p.seconds.Load()
	p.eachConn(func(c *conn) {
		s := c.state.Load()
		if ph, since := unpack(s); ph == phaseIdle && all || (ph == phaseIdle || ph == phaseNew) && now > since+1 || ph == phaseHead && now > since+3 {
			c.expire(s)
		}
	})
}

// look expires the connection if it has waited for too long, or if its client has gone.
func (c *conn) look() {
	s, now := c.state.Load(), c.p.seconds.Load()
	ph, since := unpack(s)
	if ph == phaseExpired {
		return
	}
	// Seconds are rounded down: one more, so that nothing ends before its time.
	if limit := c.p.limits.timeout(ph); limit > 0 && time.Duration(now-since) > (limit+time.Second-1)/time.Second {
		c.expire(s)
		return
	}
	if ph != phaseExchange {
		return
	}
	if c.tooSlow(now) {
		c.expire(s)
	} else if began := c.began.Load(); now > began+1 && c.gone() {
		c.p.stats.clientGone.Add(1)
		c.kill()
	}
}

// bodyWindow is over how many seconds the rate of a body is measured.
const bodyWindow = 30

// tooSlow: the request's body comes in more slowly than it must. Only the sweeper calls it.
func (c *conn) tooSlow(now uint32) bool {
	if !c.uploading.Load() || c.p.limits.BodyRate < 0 {
		c.windowStart = 0
		return false
	}
	got := c.uploaded.Load()
	if c.windowStart == 0 {
		c.windowStart, c.windowBytes = now, got
		return false
	}
	if now-c.windowStart < bodyWindow {
		return false
	}
	slow := got-c.windowBytes < int64(c.p.limits.BodyRate)*bodyWindow
	c.windowStart, c.windowBytes = now, got
	return slow
}

// expire ends what the connection waits for, if it still waits for it.
func (c *conn) expire(s uint64) {
	if !c.state.CompareAndSwap(s, pack(phaseExpired, uint32(s>>32))) {
		return
	}
	past := time.Unix(1, 0)
	if up := c.up.Load(); up != nil {
		_ = up.SetDeadline(past)
	}
	_ = c.base.SetDeadline(past)
}

// expiredIn is the phase that an expired connection was in.
func (c *conn) expiredIn() phase {
	_, was := unpack(c.state.Load())
	return phase(was)
}

// kill ends the connection whatever it does.
func (c *conn) kill() {
	c.killed.Store(true)
	if up := c.up.Load(); up != nil {
		up.Close()
	}
	c.base.Close()
}

// gone reports whether the client has closed its side of the connection.
func (c *conn) gone() bool {
	if c.bottom == nil {
		return false
	}
	raw, err := c.bottom.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && (info.State == unix.BPF_TCP_CLOSE || info.State == unix.BPF_TCP_CLOSE_WAIT)
	})
	return gone || err != nil
}

// wait is a read without a buffer: the kernel is asked with one of the pool, which goes back there if there is nothing.
type wait struct {
	p    *Proxy
	raw  syscall.RawConn
	got  *[bufferSize]byte
	n    int
	err  error
	once func(fd uintptr) bool // made once
}

func newWait(p *Proxy, c net.Conn) *wait {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	w := &wait{p: p, raw: raw}
	w.once = w.try
	return w
}

func (w *wait) try(fd uintptr) bool {
	buf := w.p.buffers.Get().(*[bufferSize]byte)
	for {
		n, err := syscall.Read(int(fd), buf[:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			w.p.buffers.Put(buf)
			return false
		}
		w.got, w.n, w.err = buf, n, err
		return true
	}
}

// read returns a buffer of the pool and how much is in it; 0 at the end of the connection.
func (w *wait) read() (*[bufferSize]byte, int, error) {
	if err := w.raw.Read(w.once); err != nil {
		return nil, 0, err
	}
	buf, n, err := w.got, w.n, w.err
	w.got = nil
	if err != nil || n <= 0 {
		w.p.buffers.Put(buf)
		return nil, 0, err
	}
	return buf, n, nil
}
