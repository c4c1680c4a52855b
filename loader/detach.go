package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Detach takes the program off these interfaces (none given: off all) and removes their pins; when none is left
// and no daemon has the pin directory, it removes the maps and the directory too. It works with and without a
// daemon; a daemon does not attach again by itself. It is the only way to end enforcement, short of a reboot.
// pinDirectory "" is [DefaultPinDir]. It returns the interfaces it detached, in part also with an error.
// [ErrNotLoaded] if there is nothing of ours on an interface that was given, or no pin directory.
func Detach(pinDirectory string, ifaces ...string) ([]string, error) {
	path, err := filepath.Abs(Options{PinDir: pinDirectory}.withDefaults().PinDir)
	if err != nil {
		return nil, fmt.Errorf("find pin directory: %w", err)
	}
	d := pinDir{path}
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("detach: %s: %w", path, ErrNotLoaded)
		}
		return nil, fmt.Errorf("detach: %w", permission(err))
	}
	unlock, err := d.lockChanges()
	if err != nil {
		return nil, fmt.Errorf("detach: %w", err)
	}
	defer unlock()
	all := len(ifaces) == 0
	if all {
		if ifaces, err = d.links(); err != nil {
			return nil, fmt.Errorf("detach: %w", err)
		}
	}
	var done []string
	var errs []error
	for _, iface := range ifaces {
		if err := d.detach(iface, all); err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", iface, err))
			continue
		}
		done = append(done, iface)
	}
	if err := d.removeIfUnused(); err != nil {
		errs = append(errs, fmt.Errorf("detach: %w", err))
	}
	return done, errors.Join(errs...)
}

// detach takes the program off one interface, which may be pinned under another name if it was renamed.
func (d pinDir) detach(iface string, isPin bool) error {
	pin := iface
	if !isPin {
		if dev, err := findDevice(iface); err == nil {
			other, err := d.pinOf(dev)
			if err != nil {
				return err
			}
			if other != "" {
				pin = other
			}
		}
	}
	ln, err := d.openLink(pin)
	if errors.Is(err, ErrDetached) {
		return ErrNotLoaded
	}
	if err != nil {
		return err
	}
	defer ln.Close()
	for _, name := range []string{pin, iface} {
		if err := d.markDetached(name); err != nil {
			return err
		}
	}
	// Somebody may have the link open: end it, do not wait for its last reference.
	if err := ln.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return permission(err)
	}
	if err := d.removeInterface(pin); err != nil || pin == iface {
		return err
	}
	return d.removeDead(iface)
}

// removeDead removes the pins of an interface that is gone: a daemon would take it for one to attach again.
func (d pinDir) removeDead(iface string) error {
	all, err := d.inspect()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.pin == iface && !p.alive {
			return d.removeInterface(iface)
		}
	}
	return nil
}

// removeIfUnused removes everything else when no link is left and no daemon has the directory.
func (d pinDir) removeIfUnused() error {
	links, err := d.links()
	if err != nil || len(links) > 0 {
		return err
	}
	daemon, err := tryLock(d.path)
	if errors.Is(err, ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer daemon.release()
	if err := d.removeStaging(); err != nil {
		return err
	}
	for _, t := range d.openTries() {
		_ = discard(context.Background(), t, false) // on error it is freed full
	}
	names := append(slices.Clone(mapNames[:]), "lock")
	for _, kind := range []string{"prog_", "counters_", "detached_"} { // the first two if a process died while it published
		left, err := d.names(kind)
		if err != nil {
			return err
		}
		for _, iface := range left {
			names = append(names, kind+pinName(iface))
		}
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(d.path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove pin: %w", permission(err))
		}
	}
	err = os.Remove(d.path)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // a mount point, or somebody else's pins are in it
	}
	return err
}
