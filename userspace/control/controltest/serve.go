package controltest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/portcullis/portcullis/userspace/control"
)

// Serve runs a server for the backend until the test ends, in a directory of its own, and returns a client that
// calls as root by peer credentials, or as admin where the test is not run by root. Options other than Backend may be
// given.
func Serve(t testing.TB, b control.Backend, o control.Options) *control.Client {
	t.Helper()
	_, c := Start(t, b, o)
	return c
}

// Start is [Serve] for who needs the server too.
func Start(t testing.TB, b control.Backend, o control.Options) (*control.Server, *control.Client) {
	t.Helper()
	// Not t.TempDir: a unix socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if o.Backend = b; o.StateDir == "" {
		o.StateDir = filepath.Join(dir, "state")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if o.Version == "" {
		o.Version = "test"
	}
	s, err := control.New(o)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	l, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	c := &control.Client{Socket: socket}
	if os.Geteuid() != 0 {
		c.User, c.Password = "admin", "admin"
	}
	return s, c
}
