package testenv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

// ErrNoAnswer: a probe was sent and nothing came back in time, which is what a drop looks like to a client.
var ErrNoAnswer = errors.New("no answer")

// Ping sends one ICMP or ICMPv6 echo request from source (which must be an address of the namespace) and waits for
// its reply. [ErrNoAnswer] if none comes.
func (n *Namespace) Ping(source, to netip.Addr, timeout time.Duration) error {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, source.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	defer conn.Close()

	nonce := newNonce()
	message := append([]byte{request, 0, 0, 0, 0, 1, 0, 1}, nonce...)
	if to.Is4() { // the kernel fills in ICMPv6 checksums itself
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	buf := make([]byte, 1500)
	for {
		size, _, err := conn.ReadFrom(buf)
		if err != nil {
			return answer("ping", to, err)
		}
		if size > 8 && buf[0] == reply && bytes.Equal(buf[8:size], nonce) {
			return nil
		}
	}
}

// TCP connects from source, sends a few bytes and waits for them to come back. [ErrNoAnswer] if they do not.
func (n *Namespace) TCP(source netip.Addr, to netip.AddrPort, timeout time.Duration) error {
	return n.echo("tcp", &net.TCPAddr{IP: source.AsSlice()}, to, timeout)
}

// UDP sends a datagram from source and waits for it to come back. [ErrNoAnswer] if it does not.
func (n *Namespace) UDP(source netip.Addr, to netip.AddrPort, timeout time.Duration) error {
	return n.echo("udp", &net.UDPAddr{IP: source.AsSlice()}, to, timeout)
}

func (n *Namespace) echo(network string, source net.Addr, to netip.AddrPort, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	conn, err := n.Dial(network, source, to, timeout)
	if err != nil {
		return answer(network, to.Addr(), err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	return answer(network, to.Addr(), Echo(conn))
}

// Dial opens a connection out of the namespace; source may be nil.
func (n *Namespace) Dial(network string, source net.Addr, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		// No context that can be cancelled: net would then connect from another goroutine.
		d := net.Dialer{LocalAddr: source, Timeout: timeout, FallbackDelay: -1}
		conn, err = d.Dial(network, to.String())
		return err
	})
	return conn, err
}

// Echo sends a few random bytes on a connection to a server of [Namespace.ServeEcho] and reads them back.
func Echo(conn net.Conn) error {
	nonce := newNonce()
	if _, err := conn.Write(nonce); err != nil {
		return err
	}
	got := make([]byte, len(nonce))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, nonce) {
		return fmt.Errorf("sent %x, got %x back", nonce, got)
	}
	return nil
}

// answer turns what the net package says of silence into ErrNoAnswer.
func answer(what string, to netip.Addr, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		return fmt.Errorf("%s %s: %w", what, to, ErrNoAnswer)
	}
	return fmt.Errorf("%s %s: %w", what, to, err)
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

func newNonce() []byte {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	return nonce
}

// ServeEcho answers TCP and UDP on port, on every address of the namespace, with what it received, until the lab is
// closed.
func (n *Namespace) ServeEcho(port uint16) error {
	var tcp net.Listener
	var udp net.PacketConn
	address := fmt.Sprintf("[::]:%d", port)
	err := n.Do(func() (err error) {
		if tcp, err = net.Listen("tcp", address); err != nil {
			return err
		}
		if udp, err = net.ListenPacket("udp", address); err != nil {
			tcp.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("serve echo in %s: %w", n.Name, err)
	}
	n.lab.onClose(func() {
		tcp.Close()
		udp.Close()
	})
	go serveTCP(tcp)
	go serveUDP(udp)
	return nil
}

func serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			// A client that was cut off leaves its connection half open: do not wait for it for ever.
			_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
			_, _ = io.Copy(conn, conn)
		}()
	}
}

func serveUDP(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		size, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteTo(buf[:size], from)
		}
	}
}
