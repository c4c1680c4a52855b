package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/userspace/shim"
)

// Sizes of buffers: of what clients send, and of what backends do.
const (
	bufferSize = 4 << 10
	answerSize = 8 << 10
	bulkSize   = 32 << 10
)

// conn is one client's connection. Its goroutine owns it, but for the atomics and what is said otherwise.
type conn struct {
	p        *Proxy
	base     net.Conn     // as it was accepted; others may set its deadlines and close it
	bottom   *net.TCPConn // the same, if it is TCP
	net.Conn              // what is read and written: base, or TLS over it
	tls      *tls.ConnectionState
	ctx      context.Context // with what a PROXY header claims; nil: nothing
	early    []byte          // read with a PROXY header
	addr     net.Addr        // the client's
	remote   string
	peer     netip.Addr
	trusted  bool
	counted  netip.Addr // under which address the connection is counted, if it is

	in         input
	inBuf      *[bufferSize]byte // of the pool, where in.buf is that
	inBulk     *[bulkSize]byte   // the same for bodies
	idle       *wait             // nil: TLS
	handedOver bool
	lingering  bool // the last answer is sent, and the client may still be sending

	state     atomic.Uint64
	began     atomic.Uint32 // the second in which the present exchange began
	up        atomic.Pointer[upstream]
	killed    atomic.Bool
	uploading atomic.Bool
	uploaded  atomic.Int64

	windowStart uint32 // the sweeper's
	windowBytes int64
}

// work is what one request needs; connections without one have none.
type work struct {
	head
	ans     answerHead
	req     http.Request
	url     url.URL
	header  http.Header
	values  []string
	d       shim.Decision
	out     []byte // to the backend, then to the client
	up      input
	upBuf   []byte
	started time.Time
	entry   logEntry
	tried   []*server
	held    bool // Judge.Hold has seen the header: it may be read for a moment after the request
}

func newWork() *work {
	return &work{header: make(http.Header, 32), values: make([]string, 0, 64), out: make([]byte, 0, bufferSize), upBuf: make([]byte, answerSize)}
}

func (c *conn) setPeer(a net.Addr) {
	c.addr, c.remote = a, a.String()
	if ap, err := netip.ParseAddrPort(c.remote); err == nil {
		c.peer = ap.Addr().Unmap().WithZone("")
	}
	c.trusted = c.p.trusts(c.peer)
}

// serve answers requests until the connection ends.
func (c *conn) serve() {
	c.answerAll()
	c.releaseBuffer()
	if c.lingering && !c.killed.Load() {
		c.linger()
	}
}

func (c *conn) answerAll() {
	for first := true; c.await(first); first = false {
		text, err := c.readHead(first)
		switch {
		case err == errHTTP2:
			c.handOver(nil)
			return
		case err != nil:
			c.failHead(err)
			return
		}
		w := c.p.works.Get().(*work)
		w.started = c.p.now()
		keep := c.handle(w, text)
		c.logRequest(w)
		c.p.recycle(w)
		if !keep || c.killed.Load() {
			return
		}
	}
}

// recycle forgets what the request was, so that nothing holds on to it.
func (p *Proxy) recycle(w *work) {
	if w.held {
		w.header, w.values, w.held = make(http.Header, 32), make([]string, 0, 64), false
	}
	clear(w.header)
	clear(w.values[:cap(w.values)])
	clear(w.fields[:cap(w.fields)])
	clear(w.ans.fields[:cap(w.ans.fields)])
	w.req, w.url, w.d, w.entry = http.Request{}, url.URL{}, shim.Decision{}, logEntry{}
	w.values, w.tried = w.values[:0], nil
	w.head, w.ans = head{fields: w.fields[:0]}, answerHead{fields: w.ans.fields[:0]}
	if cap(w.out) > 2*bulkSize {
		w.out = make([]byte, 0, bufferSize)
	}
	p.works.Put(w)
}

// await waits for the first byte of a request, with no buffer where that can be.
func (c *conn) await(first bool) bool {
	if c.in.r < c.in.w {
		return c.set(phaseHead)
	}
	if c.p.draining.Load() && !first {
		return false
	}
	ph := phaseIdle
	if first {
		ph = phaseNew
	}
	if !c.set(ph) {
		return false
	}
	if c.idle == nil {
		if c.in.buf == nil {
			c.inBuf = c.p.buffers.Get().(*[bufferSize]byte)
			c.in.buf = c.inBuf[:]
		}
		if err := c.in.fill(); err != nil {
			return false
		}
		return c.set(phaseHead)
	}
	c.releaseBuffer()
	buf, n, err := c.idle.read()
	if err != nil || n == 0 {
		return false
	}
	c.inBuf = buf
	c.in.buf, c.in.r, c.in.w = buf[:], 0, n
	return c.set(phaseHead)
}

// releaseBuffer gives the input's buffer back. Nothing may be in it.
func (c *conn) releaseBuffer() {
	c.giveBack()
	c.in.buf, c.in.r, c.in.w = nil, 0, 0
}

func (c *conn) giveBack() {
	if c.inBuf != nil {
		c.p.buffers.Put(c.inBuf)
	}
	if c.inBulk != nil {
		bulk.Put(c.inBulk)
	}
	c.inBuf, c.inBulk = nil, nil
}

// growBuffer puts a larger buffer in the place of the input's.
func (c *conn) growBuffer(bigger []byte) {
	n := copy(bigger, c.in.buffered())
	c.giveBack()
	c.in.buf, c.in.r, c.in.w = bigger, 0, n
}

// bulkBuffer is growBuffer for a body.
func (c *conn) bulkBuffer() {
	if len(c.in.buf) >= bulkSize {
		return
	}
	b := bulk.Get().(*[bulkSize]byte)
	c.growBuffer(b[:])
	c.inBulk = b
}

var (
	errHTTP2    = errors.New("HTTP/2 preface")
	errTimedOut = errors.New("timed out")
)

const preface = "PRI * HTTP/2.0\r\n"

// readHead reads a request's head, up to and with the empty line; one empty line before it is let pass, as old clients
// send one after a body. Bytes that cannot become a head are errMalformed at once, not after a timeout.
func (c *conn) readHead(first bool) (string, error) {
	in := &c.in
	lineStart, scanned, skipped := 0, 0, false // in the buffered bytes
	for {
		have := in.buffered()
		for {
			i := bytes.IndexByte(have[scanned:], '\n')
			if i < 0 {
				scanned = len(have)
				break
			}
			i += scanned
			if i == lineStart || have[i-1] != '\r' {
				return "", errMalformed
			}
			empty := i == lineStart+1
			switch {
			case empty && lineStart == 0 && !skipped:
				in.r += i + 1
				have, scanned, skipped = in.buffered(), 0, true
				continue
			case empty && lineStart == 0:
				return "", errMalformed
			case empty:
				text := string(have[:i+1])
				in.r += i + 1
				return text, nil
			case lineStart == 0 && string(have[:i+1]) == preface:
				if first && !skipped {
					return "", errHTTP2
				}
				return "", errMalformed
			}
			lineStart, scanned = i+1, i+1
		}
		if len(have) > 0 && have[0] != '\r' && !tokenBytes[have[0]] {
			return "", errMalformed
		}
		if len(have) >= c.p.limits.HeaderBytes {
			return "", errTooLarge
		}
		if len(have) == len(in.buf) {
			c.growBuffer(make([]byte, min(4*len(in.buf), c.p.limits.HeaderBytes)))
		}
		if err := in.fill(); err != nil {
			if err == io.EOF && in.r < in.w {
				return "", errMalformed // half a request, and nothing more will come
			}
			return "", err
		}
	}
}

// failHead answers what has not become a request.
func (c *conn) failHead(err error) {
	w := c.p.works.Get().(*work)
	w.started = c.p.now()
	switch {
	case c.expired() && c.expiredIn() == phaseHead:
		c.p.stats.slowHeads.Add(1)
		_ = c.Conn.SetDeadline(time.Time{})
		c.answer(w, answerTimeout, true)
	case errors.Is(err, errMalformed):
		c.p.stats.malformed.Add(1)
		c.answer(w, answerMalformed, true)
	case errors.Is(err, errTooLarge):
		c.p.stats.tooLarge.Add(1)
		c.answer(w, answerTooLarge, true)
	}
	if w.entry.status != 0 {
		c.logRequest(w)
	}
	c.p.recycle(w)
}

// handle reads, judges and carries one request. It returns whether the connection goes on.
func (c *conn) handle(w *work, text string) (keep bool) {
	err := w.parseHead(text, c.p.limits.HeaderFields)
	if err == nil {
		err = w.parseTarget(&w.url)
	}
	switch err {
	case nil:
	case errTooLarge:
		c.p.stats.tooLarge.Add(1)
		return c.answer(w, answerTooLarge, true)
	case errExpectation:
		return c.answer(w, answerExpectation, true)
	default:
		c.p.stats.malformed.Add(1)
		return c.answer(w, answerMalformed, true)
	}
	c.buildRequest(w)
	if c.ctx != nil {
		w.req = *w.req.WithContext(c.ctx)
	}
	w.entry.judged = true
	w.d = c.p.judge.Decide(&w.req)
	c.p.stats.count(w.d)
	if w.d.Verdict != shim.Pass {
		// A body that nobody reads would be taken for the next request. Of a trusted proxy's connection the next request
		// may be another client's.
		stay := w.empty() && !w.close && (c.trusted || w.d.Reason == shim.Detected)
		return c.answer(w, w.d.Answer, !stay)
	}
	return c.forward(w)
}

// buildRequest makes what is judged: the request as net/http would hand it over.
func (c *conn) buildRequest(w *work) {
	h := w.header
	if need := len(w.fields); cap(w.values) < need {
		w.values = make([]string, 0, 2*need)
	}
	for _, f := range w.fields {
		if had, ok := h[f.canon]; ok {
			h[f.canon] = append(had, f.value)
			continue
		}
		w.values = append(w.values, f.value)
		n := len(w.values)
		h[f.canon] = w.values[n-1 : n : n]
	}
	w.req = http.Request{
		Method: w.method, URL: &w.url, Proto: w.proto, ProtoMajor: 1, ProtoMinor: 1, Header: h, Host: w.host,
		RequestURI: w.target, RemoteAddr: c.remote, TLS: c.tls, ContentLength: w.length, Close: w.close, Body: http.NoBody,
	}
	if w.http10 {
		w.req.ProtoMinor = 0
	}
	if w.chunked {
		w.req.ContentLength, w.req.TransferEncoding = -1, chunkedOnly
	}
}

var chunkedOnly = []string{"chunked"}

// close ends the connection.
func (c *conn) close() {
	c.Conn.Close()
}

// linger lets the client read the last answer: data that arrives at a closed socket would make the kernel throw the
// answer away.
func (c *conn) linger() {
	if !c.set(phaseLinger) {
		return
	}
	type halfCloser interface{ CloseWrite() error }
	if half, ok := c.Conn.(halfCloser); ok {
		_ = half.CloseWrite()
	}
	if c.tls != nil && c.bottom != nil {
		_ = c.bottom.CloseWrite()
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(lingerFor))
	var sink [512]byte
	for total := 0; total < 1<<20; {
		n, err := c.Conn.Read(sink[:])
		if total += n; err != nil {
			return
		}
	}
}

// timedOut reports whether an error is that of a deadline.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// isIdempotent: a request may be sent again if it is not known what became of it.
func isIdempotent(method string) bool {
	return strings.Contains(" GET HEAD OPTIONS TRACE PUT DELETE ", " "+method+" ")
}
