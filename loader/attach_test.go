package loader

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func TestAttachNative(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	veth(t, "gw", "client", 1500)
	l := open(t, Options{PinDir: dir})
	replace(t, l.Maps(), 7, cells{"10.0.0.0/8": drop, "10.1.0.0/16": {PassUntil: pass.PassUntil, DropUntil: drop.DropUntil}})
	a, err := l.Attach("gw")
	must(t, err)
	if a.Mode != ModeNative || !a.Frags || a.Layer3 || a.Fallback != "" || a.Adopted || a.Err != nil || a.Index == 0 {
		t.Errorf("attached as %+v", a)
	}
	client, gw := openWire(t, "client"), openWire(t, "gw")
	for range 10 {
		must(t, client.send(frame("10.2.3.4")))
		must(t, client.send(frame("10.1.3.4")))
		must(t, client.send(frame("192.0.2.9")))
	}
	eventually(t, "packets counted", func() bool {
		return count(t, l.Maps(), "gw", "ipv4", "drop_blacklisted") == 10 &&
			count(t, l.Maps(), "gw", "ipv4", "pass_index") == 20
	})
	got := gw.received()
	want := map[netip.Addr]int{netip.MustParseAddr("10.1.3.4"): 10, good: 10}
	for a := range got {
		if a.Is6() {
			delete(got, a) // the kernel's own router solicitations
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("came through: %v, want %v", got, want)
	}
}

// TestAttachLayer3: packets of a tun device begin with the IP header.
func TestAttachLayer3(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	tun := openTun(t, "tun7", netlink.TUNTAP_MODE_TUN)
	l := open(t, Options{PinDir: dir})
	replace(t, l.Maps(), 1, list)
	a, err := l.Attach("tun7")
	must(t, err)
	if !a.Layer3 {
		t.Errorf("attached as %+v", a)
	}
	t.Logf("tun: %+v", a)
	for _, source := range []netip.Addr{bad, bad6, good} {
		_, err := tun.Write(packet(source))
		must(t, err)
	}
	for _, c := range []struct{ family, reason string }{
		{"ipv4", "drop_blacklisted"}, {"ipv6", "drop_blacklisted"}, {"ipv4", "pass_index"},
	} {
		eventually(t, "counter "+c.family+" "+c.reason, func() bool { return count(t, l.Maps(), "tun7", c.family, c.reason) == 1 })
	}
}

// openTun makes a tun or tap device, up, and returns the file that writes packets into it.
func openTun(t testing.TB, name string, mode netlink.TuntapMode) *os.File {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tun := &netlink.Tuntap{LinkAttrs: attrs, Mode: mode, Queues: 1, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE}
	must(t, netlink.LinkAdd(tun))
	t.Cleanup(func() { _ = tun.Fds[0].Close() })
	up(t, name)
	return tun.Fds[0]
}

func TestAttachGeneric(t *testing.T) {
	g := newGateway(t)
	l := open(t, Options{PinDir: g.pins, Mode: ModeGeneric})
	replace(t, l.Maps(), 1, list)
	a, err := l.Attach("gw")
	must(t, err)
	if a.Mode != ModeGeneric || a.Frags || a.Fallback != "" {
		t.Errorf("attached as %+v", a)
	}
	g.start(t)
	g.check(t, "generic mode")
}

// TestAttachBigMTU: veth takes only the program for fragments there, and says why.
func TestAttachBigMTU(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	veth(t, "gw", "client", 9000)
	l := open(t, Options{PinDir: dir, Mode: ModeNative})
	d, err := findDevice("gw")
	must(t, err)
	why, err := l.try(&remembered{}, d, attempt{ModeNative, false})
	must(t, err)
	if want := "veth: Peer MTU is too large"; !strings.HasPrefix(why, want) {
		t.Errorf("refusal is %q, want %q", why, want)
	}
	a, err := l.Attach("gw")
	must(t, err)
	if a.Mode != ModeNative || !a.Frags {
		t.Errorf("attached as %+v", a)
	}
}

// TestAttachNoNative: a bridge has no native XDP.
func TestAttachNoNative(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bridge0"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	l := open(t, Options{PinDir: dir, Mode: ModeNative})
	_, err := l.Attach("bridge0")
	wantErr(t, err, ErrNativeMode, "bridge", "--mode native-then-generic")
	must(t, l.Close())

	l = open(t, Options{PinDir: dir})
	a, err := l.Attach("bridge0")
	must(t, err)
	if a.Mode != ModeGeneric || !strings.Contains(a.Fallback, "bridge: ") {
		t.Errorf("attached as %+v", a)
	}
	must(t, l.Close())

	// Adopted in a mode that was not asked for: it goes on enforcing, and the error says so.
	l = open(t, Options{PinDir: dir, Mode: ModeNative})
	a, err = l.Attach("bridge0")
	wantErr(t, err, ErrNativeMode, "generic", "portcullis detach bridge0")
	if a.Mode != ModeGeneric || !a.Adopted {
		t.Errorf("adopted as %+v", a)
	}
	before, err := findDevice("bridge0")
	must(t, err)
	again := l.Reconcile()
	after, err := findDevice("bridge0")
	must(t, err)
	if before != after || !errors.Is(again[0].Err, ErrNativeMode) {
		t.Errorf("Reconcile tried again: %+v, was %+v; %+v", after, before, again)
	}
}

func TestAttachErrors(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	up(t, "lo")
	veth(t, "gw", "client", 1500)
	l := open(t, Options{PinDir: dir})
	_, err := l.Attach("eth9")
	wantErr(t, err, ErrNoInterface, "eth9", "client, gw, lo")
	for _, name := range []string{"", "a name that no interface can have", "../control"} {
		_, err = findDevice(name)
		wantErr(t, err, ErrNoInterface)
	}
	other, err := netlink.LinkByName("client")
	must(t, err)
	must(t, netlink.LinkAddAltName(other, "alt0"))
	_, err = findDevice("alt0")
	wantErr(t, err, ErrNoInterface, "another name of client")
	_, err = l.Attach("lo")
	wantErr(t, err, ErrUnsupported, "lo")

	p := foreign(t)
	gw, err := netlink.LinkByName("gw")
	must(t, err)
	must(t, netlink.LinkSetXdpFd(gw, p.FD()))
	_, err = l.Attach("gw")
	d, findErr := findDevice("gw")
	must(t, findErr)
	wantErr(t, err, ErrForeignProgram, fmt.Sprintf("id %d", d.prog), `"somebodys"`, fmt.Sprintf("(pid %d)", os.Getpid()), "ip link set dev gw xdp off")
	if info, err := p.Info(); err != nil {
		t.Fatal(err)
	} else if id, _ := info.ID(); id != d.prog {
		t.Errorf("program %d is attached, it was %d", d.prog, id)
	}
	if got := l.Reconcile(); !errors.Is(got[2].Err, ErrForeignProgram) {
		t.Errorf("Reconcile says %+v", got)
	}
	must(t, netlink.LinkSetXdpFd(gw, -1))
	// The same with a link, which an attach would not replace either.
	ln, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: d.index, Flags: link.XDPDriverMode})
	must(t, err)
	_, err = l.Attach("gw")
	wantErr(t, err, ErrForeignProgram)
	must(t, ln.Close())
	// Once it is gone, Reconcile attaches.
	eventually(t, "attached", func() bool { return l.Reconcile()[2].Err == nil })
}

// foreign loads a program that passes everything.
func foreign(t testing.TB) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebodys", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestReconcileRecreated(t *testing.T) {
	g := newGateway(t)
	l := open(t, Options{PinDir: g.pins})
	replace(t, l.Maps(), 1, list)
	_, err := l.Attach("gw")
	must(t, err)
	g.start(t)
	g.check(t, "attached")
	g.flood.stop()
	dropped := count(t, l.Maps(), "gw", "ipv4", "drop_blacklisted")

	removeLink(t, "gw")
	if got := l.Reconcile()[0]; !errors.Is(got.Err, ErrNoInterface) || got.Index != 0 || got.Mode != "" {
		t.Errorf("deleted: %+v", got)
	}
	veth(t, "gw", "client", 1500)
	got := l.Reconcile()[0]
	if got.Err != nil || got.Mode != ModeNative || got.Index == 0 {
		t.Errorf("made again: %+v", got)
	}
	g.start(t)
	g.check(t, "made again")
	if now := count(t, l.Maps(), "gw", "ipv4", "drop_blacklisted"); now <= dropped {
		t.Errorf("dropped %d, then %d: the counters began anew", dropped, now)
	}
	// Down, up and nothing at all change nothing.
	before, err := findDevice("gw")
	must(t, err)
	l.Reconcile()
	if after, err := findDevice("gw"); err != nil || after != before {
		t.Errorf("attached again without need: %+v, was %+v (%v)", after, before, err)
	}
}

// TestReconcileRenamed: the block holds under the new name, and a new interface of the old name gets its own.
func TestReconcileRenamed(t *testing.T) {
	g := newGateway(t)
	l := open(t, Options{PinDir: g.pins})
	replace(t, l.Maps(), 1, list)
	_, err := l.Attach("gw")
	must(t, err)
	g.start(t)
	renameLink(t, "gw", "lan0")
	if got := l.Reconcile()[0]; !errors.Is(got.Err, ErrNoInterface) {
		t.Errorf("renamed: %+v", got)
	}
	g.check(t, "renamed")
	veth(t, "gw", "other", 1500)
	if got := l.Reconcile()[0]; got.Err != nil || got.Mode != ModeNative {
		t.Errorf("new interface of the old name: %+v", got)
	}
	g.check(t, "renamed, and its name taken")
	if got, err := l.dir.links(); err != nil || fmt.Sprint(got) != "[gw lan0]" {
		t.Errorf("pinned: %v, %v", got, err)
	}
	a, err := l.Attach("lan0")
	if err != nil || !a.Adopted {
		t.Errorf("attached by its new name: %+v, %v", a, err)
	}
	g.check(t, "upgraded under its new name")

	// Names that change places.
	renameLink(t, "gw", "tmp0")
	renameLink(t, "lan0", "gw")
	renameLink(t, "tmp0", "lan0")
	for _, got := range l.Reconcile() {
		if got.Err != nil {
			t.Errorf("names changed places: %+v", got)
		}
	}
	for _, name := range []string{"gw", "lan0"} {
		if a, err := l.Attach(name); err != nil || !a.Adopted {
			t.Errorf("names changed places: %+v, %v", a, err)
		}
	}
	g.check(t, "names changed places")
	for _, name := range []string{"gw", "lan0"} {
		done, err := Detach(g.pins, name)
		if err != nil || len(done) != 1 {
			t.Errorf("detach %s: %v, %v", name, done, err)
		}
		if d, err := findDevice(name); err != nil || d.prog != 0 {
			t.Errorf("detached %s: %+v, %v", name, d, err)
		}
	}
}

// TestReconcileRenamedBack: an interface that gets its name back from one that is gone has its pins, so that counters
// are its own and Detach is not undone.
func TestReconcileRenamedBack(t *testing.T) {
	for _, reconciled := range []bool{true, false} { // between the last rename and Detach
		g := newGateway(t)
		l := open(t, Options{PinDir: g.pins})
		replace(t, l.Maps(), 1, list)
		_, err := l.Attach("gw")
		must(t, err)
		renameLink(t, "gw", "old0")
		l.Reconcile()
		veth(t, "gw", "other", 1500)
		l.Reconcile()
		removeLink(t, "gw")
		renameLink(t, "old0", "gw")
		if reconciled {
			if got := l.Reconcile()[0]; got.Err != nil || got.Mode != ModeNative {
				t.Errorf("renamed back: %+v", got)
			}
			if got, err := l.dir.links(); err != nil || fmt.Sprint(got) != "[gw]" {
				t.Errorf("pinned: %v, %v", got, err)
			}
		}
		done, err := Detach(g.pins, "gw")
		if err != nil || len(done) != 1 {
			t.Errorf("detach: %v, %v", done, err)
		}
		if got := l.Reconcile()[0]; !errors.Is(got.Err, ErrDetached) {
			t.Errorf("detached: %+v", got)
		}
		removeLink(t, "gw")
	}
}

func renameLink(t testing.TB, from, to string) {
	t.Helper()
	l, err := netlink.LinkByName(from)
	must(t, err)
	must(t, netlink.LinkSetDown(l))
	must(t, netlink.LinkSetName(l, to))
	must(t, netlink.LinkSetUp(l))
}

// TestReconcileMoved: an interface in another namespace is another's business once a new one has its name.
func TestReconcileMoved(t *testing.T) {
	g := newGateway(t)
	l := open(t, Options{PinDir: g.pins})
	replace(t, l.Maps(), 1, list)
	_, err := l.Attach("gw")
	must(t, err)
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	there, err := netns.New()
	must(t, err)
	defer there.Close()
	must(t, netns.Set(here))
	gw, err := netlink.LinkByName("gw")
	must(t, err)
	must(t, netlink.LinkSetNsFd(gw, int(there)))

	if got := l.Reconcile()[0]; !errors.Is(got.Err, ErrNoInterface) {
		t.Errorf("moved: %+v", got)
	}
	must(t, netns.Set(there))
	d, err := findDevice("gw")
	must(t, err)
	if d.prog == 0 {
		t.Error("moved: the program is gone")
	}
	must(t, netns.Set(here))
	veth(t, "gw", "other", 1500)
	if got := l.Reconcile()[0]; got.Err != nil || got.Mode != ModeNative {
		t.Errorf("new interface of its name: %+v", got)
	}
}

// TestAttachDotted: VLAN interfaces have dots in their names, which a bpf filesystem refuses.
func TestAttachDotted(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	veth(t, "eth0.100", "client", 1500)
	l := open(t, Options{PinDir: dir})
	_, err := l.Attach("eth0.100")
	must(t, err)
	if _, err := l.Maps().Counters("eth0.100"); err != nil {
		t.Error(err)
	}
	done, err := Detach(dir)
	if err != nil || len(done) != 1 || done[0] != "eth0.100" {
		t.Errorf("detached %v, %v", done, err)
	}
}
