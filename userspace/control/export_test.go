package control

import (
	"context"
	"net"
)

// SetDial makes the client connect in another way, for tests that call as another uid.
func (c *Client) SetDial(dial func(context.Context) (net.Conn, error)) { c.dial = dial }

// Limits that tests of the outside reach for.
const (
	MaxConnsUID   = maxConnsUID
	FreeFailures  = freeFailures
	StallTimeout  = stallTimeout
	HeaderTimeout = headerTimeout
)
