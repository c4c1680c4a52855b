package loader

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader/compile"
)

// TestAdopt restarts and upgrades the daemon under traffic: with the same maps, with maps of another layout, and
// with maps of another capacity. No listed frame may come through.
func TestAdopt(t *testing.T) {
	g := newGateway(t)
	l, err := Open(Options{PinDir: g.pins})
	must(t, err)
	replace(t, l.Maps(), 5, list)
	_, err = l.Attach("gw")
	must(t, err)
	g.start(t)
	g.check(t, "attached")
	must(t, l.Maps().SetFirewall(true))
	must(t, l.Close())
	g.check(t, "closed")

	const layout2 = bpf.Layout + 1
	var dropped uint64
	for i, o := range []Options{{}, {}, {Capacity: 1000}, {Capacity: 1000}, {layout: layout2}, {layout: layout2}, {}} {
		when := fmt.Sprintf("daemon %d", i+2)
		o.PinDir = g.pins
		l, err := Open(o)
		must(t, err)
		fresh := i == 2 || i == 4 || i == 6 // other maps than before
		if l.staged != fresh {
			t.Errorf("%s: staged is %v", when, l.staged)
		}
		if want := uint64(5 + i); !fresh && l.Maps().Generation() != want {
			t.Errorf("%s: adopted generation %d, want %d", when, l.Maps().Generation(), want)
		}
		g.check(t, when+" opened")
		replace(t, l.Maps(), uint64(6+i), list)
		g.check(t, when+" replaced")
		a, err := l.Attach("gw")
		must(t, err)
		if !a.Adopted || a.Mode != ModeNative || !a.Frags || l.staged {
			t.Errorf("%s: attached as %+v, staged %v", when, a, l.staged)
		}
		g.check(t, when+" attached")
		now := count(t, l.Maps(), "gw", "ipv4", "drop_blacklisted")
		if now <= dropped {
			t.Errorf("%s: dropped %d, then %d", when, dropped, now)
		}
		dropped = now
		must(t, l.Close())
		if _, err := os.Stat(l.dir.stagingMaps()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: staging directory is left: %v", when, err)
		}
		g.check(t, when+" closed")
	}
	// The other build's maps are not for this one.
	_, err = OpenMaps(Options{PinDir: g.pins, layout: layout2})
	wantErr(t, err, ErrLayout, fmt.Sprintf("layout %d", bpf.Layout), fmt.Sprintf("this build has %d", bpf.Layout+1))
}

// TestTakeOverAll: a daemon with maps of its own takes over the interfaces that it is not told about, too; and one
// of the old build takes them back from a daemon that died before it had published its maps.
func TestTakeOverAll(t *testing.T) {
	g := newGateway(t)
	veth(t, "gw2", "client2", 1500)
	l, err := Open(Options{PinDir: g.pins})
	must(t, err)
	replace(t, l.Maps(), 1, list)
	for _, name := range []string{"gw", "gw2"} {
		_, err = l.Attach(name)
		must(t, err)
	}
	must(t, l.Close())
	g.start(t)

	died := errors.New("died")
	o := Options{PinDir: g.pins, layout: bpf.Layout + 1, step: func(step string) error {
		if step == "remove old control" {
			return died
		}
		return nil
	}}
	l, err = Open(o)
	must(t, err)
	replace(t, l.Maps(), 2, list)
	_, err = l.Attach("gw2")
	wantErr(t, err, died)
	// A real death leaves the staging directory: Close would tidy up.
	l.staged = false
	must(t, l.Close())
	g.check(t, "died before publishing")

	l, err = Open(Options{PinDir: g.pins})
	must(t, err)
	defer l.Close()
	if l.staged {
		t.Error("the old maps do not fit")
	}
	replace(t, l.Maps(), 3, list)
	_, err = l.Attach("gw2")
	must(t, err)
	all, err := l.dir.inspect()
	must(t, err)
	for _, p := range all {
		if !l.reads(p.prog) {
			t.Errorf("%s reads other maps", p.pin)
		}
	}
	g.check(t, "taken back")
	// gw was not given to this daemon, and follows its lists.
	replace(t, l.Maps(), 4, cells{})
	eventually(t, "listed frames", func() bool { return g.gw.received()[bad] > 0 })
}

// TestBypassSurvivesTakeOver: new maps begin with the emergency switch as it was.
func TestBypassSurvivesTakeOver(t *testing.T) {
	g := newGateway(t)
	l, err := Open(Options{PinDir: g.pins})
	must(t, err)
	_, err = l.Attach("gw")
	must(t, err)
	must(t, l.Close())
	l, err = Open(Options{PinDir: g.pins, Capacity: 500})
	must(t, err)
	defer l.Close()
	must(t, SetBypass(g.pins, true)) // an admin, while the new daemon starts
	_, err = l.Attach("gw")
	must(t, err)
	if on, err := l.Maps().Bypass(); err != nil || !on {
		t.Errorf("bypass is %v, %v", on, err)
	}
}

// TestKilled kills a daemon at every step of a change of pins, and in the middle of filling maps, under traffic.
// The next one must find its way, and no listed frame may come through at any moment.
func TestKilled(t *testing.T) {
	for _, scenario := range []string{"upgrade", "layout", "replace"} {
		t.Run(scenario, func(t *testing.T) {
			g := newGateway(t)
			l, err := Open(Options{PinDir: g.pins})
			must(t, err)
			replace(t, l.Maps(), 1, list)
			_, err = l.Attach("gw")
			must(t, err)
			must(t, l.Close())
			g.start(t)
			layout := bpf.Layout
			for step := 1; ; step++ {
				if scenario == "layout" {
					layout++ // each daemon is of another build
				}
				killed := runChild(t, "step", g.pins, strconv.Itoa(step), fmt.Sprint(layout), scenario)
				g.check(t, fmt.Sprintf("daemon killed at step %d", step))
				// A daemon of the same build comes up again.
				l, err := Open(Options{PinDir: g.pins, layout: layout})
				must(t, err)
				replace(t, l.Maps(), 1, list)
				a, err := l.Attach("gw")
				if err != nil || !a.Adopted {
					t.Fatalf("after step %d: %+v, %v", step, a, err)
				}
				g.check(t, fmt.Sprintf("daemon started after step %d", step))
				expectPins(t, g.pins)
				must(t, l.Maps().Sweep(context.Background()))
				expectEmpty(t, l.Maps())
				must(t, l.Close())
				if !killed {
					t.Logf("%d steps", step-1)
					return
				}
			}
		})
	}
}

func expectPins(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"checks", "control", "counters_gw", "gate_v4", "index_v4", "index_v6", "link_gw", "lock", "lpm_v4_a", "lpm_v4_b", "lpm_v6_a", "lpm_v6_b", "prog_gw", "root_v6", "sampled", "samples", "sources"}
	if !slices.Equal(names, want) {
		t.Errorf("pinned: %v, want %v", names, want)
	}
}

// expectEmpty fails if the idle tries hold anything.
func expectEmpty(t *testing.T, m *Maps) {
	t.Helper()
	idle := &m.sides[1-m.words.active()]
	n4, err := idle.v4.first(make([]bpf.KeyV4, 10))
	must(t, err)
	n6, err := idle.v6.first(make([]bpf.KeyV6, 10))
	must(t, err)
	if n4+n6 > 0 {
		t.Errorf("idle tries hold %d and %d prefixes or more", n4, n6)
	}
}

// children are what the test binary does when it is started again as another process.
var children = map[string]func(args []string) error{
	"step": childStep, "unprivileged": childUnprivileged, "open": childOpen,
}

func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv("LOADER_TEST_CHILD"), " "); args[0] != "" {
		if err := children[args[0]](args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runChild runs a child in the test's namespace and reports whether it was killed; any other failure is fatal.
func runChild(t *testing.T, args ...string) (killed bool) {
	t.Helper()
	cmd := child(t, nil, args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("child %v: %v: %s", args, err, out)
	}
	return false
}

func child(t *testing.T, attr *syscall.SysProcAttr, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), "LOADER_TEST_CHILD="+strings.Join(args, " "))
	cmd.SysProcAttr = attr
	return cmd
}

// childStep starts as a daemon does, and is killed at the step of that number.
func childStep(args []string) error {
	at, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	layout, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	step := func(string) error {
		if at--; at == 0 {
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		return nil
	}
	o := Options{PinDir: args[0], layout: uint32(layout), step: step}
	contents := list.all()
	if args[3] == "replace" { // steps are prefixes
		o.step = nil
		contents = killing(contents, step)
	}
	l, err := Open(o)
	if err != nil {
		return err
	}
	if err := l.Maps().Replace(context.Background(), 1, contents, 0, nil); err != nil {
		return err
	}
	_, err = l.Attach("gw")
	return errors.Join(err, l.Close())
}

// killing yields the list and many prefixes more, with steps in between.
func killing(contents iter.Seq2[netip.Prefix, compile.Cell], step func(string) error) iter.Seq2[netip.Prefix, compile.Cell] {
	return func(yield func(netip.Prefix, compile.Cell) bool) {
		for p, c := range contents {
			if !yield(p, c) {
				return
			}
		}
		for i := range 4 * putBatch {
			if i%putBatch == 100 {
				_ = step("")
			}
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			if !yield(p, drop) {
				return
			}
		}
	}
}

// childOpen reports how Open fails.
func childOpen(args []string) error {
	l, err := Open(Options{PinDir: args[0]})
	if err != nil {
		fmt.Println(err)
		for _, sentinel := range []error{ErrNotPermitted, ErrLocked, ErrNoBPFFS} {
			if errors.Is(err, sentinel) {
				return nil
			}
		}
		return err
	}
	return errors.Join(errors.New("opened"), l.Close())
}
