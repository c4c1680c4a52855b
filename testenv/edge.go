package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// EchoPort is where the backend of an [Edge] echoes TCP and UDP.
const EchoPort = 7777

// Edge is the network that scenarios and the demo run in. Only documentation addresses are used.
//
//	client  ───┐
//	           internet ──── eth0 gateway eth1 ──── backend
//	another ───┘
//
// The gateway routes, the packet program sits on its eth0, and the echo server runs on the backend.
type Edge struct {
	Lab                                         *Lab
	Client, Another, Internet, Gateway, Backend *Host
}

// Host is a namespace with one address of each family that the others reach it by.
type Host struct {
	*Namespace
	IPv4, IPv6 netip.Addr
}

// Addresses of the edge. Client and another client share a /24 and a /64; the gateway is in neither.
const (
	clientsV4, clientsV6   = "198.51.100.0/24", "2001:db8:1::/64"
	clientV4, clientV6     = "198.51.100.66", "2001:db8:1::66"
	anotherV4, anotherV6   = "198.51.100.7", "2001:db8:1::7"
	routerV4, routerV6     = "198.51.100.1", "2001:db8:1::1"
	internetV4, internetV6 = "192.0.2.1", "2001:db8:2::1"
	gatewayV4, gatewayV6   = "192.0.2.2", "2001:db8:2::2"
	insideV4, insideV6     = "203.0.113.1", "2001:db8:3::1"
	backendV4, backendV6   = "203.0.113.10", "2001:db8:3::10"
)

// NewEdge builds the network in a lab and waits until the backend answers both clients over both families.
func NewEdge(l *Lab) (*Edge, error) {
	e := &Edge{Lab: l}
	for _, h := range []struct {
		host   **Host
		name   string
		v4, v6 string
	}{
		{&e.Client, "client", clientV4, clientV6},
		{&e.Another, "another", anotherV4, anotherV6},
		{&e.Internet, "internet", internetV4, internetV6},
		{&e.Gateway, "gateway", gatewayV4, gatewayV6},
		{&e.Backend, "backend", backendV4, backendV6},
	} {
		n, err := l.Namespace(h.name)
		if err != nil {
			return nil, err
		}
		*h.host = &Host{Namespace: n, IPv4: netip.MustParseAddr(h.v4), IPv6: netip.MustParseAddr(h.v6)}
	}
	err := errors.Join(
		e.Internet.Forward(), e.Gateway.Forward(),
		e.Join(e.Client, "client0"), e.Join(e.Another, "another0"),
		e.Uplink(), e.inside(),
		e.Backend.ServeEcho(EchoPort),
	)
	if err != nil {
		return nil, fmt.Errorf("build edge: %w", err)
	}
	err = Poll(5*time.Second, func() error { return errors.Join(e.Reach(e.Client), e.Reach(e.Another)) })
	if err != nil {
		return nil, fmt.Errorf("build edge: backend does not answer: %w", err)
	}
	return e, nil
}

// Join connects one more client, which has its addresses already chosen, to the internet by an interface of that name
// there.
func (e *Edge) Join(h *Host, iface string) error {
	if err := Connect(h.Namespace, "eth0", e.Internet.Namespace, iface); err != nil {
		return err
	}
	host4, host6 := h.IPv4.String()+"/32", h.IPv6.String()+"/128"
	return errors.Join(
		h.Address("eth0", host4, host6),
		h.Route("default4", routerV4, "eth0"), h.Route("default6", routerV6, "eth0"),
		e.Internet.Address(iface, routerV4+"/32", routerV6+"/128"),
		e.Internet.Route(host4, "", iface), e.Internet.Route(host6, "", iface),
	)
}

// Uplink connects the gateway's eth0 to the internet, also anew after eth0 was deleted.
func (e *Edge) Uplink() error {
	if err := Connect(e.Gateway.Namespace, "eth0", e.Internet.Namespace, "uplink0"); err != nil {
		return err
	}
	return errors.Join(
		e.Internet.Address("uplink0", internetV4+"/24", internetV6+"/64"),
		e.Gateway.Address("eth0", gatewayV4+"/24", gatewayV6+"/64"),
		e.Gateway.Route("default4", internetV4, "eth0"), e.Gateway.Route("default6", internetV6, "eth0"),
		e.Internet.Route("203.0.113.0/24", gatewayV4, "uplink0"),
		e.Internet.Route("2001:db8:3::/64", gatewayV6, "uplink0"),
	)
}

func (e *Edge) inside() error {
	if err := Connect(e.Gateway.Namespace, "eth1", e.Backend.Namespace, "eth0"); err != nil {
		return err
	}
	return errors.Join(
		e.Gateway.Address("eth1", insideV4+"/24", insideV6+"/64"),
		e.Backend.Address("eth0", backendV4+"/24", backendV6+"/64"),
		e.Backend.Route("default4", insideV4, "eth0"), e.Backend.Route("default6", insideV6, "eth0"),
	)
}

// Probe is one way to try to get through to the backend.
type Probe struct {
	Name string // "ping", "tcp", "udp", "ping6", "tcp6", "udp6"
	Try  func(timeout time.Duration) error
}

// Probes of the client, IPv4 before IPv6.
func (e *Edge) Probes(from *Host) []Probe {
	to4, to6 := netip.AddrPortFrom(e.Backend.IPv4, EchoPort), netip.AddrPortFrom(e.Backend.IPv6, EchoPort)
	type d = time.Duration
	return []Probe{
		{"ping", func(t d) error { return from.Ping(from.IPv4, to4.Addr(), t) }},
		{"tcp", func(t d) error { return from.TCP(from.IPv4, to4, t) }},
		{"udp", func(t d) error { return from.UDP(from.IPv4, to4, t) }},
		{"ping6", func(t d) error { return from.Ping(from.IPv6, to6.Addr(), t) }},
		{"tcp6", func(t d) error { return from.TCP(from.IPv6, to6, t) }},
		{"udp6", func(t d) error { return from.UDP(from.IPv6, to6, t) }},
	}
}

// aliveWithin is how long a probe may take when it should be answered: long, for a busy machine; deadWithin how long
// silence must last to be taken for a drop, a thousand times what an answer takes.
const (
	aliveWithin = 5 * time.Second
	deadWithin  = 300 * time.Millisecond
)

// Reach fails unless every probe of the client (or those named) is answered.
func (e *Edge) Reach(from *Host, names ...string) error {
	return e.each(from, names, func(p Probe) error { return p.Try(aliveWithin) })
}

// Blocked fails unless every probe of the client (or those named) meets silence.
func (e *Edge) Blocked(from *Host, names ...string) error {
	return e.each(from, names, func(p Probe) error {
		switch err := p.Try(deadWithin); {
		case err == nil:
			return fmt.Errorf("%s from %s got through", p.Name, from.Name)
		case errors.Is(err, ErrNoAnswer):
			return nil
		default:
			return err
		}
	})
}

// each runs the probes side by side.
func (e *Edge) each(from *Host, names []string, try func(Probe) error) error {
	results := make(chan error)
	started := 0
	for _, p := range e.Probes(from) {
		if len(names) == 0 || slices.Contains(names, p.Name) {
			started++
			go func() { results <- try(p) }()
		}
	}
	var errs []error
	for range started {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// UplinkMACs returns the hardware addresses of the internet's and the gateway's end of the uplink, for crafted frames.
func (e *Edge) UplinkMACs() (internet, gateway net.HardwareAddr, err error) {
	internet, err = e.Internet.MAC("uplink0")
	if err != nil {
		return nil, nil, err
	}
	gateway, err = e.Gateway.MAC("eth0")
	return internet, gateway, err
}
