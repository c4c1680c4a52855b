package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestGaplessCircle lets the interfaces' names go round, under traffic. No listed frame comes through, no other is lost,
// and counters, metrics and watchers name each interface as it is called now.
func TestGaplessCircle(t *testing.T) {
	r := newRig(t)
	r.daemon.Interfaces = []string{"eth0", "eth1"}
	r.daemon.Args = []string{"--metrics", metricsAddress}
	r.must(r.daemon.Start())
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	gateway := r.Gateway.Namespace
	before := r.packets()
	const round = ", round" // of frames that are sent meanwhile
	uplink, inside := "eth0", "eth1"
	rounds := times(2, 20)
	var listed, leaked uint64
	for range rounds {
		in, out := r.wire(gateway, uplink), r.wire(r.Internet.Namespace, "uplink0")
		count := in.Count([]byte(listedMark), []byte(freeMark+round))
		f := r.split(out, round, 0)
		for _, names := range [][2]string{{uplink, "spare0"}, {inside, uplink}, {"spare0", inside}} {
			r.must(gateway.Rename(names[0], names[1]))
		}
		uplink, inside = inside, uplink
		r.judged(gateway, uplink, 0)
		r.judgedFrom(r.Backend.Namespace, "eth0", gateway, inside, 0)
		r.must(f.end())
		testenv.Eventually(t, 20*time.Second, "all frames of the free client", func() error {
			if got := count.Seen(1); got < f.free {
				return fmt.Errorf("%d of %d came", got, f.free)
			}
			return nil
		})
		count.Stop()
		r.must(errors.Join(in.Close(), out.Close()))
		listed, leaked = listed+f.listed, leaked+count.Seen(0)
		r.cleanStatus()
		r.named(uplink, inside)
	}
	if leaked > 0 {
		t.Errorf("%d of %d listed frames leaked", leaked, listed)
	}
	r.innocent(before)
	t.Logf("%d times round: of %d frames of listed clients %d leaked", rounds, listed, leaked)
}

// named sends listed frames to the uplink: status and metrics count them there and not inside, and a watcher sees that.
func (r *rig) named(uplink, inside string) {
	r.t.Helper()
	const frames = 100
	status, metrics := r.drops()
	out := r.wire(r.Internet.Namespace, "uplink0")
	defer out.Close()
	f := r.deviceFrame(listedMark, 0)
	f.Source, f.Destination = r.Client.IPv4, r.Backend.IPv4
	for range frames {
		r.must(out.Send(f.Bytes()))
	}
	testenv.Eventually(r.t, 10*time.Second, "the drops at "+uplink, func() error {
		s, m := r.drops()
		for name, want := range map[string]uint64{uplink: frames, inside: 0} {
			if s[name]-status[name] != want || m[name]-metrics[name] != want {
				return fmt.Errorf("%s: status counts %d more, metrics %d, want %d", name, s[name]-status[name], m[name]-metrics[name], want)
			}
		}
		return nil
	})
	seen := r.watch()
	testenv.Eventually(r.t, 10*time.Second, "a watcher sees a drop at "+uplink, func() error {
		r.must(out.Send(f.Bytes()))
		select {
		case got := <-seen:
			if got != uplink {
				r.t.Errorf("a watcher sees a drop at %q, want %q", got, uplink)
			}
			return nil
		default:
			return errors.New("none yet")
		}
	})
}

// drops are those of listed IPv4 sources by interface, as status and metrics count them.
func (r *rig) drops() (status, metrics map[string]uint64) {
	r.t.Helper()
	s, err := r.daemon.Status()
	r.must(err)
	text := r.metrics()
	status, metrics = make(map[string]uint64), make(map[string]uint64)
	for _, i := range s.Interfaces {
		for _, c := range i.Counters {
			if c.Family == "ipv4" && c.Reason == "drop_blacklisted" {
				status[i.Name] = c.Packets
			}
		}
		_, after, _ := strings.Cut(text, fmt.Sprintf(`portcullis_packets_total{family="ipv4",interface=%q,reason="blacklisted",verdict="drop"} `, i.Name))
		var n float64
		if _, err := fmt.Sscan(after, &n); err != nil {
			r.t.Fatalf("no drops of %s in the metrics: %v", i.Name, err)
		}
		metrics[i.Name] = uint64(n)
	}
	return status, metrics
}

// watch tells the interface of the first drop that a watcher sees.
func (r *rig) watch() <-chan string {
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	first := make(chan string, 1)
	cl := control.Client{Socket: r.daemon.Socket}
	go func() {
		defer cancel()
		for s, err := range cl.Watch(ctx, control.DropFilter{}) {
			if err != nil {
				return
			}
			if s.Drop != nil {
				first <- s.Drop.Interface
				return
			}
		}
	}()
	return first
}
