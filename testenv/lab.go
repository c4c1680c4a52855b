package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// NeedRoot skips the test when it does not run as root, or fails it if REQUIRE_ROOT is 1.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal("this test needs root, and REQUIRE_ROOT=1 forbids skipping it")
	}
	t.Skip("this test needs root")
}

// Lab is one throw-away network with everything that belongs to it. Safe for concurrent use.
type Lab struct {
	// Dir holds all of the lab; what a test puts there is removed with it.
	Dir string

	lock *os.File // flock held while this process lives: how a sweep tells the living from the dead

	mu         sync.Mutex
	namespaces []*Namespace
	closers    []func()
	closed     bool
	stopSignal func()

	starting sync.RWMutex // held while a process begins
	ended    bool         // no process begins any more
}

// New makes a lab for a test, which it skips without root. The lab is closed when the test ends, however it ends,
// and on SIGINT and SIGTERM.
func New(t testing.TB) *Lab {
	t.Helper()
	NeedRoot(t)
	l, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	l.closeOnSignal()
	return l
}

// Open makes a lab for a program. The caller must Close it, on signals too.
//
// It first removes what dead processes left.
func Open() (*Lab, error) {
	unlock, err := lockTemp()
	if err != nil {
		return nil, err
	}
	defer unlock()
	sweepErr := sweep(dead)
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", errors.Join(err, sweepErr))
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, fmt.Errorf("lock lab %s: %w", dir, err)
	}
	return &Lab{Dir: dir, lock: lock}, nil
}

// Close ends every process in the lab's namespaces and removes everything. Calling it again does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	closers, namespaces, stop := l.closers, l.namespaces, l.stopSignal
	l.mu.Unlock()

	if stop != nil {
		stop()
	}
	l.starting.Lock()
	l.ended = true
	l.starting.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	for _, n := range namespaces {
		n.release()
	}
	err := remove(l.Dir)
	l.lock.Close()
	return err
}

// onClose registers what must happen before the namespaces go. Called after Close, it happens at once.
func (l *Lab) onClose(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		f()
		return
	}
	l.closers = append(l.closers, f)
}

// closeOnSignal removes the labs of this process when it is interrupted, and then lets the signal kill it.
func (l *Lab) closeOnSignal() {
	signals := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	l.stopSignal = func() {
		signal.Stop(signals)
		close(done)
	}
	go func() {
		select {
		case <-done:
		case s := <-signals:
			sweepOwn()
			signal.Reset(syscall.SIGINT, syscall.SIGTERM)
			_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
		}
	}()
}

// MountBPF mounts a bpf filesystem that belongs to the lab alone and returns its directory. When it is unmounted
// every pin below it is gone, and with the pins the programs that only they held.
func (l *Lab) MountBPF() (string, error) { return l.mount("bpf", "bpf", "mode=0700") }

// MountTmpfs mounts a small filesystem of size bytes (rounded up to pages), to fill it, and returns its directory.
func (l *Lab) MountTmpfs(name string, size int) (string, error) {
	return l.mount(name, "tmpfs", fmt.Sprintf("size=%d,mode=0700", size))
}

func (l *Lab) mount(name, kind, options string) (string, error) {
	dir := filepath.Join(l.Dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("mount %s: %w", kind, err)
	}
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		return "", fmt.Errorf("mount %s on %s: %w", kind, dir, err)
	}
	return dir, nil
}
