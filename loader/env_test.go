package loader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// needRoot skips without root, and fails instead if REQUIRE_ROOT is 1.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal("needs root, and REQUIRE_ROOT is 1")
	}
	t.Skip("needs root")
}

// pinsFor mounts a bpf filesystem of the test's own and returns a pin directory on it.
func pinsFor(t testing.TB) string {
	t.Helper()
	needRoot(t)
	at := t.TempDir()
	if err := unix.Mount("bpf", at, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		flags := 0
		if t.Failed() {
			flags = unix.MNT_DETACH // a Loader may be open still
		}
		if err := unix.Unmount(at, flags); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
	})
	return filepath.Join(at, "portcullis")
}

// enterNamespace locks the test to a thread in a new network namespace, which ends with the test.
func enterNamespace(t testing.TB) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	host, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(netns.Set(host), ns.Close(), host.Close())
		if err != nil {
			t.Error(err) // the thread stays locked and ends
			return
		}
		runtime.UnlockOSThread()
	})
}

// veth makes a pair of interfaces, up.
func veth(t testing.TB, name, peer string, mtu int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.MTU = mtu
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerMTU: uint32(mtu)}))
	for _, n := range []string{name, peer} {
		up(t, n)
	}
}

func up(t testing.TB, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
}

func removeLink(t testing.TB, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkDel(l))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// eventually polls until ok says yes.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not come in 10 s: %s", what)
		}
	}
}

// open opens a Loader that ends with the test.
func open(t testing.TB, o Options) *Loader {
	t.Helper()
	l, err := Open(o)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return l
}

// cells is a list of prefixes as a table yields them.
type cells map[string]compile.Cell

var (
	drop = compile.Cell{DropUntil: compile.Never, Source: lists.Manual}
	pass = compile.Cell{PassUntil: compile.Never}
)

func (c cells) all() iter.Seq2[netip.Prefix, compile.Cell] {
	parsed := make(map[netip.Prefix]compile.Cell)
	for p, cell := range c {
		parsed[netip.MustParsePrefix(p)] = cell
	}
	return maps.All(parsed)
}

func replace(t testing.TB, m *Maps, generation uint64, c cells) {
	t.Helper()
	must(t, m.Replace(context.Background(), generation, c.all(), 0, nil))
}

// frame is an Ethernet frame with an IP header that has this source.
func frame(source string) []byte {
	a := netip.MustParseAddr(source)
	b := make([]byte, 14, 64)
	copy(b, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	if a.Is6() {
		binary.BigEndian.PutUint16(b[12:], 0x86dd)
	}
	return append(b, packet(a)...)
}

// packet is an IP header with this source.
func packet(a netip.Addr) []byte {
	if a.Is4() {
		b := make([]byte, 20)
		b[0], b[3], b[8], b[9] = 0x45, 20, 64, 253
		copy(b[12:], a.AsSlice())
		copy(b[16:], []byte{192, 0, 2, 1})
		return b
	}
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, 253, 64
	copy(b[8:], a.AsSlice())
	copy(b[24:], netip.MustParseAddr("2001:db8::1").AsSlice())
	return b
}

// wire is an AF_PACKET socket on an interface.
type wire struct {
	fd     int
	layer3 bool // what it reads begins with the IP header
}

func openWire(t testing.TB, name string) wire {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	const everything = 0x0300 // ETH_P_ALL in network order
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: l.Attrs().Index}))
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	return wire{fd: fd}
}

func (w wire) send(b []byte) error { return unix.Sendto(w.fd, b, 0, nil) }

// received counts the frames that have come up the interface since the last call, by IP source.
func (w wire) received() map[netip.Addr]int {
	got := make(map[netip.Addr]int)
	buf := make([]byte, 2048)
	for {
		size, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return got
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		ip := buf[:size]
		if !w.layer3 {
			if size < 14 || !slices.Contains([]uint16{0x0800, 0x86dd}, binary.BigEndian.Uint16(buf[12:])) {
				continue
			}
			ip = ip[14:]
		}
		switch {
		case len(ip) >= 20 && ip[0]>>4 == 4:
			got[netip.AddrFrom4([4]byte(ip[12:16]))]++
		case len(ip) >= 40 && ip[0]>>4 == 6:
			got[netip.AddrFrom16([16]byte(ip[8:24]))]++
		}
	}
}

// sender floods frames until it is stopped.
type sender struct {
	sent  atomic.Uint64
	stops chan struct{}
	done  sync.WaitGroup
}

func flood(t testing.TB, w wire, frames ...[]byte) *sender {
	return floodBy(t, w.send, 50*time.Microsecond, frames...)
}

// floodBy floods by calling send, whose errors are left aside, with a pause after every 16 frames.
func floodBy(t testing.TB, send func(frame []byte) error, pause time.Duration, frames ...[]byte) *sender {
	s := &sender{stops: make(chan struct{})}
	s.done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-s.stops:
				return
			default:
			}
			if send(frames[i%len(frames)]) == nil {
				s.sent.Add(1)
			}
			if i%16 == 0 {
				time.Sleep(pause) // leaves the other CPU's queues time, and bounds the flood
			}
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *sender) stop() {
	select {
	case <-s.stops:
	default:
		close(s.stops)
	}
	s.done.Wait()
}

// more waits until that many more frames were sent.
func (s *sender) more(t testing.TB, n uint64) {
	t.Helper()
	to := s.sent.Load() + n
	eventually(t, fmt.Sprintf("%d frames sent", n), func() bool { return s.sent.Load() >= to })
}

// gateway is a namespace with a protected interface gw and its peer client, which floods the gateway with frames of
// a listed and of another source.
type gateway struct {
	pins  string
	gw    wire
	flood *sender
}

var (
	bad  = netip.MustParseAddr("10.0.0.66")
	bad6 = netip.MustParseAddr("2001:db8:66::1")
	good = netip.MustParseAddr("192.0.2.9")
	list = cells{"10.0.0.0/24": drop, "2001:db8:66::/48": drop}
)

func newGateway(t testing.TB) *gateway {
	g := &gateway{pins: pinsFor(t)}
	enterNamespace(t)
	veth(t, "gw", "client", 1500)
	return g
}

// start begins the flood, once the interface is attached.
func (g *gateway) start(t testing.TB) {
	t.Helper()
	g.gw = openWire(t, "gw")
	g.flood = flood(t, openWire(t, "client"), frame(bad.String()), frame(good.String()), frame(bad6.String()))
}

// check lets more frames come and fails if a listed one came through since the last check, or no other did.
func (g *gateway) check(t testing.TB, when string) {
	t.Helper()
	g.flood.more(t, 300)
	got := make(map[netip.Addr]int)
	eventually(t, "frames of the other source, "+when, func() bool {
		for a, n := range g.gw.received() {
			got[a] += n
		}
		return got[good] > 0
	})
	if n := got[bad] + got[bad6]; n > 0 {
		t.Fatalf("%s: %d listed frames came through (and %d others)", when, n, got[good])
	}
}

// count returns one counter of an interface.
func count(t testing.TB, m *Maps, iface, family, reason string) uint64 {
	t.Helper()
	all, err := m.Counters(iface)
	must(t, err)
	for _, c := range all {
		if c.Family == family && c.Reason == reason {
			return c.Packets
		}
	}
	t.Fatalf("no counter %s %s", family, reason)
	return 0
}
