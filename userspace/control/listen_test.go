package control_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "listen")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListen(t *testing.T) {
	path := filepath.Join(shortDir(t), "run", "portcullis.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o666 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
	if _, err := control.Listen(path); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a second daemon on one socket: %v", err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first is no longer reached: %v", err)
	} else {
		c.Close()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}

	// What a killed daemon leaves: a socket nobody listens on.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if l, err = control.Listen(path); err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l.Close()

	// Somebody else's live socket, without our lock.
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(path); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("a live socket of somebody else: %v", err)
	}
	other.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(path); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file in the way was touched")
	}
}

func TestUnreachable(t *testing.T) {
	dir := shortDir(t)
	gone := filepath.Join(dir, "gone.sock")
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for socket, why := range map[string]string{gone: "no such socket", stale: "nobody listens", file: "nobody listens", "": "no socket"} {
		_, err := (&control.Client{Socket: socket}).Status(context.Background())
		e := wantError(t, err, control.CodeUnreachable)
		if !strings.Contains(e.Message, socket) || !strings.Contains(e.Message, why) || e.Hint == "" {
			t.Errorf("%q: %+v", socket, e)
		}
		if socket != "" && (!strings.Contains(e.Hint, "systemctl status portcullis") || !strings.Contains(e.Hint, "portcullis serve --config")) {
			t.Errorf("%q: hint %q", socket, e.Hint)
		}
		for _, err := range (&control.Client{Socket: socket}).List(context.Background(), lists.Blacklist) {
			wantError(t, err, control.CodeUnreachable)
		}
	}

	needRoot(t)
	c := controltest.Serve(t, controltest.NewBackend(), control.Options{})
	user := as(t, c, nobody, "", "")
	if err := os.Chmod(filepath.Dir(c.Socket), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = user.Status(context.Background())
	if e := wantError(t, err, control.CodeForbidden); !strings.Contains(e.Message, c.Socket) || e.Hint == "" {
		t.Errorf("no permission: %+v", e)
	}
}

// TestOutcomeUnknown: a daemon that dies in a change leaves the caller in doubt, and says so.
func TestOutcomeUnknown(t *testing.T) {
	_, err := fakeDaemon(t, "").Apply(context.Background(), addIP)
	if e := wantError(t, err, control.CodeFailed); !strings.Contains(e.Hint, "not known") {
		t.Errorf("%+v", e)
	}
	_, err = fakeDaemon(t, "SSH-2.0-OpenSSH\r\n").Status(context.Background())
	wantError(t, err, control.CodeFailed)
	_, err = fakeDaemon(t, "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops").Status(context.Background())
	wantError(t, err, control.CodeFailed)
}

// slow lets a test hold a change in the backend.
type slow struct {
	*controltest.Backend
	begun, finish chan struct{}
}

func (s *slow) Apply(ctx context.Context, r control.Request) (control.Reply, error) {
	s.begun <- struct{}{}
	<-s.finish
	if ctx.Err() != nil {
		return control.Reply{}, ctx.Err()
	}
	return s.Backend.Apply(ctx, r)
}

// TestEndFinishesWhatItBegan: a change that runs when the daemon is told to stop is finished and answered, also when
// its caller has hung up.
func TestEndFinishesWhatItBegan(t *testing.T) {
	for _, hangUp := range []bool{false, true} {
		b := &slow{controltest.NewBackend(), make(chan struct{}), make(chan struct{})}
		dir := shortDir(t)
		s, err := control.New(control.Options{Backend: b, StateDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		l, err := control.Listen(filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, l) }()
		answered := make(chan error, 1)
		callCtx, cancel := context.WithCancel(context.Background())
		go func() {
			c := &control.Client{Socket: filepath.Join(dir, "s"), User: "admin", Password: "admin"}
			_, err := c.Apply(callCtx, addIP)
			answered <- err
		}()
		<-b.begun
		if hangUp {
			cancel()
			if err := <-answered; err == nil {
				t.Error("a call that was given up returned no error")
			}
		}
		stop()
		select {
		case err := <-ended:
			t.Errorf("ended before the change was finished: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		close(b.finish)
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if !hangUp {
			if err := <-answered; err != nil {
				t.Errorf("the caller got %v", err)
			}
		}
		cancel()
		if n := b.Snapshot().Len(lists.Blacklist); n != 1 {
			t.Errorf("hang up %v: %d entries", hangUp, n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestEndDoesNotHang: a backend that cannot finish any more is told so in time.
func TestEndDoesNotHang(t *testing.T) {
	b := &stuck{controltest.NewBackend(), make(chan struct{})}
	dir := shortDir(t)
	s, err := control.New(control.Options{Backend: b, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := control.Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended, answered := make(chan error, 1), make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	go func() {
		c := &control.Client{Socket: filepath.Join(dir, "s"), User: "admin", Password: "admin"}
		_, err := c.Apply(context.Background(), addIP)
		answered <- err
	}()
	<-b.begun
	stop()
	if e := wantError(t, <-answered, control.CodeFailed); !strings.Contains(e.Message, "never enforced") {
		t.Errorf("the caller got %v", e)
	}
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
}

// stuck is a backend whose changes end only with their context.
type stuck struct {
	*controltest.Backend
	begun chan struct{}
}

func (s *stuck) Apply(ctx context.Context, _ control.Request) (control.Reply, error) {
	close(s.begun)
	<-ctx.Done()
	return control.Reply{}, &control.Error{Code: control.CodeFailed, Message: "never enforced"}
}

// BenchmarkListMillion streams a million entries from server to client in one process.
func BenchmarkListMillion(b *testing.B) {
	backend := controltest.NewBackend()
	fill(b, backend, 1_000_000)
	c := controltest.Serve(b, backend, control.Options{})
	for b.Loop() {
		n := 0
		for _, err := range c.List(context.Background(), lists.Blacklist) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 1_000_000 {
			b.Fatalf("%d entries", n)
		}
	}
}

// BenchmarkApply is one call with one entry, audited with fsync, as root.
func BenchmarkApply(b *testing.B) {
	c := controltest.Serve(b, controltest.NewBackend(), control.Options{})
	for b.Loop() {
		if _, err := c.Apply(context.Background(), addIP); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApplyThousand is one call with a thousand entries.
func BenchmarkApplyThousand(b *testing.B) {
	c := controltest.Serve(b, controltest.NewBackend(), control.Options{})
	ops := make([]control.Operation, 1000)
	for i := range ops {
		ops[i] = addIP[0]
		ops[i].Value = net.IPv4(10, 0, byte(i>>8), byte(i)).String()
	}
	for b.Loop() {
		if _, err := c.Apply(context.Background(), ops); err != nil {
			b.Fatal(err)
		}
	}
}
