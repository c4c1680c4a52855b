package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// device is an interface as the kernel has it now.
type device struct {
	name  string
	index int
	mtu   int
	prog  ebpf.ProgramID // of the XDP program on it, 0 if none
	mode  Mode           // how that is attached
}

// findDevice looks an interface up in the network namespace of the calling thread. Its error names what is there.
func findDevice(name string) (device, error) {
	l, err := netlink.LinkByName(name)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE): // the last two: never a name
		return device{}, noInterface(name)
	case err != nil:
		return device{}, fmt.Errorf("find interface %s: %w", name, permission(err))
	case l.Attrs().Name != name: // pins and renames are kept by the first name
		return device{}, fmt.Errorf("find interface %s: %w: it is another name of %s, use that", name, ErrNoInterface, l.Attrs().Name)
	}
	return newDevice(l), nil
}

func newDevice(l netlink.Link) device {
	a := l.Attrs()
	d := device{name: a.Name, index: a.Index, mtu: a.MTU}
	if a.Xdp != nil && a.Xdp.Attached {
		d.prog = ebpf.ProgramID(a.Xdp.ProgId)
		d.mode = ModeNative
		if a.Xdp.AttachMode == nl.XDP_ATTACHED_SKB {
			d.mode = ModeGeneric
		}
	}
	return d
}

// devices returns the interfaces of the network namespace.
func devices() ([]device, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []device
	for _, l := range all {
		out = append(out, newDevice(l))
	}
	return out, nil
}

func noInterface(name string) error {
	all, err := devices()
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, ErrNoInterface)
	}
	var names []string
	for _, d := range all {
		names = append(names, d.name)
	}
	slices.Sort(names)
	return fmt.Errorf("find interface %q: %w: there are %s", name, ErrNoInterface, strings.Join(names, ", "))
}

// layer3 reports whether packets of the device begin with the IP header, by its ARPHRD type; devices of a type
// whose frames the programs do not know are refused.
func (d device) layer3() (bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("read type of %s: %w", d.name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(d.name)
	if err != nil {
		return false, fmt.Errorf("read type of %s: %w", d.name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFHWADDR, req); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return false, noInterface(d.name)
		}
		return false, fmt.Errorf("read type of %s: %w", d.name, err)
	}
	switch kind := req.Uint16(); kind { // sa_family of the hardware address
	case unix.ARPHRD_ETHER:
		return false, nil
	case unix.ARPHRD_NONE, unix.ARPHRD_TUNNEL, unix.ARPHRD_SIT, unix.ARPHRD_PPP, unix.ARPHRD_RAWIP:
		return true, nil
	case unix.ARPHRD_IPGRE:
		return true, d.checkGRE()
	case unix.ARPHRD_LOOPBACK:
		return false, fmt.Errorf("protect %s: %w: the loopback interface carries only the host's own traffic", d.name, ErrUnsupported)
	default:
		return false, fmt.Errorf("protect %s: %w: ARPHRD type %d; Ethernet, tun, WireGuard, ipip, sit, gre, ppp and raw IP are",
			d.name, ErrUnsupported, kind)
	}
}

// checkGRE refuses a gre device that hands XDP the outer header.
func (d device) checkGRE() error {
	l, err := netlink.LinkByIndex(d.index)
	if err != nil {
		return fmt.Errorf("read tunnel of %s: %w", d.name, permission(err))
	}
	if showsOuterHeader(l) {
		return fmt.Errorf("protect %s: %w: a gre tunnel without a unicast remote hands over the outer header, so the inner source "+
			"would not be judged; give it a remote, or make it external (collect metadata)", d.name, ErrUnsupported)
	}
	return nil
}

// showsOuterHeader: Linux gives a gre device a link-layer header, the outer IP header, when its remote is unset or
// multicast and it does not collect metadata (ipgre_tunnel_init).
func showsOuterHeader(l netlink.Link) bool {
	t, ok := l.(*netlink.Gretun)
	return ok && !t.FlowBased && (t.Remote == nil || t.Remote.IsUnspecified() || t.Remote.IsMulticast())
}

// driver names the device's driver, "" if it does not say.
func (d device) driver() string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, d.name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}
