package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Options of [New]. Backend and StateDir are needed.
type Options struct {
	Backend  Backend
	Used     bool   // lists were changed before: a users.json that is missing was lost
	StateDir string // users.json, audit.log and their companions; made with mode 0700 if missing
	Version  string
	Logger   *slog.Logger               // nil: says nothing
	APIs     Definitions                // nil: there are none
	WhyHTTP  func(HTTPQuestion) WhyHTTP // how an HTTP request is judged; nil: none is. Safe for concurrent use
	Why      func(netip.Addr) Why       // what happens to packets of an address; nil: not known. Safe for concurrent use
	Sideband Sideband                   // nil: there are no sideband tokens
	// Watch subscribes to samples of drops that keep says yes to; nil: not to be had. Safe for concurrent use.
	Watch func(keep func(*Drop) bool) Drops
	Hits  func(netip.Prefix) (Hits, error) // what a prefix has dropped; nil: not counted. Safe for concurrent use
	Now   func() time.Time                 // the clock that entries' ends are kept on; nil: time.Now
}

// Server answers the control API. Safe for concurrent use.
type Server struct {
	backend  Backend
	version  string
	log      *slog.Logger
	now      func() time.Time
	why      func(netip.Addr) Why
	whyHTTP  func(HTTPQuestion) WhyHTTP
	apis     Definitions
	sideband Sideband
	users    *users
	audit    *auditLog
	guard    *guard
	api      huma.API
	handler  http.Handler
	big      chan struct{} // held by requests with large bodies
	watch    func(keep func(*Drop) bool) Drops
	hits     func(netip.Prefix) (Hits, error)
}

// New reads users and audit log from the state directory, making the account admin/admin on a new node. Both
// are files of this process alone: the caller holds the directory's lock.
//
// What is wrong with these files keeps no node from enforcing. With a users.json that cannot be read passwords are
// refused and root still works; with an audit log that cannot be opened (disk full) changes are refused and views
// still work. Status warns of both, and the audit log is tried again at each change.
func New(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	audit := openAudit(o.StateDir, o.Now, o.Logger)
	s := &Server{
		backend: o.Backend, version: o.Version, log: o.Logger, now: o.Now, why: o.Why, whyHTTP: o.WhyHTTP, apis: o.APIs, sideband: o.Sideband, watch: o.Watch, hits: o.Hits,
		users: openUsers(o.StateDir, o.Used || audit.used(), o.Logger), audit: audit, guard: newGuard(o.Now),
		big: make(chan struct{}, bigAtOnce),
	}
	if err := s.routes(); err != nil {
		audit.close()
		return nil, err
	}
	return s, nil
}

// Keep reads users.json if it could not be read yet, and writes it again if it was removed: without it the next start would
// make the account admin/admin. Call it now and then.
func (s *Server) Keep() error { return s.users.keep() }

// Close gives the audit log's files back. Call it after Serve has returned.
func (s *Server) Close() error { return s.audit.close() }

// routes builds the handler: huma's operations and the OpenAPI document made from them.
func (s *Server) routes() error {
	config := huma.DefaultConfig("Portcullis control API", "1")
	config.Info.Description = "Lists, switches, state and audit of one node, on its unix socket. " +
		"Root by peer credentials needs no login; everybody else uses HTTP Basic."
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.CreateHooks = nil
	config.Formats = map[string]huma.Format{"application/json": {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: strictJSON}}
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", func(t reflect.Type, hint string) string {
		return strings.TrimPrefix(huma.DefaultSchemaNamer(t, hint), "Wire")
	})
	config.RejectUnknownQueryParameters = true
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"basic": {Type: "http", Scheme: "basic"}}

	mux := http.NewServeMux()
	s.api = humago.New(mux, config)
	s.api.UseMiddleware(s.authenticate)
	s.register()
	document, err := s.OpenAPI()
	if err != nil {
		return err
	}
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(document)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		e := invalid("%s %s: no such call", r.Method, r.URL.EscapedPath())
		e.Hint = "is client or daemon of another version? The calls are in /openapi.json"
		writeError(w, http.StatusNotFound, e)
	})
	s.handler = s.recovered(mux)
	return nil
}

// OpenAPI returns the document that describes the API, indented JSON.
func (s *Server) OpenAPI() ([]byte, error) {
	b, err := json.MarshalIndent(s.api.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("make OpenAPI document: %w", err)
	}
	return append(b, '\n'), nil
}

// Limits on one connection. Requests are small or stream; a peer that stalls is cut.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 30 * time.Second
	stallTimeout  = 10 * time.Second // a write that makes no progress
	hurriedWrite  = time.Second      // the same after the end, for who may otherwise take any time
	idleTimeout   = 30 * time.Second
	endGrace      = 5 * time.Second  // after the end: until the contexts of changes that still run end too
	endTimeout    = 10 * time.Second // after the end: how long Serve waits for running calls
	maxHeader     = 16 << 10
	bigBody       = 1 << 20 // of these only a few are read at once
	bigAtOnce     = 2
)

// Serve answers on l, which must be a unix socket, until ctx ends; then it takes no new calls and waits up to 10 s
// for those it began; after 5 s the contexts of changes end. It closes l. It returns nil when ctx ended and everything was finished.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if n := l.Addr().Network(); n != "unix" {
		l.Close()
		return fmt.Errorf("serve control API on %s: only unix sockets", n)
	}
	changes, cancel := context.WithCancel(context.Background())
	defer cancel()
	srv := &http.Server{
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithValue(context.Background(), changesKey{}, changes), endingKey{}, ctx)
		},
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnContext:       withPeer,
	}
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		late, done := context.WithTimeout(context.Background(), endTimeout)
		defer done()
		defer time.AfterFunc(endGrace, cancel).Stop()
		err := srv.Shutdown(late)
		if err != nil {
			srv.Close()
		}
		ended <- err
	})
	limited := &limitListener{Listener: l, limits: newLimits()}
	err := srv.Serve(limited)
	limited.turned.Wait()
	if stop() {
		srv.Close() // ctx did not end: the listener broke
		return fmt.Errorf("serve control API: %w", err)
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("end control API: %w", err)
	}
	return nil
}

// recovered answers 500 where a handler panics and gives every write a deadline.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &stallWriter{ResponseWriter: w, control: http.NewResponseController(w)}
		out.extend()
		// What is left of a body is not waited for longer than this.
		defer func() { _ = out.control.SetReadDeadline(time.Now().Add(headerTimeout)) }()
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.log.Error("control call panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if out.begun {
				panic(http.ErrAbortHandler) // cuts the connection: the client sees that the answer is not whole
			}
			writeError(out, http.StatusInternalServerError, &Error{Code: CodeFailed, Message: "the daemon made a mistake in this call", Hint: "see the daemon's log and report it"})
		}()
		next.ServeHTTP(out, r.WithContext(context.WithValue(r.Context(), writerKey{}, out)))
	})
}

// changesKey leads to the context that bounds changes; see unhurried.
type changesKey struct{}

// unhurried is ctx without its end: a change that is on record is carried through, whether or not its caller waits
// for it. It ends when Serve cannot wait any longer.
func unhurried(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	changes, ok := ctx.Value(changesKey{}).(context.Context)
	if !ok {
		return out, cancel
	}
	stop := context.AfterFunc(changes, cancel)
	return out, func() { stop(); cancel() }
}

// endingKey leads to the context of Serve.
type endingKey struct{}

type writerKey struct{}

// stallWriter moves the write deadline forward at each write, so that only a peer that stalls is cut.
type stallWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	begun   bool
	until   func() time.Time // deadline of a write; nil: stallTimeout from now
}

func (w *stallWriter) extend() {
	until := time.Now().Add(stallTimeout)
	if w.until != nil {
		until = w.until()
	}
	_ = w.control.SetWriteDeadline(until)
}

func (w *stallWriter) WriteHeader(status int) {
	w.begun = true
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *stallWriter) Write(b []byte) (int, error) {
	w.begun = true
	w.extend()
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController and huma reach the connection's deadlines.
func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func writeError(w http.ResponseWriter, status int, e *Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	b, _ := json.Marshal(e) // strings only: cannot fail
	w.Write(append(b, '\n'))
}
