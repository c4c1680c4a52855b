package userspace

import (
	"context"

	"github.com/portcullis/portcullis/userspace/shim/spoe"
)

// SPOEConfig is the agent that HAProxy asks by SPOE.
type SPOEConfig struct{ GatewayConfig }

func (c SPOEConfig) open(_ context.Context, n *node) (*opened, error) {
	return c.listenFor(n, "spoe", spoe.New(spoe.Options{Decide: n.shim.Decide, Learner: n.shim, Logger: n.limited}))
}
