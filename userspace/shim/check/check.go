package check

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/userspace/serving"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

// Options of [New]. Only Decide must be set.
type Options struct {
	Decide func(*http.Request) shim.Decision // [shim.Shim.Decide]
	Ways   map[string]Way                    // by path, without a slash at the end; nil: [Ways]
	// MaxConns bounds the connections; 0: 4,096. One more is closed at once.
	MaxConns int
	Logger   *slog.Logger // nil: says nothing
}

// Endpoint answers gateways. It is an [http.Handler]; safe for concurrent use.
type Endpoint struct {
	judge *front.Judge
	ways  map[string]*Way
	log   *slog.Logger

	maxConns int
	conns    atomic.Int64
	overflow atomic.Uint64
}

// New returns an endpoint.
func New(o Options) *Endpoint {
	if o.Ways == nil {
		o.Ways = Ways()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxConns == 0 {
		o.MaxConns = 4096
	}
	e := &Endpoint{maxConns: o.MaxConns, judge: front.NewJudge(o.Decide, o.Logger), ways: make(map[string]*Way), log: o.Logger}
	for path, way := range o.Ways {
		e.ways[path] = &way
	}
	return e
}

// Counts are what was answered so far.
func (e *Endpoint) Counts() front.Counts { return e.judge.Counts() }

// Serve answers on the connections of l until ctx ends; then it lets what is being answered finish, within a second,
// closes l and returns nil. It returns an error if l fails before.
func (e *Endpoint) Serve(ctx context.Context, l net.Listener) error {
	// No timeouts: who may ask is trusted, and setting them for every question is a tenth of what it costs. What a
	// gateway leaves open is bounded in number instead.
	s := &http.Server{
		Handler:        e,
		MaxHeaderBytes: 256 << 10,
		ErrorLog:       slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
		ConnState:      e.bound,
	}
	return serving.HTTP(ctx, s, l, time.Second)
}

// bound closes a connection that is one too many.
func (e *Endpoint) bound(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if e.conns.Add(1) > int64(e.maxConns) {
			e.overflow.Add(1)
			c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		e.conns.Add(-1)
	}
}

// Overflow counts the connections that were closed because there were too many.
func (e *Endpoint) Overflow() uint64 { return e.overflow.Load() }

// ServeHTTP answers one question.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	way, path := e.way(q.URL.Path)
	if way == nil {
		e.judge.Undecided()
		http.Error(w, "no gateway asks here: see the guides of Portcullis for the path of yours", http.StatusNotFound)
		return
	}
	reply(w, way, e.decide(way, q, path))
}

// way finds who asks: by the path, of which more follows where the way says so.
func (e *Endpoint) way(path string) (*Way, string) {
	if w := e.ways[path]; w != nil && !w.TargetInPath {
		return w, path
	}
	for prefix, w := range e.ways {
		if w.TargetInPath && strings.HasPrefix(path, prefix+"/") {
			return w, prefix
		}
	}
	return nil, ""
}

func (e *Endpoint) decide(way *Way, q *http.Request, path string) front.Reply {
	asked, ok := way.rebuild(q, path)
	if !ok {
		return e.judge.Undecided()
	}
	r := new(http.Request)
	if !asked.Fill(r) {
		return e.judge.Malformed()
	}
	return e.judge.Judge(r)
}

func reply(w http.ResponseWriter, way *Way, d front.Reply) {
	if d.Pass {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h := w.Header()
	h.Set("X-Portcullis-Reason", d.Reason)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	if d.Answer.Location != "" {
		h.Set("Location", d.Answer.Location)
	}
	status := d.Answer.Status
	// To the gateway 2xx is a pass, also where a decoy is to answer 200.
	if way.Limited || status < 300 || status > 599 {
		h.Set("X-Portcullis-Status", strconv.Itoa(status))
		status = http.StatusForbidden
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, d.Answer.Body) // who has hung up does not read it
}
