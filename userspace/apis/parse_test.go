package apis

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func shopJSON(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/shop.json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestParse: every field of ASE is read, or named as one without effect.
func TestParse(t *testing.T) {
	text := shopJSON(t)
	got, err := Parse("/etc/x/shop.json", append([]byte("\uFEFF"), text...))
	if err != nil {
		t.Fatal(err)
	}
	want := &API{
		ID: "shop", Protocol: "https", Hostname: "shop.example.com", URL: "/shop",
		Cookie: "JSESSIONID", APIKeyHeader: "X-API-Key", APIKeyQuery: "KeyId", UsernameHeader: "X-User",
		JWT: JWT{Location: "h:authorization:bearer", Username: "sub", ClientID: "client_id", JWKSURL: "https://id.example.com/keys",
			Issuer: "https://id.example.com", Audience: "shop"},
		OAuth2Token: true, TokenMandatory: true, EnableBlocking: true,
		Pattern: Pattern{Protocol: "https", Methods: []string{"GET", "POST"}, ContentType: "application/json",
			Redirect: &Answer{Status: 302, Reason: "Found", Location: "https://shop.example.com/shop"},
			Answer:   Answer{Status: 401, Reason: "Unauthorized", Body: "401 Unauthorized"}},
		Decoy:       Decoy{Enabled: true, Subpaths: []string{"/shop/admin", "/shop/root"}, Answer: Answer{Status: 200, Reason: "OK", Body: "OK"}},
		InternalURL: "/internal/shop",
		Servers: []Server{{Host: "192.0.2.10", Port: 8080, SpikeThreshold: 2, ConnectionsQuota: 20},
			{Host: "backend-2.internal", Port: 8081}},
		ServerTLS: true, Health: Health{Enabled: true, Interval: 60, Retries: 4, URL: "/health?deep=1"},
		Inert: []string{"cookie_idle_timeout", "cookie_persistence_enabled", "login_url", "api_memory_size", "flow_control.client_spike_threshold"},
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(API{}, "Raw")); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if !bytes.Equal(got.Raw, text) {
		t.Errorf("kept %q", got.Raw)
	}
}

func TestRoot(t *testing.T) {
	want := &API{ID: "root", Protocol: "http", Hostname: "*", URL: "/", EnableBlocking: true,
		Decoy: Decoy{Answer: Answer{Status: 200}}, Health: Health{Interval: 60, Retries: 4, URL: "/"}}
	if d := cmp.Diff(want, Root(), cmpopts.IgnoreFields(API{}, "Raw")); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestParseMinimal(t *testing.T) {
	a, err := Parse("a.json", []byte(`{"api_metadata":{"protocol":"ws","url":"/","hostname":"*"}}`))
	if err != nil || !a.EnableBlocking || a.OAuth2Token || len(a.Inert) != 0 {
		t.Fatalf("%+v, %v", a, err)
	}
}

// TestParseRefuses: each definition is the good one with one thing changed; the error names line and field.
func TestParseRefuses(t *testing.T) {
	tests := []struct{ old, new, want string }{
		{`"url": "/shop"`, `"url": "/shop" "x"`, "line 4: not JSON"},
		{`"url": "/shop"`, `"url": "shop"`, `line 4: api_metadata.url: "shop": does not begin with /`},
		{`"url": "/shop"`, `"url": "/a/b/c/d/e/f/g"`, `line 4: api_metadata.url: "/a/b/c/d/e/f/g": 7 levels, expected at most 6`},
		{`"url": "/shop"`, `"url": "/shop/"`, `write "/shop"`},
		{`"url": "/shop"`, `"url": "/shop/../x"`, `write "/x"`},
		{`"url": "/shop"`, `"url": "/sh%6fp"`, `without percent signs`},
		{`"url": "/shop"`, `"url": "/shop?x"`, `a path has no ?`},
		{`"url": "/shop"`, `"url": 7`, `line 4: api_metadata.url: a number, expected a text`},
		{`"url": "/shop",`, ``, `line 2: api_metadata.url: missing or empty`},
		{`"url": "/shop"`, `"url": "/shop", "url": "/x"`, `line 4: url: it is there twice`},
		{`"url": "/shop"`, `"url": "/shop", "urk": "/x"`, `line 4: api_metadata.urk: unknown field`},
		{`"https",`, `"ftp",`, `line 3: api_metadata.protocol: "ftp": not one of http, https, ws, wss`},
		{`"Shop.example.com"`, `"shop.example.com:443"`, `a host name has no port`},
		{`"Shop.example.com"`, `"shop..com"`, `line 5: api_metadata.hostname: "shop..com": no host name`},
		{`"Shop.example.com"`, `""`, `hostname: missing or empty`},
		{`"JSESSIONID"`, `"a=b"`, `line 6: api_metadata.cookie: "a=b": has something in it`},
		{`"X-API-Key"`, `"x: y"`, `apikey_header`},
		{`"KeyId"`, `"a\u0007"`, `apikey_qs: "a\a": has a control character`},
		{`"enable_blocking": true`, `"enable_blocking": "true"`, `line 16: api_metadata.enable_blocking: a text, expected true or false`},
		{`"h:Authorization:Bearer"`, `"cookie:x"`, `api_metadata.jwt.location: "cookie:x": expected h:authorization:bearer`},
		{`"h:Authorization:Bearer"`, `""`, `api_metadata.jwt.location: missing`},
		{`"https://id.example.com/keys"`, `"http://id.example.com/keys"`, `jwks_url: "http://id.example.com/keys": no URL that begins with https`},
		{`"jwks_url"`, `"keys_file": "/k", "jwks_url"`, `both jwks_url and keys_file`},
		{`"jwks_url": "https://id.example.com/keys", `, ``, `jwks_url: missing: issuer and audience say nothing`},
		{`"audience"`, `"aud"`, `api_metadata.jwt.aud: unknown field`},
		{`["GET", "post"]`, `["GET", 1]`, `line 33: api_metadata.api_pattern_enforcement.methods_allowed[1]: a number, expected a text`},
		{`["GET", "post"]`, `"GET"`, `methods_allowed: a text, expected a list`},
		{`"application/json"`, `"json"`, `content_type_allowed: "json": no media type`},
		{`"401",`, `"99",`, `error_code: "99": expected a whole number from 200 to 599`},
		{`"401",`, `true,`, `error_code: true or false, expected a number`},
		{`"Unauthorized",`, `"Un\r\nSet-Cookie: x",`, `error_def`},
		{`"https://shop.example.com/shop"`, `"http://shop.example.com/"`, `https_url: "http://shop.example.com/": no URL`},
		{`"https://shop.example.com/shop"`, `""`, `http_redirect.https_url: missing`},
		{`"192.0.2.10"`, `"192.0.2.10:80"`, `line 50: api_metadata.servers[0].host: "192.0.2.10:80": a host name has no port`},
		{`"port": 8080`, `"port": 70000`, `line 50: api_metadata.servers[0].port: "70000": expected a whole number from 1 to 65535`},
		{`"port": 8080,`, ``, `api_metadata.servers[0].port: missing`},
		{`"90/minute"`, `"90/day"`, `server_spike_threshold: "90/day": expected such as 100/second`},
		{`"/shop/root"`, `"/"`, `decoy_subpaths[0]: "/": the whole API: leave the list empty`},
		{`["/shop/root"`, `["/a"` + strings.Repeat(`,"/b"`, 31), `33 elements, expected at most 32`},
		{`"flow_control": {`, `"flow_control": 1, "x": {`, `flow_control: a number, expected an object`},
		{`"128mb"`, `["128mb"]`, `api_memory_size: a list, expected a text`},
		{`"128mb"`, `[[[[[[[1]]]]]]]`, `line 43: values are nested`},
		{`"api_metadata"`, `"api_meta"`, `line 1: api_metadata: missing`},
		{"\n  }\n}\n", "\n  }\n} {}\n", `line 61: something follows`},
		{"\n  }\n}\n", "", `not JSON: it ends too early`},
		{"OK", "\xff", "not valid UTF-8"},
	}
	good := string(shopJSON(t))
	for _, test := range tests {
		if !strings.Contains(good, test.old) {
			t.Errorf("%q is not in the good definition", test.old)
		}
		a, err := Parse("shop.json", []byte(strings.Replace(good, test.old, test.new, 1)))
		if !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), "bad API definition: shop.json: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q for %q: %v, %v; want %s", test.new, test.old, a, err, test.want)
		}
	}
	for name, want := range map[string]string{
		"shop": "ends in .json", "a.b.json": "has a dot in it", ".json": "is empty", "a b.json": "something else in it than letters",
		strings.Repeat("a", 65) + ".json": "more than 64 bytes",
	} {
		if _, err := Parse(name, []byte(good)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", name, err, want)
		}
	}
	if _, err := Parse("a.json", bytes.Repeat([]byte(" "), MaxSize+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("too long: %v", err)
	}
}

func TestWithBlocking(t *testing.T) {
	a, err := Parse("shop.json", shopJSON(t))
	if err != nil {
		t.Fatal(err)
	}
	off, err := a.WithBlocking(false)
	if err != nil || off.EnableBlocking {
		t.Fatalf("off: %v, %v", off, err)
	}
	if want := strings.Replace(string(a.Raw), `"enable_blocking": true`, `"enable_blocking": false`, 1); string(off.Raw) != want {
		t.Errorf("off is written as\n%s", off.Raw)
	}
	if on, err := off.WithBlocking(true); err != nil || !on.EnableBlocking || !bytes.Equal(on.Raw, a.Raw) {
		t.Errorf("on again: %v", err)
	}
	a, err = Parse("a.json", []byte(`{"api_metadata": {"protocol":"ws","url":"/","hostname":"*"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if off, err = a.WithBlocking(false); err != nil || off.EnableBlocking || off.Protocol != "ws" {
		t.Errorf("where nothing is said: %v, %v", off, err)
	}
}

// FuzzParse: whatever comes in, Parse answers; what it takes can be written and read again.
func FuzzParse(f *testing.F) {
	f.Add(shopJSON(f))
	f.Add(rootJSON)
	f.Add([]byte(`{"api_metadata":{"protocol":"ws","url":"/","hostname":"[::1]","jwt":{"location":"QS:Tok","username":"x"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := Parse("a.json", text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v", err)
			}
			return
		}
		b, err := a.WithBlocking(!a.EnableBlocking)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		b.EnableBlocking, b.Raw = a.EnableBlocking, a.Raw
		if d := cmp.Diff(a, b); d != "" {
			t.Errorf("%q: read again (-want +got):\n%s", text, d)
		}
	})
}
