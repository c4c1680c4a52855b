package userspace

import "context"

// ExtAuthzConfig is Envoy's external authorization, v3 over gRPC.
type ExtAuthzConfig struct {
	Listen string `toml:"listen"` // HOST:PORT; "": off
}

func (c ExtAuthzConfig) wanted() bool { return c.Listen != "" }

func (c ExtAuthzConfig) check(bad badKey) error {
	if !c.wanted() {
		return nil
	}
	return checkListen(bad, "listen", c.Listen)
}

func (c ExtAuthzConfig) open(context.Context, *node) (*opened, error) { return nil, errNotBuilt }
