package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// pinDir is the directory on a bpf filesystem that everything is pinned under. Pins are first made in the
// directory staging and then renamed, so that what has its final name is whole. The last rename makes a group
// real: control for the maps, link_<interface> for an interface.
//
// Locks are flocks on directories: on the pin directory itself for the life of a Loader, on the directory lock in
// it while pins change (attach, reconcile, detach).
type pinDir struct{ path string }

// trieNames are the tries in the order of publishing: a of both families, then b.
var trieNames = [...]string{bpf.MapV4A, bpf.MapV6A, bpf.MapV4B, bpf.MapV6B}

// mapNames are all shared maps in the order of publishing.
var mapNames = [...]string{bpf.MapV4A, bpf.MapV6A, bpf.MapV4B, bpf.MapV6B, bpf.MapIndex, bpf.MapGate, bpf.MapIndex6, bpf.MapRoot6, bpf.MapChecks,
	bpf.MapSources, bpf.MapSamples, bpf.MapSampled, bpf.MapControl}

// stagingMaps and stagingInterface are where pins are made before they are renamed.
func (d pinDir) stagingMaps() string      { return filepath.Join(d.path, "staging_maps") }
func (d pinDir) stagingInterface() string { return filepath.Join(d.path, "staging_interface") }

func (d pinDir) link(iface string) string { return filepath.Join(d.path, "link_"+pinName(iface)) }
func (d pinDir) prog(iface string) string { return filepath.Join(d.path, "prog_"+pinName(iface)) }
func (d pinDir) counters(iface string) string {
	return filepath.Join(d.path, "counters_"+pinName(iface))
}

// pinName writes an interface name so that a bpf filesystem takes it: it refuses dots (eth0.100).
func pinName(iface string) string { return strings.ReplaceAll(url.PathEscape(iface), ".", "%2E") }

// links returns the interfaces that a link is pinned for, sorted.
func (d pinDir) links() ([]string, error) { return d.names("link_") }

func (d pinDir) names(kind string) ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pin directory: %w", permission(err))
	}
	var names []string
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), kind); ok {
			if name, err := url.PathUnescape(rest); err == nil {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// removeStaging removes what an earlier process left half done.
func (d pinDir) removeStaging() error {
	for _, dir := range []string{d.stagingMaps(), d.stagingInterface()} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove unfinished pins: %w", permission(err))
		}
	}
	return nil
}

// stage makes a staging directory anew.
func stage(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove unfinished pins: %w", permission(err))
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		return fmt.Errorf("make staging directory: %w", permission(err))
	}
	return nil
}

// publishMaps renames the staged maps to their final names. Without control the maps are not real, so the old
// control goes first and the new one comes last.
func (d pinDir) publishMaps(o Options) error {
	control := filepath.Join(d.path, bpf.MapControl)
	if err := o.step("remove old control"); err != nil {
		return err
	}
	if err := os.Remove(control); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old pin: %w", permission(err))
	}
	for _, name := range mapNames {
		if err := o.step("publish " + name); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(d.stagingMaps(), name), filepath.Join(d.path, name)); err != nil {
			return fmt.Errorf("publish pin: %w", permission(err))
		}
	}
	return os.RemoveAll(d.stagingMaps())
}

// publishInterface renames the staged pins of an interface to their final names, the link last.
func (d pinDir) publishInterface(iface string, o Options) error {
	for _, to := range []string{d.counters(iface), d.prog(iface), d.link(iface)} {
		kind, _, _ := strings.Cut(filepath.Base(to), "_")
		if err := o.step("publish " + kind); err != nil {
			return err
		}
		err := os.Rename(d.staged(kind), to)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // what is kept was not staged
			return fmt.Errorf("publish pin: %w", permission(err))
		}
	}
	return os.RemoveAll(d.stagingInterface())
}

// staged is where a pin of an interface is made: kind is link, prog or counters.
func (d pinDir) staged(kind string) string { return filepath.Join(d.stagingInterface(), kind) }

// renameInterface gives the pins of one interface the name of another, the link last.
func (d pinDir) renameInterface(from, to string) error {
	for _, p := range [][2]string{{d.counters(from), d.counters(to)}, {d.prog(from), d.prog(to)}, {d.link(from), d.link(to)}} {
		if err := os.Rename(p[0], p[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rename pin: %w", permission(err))
		}
	}
	return nil
}

// removeInterface removes the pins of an interface, the link first.
func (d pinDir) removeInterface(iface string) error {
	for _, p := range []string{d.link(iface), d.prog(iface), d.counters(iface)} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove pin: %w", permission(err))
		}
	}
	return nil
}

// dirLock is a flock on a directory; the process's end gives it back.
type dirLock struct{ f *os.File }

func (l *dirLock) release() { _ = l.f.Close() }

// tryLock returns ErrLocked if another open of the directory holds the lock.
func tryLock(path string) (*dirLock, error) {
	for {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("lock directory: %w", permission(err))
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", path, ErrLocked)
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if sameFile(f, path) {
			return &dirLock{f}, nil
		}
		_ = f.Close() // removed and made again in between
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// claim takes the lock that a Loader holds for its life.
func (d pinDir) claim() (*dirLock, error) {
	l, err := tryLock(d.path)
	if errors.Is(err, ErrLocked) {
		return nil, fmt.Errorf("%w: another portcullis daemon runs on it; stop it, or give this one a --pin-dir of its own", err)
	}
	return l, err
}

// changesPatience is how long a change of pins waits for another to end; one takes milliseconds.
const changesPatience = 10 * time.Second

// lockChanges takes the lock that every change of pins is made under.
func (d pinDir) lockChanges() (unlock func(), err error) {
	path := filepath.Join(d.path, "lock")
	for deadline := time.Now().Add(changesPatience); ; {
		if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make lock directory: %w", permission(err))
		}
		l, err := tryLock(path)
		switch {
		case err == nil:
			return l.release, nil
		case errors.Is(err, syscall.ENOENT): // the last Detach removed it
		case !errors.Is(err, ErrLocked):
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("wait for another portcullis command to finish: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
