package scenario

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

const shopAPI = `{"api_metadata": {
  "protocol": "http", "url": "/shop", "hostname": "*", "cookie": "JSESSIONID", "oauth2_access_token": true, "enable_blocking": true,
  "api_pattern_enforcement": {"methods_allowed": ["GET"], "error_code": "405", "error_def": "Method Not Allowed", "error_message_body": "no"},
  "decoy_config": {"decoy_enabled": true, "response_code": 200, "response_def": "OK", "response_message": "welcome", "decoy_subpaths": ["/admin"]}
}}`

// asking is a rig whose daemon answers a gateway on the same host.
type asking struct {
	*rig
	client http.Client
}

func newAsking(t *testing.T) *asking {
	r := newRig(t)
	config := filepath.Join(t.TempDir(), "portcullis.toml")
	r.must(os.WriteFile(config, []byte("[sideband]\nlisten = \"127.0.0.1:8080\"\n"), 0o600))
	r.daemon.Args = []string{"--config", config}
	r.must(r.daemon.Start())
	api := filepath.Join(t.TempDir(), "shop.json")
	r.must(os.WriteFile(api, []byte(shopAPI), 0o600))
	r.cli("add_api", api)
	return &asking{rig: r, client: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, _ string) (net.Conn, error) {
			return r.Gateway.Dial("tcp", nil, netip.MustParseAddrPort("127.0.0.1:8080"), 5*time.Second)
		},
	}}}
}

// ask tells of a request, and returns the answer's status.
func (a *asking) ask(from netip.Addr, method, url string, headers ...string) int {
	a.t.Helper()
	all := `{"host":"shop.com"}`
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		all += fmt.Sprintf(`,{%q:%q}`, name, value)
	}
	body := fmt.Sprintf(`{"source_ip":%q,"source_port":4711,"method":%q,"url":%q,"http_version":"1.1","headers":[%s]}`, from, method, url, all)
	resp, err := a.client.Post("http://127.0.0.1:8080/ase/request", "application/json", strings.NewReader(body))
	a.must(err)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode
}

func (a *asking) answers(want int, from netip.Addr, method, url string, headers ...string) {
	a.t.Helper()
	if got := a.ask(from, method, url, headers...); got != want {
		a.t.Errorf("%s %s from %v %q: %d, want %d", method, url, from, headers, got, want)
	}
}

// TestRequestsAndPackets: one list, two layers. What a command lists is refused to a gateway that asks when the command
// returns, and who touches a decoy loses the network below him.
func TestRequestsAndPackets(t *testing.T) {
	a := newAsking(t)
	bearer := "Authorization: Bearer t0ken"
	a.answers(200, a.Client.IPv4, "GET", "/shop/cart", bearer)
	a.cli("add_blacklist", "token", "t0ken")
	a.answers(403, a.Client.IPv4, "GET", "/shop/cart", bearer)
	a.answers(200, a.Client.IPv4, "GET", "/shop/cart")
	a.cli("add_whitelist", "cookie", "JSESSIONID", "good")
	a.answers(200, a.Client.IPv4, "GET", "/shop/cart", bearer, "Cookie: JSESSIONID=good")
	a.cli("delete_whitelist", "cookie", "JSESSIONID", "good")
	a.cli("disable_blocking", "shop")
	a.answers(200, a.Client.IPv4, "GET", "/shop/cart", bearer)
	a.cli("enable_blocking", "shop")
	a.answers(403, a.Client.IPv4, "GET", "/shop/cart", bearer)
	a.cli("delete_blacklist", "token", "t0ken")

	a.answers(403, a.Client.IPv4, "GET", "/shop/admin")
	a.reach(a.Client)
	if out := a.cli("view_blacklist", "all"); out != "No Blacklist\n" {
		t.Errorf("with detection off there is: %s", out)
	}

	a.cli("enable_ase_detected_attack")
	began := time.Now()
	a.answers(403, a.Client.IPv4, "GET", "/shop/admin/users")
	a.must(testenv.Poll(5*time.Second, func() error { return a.Blocked(a.Client, "ping") }))
	t.Logf("from the touch of a decoy to dropped packets, the ping's own second included: %v", time.Since(began))
	if out, want := a.cli("view_blacklist", "decoy"), "Realtime Decoy Blacklist\n1) type : ip, value : "+a.Client.IPv4.String()+"\n"; out != want {
		t.Errorf("view_blacklist decoy: %q, want %q", out, want)
	}
	a.answers(403, a.Client.IPv4, "GET", "/shop/cart")
	a.reach(a.Another)

	a.must(a.daemon.Kill())
	a.blocked(a.Client, "ping")
	a.must(a.daemon.Start())
	a.answers(403, a.Client.IPv4, "GET", "/shop/cart")

	a.answers(403, a.Another.IPv4, "DELETE", "/shop/cart", "Authorization: Bearer somebodys")
	a.must(testenv.Poll(5*time.Second, func() error { return a.Blocked(a.Another, "ping") }))
	a.cli("disable_ase_detected_attack")
	a.reach(a.Client)
	a.reach(a.Another)
	a.answers(200, a.Client.IPv4, "GET", "/shop/cart")
}

// TestDetectionLocksNobodyOut: what is detected about the gateway's own addresses, or about a whitelisted client, lists
// nobody.
func TestDetectionLocksNobodyOut(t *testing.T) {
	a := newAsking(t)
	a.cli("enable_ase_detected_attack")
	a.cli("add_whitelist", "ip", a.Another.IPv4.String())
	for _, from := range []netip.Addr{a.Gateway.IPv4, a.Internet.IPv4, netip.MustParseAddr("127.0.0.1"), a.Another.IPv4} {
		a.answers(403, from, "GET", "/shop/admin")
	}
	// Findings are taken to the list in order: when this one is there, the others would be.
	a.answers(403, a.Client.IPv4, "GET", "/shop/admin")
	want := "Realtime Decoy Blacklist\n1) type : ip, value : " + a.Client.IPv4.String() + "\n"
	a.must(testenv.Poll(5*time.Second, func() error {
		if out := a.cli("view_blacklist", "decoy"); out != want {
			return fmt.Errorf("view_blacklist decoy: %q, want %q", out, want)
		}
		return nil
	}))
	a.reach(a.Another)
}
