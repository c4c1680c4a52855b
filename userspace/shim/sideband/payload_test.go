package sideband

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/shim"
)

// TestTolerance: every form that gateways were seen to send says the same.
func TestTolerance(t *testing.T) {
	header := http.Header{"X-A": {"1", "2"}, "Cookie": {"a=b"}}
	tests := []struct {
		name, json string
		change     func(*http.Request)
	}{
		{"as documented", `{"source_ip":"192.0.2.1","source_port":12345,"method":"GET","url":"/api3?x=y","http_version":"1.1",
			"user_info":[{"username":"abc","client_id":"z"}],"headers":[{"host":"shop.com"},{"x-a":"1"},{"X-A":"2"},{"cookie":"a=b"}]}`, nil},
		{"port as a string, version in full", `{"source_ip":"192.0.2.1","source_port":"12345","method":"GET","url":"/api3?x=y","http_version":"HTTP/1.1",
			"user_info":[{"username":"abc"}],"headers":[{"Host":"shop.com"},{"x-a":"1"},{"x-a":"2"},{"cookie":"a=b"}]}`, nil},
		{"escaped slashes, no version", `{"source_ip":"192.0.2.1","source_port":12345,"method":"GET","url":"\/api3?x=y",
			"user_info":{"client_id":"z","username":"abc"},"headers":[{"host":"shop.com"},{"x-a":"1"},{"x-a":"2"},{"cookie":"a=b"}]}`, nil},
		{"user_info in one-key objects", `{"source_ip":"192.0.2.1","source_port":12345,"method":"GET","url":"/api3?x=y",
			"user_info":[{"client_id":"z"},{"username":"abc"}],"headers":[{"host":"shop.com"},{"x-a":"1"},{"x-a":"2"},{"cookie":"a=b"}]}`, nil},
		{"headers in one object, repeated", `{"source_ip":"192.0.2.1","source_port":12345,"method":"GET","url":"/api3?x=y",
			"user_info":[{"username":"abc"}],"headers":{"host":"shop.com","x-a":"1","x-a":"2","cookie":"a=b"}}`, nil},
		{"a list of values", `{"source_ip":"192.0.2.1","source_port":12345,"method":"GET","url":"/api3?x=y",
			"user_info":[{"username":"abc"}],"headers":[{"host":"shop.com"},{"x-a":["1",2]},{"cookie":"a=b"}]}`, nil},
		{"wrapped", `{"ASEPayload":{"source_ip":"192.0.2.1","source_port":12345,"method":"GET","url":"/api3?x=y",
			"user_info":[{"username":"abc"}],"headers":[{"host":"shop.com"},{"x-a":"1"},{"x-a":"2"},{"cookie":"a=b"}]}}`, nil},
		{"address and port in one", `{"source_ip":"192.0.2.1:12345","method":"GET","url":"/api3?x=y",
			"user_info":[{"username":"abc"}],"headers":[{"host":"shop.com"},{"x-a":"1"},{"x-a":"2"},{"cookie":"a=b"}]}`, nil},
		{"no port, whole url", `{"source_ip":"192.0.2.1","method":"GET","url":"https://shop.com/api3?x=y",
			"user_info":[{"username":"abc"}],"headers":[{"x-a":"1"},{"x-a":"2"},{"cookie":"a=b"}]}`, func(r *http.Request) {
			r.RemoteAddr, r.URL.Scheme = "192.0.2.1:0", "https"
		}},
	}
	for _, test := range tests {
		p, err := readPayload([]byte(test.json))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got, ok, err := p.rebuild(context.Background(), true)
		if err != nil || !ok {
			t.Errorf("%s: %v, %v", test.name, ok, err)
			continue
		}
		want := &http.Request{Method: "GET", RequestURI: "/api3?x=y", Host: "shop.com", RemoteAddr: "192.0.2.1:12345", Header: header,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, URL: &url.URL{Scheme: "http", Path: "/api3", RawQuery: "x=y"}}
		if test.change != nil {
			test.change(want)
		}
		for what, pair := range map[string][2]any{
			"method": {got.Method, want.Method}, "host": {got.Host, want.Host}, "peer": {got.RemoteAddr, want.RemoteAddr}, "headers": {got.Header, want.Header},
			"url": {got.URL.String(), want.URL.String()}, "uri": {got.RequestURI, want.RequestURI}, "version": {got.Proto, want.Proto},
		} {
			if diff := cmp.Diff(pair[1], pair[0]); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", test.name, what, diff)
			}
		}
		if claims := shim.ClaimsOf(got.Context()); claims != (shim.Claims{Username: "abc", Verified: true, SchemeUnknown: got.URL.Scheme == "http", Relayed: true}) {
			t.Errorf("%s: claims %+v", test.name, claims)
		}
	}
}

func TestRefusedPayloads(t *testing.T) {
	for _, text := range []string{
		``, `null x`, `[]`, `"a"`, `{`, `{"method":"GET","url":"/"} {}`, `{"method":"GET"}`, `{"url":"/"}`, `{"method":5,"url":"/"}`,
		`{"method":"GET","url":"/","headers":"x"}`, `{"method":"GET","url":"/","headers":[["a"]]}`, `{"method":"GET","url":"/","headers":[{"a":{"b":1}}]}`,
		`{"method":"GET","url":"/","source_port":{}}`, `{"method":"GET","url":"/","user_info":[1]}`,
		`{"method":"GET","url":"/","headers":` + strings.Repeat("[", 20_000),
	} {
		p, err := readPayload([]byte(text))
		if err == nil {
			_, _, err = p.rebuild(context.Background(), false)
		}
		if !errors.Is(err, ErrPayload) {
			t.Errorf("%.60s: error %v, want ErrPayload", text, err)
		}
	}
	p, err := readPayload([]byte(`{"method":"GET","url":"/","headers":[{"host":"a.com"},{"Host":"b.com"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := p.rebuild(context.Background(), false); ok || err != nil {
		t.Errorf("two hosts: %v, %v, want malformed", ok, err)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1:0", "[2001:db8::1]": "[2001:db8::1]:0", "2001:db8::1": "[2001:db8::1]:0", "[2001:db8::1]:80": "[2001:db8::1]:80",
		" 192.0.2.1 ": "192.0.2.1:0", "": "unknown", "shop.com": "unknown", "192.0.2.1, 192.0.2.2": "unknown",
	} {
		if got := (&payload{SourceIP: in}).remoteAddr(); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestEncodings: a value beyond ASCII is judged in both readings of the gateway's text, whatever that was written in.
func TestEncodings(t *testing.T) {
	for _, body := range []string{
		"{\"method\":\"GET\",\"url\":\"/\",\"headers\":[{\"x\":\"\u00c3\u00a9\"}]}", // é, read as ISO-8859-1, written as UTF-8
		"{\"method\":\"GET\",\"url\":\"/\",\"headers\":[{\"x\":\"\xe9\"}]}",         // é, written as ISO-8859-1
	} {
		p, err := readPayload([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		r, ok, err := p.rebuild(context.Background(), false)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		found := false
		for _, v := range r.Header["X"] {
			found = found || v == "é"
		}
		if !found {
			t.Errorf("%q: values %q, want é among them", body, r.Header["X"])
		}
	}
}

// TestAnOddByteHidesNothing: a client that sends a byte which is no UTF-8, anywhere, changes how the gateway's text is read,
// and not whether what else is in it is found.
func TestAnOddByteHidesNothing(t *testing.T) {
	s := New(Options{Shim: newShim(
		lists.ID{Kind: lists.KindUsername, Value: "josé"}, lists.ID{Kind: lists.KindCookie, Name: "sid", Value: "é"}, lists.ID{Kind: lists.KindToken, Value: "tokén"},
	)})
	const form = "{\"source_ip\":\"192.0.2.1\",\"method\":\"GET\",\"url\":\"/shop%s\",\"user_info\":[{\"username\":\"%s\"}],\"headers\":[{\"host\":\"shop.com\"},{\"a\":\"%s\"},{\"cookie\":\"%s\"}]}"
	for _, c := range []struct {
		url, user, header, cookie string
		want                      int
	}{
		{"", "jose", "\xff", "x=\xff", 200},
		{"", "josé", "x", "", 403},
		{"", "josé", "\xff", "", 403},
		{"", "jos\xe9", "x", "", 403},
		{"?access_token=tokén", "jose", "\xff", "", 403},
		{"?a=\xff&access_token=tokén", "jose", "x", "", 403},
		{"", "jose", "\xff", "sid=é", 403},
		{"", "jose", "x", "a=\xff; sid=é", 403},
	} {
		if got, _ := post(s.Handler(), "/ase/request", fmt.Sprintf(form, c.url, c.user, c.header, c.cookie)); got != c.want {
			t.Errorf("%+v: %d, want %d", c, got, c.want)
		}
	}
}

func FuzzPayload(f *testing.F) {
	f.Add([]byte(`{"ASEPayload":{"source_ip":"1.1.1.1","method":"GET","url":"/a?b=c","user_info":[{"username":"x"}],"headers":[{"host":"a"},{"a":[1,"2"]}],"response_code":200}}`))
	f.Add([]byte(`{"method":"G ET","url":"%zz;\u0000","http_version":"9.9","headers":{"transfer-encoding":"x","content-length":"-1"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := readPayload(body)
		if err != nil {
			if !errors.Is(err, ErrPayload) {
				t.Fatalf("error %v is not ErrPayload", err)
			}
			return
		}
		r, ok, err := p.rebuild(context.Background(), true)
		if err == nil && ok && (r.URL == nil || r.Header == nil || r.Proto == "") {
			t.Fatalf("incomplete request %+v", r)
		}
		_, _ = p.status()
	})
}
