package proxy

import (
	"cmp"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/userspace/shim"
)

// ErrOptions: what a proxy is told cannot be.
var ErrOptions = errors.New("bad proxy options")

// Judge decides about requests: a [shim.Shim].
type Judge interface {
	Decide(*http.Request) shim.Decision
	Trailers(shim.Decision, http.Header) shim.Decision
	Answered(shim.Decision, int)
	Hold(shim.Decision, func()) func()
}

// Options of [New]. The zero value works, but for Judge: HTTP without TLS, nobody trusted, no access log.
type Options struct {
	Judge Judge
	// Certificates are the pairs of files that TLS is answered with: by the name that a client asks for, the first one
	// if none fits. They are read again when they change.
	Certificates []Certificate
	// TrustedProxies may say for whom they forward, in X-Forwarded-For and, with ProxyProtocol, in its header.
	TrustedProxies []netip.Prefix
	// ProxyProtocol: connections of trusted proxies may begin with a PROXY header (version 1 or 2).
	ProxyProtocol bool
	// BackendRoots sign the certificates of backends that speak TLS; nil: those of the system.
	BackendRoots *x509.CertPool
	// BackendUnverified: any certificate of a backend will do.
	BackendUnverified bool

	Limits    Limits
	AccessLog LogOptions
	Logger    *slog.Logger     // nil: says nothing
	Now       func() time.Time // nil: time.Now
}

// Certificate is a pair of PEM files.
type Certificate struct{ CertFile, KeyFile string }

// Limits of what clients and backends may take. Zero fields have the defaults shown; times are kept within a second.
type Limits struct {
	Connections          int // 16384; those beyond are closed at once
	ConnectionsPerClient int // 1024 from one address (IPv6: /64) that is no trusted proxy; below 0: no bound
	HeaderBytes          int // 32768 of request line and header
	HeaderFields         int // 100
	Streams              int // 100 at once on an HTTP/2 connection

	HeaderTimeout  time.Duration // 10 s from the first byte (or the connection's start) to the header's end
	IdleTimeout    time.Duration // 60 s without a request
	BodyRate       int           // 256 bytes a second of a request's body, over 30 s; below 0: no bound
	AnswerTimeout  time.Duration // 60 s without a byte moving in an exchange
	TunnelTimeout  time.Duration // 1 h without a byte in an upgraded connection
	DialTimeout    time.Duration // 5 s to reach a backend
	GracefulPeriod time.Duration // 20 s for what is under way when the proxy ends
}

// maxAnswerHead bounds the header of a backend's answer.
const maxAnswerHead = 64 << 10

// lingerFor is how long a connection is read from after its last answer, so that the answer is read.
const lingerFor = 2 * time.Second

func (l Limits) withDefaults() Limits {
	l.Connections = cmp.Or(l.Connections, 16384)
	l.ConnectionsPerClient = cmp.Or(l.ConnectionsPerClient, 1024)
	l.HeaderBytes = cmp.Or(l.HeaderBytes, 32<<10)
	l.HeaderFields = cmp.Or(l.HeaderFields, 100)
	l.Streams = cmp.Or(l.Streams, 100)
	l.HeaderTimeout = cmp.Or(l.HeaderTimeout, 10*time.Second)
	l.IdleTimeout = cmp.Or(l.IdleTimeout, 60*time.Second)
	l.BodyRate = cmp.Or(l.BodyRate, 256)
	l.AnswerTimeout = cmp.Or(l.AnswerTimeout, 60*time.Second)
	l.TunnelTimeout = cmp.Or(l.TunnelTimeout, time.Hour)
	l.DialTimeout = cmp.Or(l.DialTimeout, 5*time.Second)
	l.GracefulPeriod = cmp.Or(l.GracefulPeriod, 20*time.Second)
	return l
}

// LogOptions say where and how the access log is kept.
type LogOptions struct {
	Path string // "": none
	// MaxBytes of a file before it is rotated, 100 MiB if zero; Keep: how many rotated files stay, 5 if zero.
	MaxBytes int64
	Keep     int
	// Key makes the short hashes of identifiers; equal keys give equal hashes. nil: another one each run.
	Key []byte
}
