package userspace

import "context"

// SPOEConfig is the agent that HAProxy asks by its stream processing offload protocol.
type SPOEConfig struct {
	Listen string `toml:"listen"` // HOST:PORT; "": off
}

func (c SPOEConfig) wanted() bool { return c.Listen != "" }

func (c SPOEConfig) check(bad badKey) error {
	if !c.wanted() {
		return nil
	}
	return checkListen(bad, "listen", c.Listen)
}

func (c SPOEConfig) open(context.Context, *node) (*opened, error) { return nil, errNotBuilt }
