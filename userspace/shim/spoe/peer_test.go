package spoe

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

// peer plays HAProxy.
type peer struct {
	t     *testing.T
	conn  net.Conn
	agent *Agent
	stop  func() // ends the agent, and waits for that
}

// newPeer starts an agent and connects to it.
func newPeer(t *testing.T, o Options) *peer {
	t.Helper()
	l, err := front.Listen(front.Place{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	a := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, l) }()
	p := &peer{t: t, agent: a, stop: func() { cancel() }}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	p.conn = p.dial(l.Addr())
	return p
}

func (p *peer) dial(a net.Addr) net.Conn {
	p.t.Helper()
	c, err := net.Dial("tcp", a.String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func (p *peer) send(frames ...[]byte) {
	p.t.Helper()
	var all []byte
	for _, f := range frames {
		all = append(all, f...)
	}
	if _, err := p.conn.Write(all); err != nil {
		p.t.Fatal(err)
	}
}

// receive returns the next frame of the agent.
func (p *peer) receive() frame {
	p.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(p.conn, size[:]); err != nil {
		p.t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(p.conn, b); err != nil {
		p.t.Fatal(err)
	}
	f, err := parseFrame(b)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// closed waits until the agent has hung up.
func (p *peer) closed() {
	p.t.Helper()
	if n, err := p.conn.Read(make([]byte, 1)); err != io.EOF {
		p.t.Errorf("got %d bytes, %v, want the end of the connection", n, err)
	}
}

// disconnected expects that the agent says this code and hangs up.
func (p *peer) disconnected(code uint64) {
	p.t.Helper()
	f := p.receive()
	got := p.pairs(f.payload)
	if f.kind != frameAgentDisconnect || got["status-code"] != code || got["message"] == "" {
		p.t.Errorf("got frame %d with %v, want a disconnect with code %d", f.kind, got, code)
	}
	p.closed()
}

func (p *peer) pairs(b []byte) map[string]any {
	p.t.Helper()
	all := make(map[string]any)
	for len(b) > 0 {
		name, rest, err := takeBytes(b)
		if err != nil {
			p.t.Fatal(err)
		}
		v, rest, err := takeValue(rest)
		if err != nil {
			p.t.Fatal(err)
		}
		all[string(name)], b = plain(v), rest
	}
	return all
}

// variables reads the actions of an ACK.
func (p *peer) variables(b []byte) map[string]any {
	p.t.Helper()
	all := make(map[string]any)
	for len(b) > 0 {
		if len(b) < 3 || b[0] != actionSetVar || b[1] != 3 || b[2] != scopeTxn {
			p.t.Fatalf("not an action that sets a variable: %x", b)
		}
		name, rest, err := takeBytes(b[3:])
		if err != nil {
			p.t.Fatal(err)
		}
		v, rest, err := takeValue(rest)
		if err != nil {
			p.t.Fatal(err)
		}
		all[string(name)], b = plain(v), rest
	}
	return all
}

func plain(v value) any {
	switch v.kind {
	case typeBool:
		return v.num == 1
	case typeString:
		return string(v.text)
	}
	return v.num
}

func helloFrame(versions, caps string, size uint64, check bool) []byte {
	b, start := beginFrame(nil, frameHello, 0, 0)
	b = appendString(append(appendString(b, "supported-versions"), typeString), versions)
	b = appendVarint(append(appendString(b, "max-frame-size"), typeUint32), size)
	b = appendString(append(appendString(b, "capabilities"), typeString), caps)
	if check {
		b = append(appendString(b, "healthcheck"), typeBool|boolTrue)
	}
	return endFrame(b, start)
}

func (p *peer) greet() {
	p.t.Helper()
	p.send(helloFrame("2.0", "pipelining,async", 16380, false))
	if f := p.receive(); f.kind != frameAgentHello {
		p.t.Fatalf("got frame %d, want a hello", f.kind)
	}
}

// asked are the arguments of a message as HAProxy sends it.
type asked struct{ method, url, ver, src, hdrs string }

var get = asked{"GET", "/shop?a=b", "1.1", "192.0.2.7", "host: shop.com\r\nuser-agent: curl\r\n\r\n"}

// message encodes the payload of a NOTIFY.
func (a asked) message() []byte {
	b := append(appendString(nil, "check"), 6)
	for _, arg := range [][2]string{{"method", a.method}, {"url", a.url}, {"ver", a.ver}, {"hdrs", a.hdrs}} {
		b = appendString(b, arg[0])
		if arg[1] == "" {
			b = append(b, typeNull)
			continue
		}
		b = appendString(append(b, typeString), arg[1])
	}
	b = appendString(b, "src")
	switch ip := net.ParseIP(a.src); {
	case ip == nil:
		b = append(b, typeNull)
	case ip.To4() != nil:
		b = append(append(b, typeIPv4), ip.To4()...)
	default:
		b = append(append(b, typeIPv6), ip...)
	}
	return append(appendString(b, "ssl"), typeBool|boolTrue)
}

func notify(stream, id uint64, flags byte, kind byte, payload []byte) []byte {
	b, start := beginFrame(nil, kind, stream, id)
	b[start+8] = flags
	return endFrame(append(b, payload...), start)
}

// decideBy answers by a function of the request's path.
func decideBy(f func(r *http.Request) shim.Decision) Options { return Options{Decide: f} }
