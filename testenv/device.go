package testenv

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Received returns how many frames the driver has taken from the wire of an interface so far, whatever became of them.
func (n *Namespace) Received(iface string) (uint64, error) {
	l, err := n.byName(iface)
	if err != nil {
		return 0, err
	}
	s := l.Attrs().Statistics
	if s == nil {
		return 0, fmt.Errorf("count frames of %s %s: the kernel tells none", n.Name, iface)
	}
	return s.RxPackets, nil
}

// Delivered returns how many IPv4 packets the namespace has handed to its own sockets so far.
func (n *Namespace) Delivered() (count uint64, err error) {
	err = n.Do(func() error {
		// Not /proc/net, which is the view of the process's first thread.
		f, err := os.Open("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		defer f.Close()
		var names []string
		for s := bufio.NewScanner(f); s.Scan(); {
			fields := strings.Fields(s.Text())
			if len(fields) == 0 || fields[0] != "Ip:" {
				continue
			}
			if names == nil {
				names = fields
				continue
			}
			if i := slices.Index(names, "InDelivers"); i > 0 && i < len(fields) {
				count, err = strconv.ParseUint(fields[i], 10, 64)
				return err
			}
		}
		return fmt.Errorf("no InDelivers in %s", f.Name())
	})
	if err != nil {
		return 0, fmt.Errorf("count packets of %s: %w", n.Name, err)
	}
	return count, nil
}

// GRO switches generic receive offload on. A veth has a receive queue, and takes frames from XDP on the other end, when
// it has that or an XDP program.
func (n *Namespace) GRO(iface string) error {
	value := struct{ command, data uint32 }{unix.ETHTOOL_SGRO, 1}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], iface)
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("switch GRO on, %s %s: %w", n.Name, iface, err)
	}
	return nil
}
