package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/portcullis/portcullis/userspace/shim"
)

// socket is what is below TLS and HTTP/2: the TCP connection, with the address that a PROXY header told, and with what
// was read of it too early.
type socket struct {
	net.Conn
	c      *conn
	remote net.Addr
	early  []byte
	once   sync.Once
}

// Read returns what was read too early first.
func (s *socket) Read(b []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(b, s.early)
		s.early = s.early[n:]
		return n, nil
	}
	return s.Conn.Read(b)
}

// RemoteAddr is the client's.
func (s *socket) RemoteAddr() net.Addr { return s.remote }

// CloseWrite ends our side.
func (s *socket) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection, and counts it out if HTTP/2 had it.
func (s *socket) Close() error {
	s.once.Do(func() {
		if s.c.handedOver {
			s.c.p.forget(s.c)
		}
	})
	return s.Conn.Close()
}

// readProxyHeader reads the header that a trusted proxy may begin with. It returns false if there is one that is none.
func (c *conn) readProxyHeader() bool {
	in := bufio.NewReaderSize(c.base, bufferSize)
	h, err := proxyproto.Read(in)
	early, _ := in.Peek(in.Buffered())
	if err == proxyproto.ErrNoProxyProtocol && len(early) > 0 {
		c.early = early
		return true
	}
	if err != nil {
		c.p.stats.proxyHeaders.Add(1)
		c.p.log.Debug("bad PROXY header", "from", c.remote, "error", err)
		return false
	}
	c.early = early
	if source, _, ok := h.TCPAddrs(); ok && !h.Command.IsLocal() {
		c.setPeer(source)
		c.ctx = shim.WithClaims(context.Background(), shim.Claims{Relayed: true})
	}
	return true
}

// begin reads a PROXY header and shakes hands; it returns false if the connection is over, or is HTTP/2 now.
func (c *conn) begin(overTLS bool) bool {
	if c.p.options.ProxyProtocol && c.trusted && !c.readProxyHeader() {
		return false
	}
	if overTLS {
		t := tls.Server(&socket{Conn: c.base, c: c, remote: c.addr, early: c.early}, c.p.certs.config)
		c.early = nil
		if err := t.Handshake(); err != nil {
			c.p.stats.handshakes.Add(1)
			c.failHandshake(err)
			return false
		}
		state := t.ConnectionState()
		c.Conn, c.tls = t, &state
		if state.NegotiatedProtocol == "h2" {
			c.handOver(t)
			return false
		}
	}
	c.in.from = c.Conn
	if len(c.early) > 0 {
		c.inBuf = c.p.buffers.Get().(*[bufferSize]byte)
		c.in.buf, c.in.w = c.inBuf[:], copy(c.inBuf[:], c.early)
		c.early = nil
	}
	c.idle = newWait(c.p, c.Conn)
	return true
}

// failHandshake answers who sends a request where TLS is expected.
func (c *conn) failHandshake(err error) {
	var header tls.RecordHeaderError
	if errors.As(err, &header) && header.Conn != nil && tokenBytes[header.RecordHeader[0]] {
		_ = c.base.SetDeadline(time.Now().Add(lingerFor))
		_, _ = c.base.Write(appendAnswer(nil, answerMalformed, false, true, false))
		c.linger()
	}
}

// handOver gives the connection to HTTP/2's server. nil: it is not TLS, and what was read goes along.
func (c *conn) handOver(overTLS *tls.Conn) {
	c.set(phaseHanded)
	c.handedOver = true
	if overTLS != nil {
		c.p.h2.take(overTLS)
		return
	}
	early := append([]byte(nil), c.in.buffered()...)
	c.in.r = c.in.w
	c.p.h2.take(&socket{Conn: c.base, c: c, remote: c.addr, early: early})
}

// connOf is the connection below one that HTTP/2's server has.
func connOf(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return nc.(*socket).c
}
