package gateways

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// lists are what the cases below rely on.
var lists = [][]string{
	{"add_blacklist", "cookie", "JSESSIONID", "badcookie"},
	{"add_blacklist", "token", "badtoken"},
	{"add_blacklist", "api_key", "X-API-KEY", "badkey"},
	{"add_blacklist", "api_key", "api_key", "badquery"},
	{"add_blacklist", "username", "badguy"},
	{"add_blacklist", "ip", "192.0.2.66"},
	{"add_whitelist", "token", "goodtoken"},
}

// trusted is the address of a proxy in front of the gateway: who it forwards for counts.
const trusted = "127.0.0.3"

// request is one case: the request's lines without Host, and whether it must be stopped.
type request struct {
	name, from, target string
	lines              []string
	body               string
	block              bool
}

var requests = []request{
	{name: "clean", lines: []string{"Cookie: JSESSIONID=good; a=b", "Authorization: Bearer fine", "X-API-KEY: k", "x-user: alice"}},
	{name: "clean body", body: "hello", lines: []string{"Content-Length: 5"}},
	{name: "clean chunked", body: "5\r\nhello\r\n0\r\n\r\n", lines: []string{"Transfer-Encoding: chunked"}},
	{name: "cookie", lines: []string{"Cookie: JSESSIONID=badcookie"}, block: true},
	{name: "cookie with body", body: "hello", lines: []string{"Content-Length: 5", "Cookie: JSESSIONID=badcookie"}, block: true},
	{name: "cookie in a second header", lines: []string{"Cookie: a=b", "Cookie: JSESSIONID=badcookie"}, block: true},
	{name: "cookie in a first header", lines: []string{"Cookie: JSESSIONID=badcookie", "Cookie: a=b", "Cookie: c=d"}, block: true},
	{name: "token", lines: []string{"Authorization: Bearer badtoken"}, block: true},
	{name: "token, scheme in capitals", lines: []string{"AUTHORIZATION: BEARER badtoken"}, block: true},
	{name: "token in query", target: "/x?access_token=badtoken", block: true},
	{name: "api key", lines: []string{"X-Api-Key: badkey"}, block: true},
	{name: "second api key", lines: []string{"X-API-KEY: fine", "X-API-KEY: badkey"}, block: true},
	{name: "first api key", lines: []string{"X-API-KEY: badkey", "X-API-KEY: fine"}, block: true},
	{name: "api key in query", target: "/x?a=b&api_key=badquery", block: true},
	{name: "username", lines: []string{"X-User: badguy"}, block: true},
	{name: "username by basic", lines: []string{"Authorization: Basic YmFkZ3V5OnB3"}, block: true},
	{name: "address", from: trusted, lines: []string{"X-Forwarded-For: 192.0.2.66"}, block: true},
	{name: "address after others", from: trusted, lines: []string{"X-Forwarded-For: 192.0.2.1, 192.0.2.66"}, block: true},
	{name: "address before others", from: trusted, lines: []string{"X-Forwarded-For: 192.0.2.66, 192.0.2.1"}},
	{name: "address that a client claims", from: "127.0.0.4", lines: []string{"X-Forwarded-For: 192.0.2.66"}},
	{name: "whitelist wins over a cookie", lines: []string{"Authorization: Bearer goodtoken", "Cookie: JSESSIONID=badcookie"}},
	{name: "whitelist wins over an address", from: trusted, lines: []string{"X-Forwarded-For: 192.0.2.66", "Authorization: Bearer goodtoken"}},
	// What gateways say in headers is not taken from clients.
	{name: "target that a client claims", target: "/x?access_token=badtoken", lines: []string{"X-Original-URI: /", "X-Original-Url: /", "X-Forwarded-Uri: /"}, block: true},
	{name: "method that a client claims", lines: []string{"X-Original-Method: PUT", "X-Forwarded-Method: PUT"}},
	{name: "client that a client claims", from: trusted, lines: []string{"X-Forwarded-For: 192.0.2.66", "X-Original-Client: 192.0.2.1", "X-Real-IP: 192.0.2.1"}, block: true},
	{name: "others that a client claims", lines: []string{"X-Original-Client: 192.0.2.66", "X-Original-Host: a", "X-Forwarded-Host: a", "X-Forwarded-Proto: https", "X-Original-Proto: x"}},
}

func (q request) raw() []byte {
	method, target := "GET", q.target
	if q.body != "" {
		method = "POST"
	}
	if target == "" {
		target = "/x"
	}
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: shop.example", "X-Case: " + q.name, "Connection: close"}, q.lines...)
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n" + q.body)
}

func (q request) source() string {
	if q.from == "" {
		return "127.0.0.1"
	}
	return q.from
}

func TestGateways(t *testing.T) {
	for _, g := range all() {
		t.Run(g.name, func(t *testing.T) {
			r := newRig(t)
			for _, args := range lists {
				r.cli(args...)
			}
			r.cli("add_api", r.write("shop.json", fmt.Sprintf(decoyAPI, port(r.app))))
			address := g.start(r)
			r.settled(address)
			for _, q := range requests {
				r.judge(address, q)
			}
			r.answered(g, address)
			r.outage(g, address)
		})
	}
}

// settled waits until the gateway has its connections to the daemon.
func (r *rig) settled(address string) {
	r.t.Helper()
	testenv.Eventually(r.t, 20*time.Second, "the gateway asks", func() error {
		a, err := send("127.0.0.1", address, request{name: "first"}.raw())
		if err == nil && a.status != 200 {
			err = fmt.Errorf("got %+v", a)
		}
		return err
	})
}

// judge sends a request through the gateway and looks at what reached the backend.
func (r *rig) judge(address string, q request) {
	r.t.Helper()
	a, err := send(q.source(), address, q.raw())
	if err != nil {
		r.t.Errorf("%s: %v", q.name, err)
		return
	}
	reached := r.backend.got(q.name)
	switch {
	case q.block && (a != answer{403, "Error: Unauthorized"} || reached != ""):
		r.t.Errorf("%s: got %+v, the backend got %q, want it blocked", q.name, a, reached)
	case !q.block && (a != answer{200, "backend"} || reached == ""):
		r.t.Errorf("%s: got %+v, the backend got %q, want it passed", q.name, a, reached)
	case !q.block && q.body != "" && reached != "POST /x hello":
		r.t.Errorf("%s: the backend got %q", q.name, reached)
	}
}

// answered looks at what clients get that are refused and not blocked.
func (r *rig) answered(g gateway, address string) {
	r.t.Helper()
	refused := func(path string, want answer) {
		q := request{name: "answer to " + path, target: path}
		if a, err := send("127.0.0.1", address, q.raw()); err != nil || a != want || r.backend.got(q.name) != "" {
			r.t.Errorf("%s: got %+v, %v, the backend got %q, want %+v", path, a, err, r.backend.got(q.name), want)
		}
	}
	refused("/shop/admin", g.decoy)
	refused("/shop/admin/users", g.decoy)
	r.judge(address, request{name: "beside a decoy", target: "/shop/administration"})
	r.cli("delete_api", "root")
	refused("/nobodys", answer{503, "Error: Unknown API"})
	r.cli("add_api", filepath.Join(r.dir, "root.json"))
}

// outage kills the daemon, looks what the gateway makes of that, and starts the daemon again.
func (r *rig) outage(g gateway, address string) {
	r.t.Helper()
	r.daemon.kill()
	closed := request{name: "closed"}
	if a, err := send("127.0.0.1", address, closed.raw()); err != nil || a.status != g.undecided || r.backend.got("closed") != "" {
		r.t.Errorf("daemon down: got %+v, %v, the backend got %q, want status %d", a, err, r.backend.got("closed"), g.undecided)
	}
	open := request{name: "open", target: "/open/x"}
	if a, err := send("127.0.0.1", address, open.raw()); err != nil || a.status != 200 || r.backend.got("open") != "GET /open/x " {
		r.t.Errorf("daemon down, open route: got %+v, %v, the backend got %q, want it passed", a, err, r.backend.got("open"))
	}
	testenv.Eventually(r.t, 10*time.Second, "the gateway's log tells of it", func() error {
		text, err := os.ReadFile(filepath.Join(r.dir, g.log))
		if err == nil && !strings.Contains(string(text), g.logged) {
			err = fmt.Errorf("no %q in %s:\n%s", g.logged, g.log, text)
		}
		return err
	})
	if g.name == "nginx" {
		text, err := os.ReadFile(filepath.Join(r.dir, "access.log"))
		for _, want := range []string{" 503 portcullis=undecided\n", " 200 portcullis=-\n", " 403 portcullis=blacklisted\n"} {
			if err != nil || !strings.Contains(string(text), want) {
				r.t.Errorf("no %q in the access log: %v\n%s", want, err, text)
			}
		}
	}
	r.startDaemon()
	r.settled(address)
	for _, q := range []request{
		{name: "after the outage", lines: []string{"Cookie: JSESSIONID=badcookie"}, block: true},
		{name: "after the outage, open route", target: "/open/x", lines: []string{"Cookie: JSESSIONID=badcookie"}, block: true},
	} {
		r.judge(address, q)
	}
}

// TestHAProxyInOtherWays: frames so small that every request comes in fragments, over a unix socket.
func TestHAProxyInOtherWays(t *testing.T) {
	b := newRecorder(t)
	dir := t.TempDir()
	socket := filepath.Join(dir, "spoe.sock")
	r := newRigWith(t, b.Listener.Addr().String(), api, "", "unix:"+socket)
	r.backend = b
	for _, args := range lists {
		r.cli(args...)
	}
	r.small = true
	r.spoe = "unix@" + socket
	address := startHAProxy(r)
	r.settled(address)
	for _, q := range requests {
		q.lines = append(q.lines, "X-Long: "+strings.Repeat("x", 3000))
		r.judge(address, q)
	}
}

// TestSocketGroup: a gateway that has given up root asks over a unix socket of its group, and nobody else does.
func TestSocketGroup(t *testing.T) {
	b := newRecorder(t)
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "spoe.sock")
	r := newRigWith(t, b.Listener.Addr().String(), api, "socket_group = \"haproxy\"\n", "unix:"+socket)
	r.backend = b
	r.cli(lists[0]...)
	r.spoe, r.user = "unix@"+socket, "haproxy"
	address := startHAProxy(r)
	r.settled(address)
	r.judge(address, request{name: "by its group", lines: []string{"Cookie: JSESSIONID=badcookie"}, block: true})

	r.user = "www-data"
	a, err := send("127.0.0.1", startHAProxy(r), request{name: "of another group"}.raw())
	if err != nil || (a != answer{503, "Error: Undecided"}) {
		t.Errorf("a gateway of another group got %+v, %v", a, err)
	}
}
