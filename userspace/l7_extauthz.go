package userspace

import (
	"context"

	"github.com/portcullis/portcullis/userspace/shim/extauthz"
)

// ExtAuthzConfig is Envoy's ext_authz v3 over gRPC.
type ExtAuthzConfig struct{ GatewayConfig }

func (c ExtAuthzConfig) open(_ context.Context, n *node) (*opened, error) {
	return c.listenFor(n, "ext_authz", extauthz.New(extauthz.Options{Decide: n.shim.Decide, Logger: n.limited}))
}
