package proxy

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/coreos/go-systemd/v22/activation"
)

// Listen opens the addresses (HOST:PORT, "": none) or, where systemd has opened them for us (a socket unit with the same
// ports), takes those over: systemd keeps such a socket while the daemon restarts, so that clients wait instead of being
// refused. Sockets of systemd for other ports are an error. The same with sockets that the process before this one has
// left ([Kept]); those for other addresses are closed. Call it once a process.
func Listen(ctx context.Context, plain, overTLS string) (Listeners, error) {
	var l Listeners
	kept, err := takeKept(plain, overTLS)
	if err != nil {
		return l, err
	}
	inherited, err := activation.Listeners()
	if err != nil {
		Listeners{Plain: kept}.Close()
		return l, fmt.Errorf("take over systemd's sockets: %w", err)
	}
	inherited = append(kept, inherited...)
	if l.Plain, inherited, err = open(ctx, plain, inherited); err == nil {
		l.TLS, inherited, err = open(ctx, overTLS, inherited)
	}
	for _, other := range inherited {
		if other != nil {
			if err == nil {
				err = fmt.Errorf("systemd hands over a socket at %s: name its port in [proxy] http or https, or take it out of the socket unit", other.Addr())
			}
			other.Close()
		}
	}
	if err != nil {
		l.Close()
		return Listeners{}, err
	}
	return l, nil
}

// Close closes them.
func (l Listeners) Close() {
	for _, one := range append(append([]net.Listener(nil), l.Plain...), l.TLS...) {
		if one != nil {
			one.Close()
		}
	}
}

// open returns the inherited listeners at the address's port and the rest of them, or a new one.
func open(ctx context.Context, address string, inherited []net.Listener) (mine, others []net.Listener, err error) {
	if address == "" {
		return nil, inherited, nil
	}
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, inherited, err
	}
	for _, l := range inherited {
		if l == nil {
			continue
		}
		if a, ok := l.Addr().(*net.TCPAddr); ok && strconv.Itoa(a.Port) == text {
			mine = append(mine, l)
		} else {
			others = append(others, l)
		}
	}
	if len(mine) > 0 {
		return mine, others, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, others, fmt.Errorf("%w: stop who has it, or configure another address; for ports below 1024 install deploy/portcullis.socket", err)
	}
	return []net.Listener{l}, others, nil
}
