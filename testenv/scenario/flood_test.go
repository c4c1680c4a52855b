package scenario

import (
	"flag"
	"fmt"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

var long = flag.Bool("long", false, "run the tests of endurance with their full counts")

// times is how often a test of endurance repeats what it does.
func times(short, full int) int {
	if *long {
		return full
	}
	return short
}

// flood sends frames of listed clients and of others until it is ended.
type flood struct {
	stop   chan struct{}
	result chan error
	listed uint64 // sent; valid after end
	free   uint64
}

const (
	listedMark = "frame of a listed client"
	freeMark   = "frame of another client"
)

// flood starts sending over the uplink as fast as it can, or with a pause after every 16 frames, one of which is of a
// client that is not listed: IPv4 and IPv6 in turn.
func (r *rig) flood(pause time.Duration) *flood {
	r.t.Helper()
	four := r.frame(r.Client, listedMark)
	six := four
	six.Source, six.Destination = r.Client.IPv6, r.Backend.IPv6
	mapped := six
	mapped.Source = netip.AddrFrom16(r.Client.IPv4.As16())
	tagged := four
	tagged.Tags = []testenv.Tag{{Type: testenv.EtherVLAN}}
	listed := [][]byte{four.Bytes(), six.Bytes(), mapped.Bytes(), tagged.Bytes()}
	return pour(r.wire(r.Internet.Namespace, "uplink0"), pause, 16, listed, r.frame(r.Another, freeMark).Bytes())
}

// pour sends frames, every so many of which is the free one.
func pour(out *testenv.Wire, pause time.Duration, every int, listed [][]byte, free []byte) *flood {
	f := &flood{stop: make(chan struct{}), result: make(chan error, 1)}
	go func() { f.result <- f.run(out, pause, every, listed, free) }()
	return f
}

func (f *flood) run(out *testenv.Wire, pause time.Duration, every int, listed [][]byte, free []byte) error {
	for i := 1; ; i++ {
		select {
		case <-f.stop:
			return nil
		default:
		}
		frame := listed[i%len(listed)]
		if i%every == 0 {
			frame = free
			f.free++
		} else {
			f.listed++
		}
		if err := out.Send(frame); err != nil {
			return err
		}
		if i%16 == 0 && pause > 0 {
			wait(pause)
		}
	}
}

func (f *flood) end() error {
	close(f.stop)
	return <-f.result
}

// expectExact ends the flood and fails unless every frame of another client arrived, and no frame of a listed one. Both
// must be seen by the counter, which is stopped.
func (r *rig) expectExact(f *flood, count *testenv.Counter, what string) {
	r.t.Helper()
	r.must(f.end())
	testenv.Eventually(r.t, 20*time.Second, "count every frame of the client that is on no list", func() error {
		if got := count.Seen(1); got < f.free {
			return fmt.Errorf("%d of %d arrived", got, f.free)
		}
		return nil
	})
	lost := count.Stop()
	r.t.Logf("%s: of %d frames of listed clients %d leaked; of %d others %d arrived; the counting socket lost %d",
		what, f.listed, count.Seen(0), f.free, count.Seen(1), lost)
	if count.Seen(0) != 0 || count.Seen(1) != f.free || lost != 0 || f.listed < 2000 {
		r.t.Errorf("%s: want none leaked, none lost, and at least 2,000 sent", what)
	}
}

// count starts counting the flood's frames behind XDP.
func (r *rig) count() *testenv.Counter {
	r.t.Helper()
	return r.wire(r.Gateway.Namespace, "eth0").Count([]byte(listedMark), []byte(freeMark))
}
