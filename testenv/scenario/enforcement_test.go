package scenario

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestWhoActsOnAddresses: for each ip_enforcement what becomes of the packets and of the requests of a blacklisted address,
// of one that is whitelisted too, and of one with a whitelisted token.
func TestWhoActsOnAddresses(t *testing.T) {
	for _, test := range []struct {
		mode     string
		packets  bool // of the listed address reach the network
		requests int  // what its requests are answered, 0: nothing
		token    int  // the same with a whitelisted token
	}{
		{"kernel", false, 0, 0},
		{"l7", true, http.StatusForbidden, http.StatusOK},
		{"both", false, 0, 0},
	} {
		t.Run(test.mode, func(t *testing.T) {
			r := newRig(t)
			r.serveInside()
			dir := t.TempDir()
			config, api := filepath.Join(dir, "portcullis.toml"), filepath.Join(dir, "shop.json")
			r.must(os.WriteFile(config, fmt.Appendf(nil, "ip_enforcement = %q\ntrusted_proxies = [%q]\n[proxy]\nhttp = \":8080\"\n[proxy.limits]\ngraceful_period = \"2s\"\n",
				test.mode, r.Backend.IPv4.String()), 0o600))
			r.must(os.WriteFile(api, fmt.Appendf(nil, inlineAPI, r.Backend.IPv4), 0o600))
			r.daemon.Args = []string{"--config", config}
			r.must(r.daemon.Start())
			r.cli("add_api", api)
			r.cli("add_whitelist", "token", "friend")
			// Before it is listed an address reaches all, or the rest would show nothing.
			r.reach(r.Client)
			r.asks(r.Client, http.StatusOK, nil)

			r.cli("add_blacklist", "ip", r.Client.IPv4.String())
			r.packetsReach(r.Client, test.packets, ipv4...)
			r.reach(r.Another)
			r.asks(r.Client, test.requests, nil)
			r.asks(r.Client, test.token, map[string]string{"Authorization": "Bearer friend"})
			r.asks(r.Another, http.StatusOK, nil)
			// Of whom a proxy speaks no packet came here: the shim judges in every mode.
			forwarded := map[string]string{"X-Forwarded-For": r.Client.IPv4.String()}
			r.asks(r.Backend, http.StatusForbidden, forwarded)
			forwarded["Authorization"] = "Bearer friend"
			r.asks(r.Backend, http.StatusOK, forwarded)

			r.cli("add_whitelist", "ip", r.Client.IPv4.String())
			r.reach(r.Client)
			r.asks(r.Client, http.StatusOK, nil)
			r.cli("delete_whitelist", "ip", r.Client.IPv4.String())
			r.packetsReach(r.Client, test.packets, "ping")
			r.asks(r.Client, test.requests, nil)

			// A daemon that is started again enforces the same.
			r.must(r.daemon.Kill())
			r.must(r.daemon.Start())
			r.packetsReach(r.Client, test.packets, "ping")
			r.asks(r.Client, test.requests, nil)
			r.asks(r.Client, test.token, map[string]string{"Authorization": "Bearer friend"})
			r.cli("delete_blacklist", "ip", r.Client.IPv4.String())
			r.reach(r.Client)
			r.asks(r.Client, http.StatusOK, nil)
		})
	}
}

func (r *rig) packetsReach(h *testenv.Host, want bool, probes ...string) {
	r.t.Helper()
	if want {
		r.reach(h, probes...)
	} else {
		r.blocked(h, probes...)
	}
}

// asks sends the proxy a request, and fails the test if the answer is another one; 0: the connection is not made.
func (r *rig) asks(h *testenv.Host, want int, header map[string]string) {
	r.t.Helper()
	wait := 10 * time.Second
	if want == 0 {
		wait = time.Second
	}
	c, err := h.Dial("tcp", &net.TCPAddr{IP: h.IPv4.AsSlice()}, netip.AddrPortFrom(r.Gateway.IPv4, 8080), wait)
	if want == 0 {
		if err == nil {
			c.Close()
			r.t.Errorf("packets of %v reach the proxy", h.IPv4)
		}
		return
	}
	r.must(err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	q, err := http.NewRequest("GET", "http://shop.com/shop/1", nil)
	r.must(err)
	for name, value := range header {
		q.Header.Set(name, value)
	}
	r.must(q.Write(c))
	a, err := http.ReadResponse(bufio.NewReader(c), q)
	r.must(err)
	a.Body.Close()
	if a.StatusCode != want {
		r.t.Errorf("request of %v with %v: %s, want %d", h.IPv4, header, a.Status, want)
	}
}
