package userspace

import "context"

// SidebandConfig is ASE's sideband: POST /ase/request and /ase/response.
type SidebandConfig struct {
	Listen string `toml:"listen"` // HOST:PORT; "": off
}

func (c SidebandConfig) wanted() bool { return c.Listen != "" }

func (c SidebandConfig) check(bad badKey) error {
	if !c.wanted() {
		return nil
	}
	return checkListen(bad, "listen", c.Listen)
}

func (c SidebandConfig) open(context.Context, *node) (*opened, error) { return nil, errNotBuilt }
