package extauthz

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server and returns it with a client of the protocol.
func serve(t *testing.T, decide func(*http.Request) shim.Decision) (*Server, *grpc.ClientConn) {
	t.Helper()
	l, err := front.Listen(front.Place{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Decide: decide})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		conn.Close()
	})
	return s, conn
}

func ask(t *testing.T, conn *grpc.ClientConn, q *auth.CheckRequest) *auth.CheckResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a, err := auth.NewAuthorizationClient(conn).Check(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// question is as Envoy asks it, with what edit changes.
func question(edit func(h *auth.AttributeContext_HttpRequest, source *core.SocketAddress)) *auth.CheckRequest {
	h := &auth.AttributeContext_HttpRequest{
		Method: "POST", Path: "/a%2Fb?c=d", Host: "shop.com", Scheme: "https", Protocol: "HTTP/2",
		Headers: map[string]string{":path": "/a%2Fb?c=d", ":method": "POST", ":authority": "shop.com", "x-forwarded-for": "192.0.2.7", "cookie": "a=1; b=2"},
	}
	source := &core.SocketAddress{Address: "192.0.2.7", PortSpecifier: &core.SocketAddress_PortValue{PortValue: 4711}}
	if edit != nil {
		edit(h, source)
	}
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source:  &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: source}}},
		Request: &auth.AttributeContext_Request{Http: h},
	}}
}

func TestRequest(t *testing.T) {
	tests := []struct {
		name   string
		edit   func(*auth.AttributeContext_HttpRequest, *core.SocketAddress)
		want   string
		header http.Header
	}{
		{"joined", nil, "POST shop.com https /a/b c=d 192.0.2.7:4711 HTTP/2.0", http.Header{"X-Forwarded-For": {"192.0.2.7"}, "Cookie": {"a=1; b=2"}}},
		{"joined cookies", func(h *auth.AttributeContext_HttpRequest, a *core.SocketAddress) {
			h.Headers["cookie"], a.Address = "a=1,b=2", "::ffff:192.0.2.8"
		}, "POST shop.com https /a/b c=d 192.0.2.8:4711 HTTP/2.0", http.Header{"X-Forwarded-For": {"192.0.2.7"}, "Cookie": {"a=1,b=2", "a=1", "b=2"}}},
		{"raw", func(h *auth.AttributeContext_HttpRequest, a *core.SocketAddress) {
			h.Headers, h.Scheme, h.Protocol, a.Address = nil, "http", "HTTP/1.0", "2001:db8::1"
			h.HeaderMap = &core.HeaderMap{Headers: []*core.HeaderValue{
				{Key: ":path", RawValue: []byte("/")}, {Key: "host", RawValue: []byte("shop.com")}, {Key: "cookie", RawValue: []byte("a=1,x")},
				{Key: "cookie", RawValue: []byte("b=\xff")}, {Key: "content-length", RawValue: []byte("3")}, {Key: "x_y"},
			}}
		}, "POST shop.com http /a/b c=d [2001:db8::1]:4711 HTTP/1.0", http.Header{"Cookie": {"a=1,x", "b=\xff"}, "Content-Length": {"3"}, "X_y": {""}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got *http.Request
			s, conn := serve(t, func(r *http.Request) shim.Decision {
				got = r
				return shim.Decision{}
			})
			a := ask(t, conn, question(test.edit))
			if codes.Code(a.GetStatus().GetCode()) != codes.OK || a.GetOkResponse() == nil {
				t.Fatalf("got %v", a)
			}
			line := fmt.Sprint(got.Method, " ", got.Host, " ", got.URL.Scheme, " ", got.URL.Path, " ", got.URL.RawQuery, " ", got.RemoteAddr, " ", got.Proto)
			if line != test.want {
				t.Errorf("got %q, want %q", line, test.want)
			}
			if d := cmp.Diff(test.header, got.Header); d != "" {
				t.Error(d)
			}
			if got, want := s.Counts(), (front.Counts{Passed: 1}); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}

func TestDenied(t *testing.T) {
	decide := func(r *http.Request) shim.Decision {
		switch r.URL.Path {
		case "/block":
			return shim.Decision{Verdict: shim.Block, Reason: shim.Blacklisted, Answer: apis.Answer{Status: 403, Body: "Error: Unauthorized"}}
		case "/decoy":
			return shim.Decision{Verdict: shim.Refuse, Reason: shim.Detected, Answer: apis.Answer{Status: 200, Body: "welcome"}}
		case "/odd":
			return shim.Decision{Verdict: shim.Refuse, Reason: shim.Detected, Answer: apis.Answer{Status: 499}}
		case "/redirect":
			return shim.Decision{Verdict: shim.Refuse, Reason: shim.Detected, Answer: apis.Answer{Status: 302, Location: "https://a/"}}
		case "/pass":
			return shim.Decision{}
		}
		panic("no such path")
	}
	path := func(p string) *auth.CheckRequest {
		return question(func(h *auth.AttributeContext_HttpRequest, _ *core.SocketAddress) { h.Path = p })
	}
	with := func(edit func(*auth.AttributeContext_HttpRequest, *core.SocketAddress)) *auth.CheckRequest {
		return question(func(h *auth.AttributeContext_HttpRequest, a *core.SocketAddress) { h.Path = "/pass"; edit(h, a) })
	}
	type answer struct {
		status                 int
		reason, location, body string
	}
	undecided := answer{403, "undecided", "", "Error: Undecided"}
	tests := []struct {
		name string
		q    *auth.CheckRequest
		want answer
	}{
		{"block", path("/block"), answer{403, "blacklisted", "", "Error: Unauthorized"}},
		{"decoy", path("/decoy"), answer{200, "detected", "", "welcome"}},
		{"status that Envoy refuses", path("/odd"), answer{403, "detected", "", ""}},
		{"redirect", path("/redirect"), answer{302, "detected", "https://a/", ""}},
		{"malformed", path("/%zz"), answer{400, "malformed", "", "Error: Malformed Request"}},
		{"judge fails", path("/panic"), undecided},
		{"nothing", &auth.CheckRequest{}, undecided},
		{"no path", path(""), undecided},
		{"no client", with(func(_ *auth.AttributeContext_HttpRequest, a *core.SocketAddress) { a.Address = "" }), undecided},
		{"no scheme", with(func(h *auth.AttributeContext_HttpRequest, _ *core.SocketAddress) { h.Scheme = "" }), undecided},
		{"null header", with(func(h *auth.AttributeContext_HttpRequest, _ *core.SocketAddress) {
			h.Method, h.HeaderMap = "", &core.HeaderMap{Headers: []*core.HeaderValue{{}}}
		}), undecided},
	}
	s, conn := serve(t, decide)
	for _, test := range tests {
		a := ask(t, conn, test.q)
		denied := a.GetDeniedResponse()
		got := answer{status: int(denied.GetStatus().GetCode()), body: denied.GetBody()}
		for _, h := range denied.GetHeaders() {
			switch strings.ToLower(h.GetHeader().GetKey()) {
			case "x-portcullis-reason":
				got.reason = h.GetHeader().GetValue()
			case "location":
				got.location = h.GetHeader().GetValue()
			}
		}
		if got != test.want || codes.Code(a.GetStatus().GetCode()) != codes.PermissionDenied {
			t.Errorf("%s: got %+v, code %d, want %+v", test.name, got, a.GetStatus().GetCode(), test.want)
		}
	}
	if got, want := s.Counts(), (front.Counts{Blocked: 1, Refused: 4, Undecided: 6}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestHealth(t *testing.T) {
	_, conn := serve(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || a.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", a, err)
	}
}
