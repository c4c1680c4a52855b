package spoe

import (
	"context"
	"encoding/binary"
	"net"
	"time"

	"github.com/portcullis/portcullis/userspace/shim/front"
)

const (
	// helloWithin is how long a new connection may take to say hello.
	helloWithin = 10 * time.Second
	// writeWithin is how long HAProxy may take to read its answers, and half as long at least: a new deadline for every
	// answer would cost more than the answer.
	writeWithin = 10 * time.Second
	// flushAt is how many bytes of answers are collected at most while there are questions.
	flushAt = 32 << 10
)

// conn is one connection of HAProxy, served by one goroutine.
type conn struct {
	agent    *Agent
	ctx      context.Context // ends with the agent
	net      net.Conn
	builder  *builder
	maxFrame int
	greeted  bool

	in   []byte // read and not handled: in[at:]
	at   int
	out  []byte // answers not yet sent
	part fragments

	renewed time.Time // when the deadline of writes was last set
}

// fragments is a payload that has not come whole. HAProxy sends the fragments of one at a time.
type fragments struct {
	open       bool
	tooLong    bool // over the limit: what else comes is thrown away
	stream, id uint64
	payload    []byte
}

// run handles frames until the connection ends. The error is a *protocolError if the peer is to be told.
func (c *conn) run() error {
	if err := c.net.SetReadDeadline(time.Now().Add(helloWithin)); err != nil {
		return err
	}
	for {
		raw, err := c.next()
		if err != nil {
			return err
		}
		f, err := parseFrame(raw)
		if err != nil {
			return fail(codeInvalid, "a frame is cut off")
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
}

// next returns the next frame. Before it waits for one it sends the answers to those before.
func (c *conn) next() ([]byte, error) {
	for {
		have := c.in[c.at:]
		if len(have) >= 4 {
			size := binary.BigEndian.Uint32(have)
			if size > uint32(c.maxFrame) {
				return nil, fail(codeTooBig, "a frame is larger than agreed")
			}
			if uint32(len(have)-4) >= size {
				c.at += 4 + int(size)
				return have[4 : 4+size], nil
			}
		}
		if err := c.flush(); err != nil {
			return nil, err
		}
		c.in = c.in[:copy(c.in[:cap(c.in)], have)]
		c.at = 0
		n, err := c.net.Read(c.in[len(c.in):cap(c.in)])
		if n == 0 && err != nil {
			return nil, err
		}
		c.in = c.in[:len(c.in)+n]
	}
}

// flush sends the answers.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if now := time.Now(); now.Sub(c.renewed) > writeWithin/2 {
		if err := c.net.SetWriteDeadline(now.Add(writeWithin)); err != nil {
			return err
		}
		c.renewed = now
	}
	_, err := c.net.Write(c.out)
	c.out = c.out[:0]
	return err
}

func (c *conn) handle(f frame) error {
	switch {
	case f.kind == frameDisconnect:
		return fail(codeNormal, "as you wish")
	case f.kind == frameHello && !c.greeted:
		return c.greet(f)
	case !c.greeted:
		return fail(codeInvalid, "a hello comes first")
	case f.kind == frameNotify && f.flags&flagFin == 0:
		if c.part.open {
			return fail(codeInterlaced, "a payload begins before the one before is whole")
		}
		c.part = fragments{open: true, stream: f.stream, id: f.id, payload: c.part.payload[:0]}
		c.part.add(f.payload, c.agent.options.MaxRequest)
		return nil
	case f.kind == frameNotify:
		return c.answer(f.stream, f.id, f.payload)
	case f.kind == frameUnset:
		return c.unset(f)
	}
	return nil // as the protocol says of frames that one does not know
}

// greet answers the hello.
func (c *conn) greet(f frame) error {
	h, err := parseHello(f.payload)
	if err != nil {
		return err
	}
	c.greeted = true
	c.maxFrame = int(min(uint64(c.maxFrame), h.maxFrame))
	c.out = appendHello(c.out, c.maxFrame, h.pipelining())
	if h.check {
		return c.net.SetReadDeadline(time.Now().Add(helloWithin)) // it will hang up
	}
	if err := c.net.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return c.ctx.Err() // whose end may have set a deadline that was just taken away
}

// unset goes on with a payload in fragments.
func (c *conn) unset(f frame) error {
	if !c.part.open || f.stream != c.part.stream || f.id != c.part.id {
		return fail(codeNotFound, "a fragment of no payload that began")
	}
	c.part.add(f.payload, c.agent.options.MaxRequest)
	if f.flags&(flagFin|flagAbort) == 0 {
		return nil
	}
	c.part.open = false
	switch {
	case f.flags&flagAbort != 0:
		return nil // nobody waits for an answer
	case c.part.tooLong:
		c.reply(f.stream, f.id, c.agent.judge.TooLarge())
		return c.full()
	}
	err := c.answer(f.stream, f.id, c.part.payload)
	if cap(c.part.payload) > 64<<10 {
		c.part.payload = nil // one large request is no reason to hold on to so much
	}
	return err
}

func (p *fragments) add(b []byte, limit int) {
	if p.tooLong = p.tooLong || len(p.payload)+len(b) > limit; !p.tooLong {
		p.payload = append(p.payload, b...)
	}
}

// answer decides about the request that a payload tells of, or takes note of what a backend answered.
func (c *conn) answer(stream, id uint64, payload []byte) error {
	q, err := parseQuestion(payload)
	if err != nil {
		return fail(codeInvalid, "the messages are not as they should be")
	}
	if q.status.kind == typeInt64 {
		c.agent.learn(&q)
		c.acknowledge(stream, id)
	} else {
		c.decide(stream, id, &q)
	}
	return c.full()
}

func (c *conn) decide(stream, id uint64, q *question) {
	if !q.complete() {
		c.reply(stream, id, c.agent.judge.Undecided())
		return
	}
	r, ok := c.builder.build(q)
	if !ok {
		c.reply(stream, id, c.agent.judge.Malformed())
		return
	}
	d, reply := c.agent.judge.Decide(r)
	if reply.Pass && c.agent.options.Learner != nil && c.agent.options.Learner.Learns(d) {
		b, start := beginFrame(c.out, frameAck, stream, id)
		b = append(b, passTail...)
		b = appendVarint(append(appendVar(b, "id"), typeInt64), c.agent.awaited.add(d))
		c.out = endFrame(b, start)
		return
	}
	c.reply(stream, id, reply)
}

// acknowledge appends an ACK that sets nothing.
func (c *conn) acknowledge(stream, id uint64) {
	c.out = endFrame(beginFrame(c.out, frameAck, stream, id))
}

// full sends the answers if there are many.
func (c *conn) full() error {
	if len(c.out) < flushAt {
		return nil
	}
	return c.flush()
}

// passTail is the action of a reply that lets the request pass.
var passTail = append(appendVar(nil, "block"), typeBool)

// reply appends an ACK.
func (c *conn) reply(stream, id uint64, d front.Reply) {
	b, start := beginFrame(c.out, frameAck, stream, id)
	if d.Pass {
		c.out = endFrame(append(b, passTail...), start)
		return
	}
	b = append(appendVar(b, "block"), typeBool|boolTrue)
	b = appendVarint(append(appendVar(b, "status"), typeInt32), uint64(d.Answer.Status))
	b = appendString(append(appendVar(b, "reason"), typeString), d.Reason)
	room := c.maxFrame - (len(b) - start) - 64 // for the names and lengths of the two that may be long
	if location := d.Answer.Location; location != "" && len(location) <= room {
		b = appendString(append(appendVar(b, "location"), typeString), location)
		room -= len(location)
	}
	if body := d.Answer.Body; len(body) <= room {
		b = appendString(append(appendVar(b, "body"), typeString), body)
	}
	c.out = endFrame(b, start)
}
