package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/portcullis/portcullis/userspace/apis"
)

// pools are the backends of every API. Immutable.
type pools struct {
	byAPI map[*apis.API]*pool
	byID  map[string]*pool
}

// find returns the pool of an API; it may be of another edition of the definition for the moment of a change.
func (p *pools) find(api *apis.API) *pool {
	if p == nil || api == nil {
		return nil
	}
	if found := p.byAPI[api]; found != nil {
		return found
	}
	return p.byID[api.ID]
}

// UseAPIs puts the backends of these definitions in force. Servers that stay keep their connections and their state;
// those that go finish what they carry.
func (p *Proxy) UseAPIs(set *apis.Set) {
	p.changing.Lock()
	defer p.changing.Unlock()
	old := p.pools.Load()
	next := &pools{byAPI: make(map[*apis.API]*pool), byID: make(map[string]*pool)}
	kept := make(map[*server]bool)
	for api := range set.All() {
		made := &pool{api: api}
		var before []*server
		if was := old.find(api); was != nil {
			before = was.servers
		}
		for _, def := range api.Servers {
			i := slices.IndexFunc(before, func(s *server) bool {
				return s.Server == def && s.health == api.Health && (s.tls != nil) == api.ServerTLS && !kept[s]
			})
			if i >= 0 {
				made.servers = append(made.servers, before[i])
				kept[before[i]] = true
				continue
			}
			made.servers = append(made.servers, p.newServer(api, def))
		}
		next.byAPI[api], next.byID[api.ID] = made, made
	}
	p.pools.Store(next)
	if old == nil {
		return
	}
	for _, was := range old.byID {
		for _, s := range was.servers {
			if !kept[s] {
				s.closeIdle(time.Time{}, true)
			}
		}
	}
}

func (p *Proxy) newServer(api *apis.API, def apis.Server) *server {
	s := &server{Server: def, api: api.ID, address: hostPort(def), health: api.Health, timeout: p.limits.DialTimeout, log: p.log, now: p.now}
	if api.ServerTLS {
		s.tls = &tls.Config{ServerName: def.Host, RootCAs: p.options.BackendRoots, InsecureSkipVerify: p.options.BackendUnverified, MinVersion: tls.VersionTLS12}
	}
	return s
}

// checkHealth asks each server whose API wants it, at its interval, until ctx ends.
func (p *Proxy) checkHealth(ctx context.Context) {
	due := make(map[*server]time.Time)
	bad, asked := make(map[*server]int), make(map[*server]bool)
	var mu sync.Mutex // of bad and asked
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		seen := make(map[*server]bool)
		for s := range p.servers() {
			if !s.health.Enabled {
				continue
			}
			seen[s] = true
			if now.Before(due[s]) {
				continue
			}
			mu.Lock()
			running := asked[s]
			asked[s] = true
			mu.Unlock()
			if running {
				continue
			}
			due[s] = now.Add(max(time.Second, time.Duration(s.health.Interval)*time.Second))
			wg.Go(func() {
				err := s.check(ctx)
				mu.Lock()
				defer mu.Unlock()
				delete(asked, s)
				bad[s] = s.noteHealth(ctx, err, bad[s])
			})
		}
		mu.Lock()
		for s := range due {
			if !seen[s] {
				delete(due, s)
				delete(bad, s)
			}
		}
		mu.Unlock()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// noteHealth counts failures in a row, and says when the server's state changes.
func (s *server) noteHealth(ctx context.Context, err error, failures int) int {
	if err == nil {
		if s.unwell.Swap(false) {
			s.log.Info("backend is well again", "api", s.api, "server", s.address)
		}
		s.well()
		return 0
	}
	if ctx.Err() != nil {
		return failures
	}
	if failures++; failures >= max(1, s.health.Retries) && !s.unwell.Swap(true) {
		s.log.Warn("backend is out: its health check fails", "api", s.api, "server", s.address, "failures", failures, "error", err)
	}
	return failures
}

// check asks the health URL once: any answer below 400 is well.
func (s *server) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	scheme, path := "http", s.health.URL
	if s.tls != nil {
		scheme = "https"
	}
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+s.address+path, nil)
	if err != nil {
		return fmt.Errorf("health URL: %w", err)
	}
	r.Header.Set("User-Agent", "portcullis-health")
	t := &http.Transport{DisableKeepAlives: true, TLSClientConfig: s.tls, MaxResponseHeaderBytes: maxAnswerHead}
	defer t.CloseIdleConnections()
	a, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	a.Body.Close()
	if a.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("answered %s", a.Status)
	}
	return nil
}

// servers yields every server in force.
func (p *Proxy) servers() func(yield func(*server) bool) {
	all := p.pools.Load()
	return func(yield func(*server) bool) {
		if all == nil {
			return
		}
		for _, pool := range all.byID {
			for _, s := range pool.servers {
				if !yield(s) {
					return
				}
			}
		}
	}
}
