package extauthz

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

// Limits of the server.
const (
	maxQuestion = 1 << 20 // bytes
	maxStreams  = 1000    // questions at once on a connection
)

// Options of [New]. Only Decide must be set.
type Options struct {
	Decide func(*http.Request) shim.Decision // [shim.Shim.Decide]
	Logger *slog.Logger                      // nil: says nothing
}

// Server answers Envoy. Safe for concurrent use.
type Server struct {
	auth.UnimplementedAuthorizationServer
	judge *front.Judge
	log   *slog.Logger
}

// New returns a server that serves nobody yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{judge: front.NewJudge(o.Decide, o.Logger), log: o.Logger}
}

// Counts are what was answered so far.
func (s *Server) Counts() front.Counts { return s.judge.Counts() }

// Serve answers on the connections of l until ctx ends; then it lets what is being answered finish, within a second,
// closes l and returns nil. It returns an error if l fails before. It answers gRPC health checks too.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxQuestion), grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(10*time.Second))
	auth.RegisterAuthorizationServer(g, s)
	grpc_health_v1.RegisterHealthServer(g, health.NewServer())
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		force := time.AfterFunc(time.Second, g.Stop)
		defer force.Stop()
		g.GracefulStop()
	})
	err := g.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	g.Stop()
	if err != nil {
		return fmt.Errorf("serve Envoy: %w", err)
	}
	return nil
}

// Check answers one question. It returns no error: whatever goes wrong is answered as denied.
func (s *Server) Check(_ context.Context, q *auth.CheckRequest) (answer *auth.CheckResponse, _ error) {
	defer func() { // a panic here would end the whole daemon
		if p := recover(); p != nil {
			s.log.Error("cannot answer Envoy", "panic", p)
			answer = deny(s.judge.Undecided())
		}
	}()
	asked, ok := read(q)
	if !ok {
		return deny(s.judge.Undecided()), nil
	}
	r := new(http.Request)
	if !asked.Fill(r) {
		return deny(s.judge.Malformed()), nil
	}
	d := s.judge.Judge(r)
	if !d.Pass {
		return deny(d), nil
	}
	return &auth.CheckResponse{
		Status:       &status.Status{Code: int32(codes.OK)},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{}},
	}, nil
}

// read makes the request that q asks about; ok is false if q does not say all that is needed.
func read(q *auth.CheckRequest) (a front.Asked, ok bool) {
	h := q.GetAttributes().GetRequest().GetHttp()
	if h == nil {
		return a, false
	}
	peer := q.GetAttributes().GetSource().GetAddress().GetSocketAddress()
	client, err := netip.ParseAddr(peer.GetAddress())
	if err != nil {
		return a, false
	}
	client = client.Unmap().WithZone("")
	a = front.Asked{
		Method: h.GetMethod(), Target: h.GetPath(), Host: h.GetHost(), Proto: h.GetProtocol(), HTTPS: h.GetScheme() == "https",
		Client: client, Remote: netip.AddrPortFrom(client, uint16(peer.GetPortValue())).String(),
	}
	if h.GetHeaderMap() != nil {
		a.Header = rawHeader(h.GetHeaderMap().GetHeaders())
	} else {
		a.Header = joinedHeader(h.GetHeaders())
	}
	schemeKnown := a.HTTPS || h.GetScheme() == "http"
	return a, schemeKnown && a.Method != "" && a.Target != ""
}

// rawHeader takes headers as they were sent.
func rawHeader(all []*core.HeaderValue) http.Header {
	header := make(http.Header, len(all))
	for _, h := range all {
		value := h.GetValue()
		if raw := h.GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		if name, ok := canonical(h.GetKey()); ok {
			header[name] = append(header[name], value)
		}
	}
	return header
}

// joinedHeader takes headers whose repeated ones Envoy has joined by commas.
func joinedHeader(all map[string]string) http.Header {
	header := make(http.Header, len(all))
	for key, value := range all {
		name, ok := canonical(key)
		if !ok {
			continue
		}
		header[name] = append(header[name], value)
		if name == "Cookie" && strings.Contains(value, ",") {
			header[name] = append(header[name], strings.Split(value, ",")...) // one cookie with a comma, or two headers?
		}
	}
	return header
}

// canonical is the name as net/http writes it; ok is false for what net/http keeps elsewhere: Host, and what HTTP/2
// writes as a header with a colon.
func canonical(key string) (name string, ok bool) {
	name = textproto.CanonicalMIMEHeaderKey(key)
	return name, name != "" && name[0] != ':' && name != "Host"
}

// deny answers that the client is to get something else.
func deny(d front.Reply) *auth.CheckResponse {
	header := []*core.HeaderValueOption{option("X-Portcullis-Reason", d.Reason), option("Content-Type", "text/plain; charset=utf-8")}
	if d.Answer.Location != "" {
		header = append(header, option("Location", d.Answer.Location))
	}
	code := envoy.StatusCode(d.Answer.Status)
	if _, known := envoy.StatusCode_name[int32(code)]; !known || code == envoy.StatusCode_Empty {
		code = envoy.StatusCode_Forbidden // Envoy refuses answers with others, and would answer as when we are down
	}
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied), Message: d.Reason},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status: &envoy.HttpStatus{Code: code}, Headers: header, Body: d.Answer.Body,
		}},
	}
}

func option(key, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: key, Value: value}}
}
