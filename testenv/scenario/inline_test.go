package scenario

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// inlineAPI is an API with one server.
const inlineAPI = `{"api_metadata": {"protocol": "http", "url": "/shop", "hostname": "*", "cookie": "JSESSIONID", "enable_blocking": true,
  "oauth2_access_token": true, "servers": [{"host": %q, "port": 8000}]}}`

// session begins each session cookie: shorter ones are not taken for one client's.
const session = "0123456789abcdef"

// serveInside answers requests behind the gateway with who they are forwarded for; /chat changes to another protocol
// and echoes.
func (r *rig) serveInside() {
	r.t.Helper()
	var l net.Listener
	r.must(r.Backend.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(r.Backend.IPv4, 8000).String())
		return err
	}))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/shop/chat" {
			_, _ = io.WriteString(w, "for "+q.Header.Get("X-Forwarded-For"))
			return
		}
		c, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(c, in)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	r.t.Cleanup(func() { s.Close(); <-done })
}

// inline asks the proxy from a client.
func (r *rig) inline(h *testenv.Host, path, cookie string) (status, body string) {
	r.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return h.Dial("tcp", &net.TCPAddr{IP: h.IPv4.AsSlice()}, netip.AddrPortFrom(r.Gateway.IPv4, 8080), 5*time.Second)
	}}
	q, err := http.NewRequest("GET", "http://shop.com"+path, nil)
	r.must(err)
	q.Header.Set("Cookie", "JSESSIONID="+session+cookie)
	q.Header.Set("X-Forwarded-For", "203.0.113.99")
	a, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(q)
	r.must(err)
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	r.must(err)
	return a.Status, string(text)
}

// TestInline: requests of clients outside reach servers inside through the daemon, by lists and definitions that
// commands change, across restarts of the daemon.
func TestInline(t *testing.T) {
	r := newRig(t)
	r.serveInside()
	dir := t.TempDir()
	config, api, log := filepath.Join(dir, "portcullis.toml"), filepath.Join(dir, "shop.json"), filepath.Join(dir, "access.log")
	r.must(os.WriteFile(config, fmt.Appendf(nil, "[proxy]\nhttp = \":8080\"\naccess_log = %q\n[proxy.limits]\ngraceful_period = \"2s\"\n", log), 0o600))
	r.must(os.WriteFile(api, fmt.Appendf(nil, inlineAPI, r.Backend.IPv4), 0o600))
	r.daemon.Args = []string{"--config", config}
	r.must(r.daemon.Start())
	expect := func(h *testenv.Host, path, cookie, status, body string) {
		t.Helper()
		if gotStatus, got := r.inline(h, path, cookie); gotStatus != status || got != body {
			t.Errorf("%s with %s: %s, %q, want %s, %q", path, cookie, gotStatus, got, status, body)
		}
	}
	expect(r.Client, "/shop/1", "a", "503 Service Unavailable", "Error: No Server Configured") // root has none
	r.cli("add_api", api)
	forClient, forAnother := "for "+r.Client.IPv4.String(), "for "+r.Another.IPv4.String()
	expect(r.Client, "/shop/1", "a", "200 OK", forClient)

	chat, err := r.Client.Dial("tcp", &net.TCPAddr{IP: r.Client.IPv4.AsSlice()}, netip.AddrPortFrom(r.Gateway.IPv4, 8080), 5*time.Second)
	r.must(err)
	defer chat.Close()
	_ = chat.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = io.WriteString(chat, "GET /shop/chat HTTP/1.1\r\nHost: shop.com\r\nCookie: JSESSIONID="+session+"a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r.must(err)
	in := bufio.NewReader(chat)
	if a, err := http.ReadResponse(in, nil); err != nil || a.StatusCode != 101 {
		t.Fatalf("upgrade: %v, %v", a, err)
	}

	r.cli("add_blacklist", "cookie", "JSESSIONID", session+"a")
	listed := time.Now()
	expect(r.Client, "/shop/1", "a", "403 Unauthorized", "Error: Unauthorized")
	expect(r.Client, "/shop/1", "b", "200 OK", forClient)
	expect(r.Another, "/shop/1", "b", "200 OK", forAnother)
	if _, err := in.ReadByte(); err == nil {
		t.Error("the upgraded connection of a listed client goes on")
	}
	t.Logf("the upgraded connection ended within %v of the listing", time.Since(listed).Round(time.Millisecond))

	r.must(r.daemon.Stop())
	r.must(r.daemon.Start())
	expect(r.Client, "/shop/1", "a", "403 Unauthorized", "Error: Unauthorized")
	r.must(r.daemon.Kill())
	r.must(r.daemon.Start())
	expect(r.Another, "/shop/1", "b", "200 OK", forAnother)
	if out := r.cli("status"); !strings.Contains(out, "mode                    : inline\n") || !strings.Contains(out, "http/ws                 : port 8080\n") {
		t.Errorf("status: %s", out)
	}
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	if _, err := r.Client.Dial("tcp", &net.TCPAddr{IP: r.Client.IPv4.AsSlice()}, netip.AddrPortFrom(r.Gateway.IPv4, 8080), time.Second); err == nil {
		t.Error("packets of a listed address reach the proxy")
	}
	starts := strings.Count(r.daemon.Log(), "msg=enforcing")
	r.must(syscall.Kill(r.daemon.PID(), syscall.SIGUSR2))
	testenv.Eventually(t, 60*time.Second, "it has restarted in its process", func() error {
		if strings.Count(r.daemon.Log(), "msg=enforcing") == starts {
			return errors.New(r.daemon.Log())
		}
		return nil
	})
	expect(r.Another, "/shop/1", "b", "200 OK", forAnother)
	expect(r.Another, "/shop/1", "a", "403 Unauthorized", "Error: Unauthorized")
	r.blocked(r.Client, ipv4...)
	r.must(r.daemon.Stop())
	r.checkAccessLog(log)
}

// checkAccessLog: every line is JSON, and no cookie is in it.
func (r *rig) checkAccessLog(path string) {
	r.t.Helper()
	text, err := os.ReadFile(path)
	r.must(err)
	lines := 0
	for line := range strings.Lines(string(text)) {
		var one struct{ API, Verdict, Cookie string }
		r.must(json.Unmarshal([]byte(line), &one))
		if lines++; one.Verdict == "" || one.API == "shop" && len(one.Cookie) < 10 {
			r.t.Errorf("line %s", line)
		}
	}
	if lines < 7 {
		r.t.Errorf("the access log has %d lines:\n%s", lines, text)
	}
}
