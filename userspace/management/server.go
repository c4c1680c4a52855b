package management

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/serving"
)

// MaxBody bounds the JSON of one request, in bytes.
const MaxBody = 1 << 20

// Options of [New]. Login is needed.
type Options struct {
	Login func(ctx context.Context, user, password string, from netip.Addr) (*control.Session, error)
	// Hosts are the names that the node is called by, beside its addresses and localhost.
	Hosts  []string
	Node   string       // the address that /cluster shows
	Logger *slog.Logger // nil: says nothing
}

// Server answers the management API. Safe for concurrent use.
type Server struct {
	options Options
	handler http.Handler
}

// New returns a server that listens nowhere yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: o}
	mux := http.NewServeMux()
	for _, version := range []string{"/v4/ase", "/v5/ase"} {
		s.register(mux, version)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, http.StatusNotFound, "no such call: "+lists.Quote(r.Method+" "+r.URL.Path))
	})
	s.handler = mux
	return s
}

// Handler returns what answers, without TLS.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on l, a listener of TLS, until ctx ends; then it waits up to ten seconds for calls it began. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 5 * time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelDebug),
	}
	if err := serving.HTTP(ctx, h, l, 10*time.Second); err != nil {
		return fmt.Errorf("serve management API: %w", err)
	}
	return nil
}

// call is one call of a user who is logged in.
type call struct {
	*control.Session
	w    http.ResponseWriter
	r    *http.Request
	body []byte
}

// query is one value of the query string.
func (c *call) query(name string) string { return c.r.URL.Query().Get(name) }

// loggedIn lets a user through who may call; answer returns what is sent as JSON.
func (s *Server) loggedIn(answer func(*call) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if why := s.strange(r); why != "" {
			s.fail(w, http.StatusForbidden, why)
			return
		}
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			s.fail(w, http.StatusForbidden, "caller has no address")
			return
		}
		user, password := r.Header.Values("x-ase-access-key"), r.Header.Values("x-ase-secret-key")
		if len(user) != 1 || len(password) != 1 {
			s.fail(w, http.StatusForbidden, "this needs the headers x-ase-access-key and x-ase-secret-key, once each")
			return
		}
		session, err := s.options.Login(r.Context(), user[0], password[0], peer.Addr())
		if err != nil {
			s.failed(w, err)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
		if err != nil {
			s.fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body cannot be read, or has more than %d bytes", MaxBody))
			return
		}
		if len(body) > 0 && !isJSON(r.Header.Get("Content-Type")) {
			s.fail(w, http.StatusUnsupportedMediaType, "the body must be application/json, and say so in Content-Type")
			return
		}
		reply, err := answer(&call{Session: session, w: w, r: r, body: body})
		if err != nil {
			s.failed(w, err)
			return
		}
		if long, ok := reply.(listing); ok {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			if long.write(bufio.NewWriter(w)) != nil {
				panic(http.ErrAbortHandler) // cuts the connection: the client sees that the answer is not whole
			}
			return
		}
		send(w, http.StatusOK, reply)
	}
}

// strange says what is wrong with a request that somebody's browser was made to send.
func (s *Server) strange(r *http.Request) string {
	if r.Header.Get("Origin") != "" {
		return "requests of web pages (Origin) are not taken"
	}
	host := strings.ToLower(r.Host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || slices.Contains(s.options.Hosts, host) {
		return ""
	}
	return "host " + lists.Quote(host) + " is none of this node's names: call its address, or add the name to management.hosts in the configuration"
}

func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/json")
}

// status is what a change answers.
type status struct {
	Status  string `json:"status"`
	Message string `json:"status_message"`
}

func success(format string, args ...any) status {
	return status{"success", fmt.Sprintf(format, args...)}
}

func (s *Server) fail(w http.ResponseWriter, code int, message string) {
	send(w, code, status{"failed", message})
}

// failed answers an error of the control API by its code.
func (s *Server) failed(w http.ResponseWriter, err error) {
	var e *control.Error
	if !errors.As(err, &e) {
		e = &control.Error{Code: control.CodeFailed, Message: err.Error()}
	}
	message := e.Message
	if len(e.Risks) > 0 {
		message += "; if you mean it, add ?accept_risk=" + strings.Join(e.Risks, ",")
	} else if e.Hint != "" {
		message += " (" + e.Hint + ")"
	}
	s.fail(w, e.GetStatus(), message)
}

func send(w http.ResponseWriter, code int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		code, text = http.StatusInternalServerError, []byte(`{"status":"failed","status_message":"the daemon made a mistake"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write(append(text, '\n'))
}

// read reads the body: one JSON object of known fields.
func (c *call) read(v any) error {
	dec := json.NewDecoder(bytes.NewReader(c.body))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return &control.Error{Code: control.CodeInvalid, Message: "body: " + err.Error()}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &control.Error{Code: control.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}
