package userspace

import (
	"context"

	"github.com/portcullis/portcullis/userspace/shim/check"
)

// CheckConfig is the HTTP endpoint that nginx auth_request, Caddy forward_auth, Traefik forwardAuth and Envoy ask.
type CheckConfig struct{ GatewayConfig }

func (c CheckConfig) open(_ context.Context, n *node) (*opened, error) {
	return c.listenFor(n, "check", check.New(check.Options{Decide: n.shim.Decide, Logger: n.limited}))
}
