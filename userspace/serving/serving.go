// Package serving runs a server of HTTP until it is told to end.
package serving

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// HTTP has s answer on the connections of l until ctx ends; then it lets what is being answered finish, within grace,
// closes l and returns nil. It returns an error if l fails before.
func HTTP(ctx context.Context, s *http.Server, l net.Listener, grace time.Duration) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if s.Shutdown(last) != nil {
			s.Close()
		}
	})
	err := s.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
