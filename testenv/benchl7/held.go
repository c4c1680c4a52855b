package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// memory is the part of a run that measures what is held, in the words of -only.
const memory = "memory"

// held is what our proxy's process takes of memory while clients hold something of it.
type held struct {
	what            string
	before, most    int64 // resident bytes, from /proc/PID/status
	clients, served int   // how many there were, and how many fared as they should
}

// bound is how much more memory the clients may take, in bytes: 25 KiB each, and 25 MiB for what all share.
func (h held) bound() int64 { return int64(h.clients)*(25<<10) + 25<<20 }

// measureHeld lets clients hold connections, send and get large bodies, and be slow, one kind after the other.
func (s *session) measureHeld(ctx context.Context, r *report, p plan) error {
	big, err := s.self(ctx, supportCPU, "-role", "backend-big", "-address", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer big.stop()
	for _, h := range []struct {
		what    string
		clients int
		serve   func(address string, i int, release <-chan struct{}) error
	}{
		{"open connections that have had an answer", 10_000 / p.clients, holdIdle},
		{fmt.Sprintf("bodies of %d MB each way", bigBody>>20), 8, holdBig},
		{"slow clients, a byte of header or body a second", 2000 / p.clients, holdSlow},
	} {
		up, err := s.self(ctx, contenderCPU, "-role", "proxy", "-address", "127.0.0.1:0", "-backend", big.address)
		if err != nil {
			return err
		}
		one, err := hold(ctx, up, h.clients, time.Duration(h.clients)*time.Millisecond+p.hold, h.serve)
		up.stop()
		if err != nil {
			return fmt.Errorf("%s: %w", h.what, err)
		}
		one.what = h.what
		r.held = append(r.held, one)
		fmt.Fprintln(s.out, one.line())
	}
	return nil
}

func (h held) line() string {
	return fmt.Sprintf("%d %s: %.1f MB of memory more than the %.1f MB before", h.clients, h.what, mb(h.most-h.before), mb(h.before))
}

// hold runs the clients, all at once, and reads the proxy's memory all the while. Those that wait to be released are
// when nobody else has begun for a second.
func hold(ctx context.Context, up *running, clients int, long time.Duration, serve func(string, int, <-chan struct{}) error) (held, error) {
	h := held{clients: clients}
	var err error
	if h.before, err = resident(up.pid); err != nil {
		return h, err
	}
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		failed  error
		release = make(chan struct{})
		ended   = make(chan struct{})
		few     = make(chan struct{}, 64) // that begin at once
	)
	for i := range clients {
		wg.Go(func() {
			few <- struct{}{}
			time.AfterFunc(10*time.Millisecond, func() { <-few })
			err := serve(up.address, i, release)
			mu.Lock()
			defer mu.Unlock()
			if failed = cmp.Or(failed, err); err == nil {
				h.served++
			}
		})
	}
	go func() { wg.Wait(); close(ended) }()
	until := time.After(long)
	for {
		now, err := resident(up.pid)
		if err != nil {
			return h, err
		}
		h.most = max(h.most, now)
		select {
		case <-ended:
			if failed != nil {
				return h, fmt.Errorf("%d of %d were served: %w", h.served, clients, failed)
			}
			return h, nil
		case <-until:
			close(release)
			until = nil
		case <-ctx.Done():
			return h, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// dialFrom connects from one of many loopback addresses, so that the bound of connections of a client is not met.
func dialFrom(address string, i int) (net.Conn, error) {
	from := netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i%200)})
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: 30 * time.Second}
	c, err := d.Dial("tcp", address)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	}
	return c, err
}

func holdIdle(address string, i int, release <-chan struct{}) error {
	c, err := dialFrom(address, i)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		return err
	}
	err = readAnswer(bufio.NewReaderSize(c, 512), 200)
	<-release
	return err
}

// bigBody is the length of a large body, in bytes.
const bigBody = 100 << 20

func holdBig(address string, i int, _ <-chan struct{}) error {
	c, err := dialFrom(address, i)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", bigBody); err != nil {
		return err
	}
	if _, err := io.CopyN(c, zeros{}, bigBody); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, c)
	if err == nil && n < bigBody {
		err = fmt.Errorf("%d bytes came back", n)
	}
	return err
}

// holdSlow sends a byte a second, every other client of a body, the others of a header, until it is cut off or released.
func holdSlow(address string, i int, release <-chan struct{}) error {
	c, err := dialFrom(address, i)
	if err != nil {
		return err
	}
	defer c.Close()
	head := "GET / HTTP/1.1\r\nHost: a\r\nX: "
	if i%2 == 0 {
		head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
	}
	if _, err := io.WriteString(c, head); err != nil {
		return err
	}
	for {
		select {
		case <-release:
			return nil
		case <-time.After(time.Second):
			if _, err := c.Write([]byte("x")); err != nil {
				return nil // cut off for it: as it should be
			}
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// resident is the memory that a process has, in bytes.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// runBig is a backend that reads a body and sends as long a one back; without one, 1 KiB.
func runBig(ctx context.Context, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer c.Close()
			in, length := bufio.NewReaderSize(c, 16<<10), int64(0)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "content-length") {
					length, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				}
				if len(line) > 2 {
					continue
				}
				if _, err := io.CopyN(io.Discard, in, length); err != nil {
					return
				}
				size := max(length, 1024)
				if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size); err != nil {
					return
				}
				if _, err := io.CopyN(c, zeros{}, size); err != nil {
					return
				}
				length = 0
			}
		}()
	}
}
