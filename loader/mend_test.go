package loader

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/portcullis/portcullis/bpf"
)

// TestNamesInACircle: interfaces whose names went round have their own pins afterwards, also if the process that renamed
// pins died in the middle.
func TestNamesInACircle(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	names := []string{"one0", "two0", "three0"}
	l := open(t, Options{PinDir: dir})
	replace(t, l.Maps(), 1, list)
	for _, name := range names {
		veth(t, name, "peer-"+name, 1500)
		_, err := l.Attach(name)
		must(t, err)
	}
	// Each pin must name the program on the interface of its name.
	expectOwn := func(when string) {
		t.Helper()
		for _, got := range l.Reconcile() {
			if got.Err != nil || got.Mode != ModeNative {
				t.Errorf("%s: %+v", when, got)
			}
		}
		all, err := l.dir.inspect()
		must(t, err)
		for _, p := range all {
			d, err := findDevice(p.pin)
			if err != nil || d.prog != p.prog || !exists(l.dir.prog(p.pin)) || !exists(l.dir.counters(p.pin)) {
				t.Errorf("%s: pinned as %s is program %d, on the interface is %d (%v)", when, p.pin, p.prog, d.prog, err)
			}
		}
		if len(all) != len(names) {
			t.Errorf("%s: pinned are %+v", when, all)
		}
	}
	expectOwn("attached")
	rotate := func() {
		renameLink(t, names[0], "spare0")
		for i, name := range names[1:] {
			renameLink(t, name, names[i])
		}
		renameLink(t, "spare0", names[len(names)-1])
	}
	rotate()
	expectOwn("three in a circle")
	rotate()
	must(t, l.dir.renameInterface(names[0], "/"+names[0])) // as a process leaves it that dies
	expectOwn("three in a circle, after a crash")
	renameLink(t, names[0], "spare0")
	renameLink(t, names[1], names[0])
	renameLink(t, "spare0", names[1])
	expectOwn("two changed places")
}

// TestKindsChangePlaces: what is told of an interface goes with the device, not with the name.
func TestKindsChangePlaces(t *testing.T) {
	dir := pinsFor(t)
	enterNamespace(t)
	veth(t, "gw", "client", 1500)
	openTun(t, "tun7", netlink.TUNTAP_MODE_TUN)
	l := open(t, Options{PinDir: dir})
	replace(t, l.Maps(), 1, list)
	for _, name := range []string{"gw", "tun7"} {
		_, err := l.Attach(name)
		must(t, err)
	}
	was := l.Reconcile()
	if was[0].Layer3 || was[0].Mode != ModeNative || !was[1].Layer3 || was[1].Fallback == "" {
		t.Fatalf("attached as %+v", was)
	}
	change := func(reconcile func()) {
		for _, names := range [][2]string{{"gw", "spare0"}, {"tun7", "gw"}, {"spare0", "tun7"}} {
			renameLink(t, names[0], names[1])
			reconcile()
		}
	}
	change(func() {})
	got := l.Reconcile()
	got[0].Interface, got[1].Interface = got[1].Interface, got[0].Interface
	if got[0] != was[1] || got[1] != was[0] {
		t.Errorf("changed places: %+v, was %+v", got, was)
	}
	change(func() { l.Reconcile() }) // back, and each step is seen
	got = l.Reconcile()
	for i := range got {
		got[i].Adopted = false // a program was exchanged
		if got[i] != was[i] {
			t.Errorf("changed places again: %+v, was %+v", got[i], was[i])
		}
	}
}

// TestPinsRemovedByHand: what somebody removes from the pin directory is there again, and judges, after Reconcile.
func TestPinsRemovedByHand(t *testing.T) {
	for what, remove := range map[string]func(dir string) error{
		"link":     func(dir string) error { return os.Remove(filepath.Join(dir, "link_gw")) },
		"counters": func(dir string) error { return os.Remove(filepath.Join(dir, "counters_gw")) },
		"prog":     func(dir string) error { return os.Remove(filepath.Join(dir, "prog_gw")) },
		"a trie":   func(dir string) error { return os.Remove(filepath.Join(dir, bpf.MapV4A)) },
		"control":  func(dir string) error { return os.Remove(filepath.Join(dir, "control")) },
		"all":      os.RemoveAll,
	} {
		t.Run(what, func(t *testing.T) {
			g := newGateway(t)
			l := open(t, Options{PinDir: g.pins})
			replace(t, l.Maps(), 1, list)
			_, err := l.Attach("gw")
			must(t, err)
			g.start(t)
			g.check(t, "attached")
			must(t, remove(g.pins))
			eventually(t, "attached again", func() bool {
				got := l.Reconcile()[0]
				return got.Err == nil && got.Mode == ModeNative
			})
			g.flood.more(t, 200) // what came through before is on its way
			g.gw.received()
			g.check(t, "pins are back")
			expectPins(t, g.pins)
			_, err = Open(Options{PinDir: g.pins})
			wantErr(t, err, ErrLocked)
			must(t, SetBypass(g.pins, true))
			if on, err := l.Maps().Bypass(); err != nil || !on {
				t.Errorf("what is pinned is not what the daemon has: bypass %v, %v", on, err)
			}
		})
	}
}

// TestDetachMark: a mark of an earlier Detach does not outlive the next Attach, nor the last interface.
func TestDetachMark(t *testing.T) {
	g := newGateway(t)
	l := open(t, Options{PinDir: g.pins})
	attach := func() {
		t.Helper()
		_, err := l.Attach("gw")
		must(t, err)
	}
	marks := func() int {
		names, err := l.dir.names("detached_")
		must(t, err)
		return len(names)
	}
	attach()
	_, err := Detach(g.pins, "gw")
	must(t, err)
	if got := l.Reconcile()[0]; !errors.Is(got.Err, ErrDetached) || marks() != 1 {
		t.Errorf("detached: %+v, %d marks", got, marks())
	}
	attach()
	if marks() != 0 {
		t.Error("the mark is left after Attach")
	}
	must(t, os.Remove(l.dir.link("gw")))
	eventually(t, "attached again", func() bool { // the kernel ends a link a moment after its last pin went
		got := l.Reconcile()[0]
		return got.Err == nil && got.Mode == ModeNative
	})
	entries, err := os.ReadDir(g.pins)
	must(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "detached_") {
			t.Errorf("%s is left", e.Name())
		}
	}
}
