package loader

import (
	"encoding/binary"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	good6   = netip.MustParseAddr("2001:db8:9::1")
	sources = []netip.Addr{bad, bad6, good, good6}
	// Ends of the tunnels.
	local, remote = net.IPv4(198, 51, 100, 1), net.IPv4(198, 51, 100, 2)
)

var long = flag.Bool("long", false, "take devices of each kind through 20 rounds")

// kind is a type of device beside veth.
type kind struct {
	name string
	// make makes the device, and what sends packets that come in at it once it is up.
	make   func(t *testing.T, gw netlink.Link) (netlink.Link, func(ip []byte) error, error)
	layer3 bool
	mode   Mode
	only   byte // the IP version it carries, 0: both
}

var kinds = []kind{
	{"vlan", func(t *testing.T, gw netlink.Link) (netlink.Link, func(ip []byte) error, error) {
		a := named("gw.7")
		a.ParentIndex = gw.Attrs().Index
		d := &netlink.Vlan{LinkAttrs: a, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		tag := []byte{0x81, 0, 0, 7}
		return d, toGateway(t, gw, func(ip []byte) []byte { return ether(append(tag, ethertype(ip)...), ip) }), netlink.LinkAdd(d)
	}, false, ModeGeneric, 0},
	{"bond", func(t *testing.T, gw netlink.Link) (netlink.Link, func(ip []byte) error, error) {
		d := netlink.NewLinkBond(named("bond7"))
		d.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
		if err := netlink.LinkAdd(d); err != nil {
			return nil, nil, err
		}
		err := errors.Join(netlink.LinkSetDown(gw), netlink.LinkSetMaster(gw, d), netlink.LinkSetUp(gw))
		return d, toGateway(t, gw, func(ip []byte) []byte { return ether(ethertype(ip), ip) }), err
	}, false, ModeNative, 0},
	{"tun", func(t *testing.T, _ netlink.Link) (netlink.Link, func(ip []byte) error, error) {
		d := &netlink.Tuntap{LinkAttrs: named("tun7"), Mode: netlink.TUNTAP_MODE_TUN, Queues: 1,
			Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE}
		if err := netlink.LinkAdd(d); err != nil {
			return nil, nil, err
		}
		f := d.Fds[0]
		t.Cleanup(func() { _ = f.Close() })
		return d, func(ip []byte) error { _, err := f.Write(ip); return err }, nil
	}, true, ModeGeneric, 0},
	{"gre", func(t *testing.T, gw netlink.Link) (netlink.Link, func(ip []byte) error, error) {
		d := &netlink.Gretun{LinkAttrs: named("gre7"), Local: local, Remote: remote}
		return d, toGateway(t, gw, func(ip []byte) []byte {
			return ether([]byte{0x08, 0}, outer(47, append(append([]byte{0, 0}, ethertype(ip)...), ip...)))
		}), netlink.LinkAdd(d)
	}, true, ModeGeneric, 0},
	{"ipip", func(t *testing.T, gw netlink.Link) (netlink.Link, func(ip []byte) error, error) {
		d := &netlink.Iptun{LinkAttrs: named("ipip7"), Local: local, Remote: remote}
		return d, toGateway(t, gw, func(ip []byte) []byte { return ether([]byte{0x08, 0}, outer(4, ip)) }), netlink.LinkAdd(d)
	}, true, ModeGeneric, 4},
	{"sit", func(t *testing.T, gw netlink.Link) (netlink.Link, func(ip []byte) error, error) {
		d := &netlink.Sittun{LinkAttrs: named("sit7"), Local: local, Remote: remote}
		return d, toGateway(t, gw, func(ip []byte) []byte { return ether([]byte{0x08, 0}, outer(41, ip)) }), netlink.LinkAdd(d)
	}, true, ModeGeneric, 6},
	{"wireguard", func(t *testing.T, _ netlink.Link) (netlink.Link, func(ip []byte) error, error) {
		d, err := makeWireGuard(t, "wg7", "wgpeer")
		if err != nil {
			return nil, nil, err
		}
		up(t, "wgpeer")
		return d, openWire(t, "wgpeer").send, nil
	}, true, ModeGeneric, 0},
}

// TestKindsOfDevices attaches to a VLAN device, a bond and tunnels under traffic, detaches, attaches again, and attaches
// to another of the same name once it is deleted: while attached, nothing of listed sources comes through, and others do.
// A kind that this kernel lacks is passed over, unless REQUIRE_DEVICES=1 (.ci/kernels, where modules are loaded).
func TestKindsOfDevices(t *testing.T) {
	rounds := 2
	if *long {
		rounds = 20
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			dir := pinsFor(t)
			enterNamespace(t)
			up(t, "lo")
			veth(t, "gw", "client", 1500)
			gw, err := netlink.LinkByName("gw")
			must(t, err)
			must(t, netlink.AddrAdd(gw, &netlink.Addr{IPNet: &net.IPNet{IP: local, Mask: net.CIDRMask(24, 32)}}))
			l := open(t, Options{PinDir: dir})
			replace(t, l.Maps(), 1, list)
			sent := uint64(0)
			for round := range rounds {
				d, send, err := k.make(t, gw)
				if errors.Is(err, unix.EOPNOTSUPP) && os.Getenv("REQUIRE_DEVICES") != "1" {
					t.Logf("this kernel has no such device: %v", err)
					return
				}
				must(t, err)
				sent += k.round(t, l, d.Attrs().Name, send, round > 0)
			}
			if done, err := Detach(dir); err != nil || len(done) != 1 {
				t.Errorf("detach: %v, %v", done, err)
			}
			t.Logf("%d rounds, %d packets: none of a listed source came through while attached", rounds, sent)
		})
	}
}

// round takes a new device through its life, which may be another one of a name that is known, and returns how many
// packets were sent.
func (k kind) round(t *testing.T, l *Loader, name string, send func(ip []byte) error, again bool) uint64 {
	t.Helper()
	up(t, name)
	in := openWire(t, name)
	in.layer3 = k.layer3
	var packets [][]byte
	for _, a := range sources {
		if p := packet(a); k.only == 0 || p[0]>>4 == k.only {
			packets = append(packets, p)
		}
	}
	f := floodBy(t, send, 2*time.Millisecond, packets...) // an emulated CPU has to take it
	attach := func() (a Attachment, err error) { return l.Attach(name) }
	if again {
		attach = func() (Attachment, error) { a := l.Reconcile()[0]; return a, a.Err }
	}
	protect := func() {
		k.expect(t, f, in, "before", sources...)
		a, err := attach()
		if err != nil || a.Layer3 != k.layer3 || a.Mode != k.mode {
			t.Fatalf("attached as %+v, %v", a, err)
		}
		k.expect(t, f, in, "attached", good, good6)
		k.expectCounters(t, l.Maps(), name)
	}
	protect()
	if *long { // loading programs takes an emulated CPU a second
		done, err := Detach(l.dir.path, name)
		if err != nil || len(done) != 1 {
			t.Fatalf("detach: %v, %v", done, err)
		}
		attach = func() (a Attachment, err error) { return l.Attach(name) }
		protect()
	}
	removeLink(t, name) // the flood goes on
	f.stop()
	return f.sent.Load()
}

// expect fails unless packets of these sources, and of no other, come through from now on.
func (k kind) expect(t *testing.T, f *sender, in wire, when string, want ...netip.Addr) {
	t.Helper()
	f.more(t, 100) // what came through before is on its way
	in.received()
	got := make(map[netip.Addr]int)
	eventually(t, "packets, "+when, func() bool {
		for a, n := range in.received() {
			got[a] += n
		}
		for _, a := range want {
			if k.carries(a) && got[a] < 20 {
				return false
			}
		}
		return true
	})
	if len(want) < len(sources) && got[bad]+got[bad6] > 0 {
		t.Fatalf("%s: listed packets came through: %v", when, got)
	}
}

func (k kind) carries(a netip.Addr) bool { return k.only == 0 || (k.only == 4) == a.Is4() }

// expectCounters fails unless drops and passes of what the device carries are counted, and no drop else.
func (k kind) expectCounters(t *testing.T, m *Maps, name string) {
	t.Helper()
	counts, err := m.Counters(name)
	must(t, err)
	moved := make(map[string]bool)
	for _, c := range counts {
		if c.Packets > 0 {
			moved[c.Family+" "+c.Reason] = true
			if c.Reason != "drop_blacklisted" && c.Reason[:5] == "drop_" {
				t.Errorf("dropped: %+v", c)
			}
		}
	}
	for family, a := range map[string]netip.Addr{"ipv4": bad, "ipv6": bad6} {
		if want := k.carries(a); moved[family+" drop_blacklisted"] != want || want && !moved[family+" pass_index"] {
			t.Errorf("%s: counted are %v", family, moved)
		}
	}
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// toGateway sends packets in frames to gw, whose device takes them on.
func toGateway(t *testing.T, gw netlink.Link, wrap func(ip []byte) []byte) func(ip []byte) error {
	client := openWire(t, "client")
	return func(ip []byte) error {
		f := wrap(ip)
		copy(f, gw.Attrs().HardwareAddr)
		return client.send(f)
	}
}

func ethertype(ip []byte) []byte {
	if ip[0]>>4 == 6 {
		return []byte{0x86, 0xdd}
	}
	return []byte{0x08, 0}
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
