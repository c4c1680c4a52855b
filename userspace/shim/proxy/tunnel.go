package proxy

import (
	"errors"
	"io"
	"net"
)

// tunnel answers 101 and then carries bytes both ways until one side ends or is silent for too long. Bytes that the
// client sent before the backend agreed are only sent on now: until here they could have been another request.
func (x *exchange) tunnel() (keep bool) {
	c, w := x.c, x.w
	c.p.stats.tunnels.Add(1)
	w.out = append(w.out[:0], "HTTP/1.1 "...)
	w.out = append(append(w.out, w.ans.line...), "\r\n"...)
	for _, f := range w.ans.fields {
		if !isHopByHop(f.canon) {
			w.out = appendField(w.out, f.name, f.value)
		}
	}
	w.out = appendField(w.out, "Connection", "Upgrade")
	w.out = appendField(w.out, "Upgrade", w.ans.upgrade)
	w.out = append(w.out, "\r\n"...)
	w.out = append(w.out, w.up.buffered()...)
	if _, err := c.Conn.Write(w.out); err != nil {
		return false
	}
	if have := c.in.buffered(); len(have) > 0 {
		if _, err := x.up.Write(have); err != nil {
			return false
		}
	}
	c.releaseBuffer()
	if !c.set(phaseTunnel) {
		return false
	}
	x.hold()
	done := make(chan struct{})
	var up, down int64
	go func() {
		defer close(done)
		up = c.pump(x.up.Conn, c.Conn)
	}()
	down = c.pump(c.Conn, x.up.Conn)
	<-done
	w.entry.bytes = down
	w.entry.received = up
	return false
}

// pump copies one direction of a tunnel. When it ends with its reader it ends the writer's side alone, so that the
// other direction can come to its end; an error ends both.
func (c *conn) pump(to, from net.Conn) (n int64) {
	read := newWait(c.p, from)
	for {
		buf, got, err := c.pumpRead(read, from)
		if got > 0 {
			_, err = to.Write(buf[:got])
			n += int64(got)
		}
		if buf != nil {
			c.p.buffers.Put(buf)
		}
		if err == nil && got > 0 {
			if !c.set(phaseTunnel) {
				err = errTimedOut
			} else {
				continue
			}
		}
		half, ok := to.(interface{ CloseWrite() error })
		if ok && (err == nil || errors.Is(err, io.EOF)) {
			_ = half.CloseWrite()
			return n
		}
		to.Close()
		from.Close()
		return n
	}
}

// pumpRead reads with a buffer of the pool, which the caller gives back.
func (c *conn) pumpRead(w *wait, from net.Conn) (*[bufferSize]byte, int, error) {
	if w != nil {
		return w.read()
	}
	buf := c.p.buffers.Get().(*[bufferSize]byte)
	n, err := from.Read(buf[:])
	return buf, n, err
}
