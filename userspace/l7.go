package userspace

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/proxy"
	"github.com/portcullis/portcullis/userspace/shim/sideband"
)

// How a front plugs in: a file l7_NAME.go holds NAMEConfig, the section [NAME] of the configuration, which is a
// front; Config has a field for it and fronts lists it. check says through bad what makes no sense. open listens
// (listenTCP; an error ends the daemon with that text), makes the front over n.shim, whose lists and APIs are in force
// by then, and returns how to run it: run serves until ctx ends and then returns nil. Listeners and numbers go into
// opened for status and Prometheus; n.log, n.config, n.Snapshot().Settings() and n.definitions are there to be used.

// front is one way in which HTTP requests come to the shim.
type front interface {
	wanted() bool
	check(bad badKey) error
	open(ctx context.Context, n *node) (*opened, error)
}

// badKey makes the error that a key of the front's section makes no sense.
type badKey func(key, format string, args ...any) error

// opened is a front that listens and does not serve yet.
type opened struct {
	run   func(context.Context) error
	close func() // gives back what is open if run is never called, or after it; may be nil
	// http and https say where it listens, without and with TLS.
	http, https []net.Addr
	collectors  []prometheus.Collector // its own numbers
}

// namedFront is a front with the name of its section.
type namedFront struct {
	name string
	front
}

// fronts are those that are wanted, in the order in which they are opened.
func (c Config) fronts() (wanted []namedFront) {
	for _, f := range c.allFronts() {
		if f.wanted() {
			wanted = append(wanted, f)
		}
	}
	return wanted
}

// judges reports whether requests come to the shim at all: the management API is opened as a front is, and judges none.
func (c Config) judges() bool {
	return slices.ContainsFunc(c.fronts(), func(f namedFront) bool { return f.name != managementFront })
}

const managementFront = "management"

func (c Config) allFronts() []namedFront {
	return []namedFront{
		{"proxy", c.Proxy}, {"check", c.CheckEndpoint}, {"ext_authz", c.ExtAuthz}, {"spoe", c.SPOE},
		{"sideband", c.Sideband}, {managementFront, c.Management},
	}
}

// Who acts on listed addresses: ip_enforcement.
const (
	enforceKernel = "kernel" // their packets are dropped
	enforceL7     = "l7"     // their requests are blocked, where the API enforces the lists
	enforceBoth   = "both"
)

// ipEnforcement is what ip_enforcement says, or where it says nothing, everything there is.
func (c Config) ipEnforcement() string {
	switch {
	case c.IPEnforcement != "":
		return c.IPEnforcement
	case !c.judges():
		return enforceKernel
	case len(c.Interfaces) == 0:
		return enforceL7
	}
	return enforceBoth
}

// checkL7 is the part of Check that concerns requests.
func (c Config) checkL7(bad badKey) error {
	for _, f := range c.allFronts() {
		in := func(key, format string, args ...any) error { return bad(f.name+"."+key, format, args...) }
		if err := f.check(in); err != nil {
			return err
		}
	}
	if err := c.Detect.check(func(key, format string, args ...any) error { return bad("detect."+key, format, args...) }); err != nil {
		return err
	}
	switch c.IPEnforcement {
	case "":
	case enforceKernel, enforceBoth, enforceL7:
		if c.IPEnforcement != enforceKernel && !c.judges() {
			return bad("ip_enforcement", "%q without a way for requests to be judged: configure one of proxy, check, ext_authz, spoe, sideband", c.IPEnforcement)
		}
	default:
		return bad("ip_enforcement", "%q is not one of kernel, l7, both", c.IPEnforcement)
	}
	switch c.WhitelistScope {
	case "", "request", "identifier":
		return nil
	}
	return bad("whitelist_scope", "%q is not one of request, identifier", c.WhitelistScope)
}

// l7 is what a node has for HTTP requests; nil if no front is wanted.
type l7 struct {
	shim      *shim.Shim
	detection *detection
	feed      *feed
	fronts    []runningFront

	control *control.Server // logs in who calls the management API

	tokens *sideband.Tokens // never nil once the node runs
}

type runningFront struct {
	name string
	*opened
}

// startL7 puts lists and APIs in force in a shim, if one is to judge, and opens the fronts. closeL7 gives back what it opened.
func (n *node) startL7(ctx context.Context) error {
	if n.config.judges() {
		if err := n.startShim(ctx); err != nil {
			return err
		}
	}
	if !n.config.Proxy.wanted() {
		if err := proxy.CloseKept(); err != nil {
			return err
		}
	}
	for _, f := range n.config.fronts() {
		o, err := f.open(ctx, n)
		if err != nil {
			n.closeL7()
			return fmt.Errorf("open %s: %w", f.name, err)
		}
		n.fronts = append(n.fronts, runningFront{f.name, o})
		n.log.Info("front is open", "front", f.name, "http", addrs(o.http), "https", addrs(o.https))
	}
	return nil
}

func (n *node) startShim(ctx context.Context) (err error) {
	if n.detection, err = newDetection(n); err != nil {
		return err
	}
	n.shim = shim.New(shim.Options{
		IPEnforcement: n.config.ipEnforcement(), WhitelistScope: n.config.WhitelistScope,
		TrustedProxies: n.trustedProxies(), Protected: n.isProtected, Detect: n.detection.look, Logger: n.log, Now: n.store.Clock().Now,
	})
	n.definitions.follow(n.shim.UseAPIs)
	use := n.shim.Use
	if len(n.config.Interfaces) == 0 { // else enforcement follows them
		use = func(s *lists.Snapshot, changes []lists.Change, whole bool) {
			n.shim.Use(s, changes, whole)
			n.followSettings(s)
		}
	}
	n.feed = newFeed(use, n.store)
	if n.maps != nil {
		n.feed.bypass = func() bool {
			on, err := n.maps.Bypass() // which status tells of
			return err == nil && on
		}
	}
	return n.feed.start(ctx)
}

func (n *node) closeL7() {
	for _, f := range n.fronts {
		if f.close != nil {
			f.close()
		}
	}
}

// runL7 feeds the shim and serves the fronts.
func (n *node) runL7(ctx context.Context, g *errgroup.Group) {
	if n.feed != nil {
		g.Go(func() error { return quiet(ctx, n.feed.run(ctx)) })
		g.Go(func() error { return quiet(ctx, n.detection.run(ctx)) })
		g.Go(func() error { return quiet(ctx, n.shim.Run(ctx)) })
	}
	if n.enforce == nil { // which looks at the host's addresses too
		g.Go(func() error { every(ctx, protectEvery, func() { n.findProtected() }); return nil })
	}
	for _, f := range n.fronts {
		g.Go(func() error {
			if err := quiet(ctx, f.run(ctx)); err != nil {
				return fmt.Errorf("serve %s: %w", f.name, err)
			}
			return nil
		})
	}
}

// isProtected reports whether an address is never blocked.
func (n *node) isProtected(a netip.Addr) bool { return n.shielded.Load().Contains(a) } // findProtected came before

// trustedProxies are those of the configuration, which was checked.
func (n *node) trustedProxies() (all []netip.Prefix) {
	for _, text := range n.config.TrustedProxies {
		if p, err := parsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// wireL7 is the part of status that concerns requests.
func (n *node) wireL7(s *control.Status) {
	s.IPEnforcement = n.config.ipEnforcement()
	for _, f := range n.fronts {
		s.Fronts = append(s.Fronts, control.Front{Name: f.name, HTTP: addrs(f.http), HTTPS: addrs(f.https)})
	}
	if n.feed == nil {
		return
	}
	if s.Generation.Shim = n.feed.generation(); !n.config.Proxy.wanted() {
		s.Mode = "sideband"
	}
	s.Requests = &control.Requests{}
	for reason, kinds := range n.shim.Stats().Decisions {
		for _, count := range kinds {
			switch reason.Verdict() {
			case shim.Pass:
				s.Requests.Passed += count
			case shim.Block:
				s.Requests.Blocked += count
			default:
				s.Requests.Refused += count
			}
		}
	}
}

func addrs(all []net.Addr) []string {
	texts := make([]string, len(all))
	for i, a := range all {
		texts[i] = a.String()
	}
	return texts
}

// checkListen says what is wrong with a HOST:PORT to listen at.
func checkListen(bad badKey, key, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" && net.ParseIP(host) == nil {
		err = errors.New("not an IP address")
	}
	if err != nil {
		return bad(key, "%q is no address and port to listen at, such as 127.0.0.1:8080 or :443", address)
	}
	return nil
}

// listenTCP opens an address; the error says what to do.
func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: stop who has it, or configure another address", err)
	}
	return l, nil
}

// wait returns once kernel and shim, where they are, enforce the generation, or with the error of the kernel.
func (n *node) wait(ctx context.Context, generation uint64) error {
	if n.feed != nil {
		if err := n.feed.wait(ctx, generation); err != nil {
			return err
		}
	}
	if n.enforce != nil {
		return n.enforce.wait(ctx, generation)
	}
	return nil
}
