package scenario

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// probe asks about single addresses with real packets.
type probe struct {
	r       *rig
	out, in *testenv.Wire
	n       int
}

func (r *rig) probe() *probe {
	r.t.Helper()
	return &probe{r: r, out: r.wire(r.Internet.Namespace, "uplink0"), in: r.wire(r.Gateway.Namespace, "eth0")}
}

func (p *probe) close() { p.out.Close(); p.in.Close() }

// dropped sends a packet with that source, and one after it that nothing drops: whether only the latter arrives.
func (p *probe) dropped(a netip.Addr) bool {
	p.r.t.Helper()
	p.n++
	mark, last := fmt.Sprintf("probe %d of %s;", p.n, a), fmt.Sprintf("end of probe %d;", p.n)
	count := p.in.Count([]byte(mark), []byte(last))
	testenv.Eventually(p.r.t, 20*time.Second, "a packet that nothing drops", func() error {
		// Sent again: for up to a second after a device came up the sender's kernel throws packets away.
		p.send(a, mark)
		p.send(harmless, last)
		if count.Seen(1) == 0 {
			return testenv.ErrNoAnswer
		}
		return nil
	})
	count.Stop()
	return count.Seen(0) == 0
}

func (p *probe) send(from netip.Addr, text string) {
	p.r.t.Helper()
	f := p.r.deviceFrame(text, 0)
	f.Source, f.Destination = from, p.r.Backend.IPv4
	if from.Is6() {
		f.Destination = p.r.Backend.IPv6
	}
	p.r.must(p.out.Send(f.Bytes()))
}

// harmless is on no list of any test.
var harmless = netip.MustParseAddr("192.0.2.77")

// all asks about many addresses at once.
func (p *probe) all(addrs []netip.Addr) (dropped []bool) {
	p.r.t.Helper()
	p.n++
	mark := fmt.Sprintf("probe %d of many: ", p.n)
	for i := range addrs {
		p.send(addrs[i], fmt.Sprintf("%s%d;", mark, i))
	}
	dropped = slices.Repeat([]bool{true}, len(addrs))
	const last = -1
	p.send(harmless, fmt.Sprintf("%s%d;", mark, last))
	for {
		frame, err := p.in.Receive([]byte(mark), aliveWithin)
		if err != nil {
			p.r.t.Fatalf("a packet that nothing drops: %v", err)
		}
		var i int
		if _, err := fmt.Sscanf(string(frame[bytes.Index(frame, []byte(mark))+len(mark):]), "%d;", &i); err != nil {
			p.r.t.Fatal(err)
		}
		if i == last {
			return dropped
		}
		dropped[i] = false
	}
}
