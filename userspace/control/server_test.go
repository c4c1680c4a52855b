package control_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/control/controltest"
)

var adminLogin = "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:admin"))

// raw sends a request without the client's help.
func raw(t *testing.T, c *control.Client, method, path, body string, header ...string) (int, http.Header, []byte) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
	}}
	req, err := http.NewRequest(method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", adminLogin)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, out
}

// TestRefusedRequests: whatever is wrong with a request, the answer is our error and the backend hears nothing.
func TestRefusedRequests(t *testing.T) {
	backend := controltest.NewBackend()
	c := controltest.Serve(t, backend, control.Options{})
	op := `{"op":"add","list":"blacklist","kind":"token","value":"secret-value"}`
	for _, tt := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code                     control.Code
		want                     string // in the message
	}{
		{"no body", "POST", "/v1/batch", "", nil, 400, "invalid", "required"},
		{"no JSON", "POST", "/v1/batch", "secret-value", nil, 400, "invalid", "body"},
		{"no object", "POST", "/v1/batch", "[]", nil, 400, "invalid", "object"},
		{"no ops", "POST", "/v1/batch", "{}", nil, 400, "invalid", "ops"},
		{"empty ops", "POST", "/v1/batch", `{"ops":[]}`, nil, 400, "invalid", "ops"},
		{"null ops", "POST", "/v1/batch", `{"ops":null}`, nil, 400, "invalid", "ops"},
		{"unknown field", "POST", "/v1/batch", `{"ops":[` + op + `],"force":true}`, nil, 400, "invalid", "body.force"},
		{"unknown field of an op", "POST", "/v1/batch", `{"ops":[` + op + `,{"op":"clear","list":"blacklist","ttl":5}]}`, nil, 400, "invalid", "ops[1].ttl"},
		{"other case", "POST", "/v1/batch", `{"ops":[{"OP":"clear","list":"blacklist"}]}`, nil, 400, "invalid", "ops[0]"},
		{"wrong type", "POST", "/v1/batch", `{"ops":[{"op":"add","for":"1h"}]}`, nil, 400, "invalid", "ops[0].for"},
		{"unknown word", "POST", "/v1/batch", `{"ops":[{"op":"clear","list":"graylist"}]}`, nil, 400, "invalid", "ops[0].list"},
		{"trailing", "POST", "/v1/batch", `{"ops":[` + op + `]} x`, nil, 400, "invalid", "body"},
		{"not UTF-8", "POST", "/v1/batch", strings.Replace(`{"ops":[`+op+`]}`, "secret", "\xff", 1), nil, 400, "invalid", "UTF-8"},
		{"lone surrogate", "POST", "/v1/batch", strings.Replace(`{"ops":[`+op+`]}`, "secret", `\ud800`, 1), nil, 400, "invalid", "UTF-8"},
		{"other format", "POST", "/v1/batch", `{"ops":[` + op + `]}`, []string{"Content-Type", "text/plain"}, 400, "invalid", "content type"},
		{"too large", "POST", "/v1/batch", `{"ops":[` + op + `],"session_peer":"` + strings.Repeat("x", control.MaxBody) + `"}`, nil, 400, "invalid", "too large"},
		{"session peer", "POST", "/v1/batch", `{"ops":[` + op + `],"session_peer":"home"}`, nil, 400, "invalid", "session_peer"},
		{"too many ops", "POST", "/v1/batch", `{"ops":[` + strings.Repeat(op+",", control.MaxOps) + op + `]}`, nil, 400, "invalid", "ops"},
		{"list", "GET", "/v1/lists/graylist", "", nil, 400, "invalid", "list"},
		{"source", "GET", "/v1/lists/blacklist?source=friend", "", nil, 400, "invalid", "source"},
		{"query", "GET", "/v1/lists/blacklist?sauce=manual", "", nil, 400, "invalid", "sauce"},
		{"limit", "GET", "/v1/history?limit=-1", "", nil, 400, "invalid", "limit"},
		{"path", "GET", "/v2/status", "", nil, 404, "invalid", "no such call"},
		{"method", "DELETE", "/v1/batch", "", nil, 404, "invalid", "no such call"},
		{"bearer", "GET", "/v1/auth_method", "", []string{"Authorization", "Bearer x"}, 401, "forbidden", "Basic"},
		{"wrong password", "POST", "/v1/batch", `{"ops":[` + op + `]}`, []string{"Authorization", "Basic eDp5"}, 401, "forbidden", "wrong"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := append([]string{"Content-Type", "application/json"}, tt.header...)
			status, h, body := raw(t, c, tt.method, tt.path, tt.body, header...)
			var e control.Error
			dec := json.NewDecoder(bytes.NewReader(body))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&e); err != nil {
				t.Fatalf("%d, not our error: %s", status, body)
			}
			if status != tt.status || e.Code != tt.code || !strings.Contains(e.Message, tt.want) || h.Get("Content-Type") != "application/json" {
				t.Errorf("%d %+v; want %d %s %q", status, e, tt.status, tt.code, tt.want)
			}
			if strings.Contains(string(body), "secret-value") || len(body) > 2000 {
				t.Errorf("the answer repeats what was sent: %.300s", body)
			}
		})
	}
	if n := len(backend.Requests()); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
	if status, _, body := raw(t, c, "GET", "/openapi.json", ""); status != 200 || !json.Valid(body) {
		t.Errorf("/openapi.json: %d", status)
	}
}

// TestBackendErrors: what the node answers reaches the caller whole, and the audit log says that it failed.
func TestBackendErrors(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	backend := controltest.NewBackend()
	risk := &control.Error{Code: control.CodeRisk, Message: "would lock you out", Hint: "think", Risks: []string{"own-address"}}
	backend.Refuse = func(r control.Request) error {
		switch {
		case r.Batch.Ops[0].ID.Value == "panic":
			panic("backend panics")
		case len(r.AcceptRisk) == 1 && r.AcceptRisk[0] == "own-address" && r.Caller.SessionPeer == "192.0.2.9":
			return nil
		case len(r.Batch.Ops) > 1:
			return errors.New("plain")
		}
		return risk
	}
	c := controltest.Serve(t, backend, control.Options{StateDir: dir})
	c.SessionPeer = "::ffff:192.0.2.9"
	_, err := c.Apply(ctx, addIP)
	if e := wantError(t, err, control.CodeRisk); e.Message != risk.Message || e.Hint != risk.Hint || len(e.Risks) != 1 {
		t.Errorf("error came over the wire as %+v", e)
	}
	_, err = c.Apply(ctx, []control.Operation{addIP[0], addIP[0]})
	wantError(t, err, control.CodeFailed)
	_, err = c.Apply(ctx, []control.Operation{{Op: "delete", List: "blacklist", Kind: "username", Value: "panic"}})
	wantError(t, err, control.CodeFailed)
	if _, err := c.Apply(ctx, addIP, "own-address"); err != nil {
		t.Error(err)
	}
	c.SessionPeer = "UNKNOWN"
	_, err = c.Apply(ctx, addIP, "own-address")
	wantError(t, err, control.CodeRisk)

	text, err := os.ReadFile(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		action := strings.Split(line, " | ")[2]
		got = append(got, action+line[strings.LastIndex(line, " outcome="):])
	}
	want := []string{
		"add_blacklist outcome=begun", "add_blacklist outcome=failed code=risk",
		"add_blacklist outcome=begun", "add_blacklist outcome=begun", "add_blacklist outcome=failed code=failed",
		"delete_blacklist outcome=begun", "delete_blacklist outcome=failed code=failed",
		"add_blacklist outcome=begun",
		"add_blacklist outcome=begun", "add_blacklist outcome=failed code=risk",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s", strings.Join(got, "\n"))
	}
}

// TestAuditSwitch: with the audit off nothing is written, but switching it is.
func TestAuditSwitch(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	c := controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
	for _, ops := range [][]control.Operation{
		{{Op: "set", Setting: "audit", To: "disabled"}}, addIP, {addIP[0], {Op: "set", Setting: "audit", To: "disabled"}},
		{{Op: "set", Setting: "audit", To: "enabled"}}, addIP,
	} {
		if _, err := c.Apply(ctx, ops); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		actions = append(actions, strings.Split(line, " | ")[2])
	}
	if got := strings.Join(actions, " "); got != "disable_audit disable_audit enable_audit add_blacklist" {
		t.Errorf("audit log has %s", got)
	}
}

// TestFailedLoginsAreAudited, a bounded number of them.
func TestFailedLoginsAreAudited(t *testing.T) {
	dir := t.TempDir()
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ahead atomic.Int64
	now := func() time.Time { return clock.Add(time.Duration(ahead.Load())) }
	c := *controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir, Now: now})
	c.User, c.Password = "eve | \n", "guess"
	for range 30 {
		if _, err := c.AuthMethod(context.Background()); err == nil {
			t.Fatal("eve is in")
		}
		ahead.Add(int64(5 * time.Second)) // no delays to wait for
	}
	text, err := os.ReadFile(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 10+10+6 { // 12 calls a minute, of which 10 are written
		t.Errorf("%d lines, want 26", len(lines))
	}
	if !strings.Contains(lines[0], `| cli | login_failed | user="eve \x7c \n" uid=`) || !strings.Contains(string(text), " omitted=2 ") {
		t.Errorf("lines:\n%s", text)
	}
}

// TestUnauditedIsRefused: a change that cannot be written down is not made.
func TestUnauditedIsRefused(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	backend := controltest.NewBackend()
	c := controltest.Serve(t, backend, control.Options{StateDir: dir})
	if _, err := c.Apply(ctx, addIP); err != nil {
		t.Fatal(err)
	}
	// A directory where the log belongs: the daemon finds its log displaced and cannot make another.
	for _, f := range []string{"audit.log", "audit.chain"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "audit.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := c.Apply(ctx, []control.Operation{{Op: "clear", List: "blacklist"}})
		if e := wantError(t, err, control.CodeFailed); !strings.Contains(e.Message, "audited") {
			t.Errorf("message %q", e.Message)
		}
	}
	wantError(t, c.SetPassword(ctx, "admin", "new"), control.CodeFailed)
	if n := len(backend.Requests()); n != 1 || backend.Snapshot().Len(lists.Blacklist) != 1 {
		t.Errorf("the backend saw %d requests", n)
	}
	if err := os.Remove(filepath.Join(dir, "audit.log")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(ctx, addIP); err != nil {
		t.Errorf("after the disk came back: %v", err)
	}
	st, err := c.Status(ctx)
	if err != nil || !strings.Contains(strings.Join(st.Warnings, " "), "moved or removed") {
		t.Errorf("warnings %q, %v", st.Warnings, err)
	}
}

// TestAuditCannotBeOpened: the node starts and shows its lists, refuses changes, says why, and recovers by itself.
func TestAuditCannotBeOpened(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "audit.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := controltest.Serve(t, controltest.NewBackend(), control.Options{StateDir: dir})
	secret := []control.Operation{{Op: "add", List: "blacklist", Kind: "token", Value: "secret"}}
	_, err := c.Apply(ctx, secret)
	wantError(t, err, control.CodeFailed)
	warned := func() bool {
		st, err := c.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(strings.Join(st.Warnings, " "), "changes are refused")
	}
	if !warned() {
		t.Error("status does not warn")
	}
	if got := collect(t, c.List(ctx, lists.Blacklist)); len(got) != 0 {
		t.Errorf("the refused entry is listed: %v", got)
	}
	if _, err := c.VerifyAudit(ctx); err == nil {
		t.Error("an audit log that is not open was verified")
	}
	if err := os.Remove(filepath.Join(dir, "audit.log")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Apply(ctx, secret); err != nil {
		t.Errorf("after it could be opened: %v", err)
	}
	if n, err := c.VerifyAudit(ctx); err != nil || n != 1 || warned() {
		t.Errorf("%d lines, %v, warned %v", n, err, warned())
	}
}

// TestConcurrentCalls: many callers at once, changes and views, over one server.
func TestConcurrentCalls(t *testing.T) {
	ctx := context.Background()
	backend := controltest.NewBackend()
	c := controltest.Serve(t, backend, control.Options{})
	const callers, each = 24, 8
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			mine := &control.Client{Socket: c.Socket, User: "admin", Password: "admin"}
			for n := range each {
				_, err := mine.Apply(ctx, []control.Operation{
					{Op: "add", List: "blacklist", Kind: "username", Value: fmt.Sprint("user", caller, ".", n)},
					{Op: "set", Setting: "firewall", To: []string{"enabled", "disabled"}[n%2]},
				})
				if err != nil {
					t.Error(err)
				}
				for _, err := range mine.List(ctx, lists.Blacklist) {
					if err != nil {
						t.Error(err)
					}
				}
				if _, err := mine.Status(ctx); err != nil {
					t.Error(err)
				}
				if caller == 0 {
					if err := mine.SetPassword(ctx, "admin", "admin"); err != nil {
						t.Error(err)
					}
				}
				if caller == 1 {
					if _, err := mine.VerifyAudit(ctx); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := backend.Snapshot().Len(lists.Blacklist); n != callers*each {
		t.Errorf("%d entries, want %d", n, callers*each)
	}
	if n, err := c.VerifyAudit(ctx); err != nil || n != callers*each*2+each {
		t.Errorf("%d audit lines, %v; want %d", n, err, callers*each*2+each)
	}
}

// TestCrowd: connections of one uid above its share wait their turn, and take nobody else's place.
func TestCrowd(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	c := controltest.Serve(t, controltest.NewBackend(), control.Options{})
	nobodys := as(t, c, nobody, "admin", "admin")
	dial := dialAs(c.Socket, nobody)
	var held []net.Conn
	for range control.MaxConnsUID {
		conn, err := dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	if _, err := c.Status(ctx); err != nil {
		t.Errorf("root beside the crowd: %v", err)
	}
	if _, err := as(t, c, nobody-1, "admin", "admin").AuthMethod(ctx); err != nil {
		t.Errorf("another uid beside the crowd: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := nobodys.AuthMethod(short); err == nil {
		t.Error("one connection more than allowed was served")
	}
	done := make(chan error, 1)
	go func() {
		_, err := nobodys.AuthMethod(ctx)
		done <- err
	}()
	for _, conn := range held {
		conn.Close()
	}
	if err := <-done; err != nil {
		t.Errorf("after the crowd left: %v", err)
	}

	// Three times its share at once: all are served in the end.
	var all sync.WaitGroup
	for range 3 * control.MaxConnsUID {
		all.Go(func() {
			if _, err := nobodys.AuthMethod(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestSlowPeersAreCut: neither half a header, nor half a body, nor an unread answer holds a place for long.
func TestSlowPeersAreCut(t *testing.T) {
	backend := controltest.NewBackend()
	fill(t, backend, 20_000)
	c := controltest.Serve(t, backend, control.Options{})
	for name, send := range map[string]string{
		"half a header":        "GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"half a refused body":  "POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eDp5\r\nContent-Length: 1000\r\n\r\n{",
		"unread answer":        "GET /v1/lists/blacklist HTTP/1.1\r\nHost: x\r\nAuthorization: " + adminLogin + "\r\n\r\n",
		"half a password body": "PUT /v1/password HTTP/1.1\r\nHost: x\r\nAuthorization: " + adminLogin + "\r\nContent-Length: 1000\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("unix", c.Socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, send); err != nil {
				t.Fatal(err)
			}
			if name == "unread answer" {
				// The daemon hangs up once a write has stalled; until then reading would be a help to it.
				if !hangsUp(t, conn, 3*control.StallTimeout) {
					t.Error("still connected")
				}
				return
			}
			conn.SetReadDeadline(time.Now().Add(3 * control.HeaderTimeout))
			if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the daemon did not hang up: %v", err)
			}
		})
	}
}

// fill puts n addresses on the blacklist.
func fill(t testing.TB, b *controltest.Backend, n int) {
	t.Helper()
	var ops []lists.Operation
	for i := range n {
		ops = append(ops, lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{
			Key:     lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindIP, Value: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}},
			Created: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Reason: "scan", By: "admin",
		}})
	}
	if _, err := b.Apply(context.Background(), control.Request{Batch: lists.Batch{Ops: ops}}); err != nil {
		t.Fatal(err)
	}
}

// TestCutStreams: a list that was cut is an error, never a shorter list.
func TestCutStreams(t *testing.T) {
	entry := `{"entry":{"list":"blacklist","source":"manual","kind":"ip","value":"1.1.1.1","created":"2026-01-01T00:00:00Z"}}` + "\n"
	for name, body := range map[string]string{
		"nothing": "", "no end": entry, "half a line": entry + entry[:40], "short": `{"end":true,"count":1}` + "\n",
		"error line": entry + `{"error":{"code":"failed","message":"disk"}}` + "\n", "garbage": "<html>", "no entry": "{}\n" + entry,
		"future kind": strings.Replace(entry, `"ip"`, `"fingerprint"`, 1) + `{"end":true,"count":1}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := fakeDaemon(t, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+body)
			var last error
			for _, err := range c.List(context.Background(), lists.Blacklist) {
				last = err
			}
			wantError(t, last, control.CodeFailed)
		})
	}
	c := fakeDaemon(t, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+entry+`{"end":true,"count":1}`+"\n")
	if got := collect(t, c.List(context.Background(), lists.Blacklist)); len(got) != 1 || got[0].ID.Value != "1.1.1.1" {
		t.Errorf("a whole list came as %v", got)
	}
}

// fakeDaemon answers one connection with fixed bytes.
func fakeDaemon(t *testing.T, answer string) *control.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, answer)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return &control.Client{Socket: l.Addr().String()}
}
