package generator

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// pair is two namespaces joined by a veth, gen0 to eth0.
type pair struct {
	from, to *testenv.Namespace
	frame    testenv.Frame
}

func newPair(t *testing.T) pair {
	t.Helper()
	lab := testenv.New(t)
	var p pair
	var err error
	if p.from, err = lab.Namespace("from"); err != nil {
		t.Fatal(err)
	}
	if p.to, err = lab.Namespace("to"); err != nil {
		t.Fatal(err)
	}
	// Without IPv6 the kernel says nothing of its own on a new link, and every frame can be counted.
	for _, n := range []*testenv.Namespace{p.from, p.to} {
		if err := n.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := testenv.Connect(p.from, "gen0", p.to, "eth0"); err != nil {
		t.Fatal(err)
	}
	p.frame = testenv.Frame{
		Source: netip.IPv4Unspecified(), Destination: netip.MustParseAddr("192.0.2.2"), Port: 9, Payload: []byte("generated frame"),
	}
	if p.frame.From, err = p.from.MAC("gen0"); err == nil {
		p.frame.To, err = p.to.MAC("eth0")
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func closeAtEnd(t *testing.T, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestEveryFrameArrives counts what an empty program takes, and expects it all.
func TestEveryFrameArrives(t *testing.T) {
	p := newPair(t)
	l, err := Empty(p.to, "eth0", false)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	for _, s := range []Sources{{Ring: make([]uint32, perBlock)}, {Ring: make([]uint32, 1<<16)}, {Spoof: true}} {
		sender, err := New(p.from, p.frame, s)
		if err != nil {
			t.Fatal(err)
		}
		defer sender.Close()
		before, err := p.to.Received("eth0")
		if err != nil {
			t.Fatal(err)
		}
		const count = 100_000
		if _, err := sender.Send("gen0", count); err != nil {
			t.Fatal(err)
		}
		want := before + (count+Batch-1)/Batch*Batch
		testenv.Eventually(t, 5*time.Second, "all frames arrive", func() error {
			now, err := p.to.Received("eth0")
			if err == nil && now != want {
				err = fmt.Errorf("%d of %d", now-before, want-before)
			}
			return err
		})
	}
}

// TestFramesAreWhatWasAsked reads frames behind an empty program that passes: their sources are those of the ring, in
// turn, and a socket takes them, so the checksums hold.
func TestFramesAreWhatWasAsked(t *testing.T) {
	p := newPair(t)
	if err := p.to.Address("eth0", "192.0.2.2/24"); err != nil {
		t.Fatal(err)
	}
	l, err := Empty(p.to, "eth0", true)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, l)
	ring := make([]uint32, 2*perBlock)
	for i := range ring {
		ring[i] = binary.LittleEndian.Uint32([]byte{10, 255, byte(i * 7), byte(200 + i)})
	}
	sender, err := New(p.from, p.frame, Sources{Ring: ring})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	wire, err := p.to.Wire("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	before, err := p.to.Delivered()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sender.Send("gen0", 2*Batch); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * Batch {
		f, err := wire.Receive([]byte("generated frame"), 5*time.Second)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if got := binary.LittleEndian.Uint32(f[26:]); got != ring[i%len(ring)] {
			t.Fatalf("frame %d comes from %#x, want %#x", i, got, ring[i%len(ring)])
		}
	}
	testenv.Eventually(t, 5*time.Second, "the stack takes the packets", func() error {
		now, err := p.to.Delivered()
		if err == nil && now-before < 2*Batch {
			err = fmt.Errorf("%d of %d", now-before, 2*Batch)
		}
		return err
	})
}

func TestRefusals(t *testing.T) {
	p := newPair(t)
	for _, n := range []int{0, 8, 17, 48} {
		if s, err := New(p.from, p.frame, Sources{Ring: make([]uint32, n)}); err == nil {
			s.Close()
			t.Errorf("%d sources were taken", n)
		}
	}
	s, err := New(p.from, p.frame, Sources{Spoof: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Send("gen0", most+1); err == nil {
		t.Error("an unbounded Send was taken")
	}
	if _, err := s.Send("none0", 64); err == nil {
		t.Error("an interface that is not there was taken")
	}
}
