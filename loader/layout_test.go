package loader

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/portcullis/portcullis/bpf"
)

// TestUpgradeFromLayout1 takes over from a daemon of the first layout, whose program and maps are of other shapes: no
// index, fewer counters, a shorter control. No listed frame may come through, and no other may be dropped.
func TestUpgradeFromLayout1(t *testing.T) {
	for _, bypass := range []bool{false, true} {
		t.Run(fmt.Sprintf("bypass %v", bypass), func(t *testing.T) {
			g := newGateway(t)
			oldest(t, g.pins, "gw", 41)
			g.start(t)
			g.check(t, "the old program")
			must(t, SetBypass(g.pins, bypass))

			l := open(t, Options{PinDir: g.pins})
			if !l.staged || l.Enforced() != 41 || l.Maps().Generation() != 0 {
				t.Errorf("staged %v, enforced generation %d, new maps have %d", l.staged, l.Enforced(), l.Maps().Generation())
			}
			replace(t, l.Maps(), 42, list)
			a, err := l.Attach("gw")
			must(t, err)
			if !a.Adopted || !a.Frags || a.Mode != ModeNative || l.staged || l.Enforced() != 42 {
				t.Errorf("attached as %+v, enforced generation %d", a, l.Enforced())
			}
			expectPins(t, g.pins)
			if on, err := l.Maps().Bypass(); err != nil || on != bypass {
				t.Errorf("bypass is %v (%v), it was %v", on, err, bypass)
			}
			if bypass {
				return
			}
			g.check(t, "taken over")
			all, err := l.Maps().Counters("gw")
			must(t, err)
			for _, c := range all {
				if c.Packets > 0 && c.Reason != "drop_blacklisted" && c.Reason != "pass_index" && c.Family != "ipv6" && c.Family != "other" {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}

// oldest does what a daemon of the first layout did: testdata/layout1.o is its program.
func oldest(t testing.TB, pins, iface string, generation uint64) {
	t.Helper()
	must(t, os.MkdirAll(pins, 0o750))
	spec, err := ebpf.LoadCollectionSpec(filepath.Join("testdata", "layout1.o"))
	must(t, err)
	spec.Programs = map[string]*ebpf.ProgramSpec{bpf.ProgEthFrags: spec.Programs[bpf.ProgEthFrags]}
	for _, name := range trieNames {
		spec.Maps[name].MaxEntries = 1000
	}
	c, err := ebpf.NewCollection(spec)
	must(t, err)
	defer c.Close()
	words := make([]byte, c.Maps[bpf.MapControl].ValueSize())
	binary.NativeEndian.PutUint32(words, 1)
	binary.NativeEndian.PutUint64(words[unsafe.Offsetof(commonWords{}.Generation):], generation)
	must(t, c.Maps[bpf.MapControl].Put(uint32(0), words))
	for p, cell := range list.all() {
		value := make([]byte, 24) // pass_until, drop_until, source
		binary.NativeEndian.PutUint64(value[8:], clock(bootTime).deadline(cell.DropUntil))
		if p.Addr().Is4() {
			must(t, c.Maps[bpf.MapV4A].Put(keyV4(p), value))
		} else {
			must(t, c.Maps[bpf.MapV6A].Put(keyV6(p), value))
		}
	}
	d, err := findDevice(iface)
	must(t, err)
	ln, err := link.AttachXDP(link.XDPOptions{Program: c.Programs[bpf.ProgEthFrags], Interface: d.index, Flags: link.XDPDriverMode})
	must(t, err)
	defer ln.Close()
	for _, name := range append(trieNames[:], bpf.MapControl) {
		must(t, c.Maps[name].Pin(filepath.Join(pins, name)))
	}
	must(t, c.Maps[bpf.MapCounters].Pin(filepath.Join(pins, "counters_"+iface)))
	must(t, c.Programs[bpf.ProgEthFrags].Pin(filepath.Join(pins, "prog_"+iface)))
	must(t, ln.Pin(filepath.Join(pins, "link_"+iface)))
}

// TestCommonWords: every layout must keep these where they are.
func TestCommonWords(t *testing.T) {
	var now controlWords
	var ever commonWords
	for _, w := range []struct {
		name      string
		now, ever uintptr
	}{
		{"layout", unsafe.Offsetof(now.Layout), unsafe.Offsetof(ever.Layout)},
		{"active", unsafe.Offsetof(now.Active), unsafe.Offsetof(ever.Active)},
		{"bypass", unsafe.Offsetof(now.Bypass), unsafe.Offsetof(ever.Bypass)},
		{"firewall_off", unsafe.Offsetof(now.FirewallOff), unsafe.Offsetof(ever.FirewallOff)},
		{"generation", unsafe.Offsetof(now.Generation), unsafe.Offsetof(ever.Generation)},
	} {
		if w.now != w.ever {
			t.Errorf("control.%s is at %d, a build of another layout looks for it at %d", w.name, w.now, w.ever)
		}
	}
	if unsafe.Sizeof(ever) != 24 {
		t.Errorf("common words take %d bytes, layout 1 has 24", unsafe.Sizeof(ever))
	}
}
