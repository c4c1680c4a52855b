package control_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hangsUp reports whether the other end closes within d, without reading what it sent.
func hangsUp(t *testing.T, conn net.Conn, d time.Duration) (gone bool) {
	t.Helper()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		for deadline := time.Now().Add(d); !gone && time.Now().Before(deadline); {
			n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds())+1)
			gone = err == nil && n > 0
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return gone
}
