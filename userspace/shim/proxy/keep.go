package proxy

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keptEnv tells the process that this one becomes (execve) of the sockets that it leaves: numbers of descriptors, with
// commas between.
const keptEnv = "PORTCULLIS_KEPT_SOCKETS"

// Kept are duplicates of listening sockets: while they are open, clients wait in the queues of closed listeners rather
// than being refused.
type Kept []*os.File

// Keep duplicates the sockets.
func (l Listeners) Keep() (Kept, error) {
	var all Kept
	for _, one := range append(append([]net.Listener(nil), l.Plain...), l.TLS...) {
		t, ok := one.(*net.TCPListener)
		if !ok {
			continue
		}
		f, err := t.File()
		if err != nil {
			all.Close()
			return nil, fmt.Errorf("keep socket: %w", err)
		}
		all = append(all, f)
	}
	return all, nil
}

// Environ has the sockets outlive execve, and returns the line of the environment by which [Listen] finds them then.
func (k Kept) Environ() (string, error) {
	numbers := make([]string, len(k))
	for i, f := range k {
		raw, err := f.SyscallConn() // f.Fd would have the sockets block
		if err != nil {
			return "", fmt.Errorf("keep socket: %w", err)
		}
		var kept error
		err = raw.Control(func(fd uintptr) {
			numbers[i] = strconv.Itoa(int(fd))
			_, kept = unix.FcntlInt(fd, unix.F_SETFD, 0)
		})
		if err == nil {
			err = kept
		}
		if err != nil {
			return "", fmt.Errorf("keep socket: %w", err)
		}
	}
	return keptEnv + "=" + strings.Join(numbers, ","), nil
}

// Close gives them up.
func (k Kept) Close() {
	for _, f := range k {
		f.Close()
	}
}

// takeKept takes over what the process before this one has left for these addresses, and closes the rest. Children get
// nothing of it.
func takeKept(addresses ...string) (kept []net.Listener, err error) {
	text := os.Getenv(keptEnv)
	os.Unsetenv(keptEnv)
	for _, number := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' }) {
		l, failed := takeOver(number)
		switch {
		case failed != nil:
			err = fmt.Errorf("take over the sockets %q: %w", text, failed)
		case slices.ContainsFunc(addresses, func(a string) bool { return isAt(l.Addr(), a) }):
			kept = append(kept, l)
		default:
			l.Close()
		}
	}
	if err != nil {
		Listeners{Plain: kept}.Close()
		return nil, err
	}
	return kept, nil
}

// CloseKept closes what the process before this one has left, for one that is to listen nowhere: nobody would answer
// who waits there.
func CloseKept() error {
	_, err := takeKept()
	return err
}

func takeOver(number string) (net.Listener, error) {
	fd, err := strconv.Atoi(number)
	if err != nil || fd <= 2 {
		return nil, fmt.Errorf("%q is no descriptor", number)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close() // the listener is a duplicate, which children do not get
	return net.FileListener(f)
}

// isAt reports whether a socket listens where the configuration says.
func isAt(a net.Addr, address string) bool {
	got, ok := a.(*net.TCPAddr)
	want, err := net.ResolveTCPAddr("tcp", address)
	if !ok || err != nil || got.Port != want.Port {
		return false
	}
	return got.IP.Equal(want.IP) || got.IP.IsUnspecified() && (want.IP == nil || want.IP.IsUnspecified())
}
