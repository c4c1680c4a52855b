package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes the unix socket (a stale one of a dead daemon is replaced, a live one refused), mode 0666: who
// may do what is decided by peer credentials and password. Its directory is made with mode 0755 if missing. A lock
// file beside it, PATH.lock, is held until the listener is closed, which also removes the socket.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock socket: %w", err)
	}
	l, err := listenLocked(path, lock)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &lockedListener{UnixListener: l, lock: lock}, nil
}

func listenLocked(path string, lock *os.File) (*net.UnixListener, error) {
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.New("another daemon has it: stop it, or give this one a --socket of its own")
		}
		return nil, fmt.Errorf("lock socket: %w", err)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode()&os.ModeSocket == 0:
		return nil, errors.New("there is something else than a socket: remove it or choose another path")
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, errors.New("somebody else answers there: stop it or choose another path")
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// lockedListener holds the lock file for as long as the socket lives.
type lockedListener struct {
	*net.UnixListener
	lock *os.File
	once sync.Once
}

func (l *lockedListener) Close() error {
	err := l.UnixListener.Close() // removes the socket before the lock goes
	l.once.Do(func() { l.lock.Close() })
	return err
}

// peer is who is at the other end of a connection, as the kernel says it was when it connected.
type peer struct{ uid, pid int }

type peerKey struct{}

// withPeer puts the peer of a connection into the context of its requests.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if lc, ok := c.(*limitConn); ok {
		return context.WithValue(ctx, peerKey{}, lc.peer)
	}
	return ctx
}

func peerOf(c net.Conn) (peer, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return peer{}, errors.New("not a unix socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return peer{}, err
	}
	if credErr != nil {
		return peer{}, credErr
	}
	return peer{uid: int(cred.Uid), pid: int(cred.Pid)}, nil
}

// Limits on connections at once: no uid can take the places of the others, and root's are its own.
const (
	maxConnsUID   = 64
	maxConnsOther = 512 // all uids but root
	maxConnsRoot  = 1024
	maxTurned     = 256 // that are being told to try again
)

// limits counts connections.
type limits struct {
	mu    sync.Mutex
	byUID map[int]int
	other int
}

func newLimits() *limits { return &limits{byUID: map[int]int{}} }

func (l *limits) take(uid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case uid == 0 && l.byUID[0] >= maxConnsRoot, uid != 0 && (l.byUID[uid] >= maxConnsUID || l.other >= maxConnsOther):
		return false
	case uid != 0:
		l.other++
	}
	l.byUID[uid]++
	return true
}

func (l *limits) give(uid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if uid != 0 {
		l.other--
	}
	if l.byUID[uid]--; l.byUID[uid] == 0 {
		delete(l.byUID, uid)
	}
}

// limitListener knows each peer and turns away those above the limits, with an answer that says to try again.
type limitListener struct {
	net.Listener
	limits *limits
	turned sync.WaitGroup
	count  atomic.Int32
}

func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p, err := peerOf(c)
		if err != nil {
			c.Close()
			continue
		}
		if !l.limits.take(p.uid) {
			l.turnAway(c)
			continue
		}
		return &limitConn{Conn: c, peer: p, limits: l.limits}, nil
	}
}

// turnAway says "try again" to a connection too many. It waits for the request to begin, for a client takes an answer
// before that for a mistake, and reads what follows; when too many are being told already, it just closes.
func (l *limitListener) turnAway(c net.Conn) {
	if l.count.Add(1) > maxTurned {
		l.count.Add(-1)
		c.Close()
		return
	}
	l.turned.Go(func() {
		defer l.count.Add(-1)
		defer c.Close()
		const body = `{"code":"failed","message":"too many connections at once","hint":"try again"}` + "\n"
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return
		}
		_, err := fmt.Fprintf(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
			len(body), body)
		if u, ok := c.(*net.UnixConn); ok && err == nil {
			_ = u.CloseWrite()
			_, _ = io.Copy(io.Discard, io.LimitReader(c, MaxBody))
		}
	})
}

type limitConn struct {
	net.Conn
	peer   peer
	limits *limits
	once   sync.Once
}

func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.limits.give(c.peer.uid) })
	return err
}
