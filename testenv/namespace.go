package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace of a lab. Safe for concurrent use.
type Namespace struct {
	Name string
	Path string // nsenter --net=Path enters it

	lab    *Lab
	handle netns.NsHandle
	link   *netlink.Handle
}

// Namespace makes a network namespace with its loopback up.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	n := &Namespace{Name: name, Path: filepath.Join(l.Dir, nsDir, name), lab: l, handle: netns.None()}
	err := os.MkdirAll(filepath.Dir(n.Path), 0o700)
	if err == nil {
		err = os.WriteFile(n.Path, nil, 0o400)
	}
	if err == nil {
		err = n.create()
	}
	if err != nil {
		n.release()
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.namespaces = append(l.namespaces, n)
	return n, nil
}

func (n *Namespace) create() error {
	err := onThread(func() error {
		handle, err := netns.New() // this thread is in it now
		if err != nil {
			return err
		}
		n.handle = handle
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), n.Path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return err
	}
	if n.link, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	// Addresses are usable at once, and nobody sends what the test did not ask for.
	return errors.Join(
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0"), n.Sysctl("net/ipv6/conf/all/accept_dad", "0"),
		n.Sysctl("net/ipv6/conf/default/router_solicitations", "0"),
		n.Up("lo"),
	)
}

func (n *Namespace) release() {
	if n.link != nil {
		n.link.Close()
	}
	if n.handle.IsOpen() {
		n.handle.Close()
	}
}

// Do runs f with the calling thread in the namespace: sockets that f makes belong to it for as long as they live.
// Goroutines that f starts are not in it.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.Name, err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own and brings that thread back to the namespace it came from. f may end the
// test (runtime.Goexit) or panic.
func onThread(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the present namespace: %w", err)
	}
	defer func() {
		defer home.Close()
		if err := netns.Set(home); err != nil {
			return // the thread stays locked and dies with this goroutine, never to be used elsewhere
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// Start starts cmd inside the namespace. The lab's end kills it, if nothing did before.
// After that it starts nothing: a process begun while the others are killed would be left over.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	n.lab.starting.RLock()
	defer n.lab.starting.RUnlock()
	if n.lab.ended {
		return fmt.Errorf("start %s in %s: the lab is closed", cmd.Path, n.Name)
	}
	return n.Do(cmd.Start)
}

// Connect joins two namespaces by a veth pair; both ends are up.
func Connect(a *Namespace, aName string, b *Namespace, bName string) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: aName},
		PeerName:      bName,
		PeerNamespace: netlink.NsFd(int(b.handle)),
	}
	if err := a.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect %s %s to %s %s: %w", a.Name, aName, b.Name, bName, err)
	}
	return errors.Join(a.Up(aName), b.Up(bName))
}

// Up sets the interface up.
func (n *Namespace) Up(iface string) error {
	l, err := n.byName(iface)
	if err != nil {
		return err
	}
	if err := n.link.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s %s up: %w", n.Name, iface, err)
	}
	return nil
}

// Delete deletes the interface, and with it the other end of the pair.
func (n *Namespace) Delete(iface string) error {
	l, err := n.byName(iface)
	if err != nil {
		return err
	}
	if err := n.link.LinkDel(l); err != nil {
		return fmt.Errorf("delete %s %s: %w", n.Name, iface, err)
	}
	return nil
}

// MAC returns the interface's hardware address.
func (n *Namespace) MAC(iface string) (net.HardwareAddr, error) {
	l, err := n.byName(iface)
	if err != nil {
		return nil, err
	}
	return l.Attrs().HardwareAddr, nil
}

// Index returns the interface's index in its namespace.
func (n *Namespace) Index(iface string) (int, error) {
	l, err := n.byName(iface)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

func (n *Namespace) byName(iface string) (netlink.Link, error) {
	l, err := n.link.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("find %s %s: %w", n.Name, iface, err)
	}
	return l, nil
}

// Address gives the interface addresses, each with its prefix length. IPv6 ones are usable at once (no duplicate
// address detection).
func (n *Namespace) Address(iface string, addresses ...string) error {
	l, err := n.byName(iface)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return fmt.Errorf("parse address %q: %w", a, err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := n.link.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("add %s to %s %s: %w", a, n.Name, iface, err)
		}
	}
	return nil
}

// Route sends destination ("default4", "default6" or a prefix) out of the interface, by way of via if it is not empty;
// via need not be on a connected network.
func (n *Namespace) Route(destination, via, iface string) error {
	l, err := n.byName(iface)
	if err != nil {
		return err
	}
	switch destination {
	case "default4":
		destination = "0.0.0.0/0"
	case "default6":
		destination = "::/0"
	}
	p, err := netip.ParsePrefix(destination)
	if err != nil {
		return fmt.Errorf("parse route: %w", err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: prefixToNet(p)}
	if via != "" {
		r.Gw = net.ParseIP(via)
		r.Flags = int(netlink.FLAG_ONLINK)
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := n.link.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s via %q %s in %s: %w", destination, via, iface, n.Name, err)
	}
	return nil
}

func prefixToNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Forward lets the namespace route packets of both families.
func (n *Namespace) Forward() error {
	return errors.Join(n.Sysctl("net/ipv4/ip_forward", "1"), n.Sysctl("net/ipv6/conf/all/forwarding", "1"))
}

// Sysctl writes /proc/sys/key as the namespace sees it.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644) })
}
