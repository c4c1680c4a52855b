package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/testenv/generator"
)

// live is the rate at which a receiver takes frames of 60 bytes from a veth, in millions a second. Sender and receiver
// share one CPU, so the sender's own cost is in every figure.
type live struct {
	List     string `json:"list"`
	Entries  int    `json:"entries"`
	Workload string `json:"workload"`
	Receiver string `json:"receiver"`
	Rate     figure `json:"mpps"`
	// Missing says why there is no rate.
	Missing string `json:"missing,omitempty"`
}

// Frames go to a UDP socket of the receiver that nobody reads: what is passed takes the usual way up the stack.
const (
	receiverAddr = "192.0.2.2"
	receiverPort = 9
)

// receiver is what can be put behind a veth to filter packets.
type receiver struct {
	name  string
	about string
	// filters tells whether it drops what is listed; others drop or pass everything.
	filters bool
	passes  bool // everything
	most    int  // entries it can hold, 0: any number
	// up makes it filter the list on eth0 of the namespace, until what it returns is closed.
	up func(s *session, n *testenv.Namespace, list blocklist, h *held) (io.Closer, error)
	// during, if set, goes on while frames come, until end is called; that also says whether it did.
	during func(h *held) (end func(dropsAll bool) error)
}

// stand is a receiver at work: a namespace with eth0, joined to iface of the sender's.
type stand struct {
	receiver
	n      *testenv.Namespace
	iface  string
	closer io.Closer
	err    error // why it does not work
	perRun int   // frames
	h      *held
	rates  []float64
}

// closers closes several things.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for i := len(c) - 1; i >= 0; i-- {
		errs = append(errs, c[i].Close())
	}
	return errors.Join(errs...)
}

// closeFunc is a Closer for what only has a function.
type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// measureLive measures workloads on a list with all receivers that can hold it, one after the other within each run.
func (s *session) measureLive(d drawer, h *held, workloads []workload, receivers []receiver) (err error) {
	list := d.list
	s.networks++
	from, err := s.lab.Namespace(fmt.Sprintf("from%d", s.networks))
	if err != nil {
		return err
	}
	var stands []*stand
	defer func() {
		for _, st := range stands {
			if st.closer != nil {
				err = errors.Join(err, st.closer.Close())
			}
		}
	}()
	for _, r := range receivers {
		if r.most > 0 && len(list.prefixes) > r.most {
			continue
		}
		st, err := s.newStand(r, from, list, h)
		if err != nil {
			return err
		}
		stands = append(stands, st)
	}
	for _, w := range workloads {
		if err := s.measureWorkload(w, d, from, stands); err != nil {
			return fmt.Errorf("measure %s, %s, live: %w", list.name, w.name, err)
		}
	}
	return nil
}

// newStand builds the namespace and puts the receiver in it. That the receiver does not work here is no error.
func (s *session) newStand(r receiver, from *testenv.Namespace, list blocklist, h *held) (*stand, error) {
	s.networks++
	st := &stand{receiver: r, h: h, iface: fmt.Sprintf("to%d", s.networks)}
	var err error
	if st.n, err = s.lab.Namespace(st.iface); err != nil {
		return nil, err
	}
	err = errors.Join(
		testenv.Connect(from, st.iface, st.n, "eth0"),
		st.n.Sysctl("net/ipv4/conf/all/rp_filter", "0"), st.n.Sysctl("net/ipv4/conf/eth0/rp_filter", "0"),
		st.n.Address("eth0", receiverAddr+"/24"),
	)
	if err != nil {
		return nil, err
	}
	var socket net.PacketConn
	err = st.n.Do(func() (err error) {
		socket, err = net.ListenPacket("udp4", fmt.Sprintf("%s:%d", receiverAddr, receiverPort))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	st.closer = socket
	filter, err := r.up(s, st.n, list, h)
	if err != nil {
		st.err = err
		s.say("  %-22s %-26s does not work here: %v", list.name, r.name, err)
		return st, nil
	}
	st.closer = closers{socket, filter}
	return st, nil
}

// frame is what is sent to a stand.
func (st *stand) frame(from *testenv.Namespace) (f testenv.Frame, err error) {
	f = testenv.Frame{
		Source: netip.IPv4Unspecified(), Destination: netip.MustParseAddr(receiverAddr), SourcePort: 9, Port: receiverPort,
		Payload: make([]byte, 18),
	}
	if f.From, err = from.MAC(st.iface); err != nil {
		return f, err
	}
	f.To, err = st.n.MAC("eth0")
	return f, err
}

func (s *session) measureWorkload(w workload, d drawer, from *testenv.Namespace, stands []*stand) error {
	var sources generator.Sources
	share := -1.0
	if w.name == spoofed.name {
		sources.Spoof = true
	} else {
		sources.Ring, share = w.ring(d)
	}
	var senders []*generator.Sender
	for _, st := range stands {
		f, err := st.frame(from)
		if err != nil {
			return err
		}
		// Its own sender: the frame has the receiver's hardware address in it.
		sender, err := generator.New(from, f, sources)
		if err != nil {
			return err
		}
		defer sender.Close()
		senders = append(senders, sender)
		st.perRun, st.rates = 100_000, nil
	}
	for run := range s.plan.runs + 1 { // the first warms up and finds out how many frames make a run
		for i, st := range stands {
			if st.err != nil {
				continue
			}
			rate, err := st.run(senders[i], share)
			if err != nil {
				return fmt.Errorf("%s: %w", st.name, err)
			}
			if run == 0 {
				st.perRun = int(rate * s.plan.liveSeconds)
				continue
			}
			st.rates = append(st.rates, rate/1e6)
		}
	}
	for _, st := range stands {
		l := live{List: d.list.name, Entries: len(d.list.prefixes), Workload: w.name, Receiver: st.name}
		if st.err != nil {
			l.Missing = st.err.Error()
		} else {
			l.Rate = figureOf(st.rates)
			s.say("  %-22s %-14s %-26s %s Mpps", l.List, l.Workload, l.Receiver, l.Rate)
		}
		s.report.Live = append(s.report.Live, l)
	}
	return nil
}

// send sends once, and has done meanwhile what the receiver wants.
func (st *stand) send(sender *generator.Sender, dropsAll bool) (took time.Duration, err error) {
	if st.during != nil {
		end := st.during(st.h)
		defer func() { err = errors.Join(err, end(dropsAll)) }()
	}
	return sender.Send(st.iface, st.perRun)
}

// run sends once and returns packets a second. share is how many of the packets a filter must drop, -1: not known.
func (st *stand) run(sender *generator.Sender, share float64) (rate float64, err error) {
	received, err := st.n.Received("eth0")
	if err != nil {
		return 0, err
	}
	delivered, err := st.n.Delivered()
	if err != nil {
		return 0, err
	}
	if err := st.h.renew(); err != nil {
		return 0, err
	}
	took, err := st.send(sender, share == 1)
	if err != nil {
		return 0, err
	}
	// What is left in the queue of the veth is 256 frames at most, but their work may be going on.
	var now, last uint64
	err = testenv.Poll(5*time.Second, func() error {
		last = now
		if now, err = st.n.Received("eth0"); err == nil && now != last {
			err = errors.New("frames are still arriving")
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	count := float64(now - received)
	if now, err = st.n.Delivered(); err != nil {
		return 0, err
	}
	passed := float64(now-delivered) / count
	wanted := 1 - share
	switch {
	case st.filters && share < 0:
		wanted = passed
	case !st.filters && st.passes && share >= 0:
		wanted = 1
	case !st.filters && !st.passes:
		wanted = 0
	case !st.filters:
		wanted = passed // of spoofed sources the stack refuses some itself
	}
	if math.Abs(passed-wanted) > 0.02 || share == 1 && st.filters && passed > 0 {
		return 0, fmt.Errorf("%.4f of %.0f packets came through, want %.4f: the rate would mean nothing", passed, count, wanted)
	}
	return count / took.Seconds(), nil
}
