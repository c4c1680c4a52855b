package userspace

import "context"

// ManagementConfig is ASE's management REST API.
type ManagementConfig struct {
	Listen string `toml:"listen"` // HOST:PORT; "": off
}

func (c ManagementConfig) wanted() bool { return c.Listen != "" }

func (c ManagementConfig) check(bad badKey) error {
	if !c.wanted() {
		return nil
	}
	return checkListen(bad, "listen", c.Listen)
}

func (c ManagementConfig) open(context.Context, *node) (*opened, error) { return nil, errNotBuilt }
