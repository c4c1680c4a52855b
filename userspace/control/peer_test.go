package control_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/userspace/control"
)

// needRoot skips a test that needs root, unless REQUIRE_ROOT is set.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_ROOT") != "" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

// dialAs connects with the effective uid changed, for this one thread and only while it connects.
func dialAs(socket string, uid int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			runtime.UnlockOSThread()
			return nil, errno
		}
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)); errno == 0 {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
		return c, err
	}
}

// as returns a client of the same daemon that calls from another uid.
func as(t *testing.T, c *control.Client, uid int, user, password string) *control.Client {
	t.Helper()
	needRoot(t)
	// The socket is 0666; the directories that tests make on the way are root's alone.
	if err := os.Chmod(filepath.Dir(c.Socket), 0o755); err != nil {
		t.Fatal(err)
	}
	out := &control.Client{Socket: c.Socket, User: user, Password: password}
	out.SetDial(dialAs(c.Socket, uid))
	return out
}
