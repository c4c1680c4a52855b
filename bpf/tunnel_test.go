package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestTunnels sends packets into tunnel devices of the kernel: the program must see the inner IP header at byte 0. It
// does not on a gre device without a remote, which gives XDP the outer one: such a device must not be attached to.
// A kind that this kernel lacks is passed over, unless REQUIRE_DEVICES=1 (.ci/kernels, where modules are loaded).
func TestTunnels(t *testing.T) {
	k := load(t)
	k.fill(t, 0, everyone...)
	local, remote := net.IPv4(192, 0, 2, 1), net.IPv4(192, 0, 2, 2)
	attrs := func(kind string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = fmt.Sprintf("p%s%d", kind, os.Getpid())
		return a
	}
	for _, tt := range []struct {
		name   string
		device netlink.Link
		outer  byte   // protocol number in the outer header
		header []byte // between the outer and the inner IP header
		inner  []byte
		family Family
		noGood bool // XDP is given the outer header
	}{
		{"ipip", &netlink.Iptun{LinkAttrs: attrs("i"), Local: local, Remote: remote}, 4, nil, plain4, FamilyIPv4, false},
		{"ipip without a remote", &netlink.Iptun{LinkAttrs: attrs("i"), Local: local}, 4, nil, plain4, FamilyIPv4, false},
		{"sit", &netlink.Sittun{LinkAttrs: attrs("s"), Local: local, Remote: remote}, 41, nil, plain6, FamilyIPv6, false},
		{"gre", &netlink.Gretun{LinkAttrs: attrs("g"), Local: local, Remote: remote}, 47, []byte{0, 0, 8, 0}, plain4, FamilyIPv4, false},
		{"gre without a remote", &netlink.Gretun{LinkAttrs: attrs("g"), Local: local}, 47, []byte{0, 0, 8, 0}, plain4, FamilyIPv4, true},
		{"gre with IPv6", &netlink.Gretun{LinkAttrs: attrs("g"), Local: local, Remote: remote}, 47, []byte{0, 0, 0x86, 0xdd}, plain6, FamilyIPv6, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			newNamespace(t)
			wire := newWire(t, netip.MustParsePrefix("192.0.2.1/24"))
			err := netlink.LinkAdd(tt.device)
			if errors.Is(err, unix.EOPNOTSUPP) && os.Getenv("REQUIRE_DEVICES") != "1" {
				t.Logf("this kernel has no such device: %v", err)
				return
			}
			if err != nil {
				t.Fatalf("make device: %v", err)
			}
			if err := netlink.LinkSetUp(tt.device); err != nil {
				t.Fatal(err)
			}
			l, err := link.AttachXDP(link.XDPOptions{Program: k.Programs[ProgL3], Interface: tt.device.Attrs().Index, Flags: link.XDPGenericMode})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()

			packet := outerIPv4(tt.outer, join(tt.header, tt.inner))
			seen := tt.inner
			if tt.noGood {
				seen = packet
			}
			expected := k.tallies(t)
			before := expected
			expected[Way(tt.family, DropBlacklisted)].Packets++
			expected[Way(tt.family, DropBlacklisted)].Bytes += uint64(len(seen))
			wire.send(t, packet)
			after := k.tallies(t)
			for limit := time.Now().Add(5 * time.Second); after == before && time.Now().Before(limit); {
				after = k.tallies(t)
			}
			if after != expected {
				t.Errorf("%s", moved(before, after))
			}
		})
	}
}

// outerIPv4 is a packet from 192.0.2.2 to 192.0.2.1 around another, with a valid checksum.
func outerIPv4(proto byte, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	return append(h, payload...)
}

// wire is one end of a veth pair, to send frames from; the host's end has an address.
type wire struct {
	fd   int
	host net.HardwareAddr
	peer int
}

func newWire(t *testing.T, addr netip.Prefix) *wire {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = fmt.Sprintf("ph%d", os.Getpid())
	peer := fmt.Sprintf("pp%d", os.Getpid())
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: peer}); err != nil {
		t.Fatalf("make veth: %v", err)
	}
	host, err := netlink.LinkByName(a.Name)
	if err != nil {
		t.Fatal(err)
	}
	far, err := netlink.LinkByName(peer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := netlink.ParseAddr(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(host, parsed), netlink.LinkSetUp(host), netlink.LinkSetUp(far)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &wire{fd, host.Attrs().HardwareAddr, far.Attrs().Index}
}

// send puts an IPv4 packet on the wire, to the host's end.
func (w *wire) send(t *testing.T, ip []byte) {
	t.Helper()
	frame := ethernet(protoIPv4, ip)
	copy(frame, w.host)
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.peer}); err != nil {
		t.Fatalf("send: %v", err)
	}
}
