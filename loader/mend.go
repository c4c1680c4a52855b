package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// Pins that somebody removed by hand end enforcement as Detach does, but nobody asked for that. Detach leaves a mark, so
// that the two are told apart: an empty directory detached_IF, which the next Attach removes.

// detached is the mark of Detach.
func (d pinDir) detached(iface string) string {
	return filepath.Join(d.path, "detached_"+pinName(iface))
}

func (d pinDir) markDetached(iface string) error {
	if err := os.Mkdir(d.detached(iface), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("mark as detached: %w", permission(err))
	}
	return nil
}

func (d pinDir) unmarkDetached(iface string) error {
	if err := os.Remove(d.detached(iface)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mark of detach: %w", permission(err))
	}
	return nil
}

// mendPins puts back the pins of the maps, and their directory, where somebody removed them.
func (l *Loader) mendPins() error {
	if l.staged || !slices.ContainsFunc(mapNames[:], func(name string) bool { return !exists(filepath.Join(l.dir.path, name)) }) {
		return nil
	}
	if !exists(l.dir.path) {
		if _, err := makePinDir(l.o); err != nil {
			return err
		}
		lock, err := l.dir.claim()
		if err != nil {
			return err
		}
		l.lock.release()
		l.lock = lock
	}
	unlock, err := l.dir.lockChanges()
	if err != nil {
		return err
	}
	defer unlock()
	l.o.Logger.Error("pins of the maps are gone without a detach, pinning them again", "pin_dir", l.dir.path)
	maps := l.maps.shared()
	for _, name := range mapNames {
		if err := pinAgain(maps[name], filepath.Join(l.dir.path, name)); err != nil {
			return fmt.Errorf("pin %s again: %w", name, permission(err))
		}
	}
	return nil
}

// pinAgain pins a map that believes it is pinned there.
func pinAgain(m *ebpf.Map, path string) error {
	if exists(path) {
		return nil
	}
	c, err := m.Clone()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Pin(path)
}
