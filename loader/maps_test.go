package loader

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// TestUnprivileged: what writes pinned maps works in a process with no capability that owns the pins.
func TestUnprivileged(t *testing.T) {
	g := newGateway(t)
	l := open(t, Options{PinDir: g.pins})
	_, err := l.Attach("gw")
	must(t, err)
	const nobody = 65534
	must(t, filepath.WalkDir(g.pins, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	}))
	for dir := filepath.Dir(g.pins); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	// The test binary may lie where nobody cannot go: hand it over open.
	self, err := os.Open("/proc/self/exe")
	must(t, err)
	defer self.Close()
	cmd := child(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}, "unprivileged", g.pins)
	cmd.Path = "/proc/self/fd/3"
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if c, found, err := l.Maps().Lookup(bad); err != nil || !found || c != drop {
		t.Errorf("the kernel holds %+v, %v, %v", c, found, err)
	}
	if n := l.Maps().Generation(); n != 22 {
		t.Errorf("generation is %d", n)
	}
	if on, err := l.Maps().Bypass(); err != nil || !on {
		t.Errorf("bypass is %v, %v", on, err)
	}
}

func childUnprivileged(args []string) error {
	if missing := missingCapabilities(); len(missing) != 3 {
		return fmt.Errorf("of three capabilities only %v are missing", missing)
	}
	if _, err := Open(Options{PinDir: args[0]}); !errors.Is(err, ErrNotPermitted) {
		return fmt.Errorf("Open says %w", err)
	}
	m, err := OpenMaps(Options{PinDir: args[0]})
	if err != nil {
		return err
	}
	big := func(yield func(netip.Prefix, compile.Cell) bool) {
		for i := range 100_000 {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}), 32), drop) {
				return
			}
		}
	}
	_, countErr := m.Counters("gw")
	p := netip.MustParsePrefix("10.0.0.66/32")
	return errors.Join(
		m.Replace(context.Background(), 20, big, 0, nil),
		m.Replace(context.Background(), 21, cells{"10.0.0.0/24": pass}.all(), 0, nil),
		m.Apply(22, []compile.Rule{{Prefix: p, Cell: drop, New: true}}),
		SetBypass(args[0], true), m.SetFirewall(false), countErr, m.Close(),
	)
}

func TestOpenErrors(t *testing.T) {
	dir := pinsFor(t)
	_, err := OpenMaps(Options{PinDir: dir})
	wantErr(t, err, ErrNotLoaded, dir)
	_, err = Detach(dir)
	wantErr(t, err, ErrNotLoaded, dir)
	_, err = Open(Options{PinDir: filepath.Join(t.TempDir(), "pins")})
	wantErr(t, err, ErrNoBPFFS, "mount -t bpf")
	_, err = Open(Options{PinDir: filepath.Dir(dir) + "/a.b"})
	wantErr(t, err, ErrNoBPFFS, "dot")
	_, err = Open(Options{PinDir: dir, Mode: "fast"})
	wantErr(t, err, ErrUnsupported, `"fast"`)
	wantErr(t, tooOld("5.10.0-28-amd64"), ErrKernelTooOld, "5.10.0-28-amd64", "5.15")
	must(t, tooOld("5.15.0"))
	must(t, tooOld("6.1.0-rc1+"))

	l := open(t, Options{PinDir: dir})
	_, err = Open(Options{PinDir: dir})
	wantErr(t, err, ErrLocked, dir, "--pin-dir")
	out, err := child(t, nil, "open", dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("another process: %v: %s", err, out)
	}
	m, err := OpenMaps(Options{PinDir: dir}) // the other half needs no lock
	must(t, err)
	must(t, m.Close())
	must(t, m.Close())
	if _, err := m.Bypass(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	_, err = l.Maps().Counters("gw")
	wantErr(t, err, ErrNotLoaded, "gw")
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o750 {
		t.Errorf("pin directory has mode %v", info.Mode())
	}
}

// TestMountsBPFFS: in a mount namespace without one, Open mounts the filesystem where it belongs.
func TestMountsBPFFS(t *testing.T) {
	needRoot(t)
	cmd := child(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Unshareflags: unix.CLONE_NEWNS}, "mount")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func init() { children["mount"] = childMount }

func childMount([]string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// As ip netns exec does.
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if onBPFFS(defaultBPFFS) {
		return errors.New("there is a bpf filesystem already")
	}
	l, err := Open(Options{})
	if err != nil {
		return err
	}
	if !exists(DefaultPinDir + "/control") {
		return errors.New("no control pin")
	}
	return l.Close()
}

// TestReplace replaces lists under a reader: it must see the old or the new one, whole.
func TestReplace(t *testing.T) {
	l := open(t, Options{PinDir: pinsFor(t)})
	m := l.Maps()
	for generation := range uint64(20) {
		// Each list drops or passes everything, by half a million addresses' covering prefix and a hundred holes.
		c := cells{"0.0.0.0/0": drop, "::/0": drop}
		if generation%2 == 1 {
			c = cells{"0.0.0.0/0": pass, "::/0": pass, "10.0.0.0/8": pass}
		}
		var progress int
		must(t, m.Replace(context.Background(), generation, c.all(), 0, func(n int) { progress = n }))
		if progress != len(c) {
			t.Errorf("progress ended at %d of %d", progress, len(c))
		}
		expectEmpty(t, m)
		if m.Generation() != generation {
			t.Errorf("generation is %d, want %d", m.Generation(), generation)
		}
		for _, a := range []netip.Addr{bad, good, bad6} {
			if got, found, err := m.Lookup(a); err != nil || !found || got != c["0.0.0.0/0"] {
				t.Errorf("%s: %+v, %v, %v", a, got, found, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	failing := func(yield func(netip.Prefix, compile.Cell) bool) {
		yield(netip.MustParsePrefix("10.0.0.0/8"), drop)
		cancel()
	}
	err := m.Replace(ctx, 99, failing, 1, nil)
	wantErr(t, err, context.Canceled)
	expectEmpty(t, m)
	if got, _, err := m.Lookup(bad); err != nil || got != pass || m.Generation() != 19 {
		t.Errorf("after a failed replacement: %+v, %v, generation %d", got, err, m.Generation())
	}
}

// TestReplaceEmptiesIdle: what a daemon killed in the middle left does not come back.
func TestReplaceEmptiesIdle(t *testing.T) {
	l := open(t, Options{PinDir: pinsFor(t)})
	m := l.Maps()
	idle := &m.sides[1-m.words.active()]
	p := netip.MustParsePrefix("10.0.0.66/32")
	must(t, idle.v4.put([]bpf.KeyV4{keyV4(p)}, []bpf.Cell{m.boot.cell(p, drop)}))
	replace(t, m, 1, cells{"192.0.2.0/24": drop})
	if got, found, err := m.Lookup(bad); err != nil || found {
		t.Errorf("%+v, %v, %v", got, found, err)
	}
}

// TestNext: a walk by any number at a time meets every prefix of both families once.
func TestNext(t *testing.T) {
	l := open(t, Options{PinDir: pinsFor(t)})
	m := l.Maps()
	c := cells{"10.0.0.0/8": drop, "10.0.0.0/32": drop, "0.0.0.0/0": drop, "255.255.255.255/32": drop, "::/0": drop, "2001:db8::/64": drop, "2001:db8::/128": drop}
	for i := range 300 {
		c[fmt.Sprintf("10.0.%d.0/%d", i%256, 24+i/100)] = drop
		c[fmt.Sprintf("2001:db8:%x::/48", i)] = drop
	}
	replace(t, m, 1, c)
	for _, n := range []int{1, 7, 64, 10000} {
		met := make(map[netip.Prefix]int)
		for after := (netip.Prefix{}); ; {
			some, err := m.Next(after, n)
			must(t, err)
			for _, p := range some {
				met[p]++
				after = p
			}
			if len(some) < n {
				break
			}
		}
		want := 0
		for p := range c.all() {
			if want++; met[p] != 1 {
				t.Errorf("by %d: %s met %d times", n, p, met[p])
			}
		}
		if len(met) != want {
			t.Errorf("by %d: met %d prefixes, want %d", n, len(met), want)
		}
	}
}

// TestFull: what does not fit is refused before anything changes.
func TestFull(t *testing.T) {
	l := open(t, Options{PinDir: pinsFor(t), Capacity: 4})
	m := l.Maps()
	host := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)
	}
	hosts := func(n int) iter.Seq2[netip.Prefix, compile.Cell] {
		return func(yield func(netip.Prefix, compile.Cell) bool) {
			for i := range n {
				if !yield(host(i), drop) {
					return
				}
			}
		}
	}
	must(t, m.Replace(context.Background(), 1, hosts(3), 0, nil))
	wantErr(t, m.Replace(context.Background(), 2, hosts(5), 5, nil), ErrFull)
	expectEmpty(t, m)
	put := func(i int) compile.Rule { return compile.Rule{Prefix: host(i), Cell: drop, New: true} }
	wantErr(t, m.Apply(3, []compile.Rule{put(10), put(11)}), ErrFull)
	for i, want := range map[int]bool{0: true, 1: true, 2: true, 10: false, 11: false} {
		if _, found, err := m.Lookup(host(i).Addr()); err != nil || found != want {
			t.Errorf("host %d: found %v, %v", i, found, err)
		}
	}
	if m.Generation() != 1 {
		t.Errorf("generation is %d", m.Generation())
	}
	must(t, m.Apply(4, []compile.Rule{put(10)}))
	must(t, m.Apply(5, []compile.Rule{{Prefix: host(10), Cell: pass}}))                                   // no new room
	must(t, m.Apply(6, []compile.Rule{{Prefix: host(0), Remove: true}, {Prefix: host(1), Remove: true}})) // makes room
	must(t, m.Apply(7, []compile.Rule{put(20), put(21)}))
	wantErr(t, m.Apply(8, []compile.Rule{put(22)}), ErrFull)
	// A process that has not counted hears it from the kernel.
	other, err := OpenMaps(Options{PinDir: l.dir.path})
	must(t, err)
	defer other.Close()
	wantErr(t, other.Apply(9, []compile.Rule{put(22)}), ErrFull)
	must(t, m.Apply(10, []compile.Rule{{Prefix: host(99), Remove: true}})) // not there
}

// TestPatiently: what passes by itself is waited for, what does not is said.
func TestPatiently(t *testing.T) {
	transient := []error{unix.ENOMEM, unix.EBUSY, unix.EDEADLK, unix.ETIMEDOUT, unix.EAGAIN}
	calls := 0
	must(t, patiently(func() error {
		if calls++; calls <= len(transient) {
			return fmt.Errorf("update: %w", transient[calls-1])
		}
		return nil
	}))
	if calls != len(transient)+1 {
		t.Errorf("called %d times", calls)
	}
	wantErr(t, patiently(func() error { calls++; return unix.ENOSPC }), unix.ENOSPC)
	if calls != len(transient)+2 {
		t.Errorf("called %d times", calls)
	}
	wantErr(t, patiently(func() error { return unix.ENOMEM }), unix.ENOMEM)
}

// TestExpiry: a block ends on time with nobody to end it, and a whitelist entry inside one too.
func TestExpiry(t *testing.T) {
	g := newGateway(t)
	l, err := Open(Options{PinDir: g.pins})
	must(t, err)
	end := time.Now().Add(2 * time.Second).Truncate(time.Second)
	replace(t, l.Maps(), 1, cells{
		"10.0.0.0/24":       {DropUntil: end.Unix(), Source: lists.ABS},
		"2001:db8:66::/48":  {DropUntil: compile.Never, PassUntil: end.Unix(), Source: lists.Manual},
		"2001:db8:67::1/64": {PassUntil: 1, DropUntil: 1},
	})
	if got, _, err := l.Maps().Lookup(bad); err != nil || got.DropUntil != end.Unix() || got.Source != lists.ABS {
		t.Errorf("holds %+v, %v; want until %d", got, err, end.Unix())
	}
	_, err = l.Attach("gw")
	must(t, err)
	must(t, l.Close())
	g.start(t)
	var changed4, changed6 time.Time
	eventually(t, "both ends", func() bool {
		got := g.gw.received()
		if got[bad] > 0 && changed4.IsZero() {
			changed4 = time.Now()
		}
		if got[good] > 10 && got[bad6] == 0 && changed6.IsZero() {
			changed6 = time.Now()
		}
		return !changed4.IsZero() && !changed6.IsZero()
	})
	for _, at := range []time.Time{changed4, changed6} {
		if late := at.Sub(end); late < 0 || late > time.Second {
			t.Errorf("changed %v after the end", late)
		}
	}
}

// TestSwitches: bypass and firewall are words of their own, whoever writes them.
func TestSwitches(t *testing.T) {
	g := newGateway(t)
	l := open(t, Options{PinDir: g.pins})
	m := l.Maps()
	replace(t, m, 1, list)
	_, err := l.Attach("gw")
	must(t, err)
	g.start(t)
	passes := func(what, reason string) {
		t.Helper()
		before := count(t, m, "gw", "other", reason)
		g.gw.received()
		eventually(t, what, func() bool { return g.gw.received()[bad] > 0 && count(t, m, "gw", "other", reason) > before })
	}
	g.check(t, "attached")
	must(t, SetBypass(g.pins, true))
	passes("bypass", "pass_bypass")
	must(t, m.SetFirewall(false))
	must(t, SetBypass(g.pins, false))
	passes("firewall off", "pass_firewall_off")
	must(t, m.SetFirewall(true))
	g.flood.more(t, 200)
	g.gw.received()
	g.check(t, "on again")

	var writers sync.WaitGroup
	for _, f := range []func(i int) error{
		func(i int) error { return SetBypass(g.pins, i%2 == 0) },
		func(i int) error { return m.SetFirewall(i%2 == 0) },
		func(i int) error { return m.Replace(context.Background(), uint64(i), list.all(), 0, nil) },
		func(i int) error { return m.Apply(uint64(i), nil) },
	} {
		writers.Go(func() {
			for i := range 51 {
				if err := f(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if on, err := m.Bypass(); err != nil || !on || m.words.FirewallOff != 0 || m.Generation() != 50 || m.words.Layout != bpf.Layout {
		t.Errorf("words are %+v, %v", *m.words, err)
	}
}

// TestNothingLeaks: file descriptors of this process, and pins.
func TestNothingLeaks(t *testing.T) {
	g := newGateway(t)
	cycle := func() {
		l, err := Open(Options{PinDir: g.pins})
		must(t, err)
		replace(t, l.Maps(), 1, list)
		_, err = l.Attach("gw")
		must(t, err)
		_, err = l.Attach("nobody0")
		wantErr(t, err, ErrNoInterface)
		l.Reconcile()
		_, err = l.Maps().Counters("gw")
		must(t, err)
		if mappings(t) == 0 {
			t.Error("no mapping of the control map is found")
		}
		must(t, l.Close())
	}
	cycle()
	runtime.GC()
	before, goroutines, mapped := openFiles(t), runtime.NumGoroutine(), mappings(t)
	for range 5 {
		cycle()
	}
	expectPins(t, g.pins)
	done, err := Detach(g.pins)
	if err != nil || len(done) != 1 {
		t.Errorf("detached %v, %v", done, err)
	}
	if exists(g.pins) {
		t.Error("the pin directory is left")
	}
	if n := runtime.NumGoroutine(); n != goroutines {
		t.Errorf("%d goroutines run, there were %d", n, goroutines)
	}
	eventually(t, "mappings of maps gone", func() bool {
		runtime.GC() // package ebpf leaves those of a program's constants to it
		return mappings(t) <= mapped
	})
	if after := openFiles(t); after != before {
		out, _ := exec.Command("ls", "-l", fmt.Sprintf("/proc/%d/fd", os.Getpid())).Output()
		t.Errorf("%d files are open, there were %d: %s", after, before, out)
	}
}

// mappings counts the maps in this process's memory.
func mappings(t *testing.T) int {
	t.Helper()
	all, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	return strings.Count(string(all), "bpf-map")
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(fds)
}

// TestWatch: an interface that changes is noticed, and the watch ends with its context.
func TestWatch(t *testing.T) {
	enterNamespace(t)
	veth(t, "gw", "client", 1500)
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	changes := make(chan error, 1)
	go func() { // toggles until it is noticed: there is no telling when the watch has begun
		runtime.LockOSThread() // and never unlocks: the thread ends in the other namespace
		err := netns.Set(here)
		for i := 0; err == nil && ctx.Err() == nil; i++ {
			var l netlink.Link
			if l, err = netlink.LinkByName("gw"); err == nil {
				err = netlink.LinkSetMTU(l, 1400+i%2)
			}
		}
		changes <- err
	}()
	seen := 0
	err = Watch(ctx, func() {
		seen++
		cancel()
	})
	wantErr(t, err, context.Canceled)
	must(t, <-changes)
	if seen == 0 {
		t.Error("nothing was noticed in 10 s")
	}
}
