package shim

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// Options of [New]. The zero value works: kernel enforcement, a whitelisted identifier speaks for its whole request.
type Options struct {
	// IPEnforcement says who acts on listed addresses: "kernel" (or ""), "l7" (this package, per API, and not the
	// kernel) or "both".
	IPEnforcement string
	// WhitelistScope is "request" (or ""): a whitelisted identifier passes its request; or "identifier": it protects
	// only itself, for keys that many clients share.
	WhitelistScope string
	// TrustedProxies may say in X-Forwarded-For whom they forward for.
	TrustedProxies []netip.Prefix
	Detect         Detect           // nil: none
	Logger         *slog.Logger     // nil: says nothing
	Now            func() time.Time // the clock of the entries' ends; nil: time.Now
}

// Shim judges requests against the lists and APIs that it was given last. Safe for concurrent use.
type Shim struct {
	options Options
	apis    atomic.Pointer[apis.Set]
	lists   atomic.Pointer[lists.Snapshot]

	counters counters
}

// New returns a shim that knows no lists and no APIs yet: until [Shim.Use] and [Shim.UseAPIs] it refuses everything
// as of an unknown host.
func New(o Options) *Shim { return &Shim{options: o} }

// Use puts a snapshot in force; it has taken effect for every request judged after it returns. changes lead from the
// snapshot used before to this one, unless whole. One caller at a time.
func (s *Shim) Use(snap *lists.Snapshot, changes []lists.Change, whole bool) { s.lists.Store(snap) }

// Run ends held streams and keeps the keys that verify tokens fresh until ctx ends, whose error it returns. Without it
// the shim decides; Hold ends nothing, and no token is verified.
func (s *Shim) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Explain says how a request is judged, without counting it or asking detectors. It takes microseconds and
// allocates: for people, not for traffic.
func (s *Shim) Explain(r *http.Request) Explanation { return Explanation{Decision: s.Decide(r)} }

// UseAPIs puts the definitions in force, as Use does lists.
func (s *Shim) UseAPIs(set *apis.Set) { s.apis.Store(set) }

// ClientAddr returns the client of a request by X-Forwarded-For as far as trusted proxies vouch for it, else its TCP
// peer; unmapped, without zone; the zero value if RemoteAddr is not an address. Enforcement, detection and logs all
// use this one function.
func ClientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return peer.Addr().Unmap().WithZone("")
}

// Decide judges one request. It never blocks, keeps nothing of r but strings, and changes nothing in it.
func (s *Shim) Decide(r *http.Request) Decision {
	api, miss := s.apis.Load().Find(r.Host, r.URL.Path)
	switch miss {
	case apis.UnknownHost:
		return Decision{Verdict: Refuse, Reason: UnknownHost, Answer: answerUnknownHost}
	case apis.UnknownAPI:
		return Decision{Verdict: Refuse, Reason: UnknownAPI, Answer: answerUnknownAPI}
	}
	return Decision{API: api}
}

// The answers of the original.
var (
	answerUnknownHost = apis.Answer{Status: http.StatusServiceUnavailable, Reason: "Service Unavailable", Body: "Error: Unknown Hostname"}
	answerUnknownAPI  = apis.Answer{Status: http.StatusServiceUnavailable, Reason: "Service Unavailable", Body: "Error: Unknown API"}
)

// Answered tells what status the backend answered a passed request with: a credential that it accepted (2xx, 3xx) is
// one that detectors may blacklist.
func (s *Shim) Answered(d Decision, status int) {}

// Hold has end called, once and within a second, when the client of a passed request comes to be blocked while its
// stream is open. Call it before anything of the request is changed, from the goroutine that judged it. release must be called when the stream has ended; end may be running then.
func (s *Shim) Hold(d Decision, end func()) (release func()) { return func() {} }

// seen are the identifiers of a request.
type seen struct{}
