package shim

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// Options of [New]. The zero value works: kernel enforcement, a whitelisted identifier speaks for its whole request.
type Options struct {
	// IPEnforcement says who acts on listed addresses: "kernel" (or ""), "l7" (this package, per API, and not the
	// kernel) or "both". An address that the kernel cannot have seen (named by a trusted proxy or a gateway) is
	// judged here in every mode.
	IPEnforcement string
	// WhitelistScope is "request" (or ""): a whitelisted identifier passes its request; or "identifier": it protects
	// only itself, for keys that many clients share.
	WhitelistScope string
	// TrustedProxies may say in X-Forwarded-For whom they forward for, unless the settings ignore it (disable_xff).
	TrustedProxies []netip.Prefix
	// Protected reports whether an address is never blocked, whatever is listed, as the kernel does not drop it; nil:
	// none is. Its requests are judged by what else is in them.
	Protected func(netip.Addr) bool
	Detect    Detect           // nil: none
	Logger    *slog.Logger     // nil: says nothing
	Now       func() time.Time // the clock of the entries' ends, not asked for each request; nil: time.Now
}

// Shim judges requests against the lists and APIs that it was given last. Safe for concurrent use.
type Shim struct {
	options Options
	writer  *writer
	index   atomic.Pointer[index]
	rules   atomic.Pointer[rules]

	accepted *memory // credentials that the backend accepted; nil without detectors
	streams  streams
	rings    rings
	counters counters
	began    time.Time
	clock    clock
}

// New returns a shim that knows no lists and no APIs yet: until [Shim.Use] and [Shim.UseAPIs] it refuses everything
// as of an unknown host.
func New(o Options) *Shim {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	trusted := make([]netip.Prefix, 0, len(o.TrustedProxies))
	for _, p := range o.TrustedProxies {
		if id, ok := lists.PrefixID(p); ok { // unmapped and masked, as addresses are compared
			p, _ = id.Prefix()
		}
		trusted = append(trusted, p)
	}
	o.TrustedProxies = trusted
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Shim{options: o, writer: newWriter(), began: time.Now(), clock: clock{now: o.Now}}
	s.streams.open = make(map[*stream]struct{})
	s.rings.changed = make(chan struct{}, 1)
	if o.Detect != nil {
		s.accepted = newMemory(maxAccepted)
	}
	s.index.Store(s.writer.empty())
	s.rules.Store(s.newRules(nil))
	return s
}

// Use puts a snapshot in force; it has taken effect for every request judged after it returns. changes lead from the
// snapshot used before to this one, unless whole. A change takes microseconds, a whole million under a second in which
// requests are judged by what was in force before. One caller at a time.
func (s *Shim) Use(snap *lists.Snapshot, changes []lists.Change, whole bool) {
	next, what := s.writer.next(s.index.Load(), snap, changes, whole)
	s.index.Store(next)
	s.streams.touch(what)
}

// UseAPIs puts the definitions in force, as Use does lists.
func (s *Shim) UseAPIs(set *apis.Set) {
	s.rules.Store(s.newRules(set))
	s.streams.touch(touched{all: true})
}

// Run ends held streams and keeps the keys that verify tokens fresh until ctx ends, whose error it returns. Without it
// the shim decides; Hold ends nothing, and no token is verified.
func (s *Shim) Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(func() { s.endListed(ctx) })
	both.Go(func() { s.keepKeys(ctx) })
	both.Wait()
	return ctx.Err()
}

// Decide judges one request. It never blocks, keeps nothing of r but its header and strings, and changes nothing in it.
func (s *Shim) Decide(r *http.Request) (d Decision) {
	start := time.Since(s.began)
	w := works.Get().(*work)
	s.prepare(w, start)
	q := &d.seen.request // in place: copying it costs more than to look an identifier up
	w.refuse(s.read(r, q))
	s.judge(w, q, &d)
	if s.options.Detect != nil && d.Verdict == Pass {
		s.detect(r, w, &d)
	}
	s.counters.count(w.shard, d.Reason, d.ID.Kind, time.Since(s.began)-start)
	works.Put(w)
	return d
}

// prepare resets w to judge by what is in force. since is the time since s began.
func (s *Shim) prepare(w *work, since time.Duration) {
	w.reset(s.index.Load(), s.rules.Load(), s.clock.unix(since), s.options.WhitelistScope == "identifier")
}

// clock asks another one now and then, which costs a system call, by the monotonic time that its caller has at hand.
type clock struct {
	now         func() time.Time
	at, seconds atomic.Int64
}

// coarseness is how old a clock's time may be. Ends of entries are whole seconds.
const coarseness = 5 * time.Millisecond

// unix returns the Unix time.
func (c *clock) unix(since time.Duration) int64 {
	if at := c.at.Load(); at != 0 && since-time.Duration(at) < coarseness {
		return c.seconds.Load()
	}
	now := c.now().Unix()
	c.seconds.Store(now)
	c.at.Store(int64(since))
	return now
}

// judge reads the request and decides: it fills d, which is empty but for the request.
func (s *Shim) judge(w *work, q *request, d *Decision) {
	d.Client = q.client
	if w.problem.reason != PassUnlisted {
		d.refuse(w.problem.reason)
		return
	}
	miss, p := w.find(q, w.rules.set)
	if w.refuse(p); w.problem.reason != PassUnlisted {
		d.refuse(w.problem.reason)
		return
	}
	switch miss {
	case apis.UnknownHost:
		d.refuse(UnknownHost)
		return
	case apis.UnknownAPI:
		d.refuse(UnknownAPI)
		return
	}
	d.API = w.found[0]
	blocking := false
	w.keyNames, w.cookieNames = w.index.keyNames, w.index.cookieNames
	for i, api := range w.found[:w.apis] {
		p := w.rules.plans[api]
		w.plans[i] = p
		w.keyNames.join(&p.names)
		w.cookieNames.join(&p.names)
		blocking = blocking || api.EnableBlocking
	}
	w.names = w.keyNames
	w.names.join(&fieldNames)
	w.address(q, s.judgesAddress(q))
	w.headers(q)
	w.queryString(q.query)
	w.vouched(q.claims)
	if w.problem.reason != PassUnlisted {
		d.refuse(w.problem.reason)
		return
	}
	d.seen.hasToken, d.seen.by = w.hasToken, w.index.serial+w.rules.serial
	d.seen.cost = maxWork - w.budget + w.bytes + len(q.query) + len(q.path)
	if s.accepted != nil {
		d.seen.token, d.seen.cookie = w.credentials()
	}
	black, white := w.outcome()
	d.seen.whitelisted = white.kind != 0 && !(w.single && white.kind > lists.KindToken)
	switch {
	case !blocking || !w.index.settings.Firewall:
		d.Reason = PassNotEnforced
	case black.kind != 0 && (w.single || white.kind == 0):
		d.Verdict, d.Reason, d.Answer = Block, Blacklisted, answers[Blacklisted]
		d.named(black)
	case white.kind != 0:
		d.Reason = PassWhitelisted
		d.named(white)
	}
}

// judgesAddress reports whether a blacklisted client is blocked here.
func (s *Shim) judgesAddress(q *request) bool {
	if s.options.Protected != nil && s.options.Protected(q.client) {
		return false
	}
	switch s.options.IPEnforcement {
	case "l7", "both":
		return true
	}
	return !q.direct || q.claims.Relayed
}

// named notes the entry that decided.
func (d *Decision) named(h hit) {
	d.ID, d.List = lists.ID{Kind: h.kind, Name: h.name, Value: h.value}, h.meta.list()
	if d.List == lists.Blacklist {
		d.Source = h.meta.source()
	}
}

func (d *Decision) refuse(reason Reason) {
	d.Verdict, d.Reason, d.Answer = Refuse, reason, answers[reason]
}

// answers are those of the original, but for 431, which it does not have.
var answers = [reasons]apis.Answer{
	Blacklisted: {Status: http.StatusForbidden, Reason: "Unauthorized", Body: "Error: Unauthorized"},
	Malformed:   {Status: http.StatusBadRequest, Reason: "Bad Request", Body: "Error: Malformed Request"},
	TooLarge:    {Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "Request Header Fields Too Large", Body: "Error: Request Header Fields Too Large"},
	UnknownAPI:  {Status: http.StatusServiceUnavailable, Reason: "Service Unavailable", Body: "Error: Unknown API"},
	UnknownHost: {Status: http.StatusServiceUnavailable, Reason: "Service Unavailable", Body: "Error: Unknown Hostname"},
}

// detect asks the detector about a request that the lists let pass.
func (s *Shim) detect(r *http.Request, w *work, d *Decision) {
	var learn Credentials
	if w.index.settings.ASEDetectedAttack {
		w.shim, learn = s, w
	}
	answer, source, ok := s.options.Detect(r, Seen{
		API: d.API, Client: d.Client, HTTPS: r.TLS != nil || r.URL.Scheme == "https" || r.URL.Scheme == "wss",
		SchemeUnknown: d.seen.request.claims.SchemeUnknown,
		HasToken:      d.seen.hasToken, Whitelisted: d.seen.whitelisted, Paths: decoyPaths(d.API, &d.seen.request),
		Credentials: learn,
	})
	if ok {
		d.Verdict, d.Reason, d.Answer, d.Source = Refuse, Detected, answer, source
	}
}

// seen is what [Shim.Answered] and [Shim.Hold] need to know of a request.
type seen struct {
	request       request
	hasToken      bool
	whitelisted   bool
	token, cookie lists.ID // where there is no doubt which they are
	by            uint64   // serial numbers of the lists and rules that it was judged by, together
	cost          int      // of judging it: bytes that were read
}
