package userspace

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	asked "github.com/portcullis/portcullis/userspace/shim/front"
)

// unixPrefix marks an address that is the path of a unix socket.
const unixPrefix = "unix:"

// checkGateway is what check, ext_authz and spoe check alike.
func checkGateway(bad badKey, listen string, gateways []string) error {
	if path, unix := strings.CutPrefix(listen, unixPrefix); unix {
		switch {
		case !filepath.IsAbs(path):
			return bad("listen", "%q is no absolute path of a socket", path)
		case len(gateways) > 0:
			return bad("gateways", "on a unix socket, its owner and group are who may ask: take gateways out")
		}
		return nil
	}
	if listen != "" {
		if err := checkListen(bad, "listen", listen); err != nil {
			return err
		}
	}
	for _, text := range gateways {
		if _, err := parsePrefix(text); err != nil {
			return bad("gateways", "%q is not an IP address or CIDR", text)
		}
	}
	return nil
}

// answerer is a front that a gateway asks.
type answerer interface {
	Serve(context.Context, net.Listener) error
	Counts() asked.Counts
}

// openGateway listens for gateways, as the checked configuration says.
func openGateway(name, listen string, gateways []string, a answerer) (*opened, error) {
	var all []netip.Prefix
	for _, text := range gateways {
		p, err := parsePrefix(text)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	l, err := asked.Listen(listen, all)
	if err != nil {
		return nil, err
	}
	var overflow func() uint64
	if bounded, ok := a.(interface{ Overflow() uint64 }); ok {
		overflow = bounded.Overflow
	}
	return &opened{
		run:        func(ctx context.Context) error { return a.Serve(ctx, l) },
		close:      func() { l.Close() },
		http:       []net.Addr{l.Addr()},
		collectors: []prometheus.Collector{frontNumbers{name, a.Counts, l.Strange, overflow}},
	}, nil
}

// frontNumbers are the metrics of one front that a gateway asks.
type frontNumbers struct {
	name    string
	counts  func() asked.Counts
	strange func() uint64
	// overflow counts connections that were too many; nil: there is no bound.
	overflow func() uint64
}

// Describe leaves the descriptions out, as those of [metrics].
func (f frontNumbers) Describe(chan<- *prometheus.Desc) {}

// Collect reads the counters.
func (f frontNumbers) Collect(out chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	c := f.counts()
	answers := desc("front_answers_total", "Requests that a gateway asked about, by what it was answered; undecided: it could not be told, and was answered as blocked, by the sideband with 400 or 413.", "front", "verdict")
	count(answers, c.Passed, f.name, "pass")
	count(answers, c.Blocked, f.name, "block")
	count(answers, c.Refused, f.name, "refuse")
	count(answers, c.Undecided, f.name, "undecided")
	count(desc("front_strangers_total", "Connections closed because they came from none of a front's gateways.", "front"), f.strange(), f.name)
	if f.overflow != nil {
		count(desc("front_overflow_total", "Connections closed because a front had too many.", "front"), f.overflow(), f.name)
	}
}
