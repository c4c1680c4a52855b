package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/testenv"
	"github.com/portcullis/portcullis/userspace/shim"
)

func TestAccessLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	b := newRecorder(t, nil)
	api := rootAPI(b.address)
	api.Cookie, api.OAuth2Token, api.APIKeyHeader, api.UsernameHeader = "session", true, "x-api-key", "X-User"
	r := newRig(t, Options{AccessLog: LogOptions{Path: path, Key: bytes.Repeat([]byte("k"), 32)}, TrustedProxies: []netip.Prefix{loopback}}, api)
	r.judge.decide = func(q *http.Request) (shim.Decision, bool) {
		d := blocked
		d.API, d.List = rootAPI(), lists.Blacklist
		d.ID = lists.ID{Kind: lists.KindCookie, Name: "session", Value: "very secret"}
		return d, q.URL.Path == "/b"
	}
	c := r.dial()
	c.send("GET /a%%22b?access_token=a-secret-of-many-bytes HTTP/1.1\r\nHost: shop.com\r\nUser-Agent: x\"y\\\xff\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n")
	c.read("GET")
	c.send("POST /p HTTP/1.1\r\nHost: shop.com\r\nContent-Length: 3\r\nCookie: session=cookie-0123456789\r\nAuthorization: Bearer token-0123456789\r\nX-API-Key: k3\r\nX-User: u3\r\n\r\nabc")
	c.read("POST")
	c.send("GET /b HTTP/1.1\r\nHost: shop.com\r\nCookie: session=very secret\r\n\r\n")
	c.read("GET")
	c = r.dial()
	c.send("GET / HTTP/1.1\r\n\r\n")
	c.read("GET")
	a, err := web(t, true).Get("http://" + r.plain + "/h2")
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	got := readLines(t, path, 5)
	for _, one := range got {
		when, err := time.Parse(time.RFC3339Nano, one["time"].(string))
		if took := one["us"].(float64); err != nil || time.Since(when).Abs() > time.Hour || took < 0 || took > 1e8 {
			t.Errorf("line %v: %v", one, err)
		}
		delete(one, "time")
		delete(one, "us")
	}
	short := func(kind lists.Kind, name, value string) string {
		return r.p.access.hash(lists.ID{Kind: kind, Name: name, Value: value})
	}
	hash := r.p.access.hash(lists.ID{Kind: lists.KindCookie, Name: "session", Value: "very secret"})
	line := func(more map[string]any) map[string]any {
		m := map[string]any{"api": "root", "client": "127.0.0.1", "proto": "HTTP/1.1", "method": "GET", "host": "shop.com",
			"verdict": "pass", "reason": "not_enforced", "status": 200.0}
		for k, v := range more {
			if m[k] = v; v == nil {
				delete(m, k)
			}
		}
		return m
	}
	want := []map[string]any{
		line(map[string]any{"path": "/a\"b", "client": "192.0.2.9", "peer": "127.0.0.1", "bytes": 48.0, "server": b.address, "user_agent": "x\"y\\\ufffd",
			"token": short(lists.KindToken, "", "a-secret-of-many-bytes")}),
		line(map[string]any{"path": "/p", "method": "POST", "bytes": 9.0, "server": b.address,
			"cookie": short(lists.KindCookie, "session", "cookie-0123456789"), "token": short(lists.KindToken, "", "token-0123456789"),
			"api_key": short(lists.KindAPIKey, "x-api-key", "k3"), "username": short(lists.KindUsername, "", "u3")}),
		line(map[string]any{"path": "/b", "status": 403.0, "verdict": "block", "reason": "blacklisted", "bytes": 19.0, "entry_kind": "cookie", "entry": hash}),
		line(map[string]any{"api": nil, "path": "", "host": "", "status": 400.0, "verdict": "refuse", "reason": "malformed", "bytes": 24.0}),
		line(map[string]any{"path": "/h2", "proto": "HTTP/2.0", "host": r.plain, "bytes": 9.0, "server": b.address, "user_agent": "Go-http-client/2.0"}),
	}
	// An answer is read before its line is written, so those of two connections may change places.
	byPath := func(a, b map[string]any) int { return strings.Compare(a["path"].(string), b["path"].(string)) }
	slices.SortFunc(want, byPath)
	slices.SortFunc(got, byPath)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if len(hash) != hashInLog || hash == (&accessLog{o: LogOptions{Key: []byte("other")}}).hash(lists.ID{Kind: lists.KindCookie, Name: "session", Value: "very secret"}) {
		t.Errorf("hash %q does not depend on the key", hash)
	}
}

// TestUserOfATokenInLog: who a JSON web token names is hashed as who a header names, wherever the API has its tokens.
func TestUserOfATokenInLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	b := newRecorder(t, nil)
	api := rootAPI(b.address)
	r := newRig(t, Options{AccessLog: LogOptions{Path: path, Key: bytes.Repeat([]byte("k"), 32)}}, api)
	token := func(payload string) string {
		enc := base64.RawURLEncoding.EncodeToString
		return enc([]byte(`{"alg":"HS256"}`)) + "." + enc([]byte(payload)) + ".c2ln"
	}
	alice := token(`{"sub":"secretAlice"}`)
	for _, test := range []struct{ location, target, header string }{
		{"h:authorization:bearer", "/0", "Authorization: Bearer " + alice},
		{"h:x-jwt", "/1", "X-JWT: " + alice},
		{"qs:id", "/2?id=" + alice, "A: b"},
		{"qs:id", "/3?id=" + alice + "&id=" + alice, "A: b"},
		{"h:x-jwt", "/4", "X-JWT: " + token(`{"sub":"secretAlice","sub":"secretBob"}`)},
		{"h:x-jwt", "/5", "X-JWT: secretAlice"},
	} {
		other := *api
		other.JWT.Location, other.JWT.Username = test.location, "sub"
		r.use(&other)
		c := r.dial()
		c.send("GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", test.target, test.header)
		c.read("GET")
		c.Close()
	}
	for _, line := range readLines(t, path, 6) {
		want := any(r.p.access.hash(lists.ID{Kind: lists.KindUsername, Value: "secretAlice"}))
		if line["path"].(string) > "/2" {
			want = nil
		}
		if line["username"] != want {
			t.Errorf("%v: want the username %v", line, want)
		}
	}
}

// readLines waits for so many lines, and fails the test if a secret is among them.
func readLines(t *testing.T, path string, count int) (got []map[string]any) {
	t.Helper()
	testenv.Eventually(t, patience, "the lines are written", func() error {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "secret") {
			t.Fatalf("a secret is in the log:\n%s", text)
		}
		got = nil
		for line := range strings.Lines(string(text)) {
			var one map[string]any
			if err := json.Unmarshal([]byte(line), &one); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			got = append(got, one)
		}
		if len(got) != count {
			return fmt.Errorf("%d lines of %d", len(got), count)
		}
		return nil
	})
	return got
}

func TestAccessLogRotatesAndLosesRatherThanWaits(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	log := new(lockedBuffer)
	a, err := openAccessLog(LogOptions{Path: path, MaxBytes: 1000, Keep: 2}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 99) + "\n")
	for range 45 {
		a.add(line)
		a.write()
	}
	for name, want := range map[string]int64{"": 500, ".1": 1000, ".2": 1000, ".3": -1} {
		info, err := os.Stat(path + name)
		if want < 0 && err == nil || want >= 0 && (err != nil || info.Size() != want) {
			t.Errorf("access.log%s: %v, %v, want %d bytes", name, info, err, want)
		}
	}
	// Taken away, as by another tool that rotates: a new one is begun.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.add(line)
	a.write()
	if info, err := os.Stat(path); err != nil || info.Size() != 100 {
		t.Errorf("after it was taken away: %v, %v", info, err)
	}
	if a.lostLines() != 0 {
		t.Errorf("%d lines lost", a.lostLines())
	}
	// The disk does not keep up: what does not fit is counted.
	for range logPending/len(line) + 7 {
		a.add(line)
	}
	if got := a.lostLines(); got != 7 {
		t.Errorf("%d lines lost, want 7", got)
	}
	// The disk fails: said once.
	a.pending = nil
	a.file.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.add(line)
		a.write()
	}
	if got := a.lostLines(); got != 10 || strings.Count(log.String(), "cannot be written") != 1 {
		t.Errorf("%d lines lost, log %s", got, log)
	}
	if _, err := openAccessLog(LogOptions{Path: filepath.Join(dir, "no", "where")}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "no/where") {
		t.Errorf("a path that cannot be: %v", err)
	}
}
