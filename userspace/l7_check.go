package userspace

import (
	"context"

	"github.com/portcullis/portcullis/userspace/shim/check"
)

// CheckConfig is the HTTP endpoint that nginx auth_request, Caddy forward_auth, Traefik forwardAuth and Envoy ask.
type CheckConfig struct {
	Listen   string   `toml:"listen"`   // HOST:PORT, or unix:/path; "": off
	Gateways []string `toml:"gateways"` // addresses and CIDRs of who may ask; none: this host
}

func (c CheckConfig) wanted() bool { return c.Listen != "" }

func (c CheckConfig) check(bad badKey) error { return checkGateway(bad, c.Listen, c.Gateways) }

func (c CheckConfig) open(_ context.Context, n *node) (*opened, error) {
	return openGateway("check", c.Listen, c.Gateways, check.New(check.Options{Decide: n.shim.Decide, Logger: n.log}))
}
