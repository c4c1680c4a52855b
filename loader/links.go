package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A link is known by its program: every interface has one of its own, and its id is what the kernel names on the
// device, whatever that is called now and whichever namespace it has moved to.

// openLink opens the link pinned under a name; the error is ErrDetached if none is. Links are never kept open: a link whose last
// pin goes must end.
func (d pinDir) openLink(pin string) (link.Link, error) {
	ln, err := link.LoadPinnedLink(d.link(pin), nil)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("open link of %s: %w", pin, ErrDetached)
	}
	if err != nil {
		return nil, fmt.Errorf("open link of %s: %w", pin, permission(err))
	}
	return ln, nil
}

// pinned is a link as it is now.
type pinned struct {
	pin   string // the interface name it is pinned under
	prog  ebpf.ProgramID
	alive bool // its device exists, here or in another network namespace
}

// inspect reads every pinned link.
func (d pinDir) inspect() ([]pinned, error) {
	pins, err := d.links()
	if err != nil {
		return nil, err
	}
	var all []pinned
	for _, pin := range pins {
		ln, err := d.openLink(pin)
		if errors.Is(err, ErrDetached) {
			continue // just now
		}
		if err != nil {
			return nil, err
		}
		info, err := ln.Info()
		_ = ln.Close()
		if err != nil {
			return nil, fmt.Errorf("read link of %s: %w", pin, err)
		}
		x := info.XDP()
		all = append(all, pinned{pin, info.Program, x != nil && x.Ifindex != 0})
	}
	return all, nil
}

// pinOf returns the name under which the link that judges the device's packets is pinned, "" if it is not ours.
func (d pinDir) pinOf(dev device) (string, error) {
	if dev.prog == 0 {
		return "", nil
	}
	all, err := d.inspect()
	if err != nil {
		return "", err
	}
	for _, p := range all {
		if p.alive && p.prog == dev.prog {
			return p.pin, nil
		}
	}
	return "", nil
}

// followNames renames the pins of interfaces that were renamed. Where names went round in a circle the pins keep
// theirs, which pinOf knows how to live with.
func (d pinDir) followNames() error {
	all, err := d.inspect()
	if err != nil {
		return err
	}
	devs, err := devices()
	if err != nil {
		return err
	}
	for moved := true; moved; {
		moved = false
		for i, p := range all {
			for _, dev := range devs {
				if !p.alive || p.prog != dev.prog || p.pin == dev.name || taken(all, dev.name) {
					continue
				}
				if err := d.renameInterface(p.pin, dev.name); err != nil {
					return err
				}
				all[i].pin, moved = dev.name, true
			}
		}
	}
	return nil
}

// taken reports whether a living link is pinned under the name.
func taken(all []pinned, name string) bool {
	for _, p := range all {
		if p.alive && p.pin == name {
			return true
		}
	}
	return false
}
