package testenv

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Down sets the interface down.
func (n *Namespace) Down(iface string) error {
	return n.change("set down", iface, n.link.LinkSetDown)
}

// Rename gives the interface another name, without setting it down.
func (n *Namespace) Rename(iface, name string) error {
	return n.change("rename to "+name, iface, func(l netlink.Link) error { return n.link.LinkSetName(l, name) })
}

// MTU sets the interface's.
func (n *Namespace) MTU(iface string, mtu int) error {
	return n.change(fmt.Sprintf("set MTU to %d", mtu), iface, func(l netlink.Link) error { return n.link.LinkSetMTU(l, mtu) })
}

// Move moves the interface to another namespace and sets it up there: the kernel sets it down on the way.
func (n *Namespace) Move(iface string, to *Namespace) error {
	err := n.change("move to "+to.Name, iface, func(l netlink.Link) error { return n.link.LinkSetNsFd(l, int(to.handle)) })
	return errors.Join(err, to.Up(iface))
}

func (n *Namespace) change(what, iface string, f func(netlink.Link) error) error {
	l, err := n.byName(iface)
	if err != nil {
		return err
	}
	if err := f(l); err != nil {
		return fmt.Errorf("%s, %s %s: %w", what, n.Name, iface, err)
	}
	return nil
}

// Program returns the id of the XDP program on the interface, 0 if there is none.
func (n *Namespace) Program(iface string) (id uint32, err error) {
	l, err := n.byName(iface)
	if err != nil {
		return 0, err
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		id = x.ProgId
	}
	return id, nil
}
