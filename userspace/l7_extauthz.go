package userspace

import (
	"context"

	"github.com/portcullis/portcullis/userspace/shim/extauthz"
)

// ExtAuthzConfig is Envoy's ext_authz v3 over gRPC.
type ExtAuthzConfig struct {
	Listen   string   `toml:"listen"`   // HOST:PORT, or unix:/path; "": off
	Gateways []string `toml:"gateways"` // addresses and CIDRs of who may ask; none: this host
}

func (c ExtAuthzConfig) wanted() bool { return c.Listen != "" }

func (c ExtAuthzConfig) check(bad badKey) error { return checkGateway(bad, c.Listen, c.Gateways) }

func (c ExtAuthzConfig) open(_ context.Context, n *node) (*opened, error) {
	return openGateway("ext_authz", c.Listen, c.Gateways, extauthz.New(extauthz.Options{Decide: n.shim.Decide, Logger: n.log}))
}
