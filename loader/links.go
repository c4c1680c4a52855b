package loader

import (
	"errors"
	"fmt"
	"slices"

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

// followNames renames the pins of interfaces that were renamed.
func (d pinDir) followNames() error {
	all, err := d.inspect()
	if err != nil {
		return err
	}
	devs, err := devices()
	if err != nil {
		return err
	}
	called := make(map[ebpf.ProgramID]string)
	for _, dev := range devs {
		if dev.prog != 0 {
			called[dev.prog] = dev.name
		}
	}
	for {
		i, to := nextRename(all, called)
		if i < 0 {
			return nil
		}
		if err := d.renameInterface(all[i].pin, to); err != nil {
			return err
		}
		all[i].pin = to
	}
}

// nextRename chooses a pin that is to be renamed, -1 if none is, and its new name. Where names went round in a circle,
// one of its pins first gets a name that no interface can have; after a crash it is renamed from there.
func nextRename(all []pinned, called map[ebpf.ProgramID]string) (i int, to string) {
	for i, p := range all {
		if to = called[p.prog]; p.alive && to != "" && to != p.pin && holder(all, to) < 0 {
			return i, to
		}
	}
	for i, p := range all {
		j := i
		for range all {
			if !all[j].alive || called[all[j].prog] == "" {
				break // in another network namespace: it keeps its pin until another of its name is attached here
			}
			if j = holder(all, called[all[j].prog]); j < 0 {
				break
			}
			if j == i && called[p.prog] != p.pin {
				return i, "/" + p.pin
			}
		}
	}
	return -1, ""
}

// holder is the living link that is pinned under the name, -1 if none is.
func holder(all []pinned, name string) int {
	return slices.IndexFunc(all, func(p pinned) bool { return p.alive && p.pin == name })
}
