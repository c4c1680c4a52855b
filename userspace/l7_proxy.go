package userspace

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim/proxy"
)

// ProxyConfig puts Portcullis between clients and the servers of their APIs: the inline reverse proxy.
type ProxyConfig struct {
	HTTP  string `toml:"http"`  // HOST:PORT; "": none
	HTTPS string `toml:"https"` // HOST:PORT; "": none
	// Certificates for https, by the name that a client asks for; the first one is for who asks for none of them.
	Certificates []ProxyCertificate `toml:"certificates"`
	// ProxyProtocol: connections of trusted_proxies may begin with a PROXY header.
	ProxyProtocol bool `toml:"proxy_protocol"`

	BackendCA         string `toml:"backend_ca"`         // PEM file of who signs backends' certificates; "": the system's
	BackendUnverified bool   `toml:"backend_unverified"` // any certificate of a backend will do

	AccessLog      string `toml:"access_log"`       // file; "": none
	AccessLogBytes int64  `toml:"access_log_bytes"` // of a file before it is rotated; 0: 100 MiB
	AccessLogKeep  int    `toml:"access_log_keep"`  // how many rotated files stay; 0: 5

	Limits ProxyLimits `toml:"limits"`
}

// ProxyCertificate is a pair of PEM files.
type ProxyCertificate struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
}

// ProxyLimits are [proxy.Limits]; times are written as in "10s".
type ProxyLimits struct {
	Connections          int `toml:"connections"`
	ConnectionsPerClient int `toml:"connections_per_client"`
	HeaderBytes          int `toml:"header_bytes"`
	HeaderFields         int `toml:"header_fields"`
	Streams              int `toml:"streams"`
	BodyRate             int `toml:"body_rate"`

	HeaderTimeout  string `toml:"header_timeout"`
	IdleTimeout    string `toml:"idle_timeout"`
	AnswerTimeout  string `toml:"answer_timeout"`
	TunnelTimeout  string `toml:"tunnel_timeout"`
	DialTimeout    string `toml:"dial_timeout"`
	GracefulPeriod string `toml:"graceful_period"`
}

func (c ProxyConfig) wanted() bool { return c.HTTP != "" || c.HTTPS != "" }

func (c ProxyConfig) check(bad badKey) error {
	for key, address := range map[string]string{"http": c.HTTP, "https": c.HTTPS} {
		if address == "" {
			continue
		}
		if err := checkListen(bad, key, address); err != nil {
			return err
		}
	}
	if c.HTTPS != "" && len(c.Certificates) == 0 {
		return bad("certificates", "none, and https needs one: certificates = [{cert = \"FILE\", key = \"FILE\"}]")
	}
	for _, one := range c.Certificates {
		if one.Cert == "" || one.Key == "" {
			return bad("certificates", "cert and key go together")
		}
	}
	if c.BackendCA != "" && c.BackendUnverified {
		return bad("backend_unverified", "true makes backend_ca useless: leave one of them out")
	}
	if c.AccessLog != "" && !filepath.IsAbs(c.AccessLog) {
		return bad("access_log", "%q is not an absolute path", c.AccessLog)
	}
	if c.AccessLogBytes < 0 || c.AccessLogKeep < 0 {
		return bad("access_log_bytes", "sizes and counts of the access log are not below 0")
	}
	_, err := c.Limits.read(bad)
	return err
}

// read returns the limits; bad makes the error of what is none.
func (c ProxyLimits) read(bad badKey) (proxy.Limits, error) {
	l := proxy.Limits{
		Connections: c.Connections, ConnectionsPerClient: c.ConnectionsPerClient, HeaderBytes: c.HeaderBytes,
		HeaderFields: c.HeaderFields, Streams: c.Streams, BodyRate: c.BodyRate,
	}
	for key, n := range map[string]int{"connections": c.Connections, "header_fields": c.HeaderFields, "streams": c.Streams} {
		if n < 0 {
			return l, bad("limits."+key, "%d is below 0", n)
		}
	}
	if c.HeaderBytes != 0 && (c.HeaderBytes < 4096 || c.HeaderBytes > 1<<20) {
		return l, bad("limits.header_bytes", "%d is not between 4096 and 1048576", c.HeaderBytes)
	}
	for _, d := range []struct {
		key, text string
		into      *time.Duration
	}{
		{"header_timeout", c.HeaderTimeout, &l.HeaderTimeout}, {"idle_timeout", c.IdleTimeout, &l.IdleTimeout},
		{"answer_timeout", c.AnswerTimeout, &l.AnswerTimeout}, {"tunnel_timeout", c.TunnelTimeout, &l.TunnelTimeout},
		{"dial_timeout", c.DialTimeout, &l.DialTimeout}, {"graceful_period", c.GracefulPeriod, &l.GracefulPeriod},
	} {
		if d.text == "" {
			continue
		}
		got, err := time.ParseDuration(d.text)
		if err != nil || got < time.Second || got > 24*time.Hour {
			return l, bad("limits."+d.key, "%q is no time between 1s and 24h", d.text)
		}
		*d.into = got
	}
	return l, nil
}

func (c ProxyConfig) open(ctx context.Context, n *node) (*opened, error) {
	limits, err := c.Limits.read(func(key, format string, args ...any) error { return fmt.Errorf(key+": "+format, args...) })
	if err != nil {
		return nil, err
	}
	o := proxy.Options{
		Judge: n.shim, TrustedProxies: n.trustedProxies(), ProxyProtocol: c.ProxyProtocol,
		BackendUnverified: c.BackendUnverified, Limits: limits, Logger: n.log,
		AccessLog: proxy.LogOptions{Path: c.AccessLog, MaxBytes: c.AccessLogBytes, Keep: c.AccessLogKeep},
	}
	for _, one := range c.Certificates {
		o.Certificates = append(o.Certificates, proxy.Certificate{CertFile: one.Cert, KeyFile: one.Key})
	}
	if c.BackendCA != "" {
		if o.BackendRoots, err = readRoots(c.BackendCA); err != nil {
			return nil, err
		}
	}
	if c.AccessLog != "" {
		if o.AccessLog.Key, err = readOrMakeKey(filepath.Join(n.config.StateDir, "access.key")); err != nil {
			return nil, err
		}
	}
	listeners, err := proxy.Listen(ctx, c.HTTP, c.HTTPS)
	if err != nil {
		return nil, err
	}
	p, err := proxy.New(o)
	if err == nil && n.config.Restart != nil {
		n.config.Restart.kept, err = listeners.Keep()
	}
	if err != nil {
		listeners.Close()
		return nil, err
	}
	// The backends first: a definition that the shim finds has its servers.
	n.definitions.follow(func(set *apis.Set) {
		p.UseAPIs(set)
		n.shim.UseAPIs(set)
	})
	return &opened{
		run: func(ctx context.Context) error { return p.Run(ctx, listeners) }, close: listeners.Close,
		http: addresses(listeners.Plain), https: addresses(listeners.TLS), collectors: []prometheus.Collector{proxyNumbers{p.Stats}},
	}, nil
}

func addresses(all []net.Listener) (a []net.Addr) {
	for _, l := range all {
		a = append(a, l.Addr())
	}
	return a
}

func readRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read backend_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read backend_ca: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

// readOrMakeKey returns the key of the access log's hashes, which stays the same from run to run.
func readOrMakeKey(file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if err == nil && len(key) >= 32 {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read key of the access log: %w", err)
	}
	key = make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	if err := os.WriteFile(file, key, 0o600); err != nil {
		return nil, fmt.Errorf("write key of the access log: %w", err)
	}
	return key, nil
}

// proxyNumbers are the metrics of the proxy. No label holds anything of a client.
type proxyNumbers struct{ stats func() proxy.Stats }

// Describe leaves the descriptions out: they come with the values.
func (p proxyNumbers) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything once.
func (p proxyNumbers) Collect(out chan<- prometheus.Metric) {
	s := p.stats()
	now := func(name, help string, n int) {
		out <- prometheus.MustNewConstMetric(desc("proxy_"+name, help), prometheus.GaugeValue, float64(n))
	}
	now("connections", "Connections of clients, now.", s.Connections)
	now("http2_connections", "Those of HTTP/2.", s.HTTP2)
	now("active_requests", "Requests that backends have, now.", s.Active)
	count := func(name, help string, n uint64) {
		out <- prometheus.MustNewConstMetric(desc("proxy_"+name+"_total", help), prometheus.CounterValue, float64(n))
	}
	count("connections_accepted", "Connections taken.", s.Accepted)
	count("connections_refused", "Connections closed at once, over a limit.", s.RefusedConnections)
	count("handshakes_failed", "TLS handshakes that failed.", s.Handshakes)
	count("proxy_headers_refused", "PROXY headers that were none.", s.ProxyHeaders)
	count("retries", "Requests sent again, to another server or on another connection.", s.Retries)
	count("client_gone", "Clients that left before their answer.", s.ClientGone)
	count("tunnels", "Upgraded connections (WebSocket).", s.Tunnels)
	count("streams_ended", "Streams and tunnels ended because their client was listed.", s.Ended)
	count("streams_reset", "HTTP/2 streams thrown away by their client.", s.Resets)
	count("access_log_lost", "Lines that the access log has lost.", s.LogLost)
	refused := desc("proxy_refused_total", "Requests and connections that were not served, by reason; those judged are in decisions.", "reason")
	for reason, n := range map[string]uint64{
		"malformed": s.Malformed, "too_large": s.TooLarge, "slow_header": s.SlowHeaders, "slow_body": s.SlowBodies, "rapid_reset": s.RapidResets,
		"no_server": s.NoServer, "quota": s.Quota, "backend_error": s.BackendErrors, "backend_timeout": s.BackendTimeouts,
	} {
		out <- prometheus.MustNewConstMetric(refused, prometheus.CounterValue, float64(n), reason)
	}
	p.backends(out, s)
}

func (p proxyNumbers) backends(out chan<- prometheus.Metric, s proxy.Stats) {
	well := desc("proxy_backend_up", "Whether a server answers.", "api", "server")
	open := desc("proxy_backend_connections", "Connections to a server, now.", "api", "server")
	failures := desc("proxy_backend_failures_total", "Times that a server could not be reached or broke off.", "api", "server")
	seen := make(map[string]bool)
	for _, b := range s.Backends {
		if key := b.API + " " + b.Address; seen[key] {
			continue // named twice in its definition
		} else {
			seen[key] = true
		}
		out <- prometheus.MustNewConstMetric(well, prometheus.GaugeValue, number(b.Well), b.API, b.Address)
		out <- prometheus.MustNewConstMetric(open, prometheus.GaugeValue, float64(b.Open), b.API, b.Address)
		out <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(b.Failures), b.API, b.Address)
	}
}
