package shim

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// Verdict says what becomes of a request.
type Verdict uint8

const (
	Pass   Verdict = iota // the backend may have it
	Block                 // the blacklist names its client
	Refuse                // it is malformed, of no API, beyond a limit, or breaks a rule of its API: see Reason
)

// Reason says why, in the words of the metrics.
type Reason uint8

const (
	PassUnlisted    Reason = iota // nothing lists the client
	PassWhitelisted               // the whitelist names it
	PassNotEnforced               // firewall off, or the API does not block
	Blacklisted                   // Block
	Malformed                     // Refuse, 400
	TooLarge                      // Refuse, 431: over a limit of this package
	UnknownAPI                    // Refuse, 503
	UnknownHost                   // Refuse, 503
	Detected                      // Refuse: a real-time detector answered (decoy, method, protocol, content type, token)
	reasons         = iota
)

// Decision is what was decided about one request. It holds on to the header and to strings of the request, to nothing
// else of it.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	Answer  apis.Answer // to send, unless Verdict is Pass
	API     *apis.API   // nil: none was found
	Client  netip.Addr  // the client by trusted_proxies; the zero value if it is not known
	// ID and List name the entry that decided, if one did: for an address the identifier is the entry's, which may be
	// a CIDR; for others it is as the request spelled it.
	ID   lists.ID
	List lists.List
	// Source is who detected (Reason Detected) or, for a blacklist entry, who listed it.
	Source lists.Source

	seen seen
}

// Claims is what a front knows about a request's client that is not in the request itself.
type Claims struct {
	Username string
	Verified bool // the gateway has authenticated itself to us, so that the username may whitelist
	// SchemeUnknown: the gateway does not say whether its client used https, so that no rule may depend on it.
	SchemeUnknown bool
	// Relayed: RemoteAddr is who a gateway (or a PROXY protocol header) says it is, so that no packet of it came to
	// this host's kernel. Its address is then judged here in every mode of ip_enforcement. Set it in every front
	// whose RemoteAddr is not its own TCP peer.
	Relayed bool
}

type claimsKey struct{}

// WithClaims returns a context for a request that a gateway sent with these claims.
func WithClaims(ctx context.Context, c Claims) context.Context {
	return context.WithValue(ctx, claimsKey{}, c)
}

// ClaimsOf returns the claims of a context, the zero value if it has none.
func ClaimsOf(ctx context.Context) Claims {
	c, _ := ctx.Value(claimsKey{}).(Claims)
	return c
}

// Seen is what detectors are told of a request that the lists let pass.
type Seen struct {
	API    *apis.API
	Client netip.Addr // the zero value if not known
	HTTPS  bool
	// SchemeUnknown: nobody says whether it was https, see Claims.
	SchemeUnknown bool
	HasToken      bool
	Whitelisted   bool // never blacklist such a client
	// Paths are the ways in which backends may read the request's path, nil if all read it as it is: for decoys.
	Paths []string
	// Credentials are asked for what of the request may be blacklisted, by who is about to do so: it may cost the check of
	// a signature. Good until Detect returns; nil where nothing is blacklisted.
	Credentials Credentials
}

// Credentials are those of a request.
type Credentials interface {
	// Learnable returns the request's token and cookie, if they may be learned from: the backend has accepted them
	// before, or a JWT verified. The zero value otherwise: listing what anybody can send would let them block others.
	Learnable() (token, cookie lists.ID)
}

// Trailers judges the fields that came after the body of a passed request, as Decide did those of its header: one that
// says who is blacklisted blocks it. Nothing in them whitelists.
func (s *Shim) Trailers(d Decision, trailers http.Header) Decision {
	if d.Verdict != Pass || len(trailers) == 0 || d.Reason == PassWhitelisted && s.options.WhitelistScope != "identifier" {
		return d
	}
	start := time.Since(s.began)
	w := works.Get().(*work)
	defer works.Put(w)
	s.prepare(w, start)
	w.late = true
	q := d.seen.request
	q.header, q.query, q.claims = trailers, "", Claims{}
	var late Decision
	if s.judge(w, &q, &late); late.Verdict == Pass {
		return d
	}
	s.counters.count(w.shard, late.Reason, late.ID.Kind, time.Since(s.began)-start)
	return late
}

// Detect looks at a request that the lists let pass. ok: something was found, and answer is sent instead of the
// backend's. It reports what it blacklists itself. It must not keep r.
type Detect func(r *http.Request, seen Seen) (answer apis.Answer, source lists.Source, ok bool)
