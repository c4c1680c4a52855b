package management

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

const secret = "a better password"

// keeper is sideband tokens and API definitions in memory.
type keeper struct {
	tokens []control.SidebandToken
	apis   map[string]string
}

func (k *keeper) Tokens() []control.SidebandToken { return k.tokens }

func (k *keeper) CreateToken() (string, error) {
	token := strings.Repeat("a", 32)
	k.tokens = append(k.tokens, control.SidebandToken{Token: token})
	return token, nil
}

func (k *keeper) ImportToken(token string) error {
	k.tokens = append(k.tokens, control.SidebandToken{Token: token})
	return nil
}

func (k *keeper) DeleteToken(token string) error {
	for i, t := range k.tokens {
		if t.Token == token {
			k.tokens = append(k.tokens[:i], k.tokens[i+1:]...)
			return nil
		}
	}
	return &control.Error{Code: control.CodeNotFound, Message: "no such sideband token"}
}

func (k *keeper) List() (all []control.API) {
	for id := range k.apis {
		all = append(all, control.API{ID: id})
	}
	return all
}

func (k *keeper) Get(id string) (control.API, error) {
	text, ok := k.apis[id]
	if !ok {
		return control.API{}, &control.Error{Code: control.CodeNotFound, Message: "no such API"}
	}
	return control.API{ID: id, Definition: text}, nil
}

func (k *keeper) Change(how control.DefinitionChange, file, text string) (control.API, []string, error) {
	id := strings.TrimSuffix(file, ".json")
	if how == control.DeleteAPI {
		delete(k.apis, id)
	} else {
		k.apis[id] = text
	}
	return control.API{ID: id}, nil, nil
}

func (k *keeper) SetBlocking(string, bool) (control.API, error) { return control.API{}, nil }

// rig is a management API over a node in memory.
type rig struct {
	t       *testing.T
	backend *controltest.Backend
	handler http.Handler
	audit   string
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	backend, k := controltest.NewBackend(), &keeper{apis: map[string]string{"root": `{"api_metadata":{}}`}}
	server, client := controltest.Start(t, backend, control.Options{StateDir: dir, Sideband: k, APIs: k})
	client.User, client.Password = "admin", "admin"
	if err := client.SetPassword(t.Context(), "admin", secret); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Login: server.Login, Hosts: []string{"gw.example"}, Node: "192.0.2.1:8010"})
	return &rig{t, backend, s.Handler(), filepath.Join(dir, "audit.log")}
}

// do makes a call; header changes are pairs, "-name" takes one away.
func (k *rig) do(method, path, body string, header ...string) (int, string) {
	r := httptest.NewRequest(method, "https://192.0.2.1:8010"+path, strings.NewReader(body))
	r.RemoteAddr = "192.0.2.9:4711"
	r.Header.Set("x-ase-access-key", "admin")
	r.Header.Set("x-ase-secret-key", secret)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		switch name, remove := strings.CutPrefix(header[i], "-"); {
		case remove:
			r.Header.Del(name)
		case name == "Host":
			r.Host = header[i+1]
		default:
			r.Header.Set(name, header[i+1])
		}
	}
	w := httptest.NewRecorder()
	k.handler.ServeHTTP(w, r)
	if !json.Valid(w.Body.Bytes()) || w.Header().Get("Content-Type") != "application/json" {
		k.t.Errorf("%s %s: %q is no JSON", method, path, w.Body)
	}
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestCalls(t *testing.T) {
	k := newRig(t)
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/api", "", 200, `{"api":[{"api_id":"root","status":"loaded"}]}`},
		{"GET", "/api?api_id=root", "", 200, `{"api_metadata":{}}`},
		{"GET", "/api?api_id=shop", "", 404, `{"status":"failed","status_message":"no such API"}`},
		{"POST", "/api?api_id=shop", `{"api_metadata":{"url":"/shop"}}`, 200, `{"status":"success","status_message":"api shop added"}`},
		{"GET", "/api?api_id=shop", "", 200, `{"api_metadata":{"url":"/shop"}}`},
		{"PUT", "/api?api_id=shop", `{"api_metadata":{"url":"/s"}}`, 200, `{"status":"success","status_message":"api shop updated"}`},
		{"DELETE", "/api?api_id=shop", "", 200, `{"status":"success","status_message":"api shop deleted"}`},
		{"DELETE", "/api", "", 400, `{"status":"failed","status_message":"which API? Add ?api_id=ID"}`},

		{"GET", "/firewall", "", 200, `{"status":"enabled","status_message":"Ok"}`},
		{"POST", "/firewall?status=disable", "", 200, `{"status":"success","status_message":"Firewall is now disabled"}`},
		{"GET", "/firewall", "", 200, `{"status":"disabled","status_message":"Ok"}`},
		{"POST", "/firewall?status=off", "", 400, `{"status":"failed","status_message":"status \"off\": expected ?status=enable or ?status=disable"}`},
		{"POST", "/firewall?status=enable", "", 200, `{"status":"success","status_message":"Firewall is now enabled"}`},

		{"POST", "/firewall/blacklist", `{"type":"ip","value":"1.1.1.1"}`, 200, `{"status":"success","status_message":"ip 1.1.1.1 added to blacklist"}`},
		{"POST", "/firewall/blacklist", `{"type":"ip","value":"1.1.1.1"}`, 200, `{"status":"success","status_message":"ip 1.1.1.1 already in blacklist"}`},
		{"POST", "/firewall/blacklist", `{"type":"cookie","name":"JSESSIONID","value":"c"}`, 200, `{"status":"success","status_message":"cookie JSESSIONID c added to blacklist"}`},
		{"POST", "/firewall/blacklist", `{"type":"ip","value":"nowhere"}`, 400, ``},
		{"POST", "/firewall/blacklist", `{"type":"ip","valu":"1.1.1.1"}`, 400, `{"status":"failed","status_message":"body: json: unknown field \"valu\""}`},
		{"POST", "/firewall/blacklist", `{"type":"ip","value":"1.1.1.1"}x`, 400, ``},
		{"GET", "/firewall/blacklist?tag=manual", "", 200, `{"manual_blacklist":[{"type":"ip","value":"1.1.1.1"},{"type":"cookie","name":"JSESSIONID","value":"c"}]}`},
		{"GET", "/firewall/blacklist?tag=decoy", "", 200, `{"realtime_decoy_blacklist":[]}`},
		{"GET", "/firewall/blacklist?tag=x", "", 400, ``},
		{"DELETE", "/firewall/blacklist", `{"type":"ip","value":"1.1.1.1"}`, 200, `{"status":"success","status_message":"ip 1.1.1.1 deleted from blacklist"}`},
		{"DELETE", "/firewall/blacklist", `{"type":"ip","value":"1.1.1.1"}`, 404, `{"status":"failed","status_message":"ip 1.1.1.1 is not in blacklist"}`},
		{"DELETE", "/firewall/blacklist", "", 400, ``},
		{"DELETE", "/firewall/blacklist?tag=decoy", "", 200, `{"status":"success","status_message":"Blacklist cleared"}`},
		{"GET", "/firewall/blacklist?tag=manual", "", 200, `{"manual_blacklist":[{"type":"cookie","name":"JSESSIONID","value":"c"}]}`},
		{"DELETE", "/firewall/blacklist?tag=all", "", 200, `{"status":"success","status_message":"Blacklist cleared"}`},
		{"GET", "/firewall/blacklist?tag=manual", "", 200, `{"manual_blacklist":[]}`},
		{"POST", "/firewall/whitelist", `{"type":"username","value":"abc@example.com"}`, 200, `{"status":"success","status_message":"username abc@example.com added to whitelist"}`},
		{"GET", "/firewall/whitelist", "", 200, `{"whitelist":[{"type":"username","value":"abc@example.com"}]}`},
		{"DELETE", "/firewall/whitelist?tag=manual", "", 400, ``},
		{"DELETE", "/firewall/whitelist?tag=all", "", 200, `{"status":"success","status_message":"Whitelist cleared"}`},

		{"POST", "/sideband/authentication?status=enable", "", 200, `{"status":"success","status_message":"Sideband authentication is successfully enabled"}`},
		{"GET", "/sideband/authentication", "", 200, `{"status":"enabled","status_message":"Ok"}`},
		{"POST", "/sideband/token", "", 200, `{"status":"token_created","token":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`},
		{"PUT", "/sideband/token", `{"token":"b"}`, 200, `{"status":"token_imported","token":"b"}`},
		{"DELETE", "/sideband/token", `{"token":"b"}`, 200, `{"status":"token_deleted","token":"b"}`},
		{"DELETE", "/sideband/token", `{"token":"b"}`, 404, `{"status":"failed","status_message":"no such sideband token"}`},
		{"GET", "/sideband/token", "", 200, `{"tokens":[{"token":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","created":"0001-01-01T00:00:00Z"}]}`},
		{"GET", "/cluster", "", 200, `{"node_count":1,"nodes":[{"host":"192.0.2.1:8010","version":"test","status":"active"}],"status":"disabled"}`},
		{"GET", "/nothing", "", 404, ``},
	} {
		for _, version := range []string{"/v4/ase", "/v5/ase"} {
			if version == "/v4/ase" && step.method != "GET" {
				continue // what is changed, is changed once
			}
			status, text := k.do(step.method, version+step.path, step.body)
			if status != step.status || step.want != "" && text != step.want {
				t.Errorf("%s %s %s: %d %s, want %d %s", step.method, version+step.path, step.body, status, text, step.status, step.want)
			}
		}
	}
	audit, err := os.ReadFile(k.audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		` | rest_api | add_blacklist | `, ` | rest_api | disable_firewall | `, ` | rest_api | add_api | `, ` | rest_api | create_sideband_token | `,
		"user=admin from=192.0.2.9 ",
	} {
		if !strings.Contains(string(audit), want) {
			t.Errorf("the audit log lacks %q:\n%s", want, audit)
		}
	}
}

// TestDoor: who may not call changes nothing and learns nothing.
func TestDoor(t *testing.T) {
	k := newRig(t)
	body := `{"type":"ip","value":"1.1.1.1"}`
	for name, test := range map[string]struct {
		header []string
		status int
	}{
		"no login":        {[]string{"-x-ase-access-key", ""}, 403},
		"no password":     {[]string{"-x-ase-secret-key", ""}, 403},
		"wrong password":  {[]string{"x-ase-secret-key", "admin"}, 403},
		"unknown user":    {[]string{"x-ase-access-key", "eve"}, 403},
		"a web page":      {[]string{"Origin", "https://evil.example"}, 403},
		"another host":    {[]string{"Host", "rebound.example:8010"}, 403},
		"a form":          {[]string{"Content-Type", "text/plain"}, 415},
		"no content type": {[]string{"-Content-Type", ""}, 415},
	} {
		if status, text := k.do("POST", "/v5/ase/firewall/blacklist", body, test.header...); status != test.status {
			t.Errorf("%s: %d %s, want %d", name, status, text, test.status)
		}
	}
	if n := k.backend.Snapshot().Len(lists.Blacklist); n != 0 {
		t.Errorf("%d entries were listed", n)
	}
	for _, host := range []string{"gw.example", "GW.example:8010", "localhost:8010", "[2001:db8::1]:8010"} {
		if status, text := k.do("GET", "/v5/ase/firewall", "", "Host", host); status != 200 {
			t.Errorf("host %s: %d %s", host, status, text)
		}
	}
	if status, _ := k.do("POST", "/v5/ase/firewall/blacklist", strings.Repeat(" ", MaxBody+1)); status != 413 {
		t.Errorf("a body that is too long: %d", status)
	}
}

// TestDefaultPassword: what every new node has opens nothing from outside.
func TestDefaultPassword(t *testing.T) {
	server, _ := controltest.Start(t, controltest.NewBackend(), control.Options{})
	k := &rig{t: t, handler: New(Options{Login: server.Login}).Handler()}
	if status, text := k.do("GET", "/v5/ase/firewall", "", "x-ase-secret-key", "admin"); status != 403 || !strings.Contains(text, "update_password") {
		t.Errorf("%d %s", status, text)
	}
}

// TestTLS: self-signed files are made once; new ones are taken up, broken ones are not; 1.2 is refused.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	if err := SelfSigned(cert, key, []string{"gw.example"}); err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(cert)
	if err := SelfSigned(cert, key, nil); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(cert); string(again) != string(first) {
		t.Error("the certificate was made anew")
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
	server, _ := controltest.Start(t, controltest.NewBackend(), control.Options{})
	s := New(Options{Login: server.Login})
	pair, err := OpenCertificate(cert, key, s.options.Logger)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, tls.NewListener(l, pair.Config())) }()
	get := func(most uint16) error {
		roots := x509.NewCertPool()
		text, _ := os.ReadFile(filepath.Join(dir, "trusted.pem"))
		roots.AppendCertsFromPEM(text)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "gw.example", MaxVersion: most}}}
		resp, err := client.Get("https://" + l.Addr().String() + "/v5/ase/firewall")
		if err != nil {
			return err
		}
		io.Copy(io.Discard, resp.Body)
		return resp.Body.Close()
	}
	trust := func(text []byte) {
		if err := os.WriteFile(filepath.Join(dir, "trusted.pem"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust(first)
	if err := get(tls.VersionTLS13); err != nil {
		t.Error(err)
	}
	if get(tls.VersionTLS12) == nil {
		t.Error("TLS 1.2 is taken")
	}
	touch := func(i int) { // as far apart as file systems tell times
		at := time.Now().Add(time.Duration(i) * time.Minute)
		if err := os.Chtimes(cert, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(cert, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	touch(1)
	if err := get(tls.VersionTLS13); err != nil {
		t.Errorf("with broken files the old certificate is not used: %v", err)
	}
	os.Remove(cert)
	if err := SelfSigned(cert, key, []string{"gw.example"}); err != nil {
		t.Fatal(err)
	}
	touch(2)
	second, _ := os.ReadFile(cert)
	trust(second)
	if err := get(tls.VersionTLS13); err != nil {
		t.Errorf("a new certificate is not taken up: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
