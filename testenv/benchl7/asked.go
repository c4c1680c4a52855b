package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/check"
	"github.com/portcullis/portcullis/userspace/shim/sideband"
	"github.com/portcullis/portcullis/userspace/shim/spoe"
)

// Groups of gateways that ask before they forward. Who is asked is a process of its own on the same CPU.
const (
	bySPOE        = "SPOE"
	byAuthRequest = "auth_request"
	directly      = "decision" // the generator asks
	bySideband    = "sideband" // the same
)

// Who is asked besides us.
const (
	askedEmpty = "nobody thinks" // answers at once, the same for every request
	askedNone  = "nobody is asked"
)

// asking is a contender: a gateway that asks.
func asking() []contender {
	return []contender{
		{ours, bySPOE, "HAProxy asks our agent, a million identifiers listed", startSPOE("spoe")},
		{askedEmpty, bySPOE, "HAProxy asks an agent that answers at once and does nothing", startSPOE("spoe-nothing")},
		{askedNone, bySPOE, "HAProxy forwards without asking", startSPOE("")},
		{ours, byAuthRequest, "nginx asks us, a million identifiers listed", startAuthRequest("check")},
		{askedEmpty, byAuthRequest, "nginx asks a bare net/http handler that answers 204", startAuthRequest("check-nothing")},
		{askedNone, byAuthRequest, "nginx forwards without asking", startAuthRequest("")},
		{ours, directly, "the check endpoint asked as nginx asks it, a million identifiers listed", startEndpoint("check")},
		{askedEmpty, directly, "the bare net/http handler, asked the same", startEndpoint("check-nothing")},
		{ours, bySideband, "the sideband asked as a gateway with a policy for ASE asks it, a million identifiers listed", startEndpoint("sideband")},
		{askedEmpty, bySideband, "a bare net/http handler that reads as much and answers 200", startEndpoint("sideband-nothing")},
	}
}

const (
	workSPOE        = "HAProxy asks by SPOE, a browser's headers, 64 kept connections"
	workAuthRequest = "nginx asks by auth_request, a browser's headers, 64 kept connections"
	workDirectly    = "a decision alone, 8 kept connections"
	workSideband    = "POST /ase/request, 8 kept connections"
)

// question is browser as nginx asks about it.
const question = "GET /check/nginx HTTP/1.1\r\nHost: portcullis\r\nX-Original-Method: GET\r\nX-Original-Uri: /shop/items?page=2\r\n" +
	"X-Original-Proto: http\r\nX-Original-Host: shop.example\r\nX-Original-Version: HTTP/1.1\r\nX-Original-Client: 127.0.0.1\r\n" +
	"Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n" +
	"Cookie: session=4f0c1a7be2d94d1d8c5c; theme=dark\r\nAuthorization: Bearer 2YotnFZFEjr1zCsicMWpAA\r\n\r\n"

// sidebandQuestion is browser as the sideband is asked about it.
func sidebandQuestion() string {
	body := `{"source_ip":"192.0.2.7","source_port":4711,"method":"GET","url":"/shop/items?page=2","http_version":"1.1","headers":[{"host":"shop.example"},` +
		`{"user-agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},{"accept":"application/json"},` +
		`{"cookie":"session=4f0c1a7be2d94d1d8c5c; theme=dark"},{"authorization":"Bearer 2YotnFZFEjr1zCsicMWpAA"}]}`
	return fmt.Sprintf("POST /ase/request HTTP/1.1\r\nHost: portcullis\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func askingWorkloads() []workload {
	return []workload{
		{name: workSPOE, groups: []string{bySPOE}, Connections: 64, Status: 200, Request: browser},
		{name: workAuthRequest, groups: []string{byAuthRequest}, Connections: 64, Status: 200, Request: browser},
		{name: workDirectly, groups: []string{directly}, Connections: 8, Status: 204, Request: question},
		{name: workSideband, groups: []string{bySideband}, Connections: 8, Status: 200, Request: sidebandQuestion()},
	}
}

// judge is a shim with as many identifiers as the proxy is measured with.
func judge() *shim.Shim {
	s := shim.New(shim.Options{IPEnforcement: "l7"})
	s.UseAPIs(apis.NewSet(&apis.API{
		ID: "shop", Protocol: "http", Hostname: "*", URL: "/", Cookie: "session", OAuth2Token: true, EnableBlocking: true,
	}))
	s.Use(listed(million), nil, true)
	return s
}

// runAsked is the process of who is asked.
func runAsked(ctx context.Context, role, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	serve := func() error { return answerNothing(l) }
	switch role {
	case "spoe":
		a := spoe.New(spoe.Options{Decide: judge().Decide})
		serve = func() error { return a.Serve(ctx, l) }
	case "check":
		e := check.New(check.Options{Decide: judge().Decide})
		serve = func() error { return e.Serve(ctx, l) }
	case "sideband":
		e := sideband.New(sideband.Options{Shim: judge()})
		serve = func() error { return e.Serve(ctx, l) }
	case "sideband-nothing":
		serve = func() error {
			return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		}
	case "check-nothing":
		serve = func() error {
			return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
		}
	}
	fmt.Println(l.Addr())
	if err := serve(); ctx.Err() == nil {
		return err
	}
	return nil
}

// answerNothing is the SPOE agent that does nothing: it passes every request, and reads of a frame what it must to
// answer it.
func answerNothing(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			in, out := make([]byte, 0, 64<<10), []byte(nil)
			for {
				n, err := c.Read(in[len(in):cap(in)])
				if err != nil {
					return
				}
				in = in[:len(in)+n]
				at := 0
				for len(in)-at >= 4 {
					size := int(binary.BigEndian.Uint32(in[at:]))
					if len(in)-at < 4+size {
						break
					}
					out = appendNothing(out, in[at+4:at+4+size])
					at += 4 + size
				}
				in = in[:copy(in[:cap(in)], in[at:])]
				if _, err := c.Write(out); err != nil {
					return
				}
				out = out[:0]
			}
		}()
	}
}

// appendNothing answers a frame: a hello, or a question with the variable block set to false.
func appendNothing(out, frame []byte) []byte {
	start := len(out)
	switch frame[0] {
	case 1:
		out = append(out, "\x00\x00\x00\x00\x65\x00\x00\x00\x01\x00\x00\x07version\x08\x032.0\x0emax-frame-size\x03\xfc\xf0\x06\x0ccapabilities\x08\x0apipelining"...)
	case 3:
		end := skipVarint(frame, skipVarint(frame, 5)) // stream and frame
		out = append(out, 0, 0, 0, 0, 103)
		out = append(append(out, frame[1:end]...), "\x01\x03\x02\x05block\x01"...)
	default:
		return out
	}
	binary.BigEndian.PutUint32(out[start:], uint32(len(out)-start-4))
	return out
}

func skipVarint(b []byte, at int) int {
	if b[at] < 240 {
		return at + 1
	}
	for at++; b[at] >= 128; at++ {
	}
	return at + 1
}

// deployed is a file of deploy with these replacements, each of which must be there to be made.
func deployed(name string, oldnew ...string) (string, error) {
	root, err := testenv.Root()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(root, "deploy", name))
	if err != nil {
		return "", err
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(text), oldnew[i]) {
			return "", fmt.Errorf("deploy/%s has no %q", name, oldnew[i])
		}
	}
	return strings.NewReplacer(oldnew...).Replace(string(text)), nil
}

// withAsked starts who is asked, role "": nobody, and then the gateway.
func (s *session) withAsked(ctx context.Context, role string, gateway func(asked string) (*running, error)) (*running, error) {
	if role == "" {
		return gateway("127.0.0.1:9")
	}
	a, err := s.self(ctx, contenderCPU, "-role", role, "-address", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g, err := gateway(a.address)
	if err == nil {
		err = answers(g.address)
	}
	if err != nil {
		a.stop()
		return nil, err
	}
	stop := g.stop
	g.more, g.stop = append(g.more, a), func() { stop(); a.stop() }
	return g, nil
}

// answers waits until requests pass.
func answers(address string) error {
	return testenv.Poll(10*time.Second, func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write([]byte(browser)); err != nil {
			return err
		}
		return readAnswer(bufio.NewReader(c), http.StatusOK)
	})
}

func startSPOE(role string) func(context.Context, *session) (*running, error) {
	return func(ctx context.Context, s *session) (*running, error) {
		return s.withAsked(ctx, role, func(asked string) (*running, error) { return s.startAskingHAProxy(ctx, role, asked) })
	}
}

func (s *session) startAskingHAProxy(ctx context.Context, role, asked string) (*running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	name := "haproxy-" + role
	engine, err := deployed("haproxy/portcullis.spoe", "timeout processing 500ms", "timeout processing 5s") // machines for benchmarks are busy
	if err != nil {
		return nil, err
	}
	path, err := s.config(name+".spoe", engine)
	if err != nil {
		return nil, err
	}
	text, err := deployed("haproxy/haproxy.cfg", "bind :80\n", "bind "+address+"\n", "/etc/haproxy/portcullis.spoe", path, "127.0.0.1:8412", asked,
		"127.0.0.1:8000", s.backend, "    log stdout format raw local0 info\n", "    nbthread 1\n    maxconn 4096\n", "    log global\n", "    http-reuse always\n")
	if err != nil {
		return nil, err
	}
	if role == "" {
		text = withoutLines(text, "portcullis_", "filter spoe", "txn.")
	}
	if path, err = s.config(name+".cfg", text); err != nil {
		return nil, err
	}
	return s.foreign(ctx, address, nil, "haproxy", "-db", "-f", path)
}

// withoutLines drops the lines that hold one of the words.
func withoutLines(text string, words ...string) string {
	var kept []string
	for line := range strings.Lines(text) {
		keep := true
		for _, word := range words {
			keep = keep && !strings.Contains(line, word)
		}
		if keep {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func startEndpoint(role string) func(context.Context, *session) (*running, error) {
	return func(ctx context.Context, s *session) (*running, error) {
		return s.self(ctx, contenderCPU, "-role", role, "-address", "127.0.0.1:0")
	}
}

func startAuthRequest(role string) func(context.Context, *session) (*running, error) {
	return func(ctx context.Context, s *session) (*running, error) {
		return s.withAsked(ctx, role, func(asked string) (*running, error) { return s.startAskingNginx(ctx, role, asked) })
	}
}

func (s *session) startAskingNginx(ctx context.Context, role, asked string) (*running, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	dir := "nginx-" + role
	if err := os.MkdirAll(filepath.Join(s.dir, dir, "snippets"), 0o755); err != nil {
		return nil, err
	}
	files := []struct {
		from, to string
		oldnew   []string
	}{
		{"nginx/portcullis-http.conf", "http.conf", []string{"127.0.0.1:8411", asked}},
		{"nginx/portcullis-server.conf", "snippets/portcullis.conf", []string{"/var/log/nginx", s.dir}},
		{"nginx/portcullis-ask.conf", "snippets/portcullis-ask.conf", nil},
	}
	for _, f := range files {
		text, err := deployed(f.from, f.oldnew...)
		if err == nil {
			_, err = s.config(filepath.Join(dir, f.to), text)
		}
		if err != nil {
			return nil, err
		}
	}
	maps, ask := "include http.conf;", "include snippets/portcullis.conf;"
	if role == "" {
		maps, ask = "", ""
	}
	path, err := s.config(filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`daemon off; worker_processes 1; error_log stderr; pid %[1]s/%[2]s/pid;
events { worker_connections 4096; }
http {
	access_log off; keepalive_requests 100000000; %[6]s
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	upstream backend { server %[3]s; keepalive 64; keepalive_requests 100000000; }
	server {
		listen %[4]s;
		%[5]s
		location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }
	}
}
`, s.dir, dir, s.backend, address, ask, maps))
	if err != nil {
		return nil, err
	}
	return s.foreign(ctx, address, nil, "nginx", "-e", "stderr", "-c", path)
}
