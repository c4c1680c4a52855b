package userspace

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/netutil"

	"github.com/portcullis/portcullis/userspace/management"
)

// ManagementConfig is ASE's management REST API, over TLS.
type ManagementConfig struct {
	Listen string `toml:"listen"` // HOST:PORT; "": off
	// Certificate and Key are PEM files, read again when they change; none: self-signed ones in the state directory.
	Certificate string   `toml:"certificate"`
	Key         string   `toml:"key"`
	Hosts       []string `toml:"hosts"` // names that the node is called by, beside its addresses, localhost and its own
}

// maxManagement bounds the connections of the management API: whoever reaches its port may open some, and must not have
// those that the proxy and the gateways need.
const maxManagement = 256

func (c ManagementConfig) wanted() bool { return c.Listen != "" }

func (c ManagementConfig) check(bad badKey) error {
	if !c.wanted() {
		return nil
	}
	if (c.Certificate == "") != (c.Key == "") {
		return bad("certificate", "certificate and key go together")
	}
	return checkListen(bad, "listen", c.Listen)
}

func (c ManagementConfig) open(ctx context.Context, n *node) (*opened, error) {
	hosts := slices.Clone(c.Hosts)
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	for i := range hosts {
		hosts[i] = strings.ToLower(hosts[i])
	}
	cert, key := c.Certificate, c.Key
	if cert == "" {
		cert, key = filepath.Join(n.config.StateDir, "management.crt"), filepath.Join(n.config.StateDir, "management.key")
		names := hosts
		if host, _, err := net.SplitHostPort(c.Listen); err == nil {
			if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
				names = append(slices.Clone(hosts), a.WithZone("").String())
			}
		}
		if err := management.SelfSigned(cert, key, names); err != nil {
			return nil, err
		}
	}
	pair, err := management.OpenCertificate(cert, key, n.log)
	if err != nil {
		return nil, err
	}
	l, err := listenTCP(ctx, c.Listen)
	if err != nil {
		return nil, err
	}
	s := management.New(management.Options{Login: n.control.Login, Hosts: hosts, Node: l.Addr().String(), Logger: n.limited})
	return &opened{
		run: func(ctx context.Context) error {
			return s.Serve(ctx, tls.NewListener(netutil.LimitListener(l, maxManagement), pair.Config()))
		},
		close: func() { l.Close() },
		https: []net.Addr{l.Addr()},
	}, nil
}
