package front

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Errors that [Listen] returns; test with errors.Is.
var (
	// ErrInUse: another process answers on the unix socket.
	ErrInUse = errors.New("another process listens there")
)

// Loopback are the gateways that may ask where none is configured.
func Loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Listener accepts connections of gateways only; others are closed at once and counted.
type Listener struct {
	net.Listener
	gateways []netip.Prefix
	strange  atomic.Uint64
}

// Listen listens on "host:port", or on "unix:/path": there whoever may open the socket may ask (0660, so owner and
// group). gateways are who may ask on host:port; none: [Loopback]. A socket that a dead process left is replaced.
func Listen(address string, gateways []netip.Prefix) (*Listener, error) {
	if len(gateways) == 0 {
		gateways = Loopback()
	}
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen for gateways: %w", err)
		}
		return &Listener{Listener: l, gateways: gateways}, nil
	}
	if err := removeDead(path); err != nil {
		return nil, fmt.Errorf("listen for gateways on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for gateways: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for gateways: %w", err)
	}
	return &Listener{Listener: l}, nil
}

// removeDead removes a socket on which nobody answers, and nothing else.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket; remove it or name another path")
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return ErrInUse
	}
	return os.Remove(path)
}

// Accept returns the next connection of a gateway.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.mayAsk(c) {
			return c, err
		}
		l.strange.Add(1)
		c.Close()
	}
}

// Strange counts the connections that were closed because they came from no gateway.
func (l *Listener) Strange() uint64 { return l.strange.Load() }

func (l *Listener) mayAsk(c net.Conn) bool {
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return true // unix: the socket's permissions have decided
	}
	a := peer.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range l.gateways {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
