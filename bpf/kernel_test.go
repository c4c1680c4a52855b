package bpf

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// entry is what user space puts into a trie.
type entry struct {
	prefix string
	cell   Cell
}

// tallies are all counters of the program, summed over CPUs, by [Way].
type tallies [Families * int(Reasons)]Count

// kernel is the loaded program with maps of its own, attached to nothing.
type kernel struct {
	*ebpf.Collection
	frags  bool          // the kernel takes xdp.frags programs (5.18)
	anyCut bool          // test runs take any size of the linear part (6.18)
	cutter *ebpf.Map     // else: how much a cutter takes off the front
	cut    *ebpf.Program // cuts, then runs the program in tails
	tails  *ebpf.Map
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

func load(t testing.TB) *kernel {
	t.Helper()
	return loadMode(t, ModeLPM)
}

func loadMode(t testing.TB, mode uint32, change ...func(*ebpf.CollectionSpec) error) *kernel {
	t.Helper()
	needRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil { // before 5.11 maps count as locked memory
		t.Fatal(err)
	}
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables[VarMode].Set(mode); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		if err := f(spec); err != nil {
			t.Fatal(err)
		}
	}
	k := &kernel{frags: true}
	k.Collection, err = ebpf.NewCollection(spec)
	if err != nil && kernelBefore(t, 5, 18) {
		k.frags = false
		delete(spec.Programs, ProgEthFrags)
		delete(spec.Programs, ProgL3Frags)
		k.Collection, err = ebpf.NewCollection(spec)
	}
	if err != nil {
		t.Fatalf("load program: %+v", err)
	}
	t.Cleanup(k.Close)
	k.set(t, Control{Layout: Layout})
	if k.frags {
		k.probeCut(t)
	}
	return k
}

func kernelBefore(t testing.TB, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var v [2]int
	for i, field := range strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)[:2] {
		for _, c := range field {
			if c < '0' || c > '9' {
				break
			}
			v[i] = v[i]*10 + int(c-'0')
		}
	}
	return v[0] < major || v[0] == major && v[1] < minor
}

// set writes the control words; the tries that are not named by Active stay as they are.
func (k *kernel) set(t testing.TB, c Control) {
	t.Helper()
	if err := k.Maps[MapControl].Put(uint32(0), c); err != nil {
		t.Fatal(err)
	}
}

// fill makes both tries of a side (0 = a, 1 = b) hold exactly the entries.
func (k *kernel) fill(t testing.TB, side int, entries ...entry) {
	t.Helper()
	v4, v6 := k.Maps[MapV4A], k.Maps[MapV6A]
	if side == 1 {
		v4, v6 = k.Maps[MapV4B], k.Maps[MapV6B]
	}
	empty[KeyV4](t, v4)
	empty[KeyV6](t, v6)
	for _, e := range entries {
		p := netip.MustParsePrefix(e.prefix)
		if p != p.Masked() {
			t.Fatalf("prefix %s has host bits", p)
		}
		var err error
		if p.Addr().Is4() {
			err = v4.Put(KeyV4{Prefixlen: uint32(p.Bits()), Addr: p.Addr().As4()}, e.cell)
		} else {
			err = v6.Put(KeyV6{Prefixlen: uint32(p.Bits()), Addr: p.Addr().As16()}, e.cell)
		}
		if err != nil {
			t.Fatalf("put %s: %v", p, err)
		}
	}
}

func empty[K KeyV4 | KeyV6](t testing.TB, m *ebpf.Map) {
	t.Helper()
	var key K
	for {
		err := m.NextKey(nil, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return
		}
		if err == nil {
			err = m.Delete(key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (k *kernel) tallies(t testing.TB) (sum tallies) {
	t.Helper()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	var cursor ebpf.MapBatchCursor
	keys, values := make([]uint32, len(sum)), make([]Count, len(sum)*cpus)
	n, err := k.Maps[MapCounters].BatchLookup(&cursor, keys, values, nil)
	if errors.Is(err, ebpf.ErrNotSupported) { // before 5.13, one by one
		for n = 0; n < len(sum); n++ {
			keys[n] = uint32(n)
			if err := k.Maps[MapCounters].Lookup(keys[n], values[n*cpus:(n+1)*cpus]); err != nil {
				t.Fatal(err)
			}
		}
		err = nil
	}
	if n != len(sum) || err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatalf("read counters: %d, %v", n, err)
	}
	for i, key := range keys {
		for _, c := range values[i*cpus : (i+1)*cpus] {
			sum[key].Packets += c.Packets
			sum[key].Bytes += c.Bytes
		}
	}
	return sum
}

// xdpMD is struct xdp_md as a test run takes it: DataEnd is the end of the linear part.
type xdpMD struct{ Data, DataEnd, DataMeta, Ifindex, Queue, Egress uint32 }

const (
	minRun    = 14               // a test run takes no shorter packet; TestTun has them
	linearMax = 4096 - 256 - 320 // a test run puts what goes beyond into fragments
)

// run gives the frame to a program and returns its action. Only the first linear bytes are directly readable in the
// Frags programs; -1 puts no fragment boundary inside. It reports false if this kernel cannot run that.
func (k *kernel) run(t testing.TB, prog string, frame []byte, linear int) (action uint32, ok bool) {
	t.Helper()
	p := k.Programs[prog]
	switch {
	case len(frame) < minRun:
		return 0, false
	case linear < 0 || linear >= len(frame):
		return k.call(t, p, &ebpf.RunOptions{Data: frame}), true
	case k.anyCut:
		return k.call(t, p, &ebpf.RunOptions{Data: frame, Context: xdpMD{DataEnd: uint32(linear)}}), true
	case linear < minRun:
		return 0, false
	}
	off := linearMax - linear
	if err := errors.Join(k.cutter.Put(uint32(0), uint32(off)), k.tails.Put(uint32(0), p)); err != nil {
		t.Fatal(err)
	}
	return k.call(t, k.cut, &ebpf.RunOptions{Data: append(make([]byte, off), frame...)}), true
}

func (k *kernel) call(t testing.TB, p *ebpf.Program, o *ebpf.RunOptions) uint32 {
	t.Helper()
	action, err := p.Run(o)
	if err != nil {
		t.Fatalf("run %s on %d bytes (%+v): %v", p, len(o.Data), o.Context, err)
	}
	return action
}

// probeCut finds out how to place a fragment boundary: by the test run's context since 6.18; before, by a program
// that takes bytes off the front of a page and a bit, so that as many of the linear part remain as are wanted.
func (k *kernel) probeCut(t testing.TB) {
	t.Helper()
	_, err := k.Programs[ProgEthFrags].Run(&ebpf.RunOptions{Data: make([]byte, 64), Context: xdpMD{DataEnd: 20}})
	k.anyCut = err == nil
	if k.anyCut {
		return
	}
	k.cutter, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.cutter.Close() })
	k.tails, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.tails.Close() })
	k.cut, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "cut", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "GPL", Flags: unix.BPF_F_XDP_HAS_FRAGS,
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, k.cutter.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.LoadMem(asm.R2, asm.R0, 0, asm.Word),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.FnXdpAdjustHead.Call(),
			asm.JNE.Imm(asm.R0, 0, "out"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.LoadMapPtr(asm.R2, k.tails.FD()),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnTailCall.Call(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("load cutter: %+v", err)
	}
	t.Cleanup(func() { k.cut.Close() })
}

// bootNow is the clock that deadlines are on.
func bootNow(t testing.TB) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

const hour = uint64(time.Hour)
