package sideband

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/serving"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

// MaxBody bounds the JSON of one request, in bytes.
const MaxBody = 1 << 20

// Options of [New]. Shim is needed.
type Options struct {
	Shim *shim.Shim
	// Authenticate says whether ASE-Token must be one of the tokens, now. nil: it need not.
	Authenticate func() bool
	// Valid says whether a token is one. nil: none is.
	Valid  func(token string) bool
	Logger *slog.Logger // nil: says nothing
}

// Server answers gateways: who may ask is the listener's to say ([front.Listen]), for what a gateway says of its clients
// is believed. Safe for concurrent use.
type Server struct {
	options  Options
	judge    *front.Judge
	open     *correlation
	rejected atomic.Uint64
}

// New returns a server that listens nowhere yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{options: o, judge: front.NewJudge(o.Shim.Decide, o.Logger), open: newCorrelation(MaxOpen)}
}

// Counts returns what was asked so far; undecided is what could not be read.
func (s *Server) Counts() front.Counts { return s.judge.Counts() }

// Rejected counts calls without a valid token where one was needed.
func (s *Server) Rejected() uint64 { return s.rejected.Load() }

// Serve answers on l until ctx ends; then it takes no new calls and waits up to five seconds for those it began. It closes
// l. Connections that say nothing end after a minute.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelDebug),
	}
	if err := serving.HTTP(ctx, h, l, 5*time.Second); err != nil {
		return fmt.Errorf("serve sideband: %w", err)
	}
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
func (s *Server) asked(answer func(call) (status int, body string, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("ASE-Token")
		verified := token != "" && s.options.Valid != nil && s.options.Valid(token)
		if !verified && s.options.Authenticate != nil && s.options.Authenticate() {
			s.rejected.Add(1)
			s.options.Logger.Warn("sideband: a gateway without a valid ASE-Token", "peer", r.RemoteAddr)
			say(w, http.StatusUnauthorized, "Error: Unauthorized")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
		if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
			s.judge.Undecided()
			say(w, http.StatusRequestEntityTooLarge, malformed)
			return
		}
		status, text := http.StatusBadRequest, malformed
		var p *payload
		if err == nil {
			p, err = readPayload(body)
		}
		if err == nil {
			status, text, err = answer(call{ctx: r.Context(), payload: p, correlation: r.Header.Get("X-CorrelationID"), verified: verified})
		}
		if err != nil {
			s.judge.Undecided()
			s.options.Logger.Warn("sideband: cannot read what a gateway sent", "peer", r.RemoteAddr, "error", lists.Quote(err.Error()))
		}
		say(w, status, text)
	}
}

const malformed = "Error: Malformed Request"

// request answers whether the gateway may forward it. Gateways know one status that forbids; any other but that of an
// unknown API would have them forward, so that 403 stands for all that must not reach the backend.
func (s *Server) request(c call) (status int, body string, err error) {
	r, ok, err := c.payload.rebuild(c.ctx, c.verified)
	if err != nil {
		return http.StatusBadRequest, malformed, err
	}
	if !ok {
		return http.StatusForbidden, s.judge.Malformed().Answer.Body, nil
	}
	d, reply := s.judge.Decide(r)
	switch {
	case reply.Pass:
		s.open.add(c.correlation, d, time.Now())
		return http.StatusOK, "", nil
	case reply.Reason == shim.UnknownAPI.String(), reply.Reason == shim.UnknownHost.String():
		return reply.Answer.Status, reply.Answer.Body, nil
	case reply.Reason == shim.Detected.String():
		return http.StatusForbidden, "Error: Forbidden", nil
	}
	return http.StatusForbidden, reply.Answer.Body, nil
}

// response takes note of what the backend said to a request that was let through.
func (s *Server) response(c call) (status int, body string, err error) {
	code, err := c.payload.status()
	if err != nil {
		return http.StatusBadRequest, malformed, err
	}
	if d, ok := s.open.take(c.correlation, time.Now()); ok {
		s.options.Shim.Answered(d, code)
	}
	return http.StatusOK, "", nil
}

func say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, body)
}
