package userspace

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	asked "github.com/portcullis/portcullis/userspace/shim/front"
)

// unixPrefix marks an address that is the path of a unix socket.
const unixPrefix = "unix:"

// GatewayConfig is a front that a gateway asks.
type GatewayConfig struct {
	Listen   string   `toml:"listen"`   // HOST:PORT, or unix:/path; "": off
	Gateways []string `toml:"gateways"` // addresses and CIDRs of who may ask; none: this host
	// SocketMode (octal) and SocketGroup (a name or number) say who may open a unix socket, and so ask; "": 0660, the daemon's.
	SocketMode  string `toml:"socket_mode"`
	SocketGroup string `toml:"socket_group"`
}

func (c GatewayConfig) wanted() bool { return c.Listen != "" }

func (c GatewayConfig) check(bad badKey) error {
	path, unix := strings.CutPrefix(c.Listen, unixPrefix)
	switch {
	case !unix && c.SocketMode != "":
		return bad("socket_mode", "listen is no unix socket: take it out, or listen on unix:/path")
	case !unix && c.SocketGroup != "":
		return bad("socket_group", "listen is no unix socket: take it out, or listen on unix:/path")
	case unix && !filepath.IsAbs(path):
		return bad("listen", "%q is no absolute path of a socket", path)
	case unix && len(c.Gateways) > 0:
		return bad("gateways", "on a unix socket, its owner and group are who may ask: take gateways out")
	}
	if mode, err := c.mode(); err != nil || mode&^0o666 != 0 {
		return bad("socket_mode", "%q is no mode of a socket in octal, such as 0660 or 0600", c.SocketMode)
	}
	if c.Listen != "" && !unix {
		if err := checkListen(bad, "listen", c.Listen); err != nil {
			return err
		}
	}
	for _, text := range c.Gateways {
		if _, err := parsePrefix(text); err != nil {
			return bad("gateways", "%q is not an IP address or CIDR", text)
		}
	}
	return nil
}

// mode is that of the socket, 0 where none is configured.
func (c GatewayConfig) mode() (fs.FileMode, error) {
	if c.SocketMode == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(c.SocketMode, 8, 12)
	if err == nil && n == 0 {
		err = errors.New("nobody may open it")
	}
	return fs.FileMode(n), err
}

// answerer is a front that a gateway asks.
type answerer interface {
	Serve(context.Context, net.Listener) error
	Counts() asked.Counts
}

// listenFor opens a front for gateways, as the checked configuration says.
func (c GatewayConfig) listenFor(n *node, name string, a answerer) (*opened, error) {
	place := asked.Place{Address: c.Listen, Group: c.SocketGroup, Setting: name + ".gateways", Logger: n.limited}
	for _, text := range c.Gateways {
		p, err := parsePrefix(text)
		if err != nil {
			return nil, err
		}
		place.Gateways = append(place.Gateways, p)
	}
	var err error
	if place.Mode, err = c.mode(); err != nil {
		return nil, err
	}
	l, err := asked.Listen(place)
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
