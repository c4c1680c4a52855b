package control

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// Options of [New].
type Options struct {
	Backend  Backend
	StateDir string // users.json, audit.log
	Version  string
	Logger   *slog.Logger
	Now      func() time.Time
}

// Server answers the control API.
type Server struct{}

// New reads users and audit log from the state directory, making the account admin/admin if there is none.
func New(o Options) (*Server, error) { panic("contract") }

// Listen makes the unix socket (a stale one of a dead daemon is replaced, a live one refused), mode 0666: who
// may do what is decided by peer credentials and password.
func Listen(path string) (net.Listener, error) { panic("contract") }

// Serve answers on l until ctx ends, then finishes what it began.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { panic("contract") }
