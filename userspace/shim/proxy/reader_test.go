package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// TestClientsThatReadNothing: who asks for much and hardly reads it is given up after answer_timeout, and takes little
// memory until then.
func TestClientsThatReadNothing(t *testing.T) {
	const size, clients = 100 << 20, 20
	b := newRecorder(t, func(c net.Conn, _ string, _ *bufio.Reader) bool {
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		_, err := io.CopyN(c, zeros{}, size)
		return err == nil
	})
	for _, h2 := range []bool{false, true} {
		r := newRig(t, Options{Limits: Limits{AnswerTimeout: 2 * time.Second}}, rootAPI(b.address))
		before := memory(t)
		for range clients {
			if h2 {
				c := r.dial2() // and never widens the window
				if err := c.open(1, true, ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"); err != nil {
					t.Fatal(err)
				}
				continue
			}
			c := r.dial()
			if err := c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
				t.Fatal(err)
			}
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if _, err := c.in.ReadByte(); err != nil {
				t.Fatal(err)
			}
		}
		r.eventually("all are at the backend", func(s Stats) bool { return s.Passed == clients })
		if grown := memory(t) - before; grown > 32<<20 {
			t.Errorf("HTTP/2 %t: %d clients that do not read take %d MiB", h2, clients, grown>>20)
		}
		r.eventually("all are given up", func(s Stats) bool { return s.Active == 0 })
	}
}
