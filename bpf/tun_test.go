package bpf

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestTun writes short and whole packets into a tun device: what a test run cannot give the program.
func TestTun(t *testing.T) {
	k := load(t)
	k.fill(t, 0, everyone...)
	newNamespace(t)
	tun := openTun(t)
	// The device is gone with its descriptor; tun has no native XDP for packets without an Ethernet header.
	l, err := link.AttachXDP(link.XDPOptions{Program: k.Programs[ProgL3], Interface: tun.index, Flags: link.XDPGenericMode})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, p := range []struct {
		ip     []byte
		family Family
		fixed  int
	}{{plain4, FamilyIPv4, 20}, {plain6, FamilyIPv6, 40}, {mappedPlain, FamilyIPv6, 40}} {
		for n := 1; n <= len(p.ip); n++ {
			want := DropShort
			if n >= p.fixed {
				want = DropBlacklisted
			}
			k.expectMoved(t, tun, p.ip[:n], p.family, want)
		}
	}
	for n := 1; n <= 40; n++ {
		k.expectMoved(t, tun, make([]byte, n), FamilyOther, PassNonIP)
	}
}

// expectMoved writes one packet into the device and waits for the one counter that must move.
func (k *kernel) expectMoved(t *testing.T, tun *tun, packet []byte, f Family, want Reason) {
	t.Helper()
	expected := k.tallies(t)
	before := expected
	expected[Way(f, want)].Packets++
	expected[Way(f, want)].Bytes += uint64(len(packet))
	// Packet information: no flags, and an ethertype, so that tun asks nothing of the first byte.
	if _, err := tun.Write(append([]byte{0, 0, 0x08, 0x00}, packet...)); err != nil {
		t.Fatalf("write %x: %v", packet, err)
	}
	after := k.tallies(t)
	for limit := time.Now().Add(5 * time.Second); after == before && time.Now().Before(limit); {
		after = k.tallies(t)
	}
	if after != expected {
		t.Fatalf("packet %x, want %s %s: %s", packet, f, want, moved(before, after))
	}
}

type tun struct {
	*os.File
	index int
}

// openTun makes a tun device in the thread's namespace; it goes away with the test.
func openTun(t *testing.T) *tun {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = errors.Join(os.MkdirAll("/dev/net", 0o755), unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))))
		if err == nil {
			fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		t.Fatalf("open tun: %v", err)
	}
	f := os.NewFile(uintptr(fd), "tun")
	t.Cleanup(func() { f.Close() })
	name := fmt.Sprintf("ptun%d", os.Getpid())
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_TUN)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Fatalf("make tun device: %v", err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	return &tun{f, l.Attrs().Index}
}

// newNamespace moves the test into a network namespace of its own, which ends with it: the thread is never unlocked,
// so the runtime ends it together with the test's goroutine.
func newNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
}
