package scenario

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// Listed here is the client's IPv4, free is the other client's IPv6: a drop of the latter has counters of its own, so that
// what the kernel loses while a device is down cannot be taken for our doing, nor the other way round.

// split sends both kinds of frame in turn to the gateway, of a payload of that size, and with a mark added to theirs.
func (r *rig) split(out *testenv.Wire, mark string, size int) *flood {
	listed := r.deviceFrame(listedMark+mark, size)
	listed.Source, listed.Destination = r.Client.IPv4, r.Backend.IPv4
	return pour(out, 100*time.Microsecond, 2, [][]byte{listed.Bytes()}, r.freeFrame(mark, size))
}

func (r *rig) freeFrame(mark string, size int) []byte {
	f := r.deviceFrame(freeMark+mark, size)
	f.Source, f.Destination = r.Another.IPv6, r.Backend.IPv6
	return f.Bytes()
}

// deviceFrame is one to nobody's hardware address: that matters neither to XDP nor to a packet socket behind it.
func (r *rig) deviceFrame(text string, size int) testenv.Frame {
	none := make([]byte, 6)
	text += strings.Repeat(".", max(0, size-len(text)))
	return testenv.Frame{From: none, To: none, SourcePort: 9, Port: 9, Payload: []byte(text)}
}

// judged fails unless all free frames of that size come through to an interface now, and no listed one does.
func (r *rig) judged(n *testenv.Namespace, iface string, size int) {
	r.t.Helper()
	r.judgedFrom(r.Internet.Namespace, "uplink0", n, iface, size)
}

// judgedFrom is judged with frames that are sent into another interface.
func (r *rig) judgedFrom(from *testenv.Namespace, peer string, n *testenv.Namespace, iface string, size int) {
	r.t.Helper()
	const mark, first = ", now", ", first"
	out := r.wire(from, peer)
	in := r.wire(n, iface)
	defer out.Close()
	defer in.Close()
	count := in.Count([]byte(listedMark+mark), []byte(freeMark+mark), []byte(freeMark+first))
	// For up to a second after a device came up the sender's kernel throws away what is sent, without an error.
	hello := r.freeFrame(first, size)
	testenv.Eventually(r.t, 20*time.Second, "a frame of the free client at "+iface, func() error {
		r.must(out.Send(hello))
		if count.Seen(2) == 0 {
			return errors.New("none came")
		}
		return nil
	})
	f := r.split(out, mark, size)
	testenv.Eventually(r.t, 20*time.Second, "frames of the free client at "+iface, func() error {
		if got := count.Seen(1); got < 300 {
			return fmt.Errorf("%d came", got)
		}
		return nil
	})
	r.must(f.end())
	testenv.Eventually(r.t, 20*time.Second, "all frames of the free client at "+iface, func() error {
		if got := count.Seen(1); got != f.free {
			return fmt.Errorf("%d of %d came", got, f.free)
		}
		return nil
	})
	if lost := count.Stop(); count.Seen(0) > 0 || lost > 0 {
		r.t.Errorf("%s: %d of %d listed frames leaked, the socket lost %d", iface, count.Seen(0), f.listed, lost)
	}
}

// innocent fails if the program dropped anything but listed frames.
func (r *rig) innocent(before map[string]uint64) {
	r.t.Helper()
	for name, n := range r.packets() {
		if strings.Contains(name, " drop_") && name != "ipv4 drop_blacklisted" && n != before[name] {
			r.t.Errorf("counter %q moved by %d", name, n-before[name])
		}
	}
}

// TestGaplessDevice takes the interface down and up, renames it while it is up, moves it to another namespace and back,
// and gives it a big MTU and a small one, under traffic. No listed frame comes through at any moment, and the program
// drops no other; what is sent while the interface is up all arrives.
func TestGaplessDevice(t *testing.T) {
	r := newRig(t)
	r.daemon.Interfaces = []string{"eth0", "eth1"} // so that one starts while eth0 is away
	vault, err := r.Lab.Namespace("vault")
	r.must(err)
	r.must(r.daemon.Start())
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	gateway := r.Gateway.Namespace
	before := r.packets()
	steps := []struct {
		name string
		do   func() error
		at   *testenv.Namespace // where the interface is afterwards
		as   string
		size int // of payloads afterwards
	}{
		{"down and up", func() error { return errors.Join(gateway.Down("eth0"), gateway.Up("eth0")) }, gateway, "eth0", 0},
		{"renamed", func() error { return gateway.Rename("eth0", "wan0") }, gateway, "wan0", 0},
		{"renamed back", func() error { return gateway.Rename("wan0", "eth0") }, gateway, "eth0", 0},
		{"moved", func() error { return gateway.Move("eth0", vault) }, vault, "eth0", 0},
		{"moved, daemon killed", r.restart, vault, "eth0", 0},
		{"moved back", func() error { return vault.Move("eth0", gateway) }, gateway, "eth0", 0},
		{"MTU 9000", func() error { return errors.Join(r.Internet.MTU("uplink0", 9000), gateway.MTU("eth0", 9000)) }, gateway, "eth0", 8900},
		{"MTU 9000, daemon killed", r.restart, gateway, "eth0", 8900},
		{"MTU 1500", func() error { return errors.Join(r.Internet.MTU("uplink0", 1500), gateway.MTU("eth0", 1500)) }, gateway, "eth0", 0},
	}
	at, as := gateway, "eth0"
	rounds := times(1, 20)
	var listed, leaked uint64
	for range rounds {
		for _, s := range steps {
			in, out := r.wire(at, as), r.wire(r.Internet.Namespace, "uplink0")
			count := in.Count([]byte(listedMark), []byte(freeMark))
			f := r.split(out, "", 0)
			r.must(s.do())
			at, as = s.at, s.as
			r.judged(at, as, s.size)
			r.must(f.end())
			count.Stop()
			r.must(errors.Join(in.Close(), out.Close()))
			listed, leaked = listed+f.listed, leaked+count.Seen(0)
			if count.Seen(0) > 0 {
				t.Errorf("%s: %d of %d listed frames leaked", s.name, count.Seen(0), f.listed)
			}
		}
	}
	r.cleanStatus()
	r.innocent(before)
	t.Logf("%d rounds of %d changes: of %d frames of listed clients %d leaked", rounds, len(steps), listed, leaked)
}

// restart kills the daemon and starts another.
func (r *rig) restart() error {
	if err := r.daemon.Kill(); err != nil {
		return err
	}
	if err := r.daemon.Launch(); err != nil {
		return err
	}
	return testenv.Poll(20*time.Second, func() error { _, err := r.daemon.Status(); return err })
}

// TestGaplessRecreation deletes the interface and makes it again: it is unprotected for at most a second. What leaks is
// counted, and nothing leaks from the moment that the program is attached.
func TestGaplessRecreation(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	before := r.packets()
	rounds := times(10, 200)
	var gaps []time.Duration
	var listed, leaked uint64
	for range rounds {
		r.must(r.Gateway.Delete("eth0"))
		began := time.Now()
		r.must(testenv.Connect(r.Gateway.Namespace, "eth0", r.Internet.Namespace, "uplink0"))
		in, out := r.wire(r.Gateway.Namespace, "eth0"), r.wire(r.Internet.Namespace, "uplink0")
		count := in.Count([]byte(listedMark), []byte(freeMark))
		f := r.split(out, "", 0)
		testenv.Eventually(t, 10*time.Second, "protected again", func() error {
			if id, err := r.Gateway.Program("eth0"); err != nil || id == 0 {
				return fmt.Errorf("program %d, %w", id, err)
			}
			return nil
		})
		gaps = append(gaps, time.Since(began))
		r.must(f.end())
		r.judged(r.Gateway.Namespace, "eth0", 0)
		count.Stop()
		r.must(errors.Join(in.Close(), out.Close()))
		listed, leaked = listed+f.listed, leaked+count.Seen(0)
	}
	slices.Sort(gaps)
	n := len(gaps)
	t.Logf("%d recreations: unprotected for %v (half), %v (99 of 100), %v (worst), of which making the interface is a part; of %d frames of listed clients %d came through meanwhile, none afterwards",
		n, gaps[n/2].Round(time.Millisecond), gaps[n*99/100].Round(time.Millisecond), gaps[n-1].Round(time.Millisecond), listed, leaked)
	limit := 5 * time.Second // other tests run beside the short form
	if *long {
		limit = time.Second
	}
	if gaps[n-1] > limit {
		t.Errorf("unprotected for %v, want at most %v", gaps[n-1], limit)
	}
	r.cleanStatus()
	r.innocent(before)
}
