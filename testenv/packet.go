package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Wire sends and sees raw frames on one interface (AF_PACKET). What it sees has passed XDP: a frame that the program
// dropped, in native or generic mode, never gets that far. Send may be called concurrently.
type Wire struct {
	fd    int
	index int
}

// Wire opens a raw socket on the interface. Close it after use.
func (n *Namespace) Wire(iface string) (*Wire, error) {
	index, err := n.Index(iface)
	if err != nil {
		return nil, err
	}
	w := &Wire{index: index}
	all := unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	err = n.Do(func() (err error) {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket in %s: %w", n.Name, err)
	}
	// A large buffer (beyond rmem_max, as root), so that a counter on a busy machine misses nothing.
	err = errors.Join(
		unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}),
		unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: index}),
	)
	if err != nil {
		unix.Close(w.fd)
		return nil, fmt.Errorf("bind packet socket to %s %s: %w", n.Name, iface, err)
	}
	return w, nil
}

// Close closes the socket. Calling it again does nothing.
func (w *Wire) Close() error {
	if w.fd < 0 {
		return nil
	}
	fd := w.fd
	w.fd = -1
	return unix.Close(fd)
}

// Send puts a frame on the wire. A full queue is waited for.
func (w *Wire) Send(frame []byte) error {
	for {
		err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			pause()
		default:
			return fmt.Errorf("send frame: %w", err)
		}
	}
}

// Receive returns the next incoming frame that holds mark. [ErrNoAnswer] if none comes in time; what is queued already
// is looked at in any case, so a timeout of 0 tells whether one came.
func (w *Wire) Receive(mark []byte, timeout time.Duration) ([]byte, error) {
	buf := make([]byte, 64<<10)
	for deadline := time.Now().Add(timeout); ; {
		size, from, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case err == nil && incoming(from) && bytes.Contains(buf[:size], mark):
			return buf[:size], nil
		case err == nil, errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("receive frame: %w", err)
		case time.Now().After(deadline):
			return nil, fmt.Errorf("receive frame: %w", ErrNoAnswer)
		}
	}
}

func incoming(from unix.Sockaddr) bool {
	ll, ok := from.(*unix.SockaddrLinklayer)
	return ok && ll.Pkttype != unix.PACKET_OUTGOING
}

// Counter counts incoming frames by the mark they hold, until it is stopped.
type Counter struct {
	marks  [][]byte
	counts []atomic.Uint64
	stop   chan struct{}
	done   chan struct{}
	lost   uint64
}

// Count starts counting incoming frames that hold one of the marks. The Wire must not be used to receive meanwhile.
func (w *Wire) Count(marks ...[]byte) *Counter {
	c := &Counter{marks: marks, counts: make([]atomic.Uint64, len(marks)), stop: make(chan struct{}), done: make(chan struct{})}
	go c.run(w)
	return c
}

func (c *Counter) run(w *Wire) {
	defer close(c.done)
	buf := make([]byte, 64<<10)
	for {
		size, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			select {
			case <-c.stop: // only once the socket is empty
				if st, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
					c.lost = uint64(st.Drops)
				}
				return
			default:
				continue
			}
		}
		if !incoming(from) {
			continue
		}
		for i, m := range c.marks {
			if bytes.Contains(buf[:size], m) {
				c.counts[i].Add(1)
			}
		}
	}
}

// Seen returns how many frames with mark i came so far.
func (c *Counter) Seen(i int) uint64 { return c.counts[i].Load() }

// Stop reads what is still queued and ends the counting. lost is the number of frames that the socket could not hold:
// a count is only worth something if it is 0.
func (c *Counter) Stop() (lost uint64) {
	close(c.stop)
	<-c.done
	return c.lost
}
