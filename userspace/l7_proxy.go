package userspace

import "context"

// ProxyConfig puts Portcullis between clients and the servers of their APIs: the inline reverse proxy.
type ProxyConfig struct {
	Listen string `toml:"listen"` // HOST:PORT; "": off
}

func (c ProxyConfig) wanted() bool { return c.Listen != "" }

func (c ProxyConfig) check(bad badKey) error {
	if !c.wanted() {
		return nil
	}
	return checkListen(bad, "listen", c.Listen)
}

func (c ProxyConfig) open(context.Context, *node) (*opened, error) { return nil, errNotBuilt }
