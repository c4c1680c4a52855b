package detect

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// Request is what is looked at. The *http.Request is not kept.
type Request struct {
	HTTP          *http.Request
	API           *apis.API
	Client        netip.Addr // who is blacklisted by address; the zero value: not known, so nobody is
	HTTPS         bool
	SchemeUnknown bool // nobody said whether it was https: the protocol is not judged
	HasToken      bool
	Whitelisted   bool // is never blacklisted, and held to no rule but that decoys are answered
	// Paths are the ways in which backends may read the path of HTTP; nil: all read it as it is.
	Paths []string
	// Credentials are asked only when somebody is to be blacklisted by them. nil: there are none.
	Credentials interface {
		// Learnable returns token and cookie, zero unless the backend has accepted them, or they are verified.
		Learnable() (token, cookie lists.ID)
	}
}

// Touch is one request to a decoy.
type Touch struct {
	Client  netip.Addr
	API     string
	Method  string
	Path    string
	Context bool // a decoy sub-path of a real API; otherwise the whole API is a decoy
	Listed  bool // the client is blacklisted for it
}

// Options of [New]. Settings is needed.
type Options struct {
	Settings func() lists.Settings // in force now
	// Report is told what to blacklist, with Key, Expires and Reason set. It must not block.
	Report func(lists.Entry)
	// Alert is told of the first touch of a decoy by a client (again after [Memory]). It must not block. nil: nobody.
	Alert func(Touch)
	// TTL is how long entries of a source live; none: for ever, as in the original.
	TTL map[lists.Source]time.Duration
	Now func() time.Time // nil: time.Now
}

// Detector looks at requests. Safe for concurrent use.
type Detector struct {
	options Options
	touched *memory // clients that touched a decoy that is an API of its own
	alerted *memory
}

// New returns a detector that has seen nobody yet.
func New(o Options) *Detector {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Detector{options: o, touched: newMemory(MaxClients), alerted: newMemory(MaxClients)}
}

// Finding is what is wrong with a request.
type Finding struct {
	Source lists.Source
	Answer apis.Answer
	// Attack: an honest client would not have sent it. Not so for plain HTTP that is redirected.
	Attack bool
}

// The answers where the definition has none.
var (
	unauthorized = apis.Answer{Status: http.StatusForbidden, Reason: "Unauthorized", Body: "Error: Unauthorized"}
	refused      = apis.Answer{Status: http.StatusForbidden, Reason: "Forbidden", Body: "Error: Forbidden"}
	decoyed      = apis.Answer{Status: http.StatusOK, Reason: "OK"}
)

// Look judges a request that the lists let pass: ok says that the answer of f must be sent and nothing forwarded.
// Whoever is to be blacklisted for it is reported before Look returns.
func (d *Detector) Look(r Request) (f Finding, ok bool) {
	settings := d.options.Settings()
	if f, ok = d.decoy(r, settings); ok {
		return f, true
	}
	if r.Whitelisted || !settings.Firewall || !r.API.EnableBlocking {
		return Finding{}, false
	}
	if settings.ASEDetectedAttack && d.touched.has(r.Client, d.options.Now()) {
		d.list(lists.Decoy, addressOf(r.Client), "touched a decoy API, then "+r.API.ID)
		return Finding{Source: lists.Decoy, Answer: unauthorized, Attack: true}, true
	}
	if f, ok = violation(r); ok {
		if f.Attack && settings.ASEDetectedAttack && !sentByAnotherSite(r.HTTP) {
			d.list(f.Source, firstOf(r), "request to "+r.API.ID)
		}
		return f, true
	}
	if settings.ASEDetectedAttack && missesToken(r) {
		if !sentByAnotherSite(r.HTTP) {
			d.list(lists.MissingToken, addressOf(r.Client), "no token in a request to "+r.API.ID)
		}
		return Finding{Source: lists.MissingToken, Answer: unauthorized, Attack: true}, true
	}
	return Finding{}, false
}

// decoy answers what touches a decoy. A sub-path of a real API is touched by nobody by accident: the client is listed at
// once. A decoy that is an API of its own may be: the client is listed when he goes on to a real one.
func (d *Detector) decoy(r Request, settings lists.Settings) (Finding, bool) {
	context := len(r.API.Decoy.Subpaths) > 0
	if !r.API.Decoy.Enabled || context && !onSubpath(r) {
		return Finding{}, false
	}
	now := d.options.Now()
	foreign := sentByAnotherSite(r.HTTP)
	listed := context && settings.ASEDetectedAttack && settings.Firewall && !r.Whitelisted && !foreign && r.Client.IsValid()
	switch {
	case listed:
		d.list(lists.Decoy, addressOf(r.Client), "touched a decoy of "+r.API.ID)
	case !r.Whitelisted && !foreign:
		d.touched.add(r.Client, now)
	}
	if d.options.Alert != nil && d.alerted.add(r.Client, now) {
		d.options.Alert(Touch{Client: r.Client, API: r.API.ID, Method: r.HTTP.Method, Path: r.HTTP.URL.Path, Context: context, Listed: listed})
	}
	return Finding{Source: lists.Decoy, Answer: orElse(r.API.Decoy.Answer, decoyed), Attack: true}, true
}

// list reports an identifier; the zero value is nobody.
func (d *Detector) list(source lists.Source, id lists.ID, reason string) {
	if id == (lists.ID{}) || d.options.Report == nil {
		return
	}
	e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: source, ID: id}, Reason: reason, By: "ase"}
	if ttl := d.options.TTL[source]; ttl > 0 {
		e.Expires = d.options.Now().Add(ttl)
	}
	d.options.Report(e)
}

func addressOf(a netip.Addr) lists.ID {
	if !a.IsValid() {
		return lists.ID{}
	}
	a = a.Unmap().WithZone("")
	id, _ := lists.PrefixID(netip.PrefixFrom(a, a.BitLen()))
	return id
}

// firstOf is what the original blacklists: the token, else the cookie, else the address.
func firstOf(r Request) lists.ID {
	if r.Credentials != nil {
		switch token, cookie := r.Credentials.Learnable(); {
		case token != lists.ID{}:
			return token
		case cookie != lists.ID{}:
			return cookie
		}
	}
	return addressOf(r.Client)
}

func orElse(a, other apis.Answer) apis.Answer {
	if a.Status == 0 {
		return other
	}
	return a
}
