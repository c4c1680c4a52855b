package front

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
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

// Place is where to listen, and for whom.
type Place struct {
	Address string // "host:port", or "unix:/path"
	// Gateways are who may ask on host:port; none: [Loopback].
	Gateways []netip.Prefix
	// Mode and Group (a name or a number) say who may open the unix socket, and so ask; 0 and "": 0660, the process's group.
	Mode  fs.FileMode
	Group string
	// Setting is where Gateways were written, for the log.
	Setting string
	Logger  *slog.Logger // nil: says nothing
}

// Listener accepts connections of gateways only; others are closed at once, counted and logged.
type Listener struct {
	net.Listener
	place   Place
	strange atomic.Uint64
}

// Listen listens at a place. A socket that a dead process left is replaced.
func Listen(p Place) (*Listener, error) {
	if len(p.Gateways) == 0 {
		p.Gateways = Loopback()
	}
	if p.Mode == 0 {
		p.Mode = 0o660
	}
	if p.Logger == nil {
		p.Logger = slog.New(slog.DiscardHandler)
	}
	path, unix := strings.CutPrefix(p.Address, "unix:")
	if !unix {
		l, err := net.Listen("tcp", p.Address)
		if err != nil {
			return nil, fmt.Errorf("listen for gateways: %w", err)
		}
		return &Listener{Listener: l, place: p}, nil
	}
	if err := removeDead(path); err != nil {
		return nil, fmt.Errorf("listen for gateways on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for gateways: %w", err)
	}
	if err := p.admit(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for gateways: %w", err)
	}
	return &Listener{Listener: l, place: p}, nil
}

// admit lets those open the socket who may ask. The group comes first: nobody else's may open it meanwhile.
func (p Place) admit(path string) error {
	if p.Group != "" {
		gid, err := groupID(p.Group)
		if err != nil {
			return err
		}
		if err := os.Chown(path, -1, gid); errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("give %s to group %s: %w: run the daemon in that group too (systemd: SupplementaryGroups=%s in [Service])", path, p.Group, err, p.Group)
		} else if err != nil {
			return err
		}
	}
	return os.Chmod(path, p.Mode)
}

func groupID(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("%w: name a group of this host, or its number", err)
	}
	return strconv.Atoi(g.Gid)
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
		l.place.Logger.Warn("connection closed: its address is none of the gateways", "peer", c.RemoteAddr(), "setting", l.place.Setting)
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
	for _, p := range l.place.Gateways {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
