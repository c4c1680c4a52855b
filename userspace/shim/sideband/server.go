package sideband

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/shim"
)

// MaxBody bounds the JSON of one request, in bytes.
const MaxBody = 1 << 20

// errMalformed: the client's request, not the gateway's JSON, is wrong.
var errMalformed = errors.New("malformed request")

// Options of [New]. Shim is needed.
type Options struct {
	Shim *shim.Shim
	// Gateways may ask; none: only those on this host. What a gateway says of its clients is believed.
	Gateways []netip.Prefix
	// Authenticate says whether ASE-Token must be one of the tokens, now. nil: it need not.
	Authenticate func() bool
	// Valid says whether a token is one. nil: none is.
	Valid  func(token string) bool
	Logger *slog.Logger // nil: says nothing
}

// Server answers gateways. Safe for concurrent use.
type Server struct {
	options Options
	open    *correlation
	counts  struct{ asked, undecided, rejected atomic.Uint64 }
}

// Counts are totals since the start.
type Counts struct {
	Asked     uint64 // requests judged
	Undecided uint64 // requests that could not be: bad JSON, too long
	Rejected  uint64 // callers that may not ask: no gateway, or without a token
}

// New returns a server that listens nowhere yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{options: o, open: newCorrelation(MaxOpen)}
}

// Counts returns what was asked so far.
func (s *Server) Counts() Counts {
	return Counts{Asked: s.counts.asked.Load(), Undecided: s.counts.undecided.Load(), Rejected: s.counts.rejected.Load()}
}

// Serve answers on l until ctx ends; then it takes no new calls and waits up to five seconds for those it began. It closes
// l. Connections that say nothing end after a minute.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve sideband: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if h.Shutdown(last) != nil {
		h.Close()
	}
	<-ended
	return nil
}

// Handler returns what answers the three calls.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ase", func(w http.ResponseWriter, r *http.Request) { say(w, http.StatusOK, "") })
	mux.HandleFunc("POST /ase/request", s.asked(s.request))
	mux.HandleFunc("POST /ase/response", s.asked(s.response))
	return mux
}

// call is one call of a gateway that may make it.
type call struct {
	ctx         context.Context
	payload     *payload
	correlation string
	verified    bool // it gave a valid token
}

// asked lets gateways through with what they sent.
func (s *Server) asked(answer func(call) (status int, body string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("ASE-Token")
		verified := token != "" && s.options.Valid != nil && s.options.Valid(token)
		switch {
		case !s.isGateway(r.RemoteAddr):
			s.counts.rejected.Add(1)
			s.options.Logger.Warn("sideband: not a gateway of ours", "peer", r.RemoteAddr)
			say(w, http.StatusUnauthorized, "Error: Unauthorized")
			return
		case !verified && s.options.Authenticate != nil && s.options.Authenticate():
			s.counts.rejected.Add(1)
			s.options.Logger.Warn("sideband: a gateway without a valid ASE-Token", "peer", r.RemoteAddr)
			say(w, http.StatusUnauthorized, "Error: Unauthorized")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
		if err != nil {
			s.counts.undecided.Add(1)
			status := http.StatusBadRequest
			if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
				status = http.StatusRequestEntityTooLarge
			}
			say(w, status, "Error: Malformed Request")
			return
		}
		p, err := readPayload(body)
		if err != nil {
			s.undecided(w, r, err)
			return
		}
		status, text := answer(call{ctx: r.Context(), payload: p, correlation: r.Header.Get("X-CorrelationID"), verified: verified})
		if status == http.StatusBadRequest {
			s.counts.undecided.Add(1)
		}
		say(w, status, text)
	}
}

func (s *Server) undecided(w http.ResponseWriter, r *http.Request, err error) {
	s.counts.undecided.Add(1)
	s.options.Logger.Warn("sideband: cannot read what a gateway sent", "peer", r.RemoteAddr, "error", lists.Quote(err.Error()))
	say(w, http.StatusBadRequest, "Error: Malformed Request")
}

// request answers whether the gateway may forward it.
func (s *Server) request(c call) (status int, body string) {
	r, err := c.payload.rebuild(c.ctx, c.verified)
	switch {
	case errors.Is(err, errMalformed):
		s.counts.asked.Add(1)
		return http.StatusForbidden, "Error: Malformed Request"
	case err != nil:
		return http.StatusBadRequest, "Error: Malformed Request"
	}
	s.counts.asked.Add(1)
	d := s.options.Shim.Decide(r)
	switch {
	case d.Verdict == shim.Pass:
		s.open.add(c.correlation, d, time.Now())
		return http.StatusOK, ""
	case d.Reason == shim.UnknownAPI || d.Reason == shim.UnknownHost:
		return d.Answer.Status, d.Answer.Body
	case d.Reason == shim.Detected:
		return http.StatusForbidden, "Error: Forbidden"
	}
	// Gateways know one status that forbids. Another would have them forward.
	return http.StatusForbidden, d.Answer.Body
}

// response takes note of what the backend said to a request that was let through.
func (s *Server) response(c call) (status int, body string) {
	code, err := c.payload.status()
	if err != nil {
		return http.StatusBadRequest, "Error: Malformed Request"
	}
	if d, ok := s.open.take(c.correlation, time.Now()); ok {
		s.options.Shim.Answered(d, code)
	}
	return http.StatusOK, ""
}

func (s *Server) isGateway(peer string) bool {
	from, err := netip.ParseAddrPort(peer)
	if err != nil {
		return true // a unix socket: its file's mode says who may
	}
	a := from.Addr().Unmap().WithZone("")
	if len(s.options.Gateways) == 0 {
		return a.IsLoopback()
	}
	return slices.ContainsFunc(s.options.Gateways, func(p netip.Prefix) bool { return p.Contains(a) })
}

func say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, body)
}
