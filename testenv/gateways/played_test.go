package gateways

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/portcullis/portcullis/testenv"
)

// played is a gateway that is not in Debian: what it would ask, asked by the test.
type played func(r *rig, from string, q *http.Request) (answer, error)

func TestPlayedGateways(t *testing.T) {
	r := newRig(t)
	for _, args := range lists {
		r.cli(args...)
	}
	for name, ask := range map[string]played{"traefik": askAsTraefik, "envoy http": askAsEnvoy, "envoy grpc": askAsEnvoyByGRPC} {
		for _, q := range requests {
			parsed, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(q.raw())))
			if err != nil {
				t.Fatal(err)
			}
			a, err := ask(r, q.source(), parsed)
			if err != nil {
				t.Fatalf("%s, %s: %v", name, q.name, err)
			}
			if q.block && a != (answer{403, "Error: Unauthorized"}) || !q.block && a.status/100 != 2 {
				t.Errorf("%s, %s: got %+v, want it blocked: %v", name, q.name, a, q.block)
			}
		}
	}
}

// forwardedFor is the header as a gateway hands it on: with who connected to it at the end, and what was there before
// only if that is a trusted proxy.
func forwardedFor(q *http.Request, from string) string {
	if before := q.Header.Get("X-Forwarded-For"); before != "" && from == trusted {
		return before + ", " + from
	}
	return from
}

// askAsTraefik asks as forwardAuth does.
func askAsTraefik(r *rig, from string, q *http.Request) (answer, error) {
	ask, err := http.NewRequest(http.MethodGet, "http://"+r.check+"/check/forward", nil)
	if err != nil {
		return answer{}, err
	}
	ask.Header = q.Header.Clone()
	for _, hop := range []string{"Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		ask.Header.Del(hop)
	}
	for name, value := range map[string]string{
		"X-Forwarded-For": forwardedFor(q, from), "X-Forwarded-Method": q.Method, "X-Forwarded-Proto": "http",
		"X-Forwarded-Host": q.Host, "X-Forwarded-Uri": q.URL.RequestURI(), "X-Forwarded-Port": "80", "X-Forwarded-Server": "traefik", "X-Real-Ip": from,
	} {
		ask.Header.Set(name, value)
	}
	return do(ask)
}

// askAsEnvoy asks as the HTTP form of ext_authz does.
func askAsEnvoy(r *rig, from string, q *http.Request) (answer, error) {
	ask, err := http.NewRequest(q.Method, "http://"+r.check+"/check/envoy"+q.URL.RequestURI(), nil)
	if err != nil {
		return answer{}, err
	}
	ask.Header, ask.Host = q.Header.Clone(), q.Host
	ask.Header.Del("Connection")
	ask.Header.Set("X-Forwarded-For", forwardedFor(q, from))
	ask.Header.Set("X-Forwarded-Proto", "http")
	return do(ask)
}

func do(ask *http.Request) (answer, error) {
	client := http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	a, err := client.Do(ask)
	if err != nil {
		return answer{}, err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	return answer{a.StatusCode, string(body)}, err
}

// askAsEnvoyByGRPC asks as ext_authz does with encode_raw_headers.
func askAsEnvoyByGRPC(r *rig, from string, q *http.Request) (answer, error) {
	conn, err := grpc.NewClient(r.authz, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	raw := &core.HeaderMap{}
	add := func(key, value string) {
		raw.Headers = append(raw.Headers, &core.HeaderValue{Key: strings.ToLower(key), RawValue: []byte(value)})
	}
	add(":path", q.URL.RequestURI())
	for name, values := range q.Header {
		for _, value := range values {
			if name != "X-Forwarded-For" {
				add(name, value)
			}
		}
	}
	add("X-Forwarded-For", forwardedFor(q, from))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	a, err := auth.NewAuthorizationClient(conn).Check(ctx, &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source: &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: from}}}},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Method: q.Method, Path: q.URL.RequestURI(), Host: q.Host, Scheme: "http", Protocol: "HTTP/1.1", HeaderMap: raw,
		}},
	}})
	switch {
	case err != nil:
		return answer{}, err
	case codes.Code(a.GetStatus().GetCode()) == codes.OK:
		return answer{status: 200}, nil
	}
	denied := a.GetDeniedResponse()
	return answer{int(denied.GetStatus().GetCode()), denied.GetBody()}, nil
}

// TestEnvoyConfiguration: Envoy's own types can read deploy/envoy, and find nothing wrong with it.
func TestEnvoyConfiguration(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy", "envoy", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrap.Bootstrap
	if err := protojson.Unmarshal(asJSON, &b); err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(len(b.GetStaticResources().GetListeners()), len(b.GetStaticResources().GetClusters())); got != "1 2" {
		t.Errorf("%s listeners and clusters", got)
	}
}

// TestTraefikConfiguration: deploy/traefik is YAML that says what the guide says.
func TestTraefikConfiguration(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy", "traefik", "portcullis.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		HTTP struct {
			Middlewares map[string]struct {
				ForwardAuth struct {
					Address            string
					TrustForwardHeader *bool `yaml:"trustForwardHeader"`
				} `yaml:"forwardAuth"`
			}
			Routers map[string]struct{ Middlewares []string }
		}
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	m := c.HTTP.Middlewares["portcullis"].ForwardAuth
	if !strings.HasSuffix(m.Address, "/check/forward") || m.TrustForwardHeader == nil || *m.TrustForwardHeader || c.HTTP.Routers["app"].Middlewares[0] != "portcullis" {
		t.Errorf("got %+v", c)
	}
}
