package userspace

import "context"

// CheckConfig is the HTTP endpoint that nginx auth_request, Caddy forward_auth, Traefik forwardAuth and Envoy ask.
type CheckConfig struct {
	Listen string `toml:"listen"` // HOST:PORT; "": off
}

func (c CheckConfig) wanted() bool { return c.Listen != "" }

func (c CheckConfig) check(bad badKey) error {
	if !c.wanted() {
		return nil
	}
	return checkListen(bad, "listen", c.Listen)
}

func (c CheckConfig) open(context.Context, *node) (*opened, error) { return nil, errNotBuilt }
