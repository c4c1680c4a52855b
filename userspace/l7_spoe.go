package userspace

import (
	"context"

	"github.com/portcullis/portcullis/userspace/shim/spoe"
)

// SPOEConfig is the agent that HAProxy asks by SPOE.
type SPOEConfig struct {
	Listen   string   `toml:"listen"`   // HOST:PORT, or unix:/path; "": off
	Gateways []string `toml:"gateways"` // addresses and CIDRs of who may ask; none: this host
}

func (c SPOEConfig) wanted() bool { return c.Listen != "" }

func (c SPOEConfig) check(bad badKey) error { return checkGateway(bad, c.Listen, c.Gateways) }

func (c SPOEConfig) open(_ context.Context, n *node) (*opened, error) {
	return openGateway("spoe", c.Listen, c.Gateways, spoe.New(spoe.Options{Decide: n.shim.Decide, Logger: n.log}))
}
