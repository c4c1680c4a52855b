package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

// maxTries bounds how many servers one request is offered to.
const maxTries = 3

// exchange is one request on its way: from the choice of a server to the end of the answer.
type exchange struct {
	c        *conn
	w        *work
	server   *server
	up       *upstream
	whole    bool          // the request's body is in w.out already, with its head
	uploaded chan struct{} // closed when the upload has ended; nil: there is none
	upErr    error         // of the upload, once it has ended
	late     shim.Decision // about the trailers, where upErr is errTrailers
	upDone   bool          // the upload ended with the body's end
	upRead   atomic.Bool   // all of the body has been read from the client
	upFault  atomic.Bool   // the client broke it off, or framed it badly: the connection to the server was closed for that
	began    bool          // a byte of the answer has come
	lost     bool          // the client took no more of the answer
	release  func()        // of Judge.Hold
}

// forward carries a request that passed to a backend, and its answer back. It returns whether the connection goes on.
func (c *conn) forward(w *work) (keep bool) {
	pool := c.p.pools.Load().find(w.d.API)
	if pool == nil || len(pool.servers) == 0 {
		c.p.noServer(w.d.API)
		return c.answer(w, answerNoServer, !w.empty())
	}
	c.began.Store(c.p.seconds.Load())
	if !c.set(phaseExchange) {
		return false
	}
	x := &exchange{c: c, w: w}
	defer x.finish()
	x.writeHead()
	answer, err := x.reach(pool)
	if err != nil {
		return c.answer(w, answer, !w.empty())
	}
	return x.relay()
}

// reach sends the request to a server of the pool and reads the head of its answer. Another server is tried where the
// first cannot have acted on the request, or acting twice is as good as once.
func (x *exchange) reach(pool *pool) (apis.Answer, error) {
	w, fresh := x.w, false
	for try := 0; ; try++ {
		s, err := pool.pick(x.c.p.now().UnixNano(), w.tried)
		if err == nil {
			err = x.offer(s, fresh)
		} else if len(w.tried) > 0 {
			return answerDown, err // what was tried has said why already
		}
		if err == nil {
			return apis.Answer{}, nil
		}
		stale := x.up != nil && x.up.used && !x.began
		sent := x.up != nil
		x.drop()
		if x.c.expired() || x.c.killed.Load() {
			return x.expiredAnswer(), err
		}
		retry := !sent || !x.began && x.uploaded == nil && isIdempotent(w.method) && !timedOut(err)
		if !retry || try+1 >= maxTries {
			return x.failure(s, sent, err), err
		}
		fresh = stale
		if !stale {
			w.tried = append(w.tried, s)
			fresh = false
		}
		if len(w.tried) == len(pool.servers) {
			return x.failure(s, sent, err), err
		}
		x.c.p.stats.retries.Add(1)
	}
}

// failure says what a client is told when no server could be reached, or the last one broke off.
func (x *exchange) failure(s *server, sent bool, err error) apis.Answer {
	switch {
	case errors.Is(x.upErr, errTrailers):
		return x.late.Answer
	case errors.Is(x.upErr, errBody):
		x.c.p.stats.malformed.Add(1)
		return answerMalformed
	case x.upErr != nil:
		x.c.p.stats.clientGone.Add(1)
		return answerMalformed
	case errors.Is(err, errNoServer):
		return answerNoServer
	case errors.Is(err, errAllDown):
		return answerDown
	case errors.Is(err, errQuota):
		x.c.p.stats.quota.Add(1)
		return answerFull
	case timedOut(err):
		x.c.p.stats.backendErrors.Add(1)
		return answerGateTimeout
	}
	x.c.p.stats.backendErrors.Add(1)
	if s != nil {
		x.c.p.log.Debug("backend failed", "api", s.api, "server", s.address, "sent", sent, "error", err)
	}
	return answerBadGateway
}

// expiredAnswer is for a client whose request has taken too long; deadlines that ended it are taken back.
func (x *exchange) expiredAnswer() apis.Answer {
	_ = x.c.Conn.SetDeadline(time.Time{})
	if x.uploaded != nil && !x.upDone {
		x.c.p.stats.slowBodies.Add(1)
		return answerTimeout
	}
	x.c.p.stats.backendTimeouts.Add(1)
	return answerGateTimeout
}

// offer sends the request to one server and reads the head of the answer.
func (x *exchange) offer(s *server, fresh bool) error {
	c, w := x.c, x.w
	s.active.Add(1)
	up, err := s.get(context.Background(), fresh)
	if err != nil {
		s.active.Add(-1)
		return err
	}
	x.server, x.up = s, up
	c.up.Store(up)
	w.up = input{from: up, buf: w.upBuf}
	if !c.set(phaseExchange) {
		return errTimedOut
	}
	if _, err := up.Write(w.out); err != nil {
		return x.broke(err)
	}
	if !x.whole {
		if err := x.startUpload(); err != nil {
			return err
		}
	}
	if err := x.readAnswer(); err != nil {
		return x.broke(err)
	}
	s.well()
	return nil
}

// broke counts a failure against the server, unless the connection was an old one that it may have given up rightly,
// or it was us who ended it.
func (x *exchange) broke(err error) error {
	if !x.c.expired() && !x.c.killed.Load() && !x.upFault.Load() && !(x.up.used && !x.began) {
		x.server.fail(err)
	}
	return err
}

// drop gives the connection to the server up, and waits for an upload to end.
func (x *exchange) drop() {
	if x.up == nil {
		return
	}
	x.up.Close()
	x.endUpload()
	x.c.up.Store(nil)
	x.server.active.Add(-1)
	x.up = nil
}

// endUpload interrupts an upload that goes on, and waits for it.
func (x *exchange) endUpload() {
	if x.uploaded == nil {
		return
	}
	select {
	case <-x.uploaded:
		return
	default:
	}
	_ = x.c.Conn.SetReadDeadline(time.Unix(1, 0))
	<-x.uploaded
	if !x.c.expired() {
		_ = x.c.Conn.SetReadDeadline(time.Time{})
	}
}

// finish leaves nothing behind.
func (x *exchange) finish() {
	x.drop()
	if errors.Is(x.upErr, errTrailers) {
		x.w.d = x.late
		x.c.p.stats.count(x.late)
	}
	if x.release != nil {
		x.release()
	}
}

// readAnswer reads the head of the final answer. What comes before it (103 Early Hints) is passed on, but for the 100
// that we have said ourselves.
func (x *exchange) readAnswer() error {
	w := x.w
	for {
		text, err := x.readAnswerHead()
		if err != nil {
			return err
		}
		if err := w.ans.parse(text, w.method); err != nil {
			return err
		}
		switch {
		case w.ans.status >= 200:
			return nil
		case w.ans.status == http.StatusSwitchingProtocols:
			if w.upgrade == "" || !strings.EqualFold(w.upgrade, w.ans.upgrade) {
				return errAnswer
			}
			return nil
		case w.ans.status == http.StatusContinue || w.http10:
		default:
			w.out = w.ans.append(w.out[:0], w.method, framing{}, false, true)
			if _, err := x.c.Conn.Write(w.out); err != nil {
				return err
			}
		}
	}
}

func (x *exchange) readAnswerHead() (string, error) {
	in, start, scanned := &x.w.up, 0, 0
	for {
		have := in.buffered()
		for i := scanned; i < len(have); i++ {
			if have[i] != '\n' {
				continue
			}
			if i == start || have[i-1] != '\r' {
				return "", errAnswer
			}
			if i == start+1 {
				text := string(have[:i+1])
				in.r += i + 1
				return text, nil
			}
			start = i + 1
		}
		scanned = len(have)
		if len(have) >= maxAnswerHead {
			return "", errAnswer
		}
		if len(have) == len(in.buf) {
			bigger := make([]byte, 4*len(in.buf))
			in.w = copy(bigger, have)
			in.buf, in.r = bigger, 0
		}
		if err := in.fill(); err != nil {
			return "", unexpected(err)
		}
		x.began = true
		x.c.set(phaseExchange)
	}
}

// relay carries the answer to the client. It returns whether the client's connection goes on.
func (x *exchange) relay() (keep bool) {
	c, w, a := x.c, x.w, &x.w.ans
	c.p.judge.Answered(w.d, a.status)
	w.entry.status, w.entry.server = a.status, x.server.address
	if a.status == http.StatusSwitchingProtocols {
		return x.tunnel()
	}
	out := a.framing
	if out.length < 0 && !out.chunked && !w.http10 {
		out = framing{chunked: true}
	}
	if out.chunked && w.http10 {
		out = framing{length: -1}
	}
	keep = !w.close && !c.p.draining.Load() && x.bodyRead() && (out.chunked || out.length >= 0)
	w.out = a.append(w.out[:0], w.method, out, w.http10, keep)
	read := newBody(&w.up, a.framing)
	if err := x.copyAnswer(read, out); err != nil {
		// The client must not take a part for the whole.
		if c.bottom != nil {
			_ = c.bottom.SetLinger(0)
		}
		return false
	}
	if a.keep && x.bodySent() && w.up.r == w.up.w && c.up.CompareAndSwap(x.up, nil) {
		x.server.put(x.up, c.p.now())
		x.server.active.Add(-1)
		x.up = nil
	}
	c.lingering = !keep
	return keep
}

// bodyRead: nothing of the request's body is left to be read from the client.
func (x *exchange) bodyRead() bool { return x.uploaded == nil || x.upRead.Load() }

// bodySent: the server has all of the request's body. It may have answered before our last write has returned.
func (x *exchange) bodySent() bool {
	if x.uploaded == nil {
		return true
	}
	if x.upRead.Load() {
		select {
		case <-x.uploaded:
		case <-time.After(time.Second):
		}
	}
	select {
	case <-x.uploaded:
		return x.upDone
	default:
		return false
	}
}

// copyAnswer sends what is in w.out and then the body, as it comes.
func (x *exchange) copyAnswer(read *body, out framing) error {
	w := x.w
	w.up.before = x
	for {
		piece, err := read.next()
		if err != nil {
			return x.backendBroke(err)
		}
		w.entry.bytes += int64(len(piece))
		if out.chunked && len(piece) > 0 {
			w.out = appendChunk(w.out, piece)
		} else {
			w.out = append(w.out, piece...)
		}
		switch {
		case read.done:
			if out.chunked {
				w.out = appendLast(w.out, slices.DeleteFunc(read.trailers, func(t field) bool { return !keepsTrailer(t.name) }))
			}
			return x.flush()
		case len(w.out) >= bulkSize:
			err = x.flush()
		case x.canSplice(read, out):
			err = x.splice(read)
		}
		if err != nil {
			return err
		}
	}
}

// pause sends what there is before more is waited for.
func (x *exchange) pause() error {
	x.hold()
	return x.flush()
}

// backendBroke notes that an answer broke off, unless we ended it or the client is not there to take it.
func (x *exchange) backendBroke(err error) error {
	if !x.lost && !x.c.expired() && !x.c.killed.Load() && !x.upFault.Load() {
		x.c.p.stats.backendErrors.Add(1)
		x.server.fail(err)
	}
	return err
}

func (x *exchange) flush() error {
	if len(x.w.out) == 0 {
		return nil
	}
	_, err := x.c.Conn.Write(x.w.out)
	x.w.out = x.w.out[:0]
	x.lost = err != nil
	x.c.set(phaseExchange)
	return err
}

// hold has the exchange ended when its client is listed: from when it lasts longer than one read.
func (x *exchange) hold() {
	if x.release == nil {
		c := x.c
		x.w.held = true
		x.release = c.p.judge.Hold(x.w.d, func() {
			c.p.stats.ended.Add(1)
			c.kill()
		})
	}
}

// spliceAbove is from what length on a body is left to the kernel, in pieces of this size, so that a client that reads
// nothing shows.
const spliceAbove = 128 << 10

// canSplice: much is left of the body, nothing of it is here, and both connections are plain TCP.
func (x *exchange) canSplice(read *body, out framing) bool {
	return !out.chunked && !read.chunked && read.left >= spliceAbove && x.w.up.r == x.w.up.w && x.c.bottom != nil && x.c.tls == nil && x.up.raw != nil
}

// splice carries the rest of a long body without looking at it.
func (x *exchange) splice(read *body) error {
	from, ok := x.up.Conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := x.pause(); err != nil {
		return err
	}
	n, err := x.c.move(x.c.bottom, from, read.left)
	x.w.entry.bytes += n
	read.left -= n
	read.done = read.left == 0
	return err
}

// move copies n bytes between two TCP connections, noting progress.
func (c *conn) move(to, from *net.TCPConn, n int64) (moved int64, err error) {
	for moved < n {
		piece := io.LimitedReader{R: from, N: min(n-moved, spliceAbove)}
		got, err := to.ReadFrom(&piece)
		moved += got
		if err == nil && got == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return moved, err
		}
		c.set(phaseExchange)
	}
	return moved, nil
}
