package scenario

import (
	"fmt"
	"net/netip"
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
	frame := p.r.deviceFrame(mark, 0)
	frame.Source, frame.Destination = a, p.r.Backend.IPv4
	if a.Is6() {
		frame.Destination = p.r.Backend.IPv6
	}
	end := p.r.deviceFrame(last, 0)
	end.Source, end.Destination = netip.MustParseAddr("192.0.2.77"), p.r.Backend.IPv4
	testenv.Eventually(p.r.t, 20*time.Second, "a packet that nothing drops", func() error {
		// Sent again: for up to a second after a device came up the sender's kernel throws packets away.
		p.r.must(p.out.Send(frame.Bytes()))
		p.r.must(p.out.Send(end.Bytes()))
		if count.Seen(1) == 0 {
			return testenv.ErrNoAnswer
		}
		return nil
	})
	count.Stop()
	return count.Seen(0) == 0
}
