package loader

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestKindsOfDevices attaches to a VLAN device, a bond and tunnels, and sends them packets of both kinds. A kind that this
// kernel lacks is passed over, unless REQUIRE_DEVICES=1 (.ci/kernels, where modules are loaded).
func TestKindsOfDevices(t *testing.T) {
	named := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	local, remote := net.IPv4(198, 51, 100, 1), net.IPv4(198, 51, 100, 2)
	for _, kind := range []struct {
		name   string
		make   func(gw netlink.Link) (netlink.Link, error)
		wrap   func(ip []byte) []byte // a frame to gw that brings the packet to the device
		layer3 bool
		mode   Mode
	}{
		{"vlan", func(gw netlink.Link) (netlink.Link, error) {
			a := named("gw.7")
			a.ParentIndex = gw.Attrs().Index
			d := &netlink.Vlan{LinkAttrs: a, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
			return d, netlink.LinkAdd(d)
		}, func(ip []byte) []byte { return ether([]byte{0x81, 0, 0, 7, 0x08, 0}, ip) }, false, ModeGeneric},
		{"bond", func(gw netlink.Link) (netlink.Link, error) {
			d := netlink.NewLinkBond(named("bond7"))
			d.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
			if err := netlink.LinkAdd(d); err != nil {
				return nil, err
			}
			return d, errors.Join(netlink.LinkSetDown(gw), netlink.LinkSetMaster(gw, d), netlink.LinkSetUp(gw))
		}, func(ip []byte) []byte { return ether([]byte{0x08, 0}, ip) }, false, ModeNative},
		{"gre", func(netlink.Link) (netlink.Link, error) {
			d := &netlink.Gretun{LinkAttrs: named("gre7"), Local: local, Remote: remote}
			return d, netlink.LinkAdd(d)
		}, func(ip []byte) []byte { return ether([]byte{0x08, 0}, outer(47, append([]byte{0, 0, 8, 0}, ip...))) }, true, ModeGeneric},
		{"ipip", func(netlink.Link) (netlink.Link, error) {
			d := &netlink.Iptun{LinkAttrs: named("ipip7"), Local: local, Remote: remote}
			return d, netlink.LinkAdd(d)
		}, func(ip []byte) []byte { return ether([]byte{0x08, 0}, outer(4, ip)) }, true, ModeGeneric},
	} {
		t.Run(kind.name, func(t *testing.T) {
			dir := pinsFor(t)
			enterNamespace(t)
			veth(t, "gw", "client", 1500)
			gw, err := netlink.LinkByName("gw")
			must(t, err)
			must(t, netlink.AddrAdd(gw, &netlink.Addr{IPNet: &net.IPNet{IP: local, Mask: net.CIDRMask(24, 32)}}))
			d, err := kind.make(gw)
			if errors.Is(err, unix.EOPNOTSUPP) && os.Getenv("REQUIRE_DEVICES") != "1" {
				t.Logf("this kernel has no such device: %v", err)
				return
			}
			must(t, err)
			name := d.Attrs().Name
			up(t, name)
			l := open(t, Options{PinDir: dir})
			replace(t, l.Maps(), 1, list)
			a, err := l.Attach(name)
			must(t, err)
			if a.Layer3 != kind.layer3 || a.Mode != kind.mode {
				t.Errorf("attached as %+v", a)
			}
			client := openWire(t, "client")
			send := func() {
				for _, source := range []netip.Addr{bad, good} {
					f := kind.wrap(packet(source))
					copy(f, gw.Attrs().HardwareAddr)
					must(t, client.send(f))
				}
			}
			counted := func() [2]uint64 {
				return [2]uint64{count(t, l.Maps(), name, "ipv4", "drop_blacklisted"), count(t, l.Maps(), name, "ipv4", "pass_index")}
			}
			eventually(t, "the first packets", func() bool { // a bond takes a moment to choose its member
				send()
				got := counted()
				return got[0] > 0 && got[1] > 0
			})
			var was [2]uint64
			eventually(t, "counters stand still", func() bool {
				last := was
				was = counted()
				return slices.Equal(last[:], was[:])
			})
			in := openWire(t, name)
			for range 10 {
				send()
			}
			eventually(t, "ten more of each", func() bool { return counted() == [2]uint64{was[0] + 10, was[1] + 10} })
			if got := in.received()[bad]; got != 0 {
				t.Errorf("%d listed packets came through", got)
			}
			done, err := Detach(dir, name)
			if err != nil || len(done) != 1 {
				t.Errorf("detach: %v, %v", done, err)
			}
		})
	}
}

// ether is a frame whose destination is still to be written.
func ether(kind, payload []byte) []byte {
	b := append(make([]byte, 6), 2, 0, 0, 0, 0, 1)
	return append(append(b, kind...), payload...)
}

// outer is an IPv4 packet from the remote end of a tunnel around another.
func outer(proto byte, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0, 198, 51, 100, 2, 198, 51, 100, 1}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	return append(h, payload...)
}
