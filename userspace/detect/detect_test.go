package detect

import (
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

var (
	client = netip.MustParseAddr("192.0.2.7")
	token  = lists.ID{Kind: lists.KindToken, Value: "t1"}
	cookie = lists.ID{Kind: lists.KindCookie, Name: "JSESSIONID", Value: "c1"}
	byAddr = lists.ID{Kind: lists.KindIP, Value: "192.0.2.7"}

	teapot = apis.Answer{Status: 418, Reason: "No", Body: "no"}
)

// rig is a detector, with everything it said.
type rig struct {
	*Detector
	settings lists.Settings
	now      time.Time
	listed   []lists.Key
	touches  []Touch
	expires  []time.Time
}

func newRig(ttl map[lists.Source]time.Duration) *rig {
	k := &rig{settings: lists.Settings{Firewall: true, ASEDetectedAttack: true}, now: time.Unix(1_700_000_000, 0)}
	k.Detector = New(Options{
		Settings: func() lists.Settings { return k.settings },
		Report: func(e lists.Entry) {
			k.listed = append(k.listed, e.Key)
			k.expires = append(k.expires, e.Expires)
		},
		Alert: func(t Touch) { k.touches = append(k.touches, t) },
		TTL:   ttl,
		Now:   func() time.Time { return k.now },
	})
	return k
}

func listedAs(s lists.Source, id lists.ID) lists.Key {
	return lists.Key{List: lists.Blacklist, Source: s, ID: id}
}

func request(method, target string, body io.Reader, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, body)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// creds are what may be learned from.
type creds struct{ token, cookie lists.ID }

func (c creds) Learnable() (token, cookie lists.ID) { return c.token, c.cookie }

func TestRules(t *testing.T) {
	pattern := func(p apis.Pattern) *apis.API {
		p.Answer = teapot
		return &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true, Pattern: p}
	}
	redirect := &apis.Answer{Status: 302, Location: "https://shop.com/shop"}
	https, http_ := pattern(apis.Pattern{Protocol: "https"}), pattern(apis.Pattern{Protocol: "http"})
	get := pattern(apis.Pattern{Methods: []string{"GET", "HEAD"}})
	json := pattern(apis.Pattern{ContentType: "application/json"})
	mandatory := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true, TokenMandatory: true}
	tests := []struct {
		name   string
		api    *apis.API
		r      *http.Request
		change func(*Request)
		want   Finding
		listed []lists.Key
	}{
		{"nothing is enforced", pattern(apis.Pattern{}), request("BREW", "/shop", nil), nil, Finding{}, nil},
		{"http where https is asked for", https, request("GET", "/shop", nil), nil, Finding{lists.Protocol, teapot, true}, []lists.Key{listedAs(lists.Protocol, byAddr)}},
		{"https where it is asked for", https, request("GET", "/shop", nil), func(r *Request) { r.HTTPS = true }, Finding{}, nil},
		{"nobody knows the protocol", https, request("GET", "/shop", nil), func(r *Request) { r.SchemeUnknown = true }, Finding{}, nil},
		{"https where http is asked for", http_, request("GET", "/shop", nil), func(r *Request) { r.HTTPS = true }, Finding{lists.Protocol, teapot, true}, []lists.Key{listedAs(lists.Protocol, byAddr)}},
		{"http is redirected", pattern(apis.Pattern{Protocol: "https", Redirect: redirect}), request("GET", "/shop", nil), nil, Finding{lists.Protocol, *redirect, false}, nil},
		{"no handshake for ws", pattern(apis.Pattern{Protocol: "ws"}), request("GET", "/shop", nil), nil, Finding{lists.Protocol, teapot, true}, []lists.Key{listedAs(lists.Protocol, byAddr)}},
		{"a handshake for ws", pattern(apis.Pattern{Protocol: "ws"}), request("GET", "/shop", nil, "Upgrade", "WebSocket"), nil, Finding{}, nil},
		{"ws is not wss", pattern(apis.Pattern{Protocol: "wss"}), request("GET", "/shop", nil, "Upgrade", "websocket"), nil, Finding{lists.Protocol, teapot, true}, []lists.Key{listedAs(lists.Protocol, byAddr)}},
		{"an allowed method", get, request("HEAD", "/shop", nil), nil, Finding{}, nil},
		{"another method", get, request("DELETE", "/shop", nil), nil, Finding{lists.Method, teapot, true}, []lists.Key{listedAs(lists.Method, byAddr)}},
		{"a method in other letters", get, request("get", "/shop", nil), nil, Finding{lists.Method, teapot, true}, []lists.Key{listedAs(lists.Method, byAddr)}},
		{"the token before the cookie", get, request("PUT", "/shop", nil), func(r *Request) { r.Credentials = creds{token, cookie} }, Finding{lists.Method, teapot, true}, []lists.Key{listedAs(lists.Method, token)}},
		{"the cookie before the address", get, request("PUT", "/shop", nil), func(r *Request) { r.Credentials = creds{cookie: cookie} }, Finding{lists.Method, teapot, true}, []lists.Key{listedAs(lists.Method, cookie)}},
		{"nobody knows the client", get, request("PUT", "/shop", nil), func(r *Request) { r.Client = netip.Addr{} }, Finding{lists.Method, teapot, true}, nil},
		{"a mapped address", get, request("PUT", "/shop", nil), func(r *Request) { r.Client = netip.MustParseAddr("::ffff:192.0.2.7") }, Finding{lists.Method, teapot, true}, []lists.Key{listedAs(lists.Method, byAddr)}},
		{"whitelisted", get, request("PUT", "/shop", nil), func(r *Request) { r.Whitelisted = true }, Finding{}, nil},
		{"no body, no type", json, request("GET", "/shop", nil), nil, Finding{}, nil},
		{"the type, with a parameter", json, request("POST", "/shop", strings.NewReader("{}"), "Content-Type", "Application/JSON; charset=utf-8"), nil, Finding{}, nil},
		{"another type", json, request("POST", "/shop", strings.NewReader("{}"), "Content-Type", "text/xml"), nil, Finding{lists.ContentType, teapot, true}, []lists.Key{listedAs(lists.ContentType, byAddr)}},
		{"a second type", json, request("POST", "/shop", strings.NewReader("{}"), "Content-Type", "application/json", "Content-Type", "text/xml"), nil, Finding{lists.ContentType, teapot, true}, []lists.Key{listedAs(lists.ContentType, byAddr)}},
		{"a body without a type", json, request("POST", "/shop", strings.NewReader("{}")), nil, Finding{lists.ContentType, teapot, true}, []lists.Key{listedAs(lists.ContentType, byAddr)}},
		{"the mandatory token", mandatory, request("GET", "/shop", nil), func(r *Request) { r.HasToken = true }, Finding{}, nil},
		{"no mandatory token", mandatory, request("GET", "/shop", nil), func(r *Request) { r.Credentials = creds{cookie: cookie} }, Finding{lists.MissingToken, unauthorized, true}, []lists.Key{listedAs(lists.MissingToken, byAddr)}},
		{"a browser asks whether it may", mandatory, request("OPTIONS", "/shop", nil, "Origin", "https://a.com", "Access-Control-Request-Method", "GET"), nil, Finding{}, nil},
		{"OPTIONS without a reason", mandatory, request("OPTIONS", "/shop", nil), nil, Finding{lists.MissingToken, unauthorized, true}, []lists.Key{listedAs(lists.MissingToken, byAddr)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k := newRig(nil)
			r := Request{HTTP: test.r, API: test.api, Client: client}
			if test.change != nil {
				test.change(&r)
			}
			got, ok := k.Look(r)
			if ok != (test.want != Finding{}) || got != test.want {
				t.Errorf("found %+v, %v, want %+v", got, ok, test.want)
			}
			if diff := cmp.Diff(test.listed, k.listed); diff != "" {
				t.Errorf("blacklisted (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSwitches: a definition is enforced without detection, nobody is listed then; without firewall or blocking all pass.
func TestSwitches(t *testing.T) {
	api := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true, TokenMandatory: true, Pattern: apis.Pattern{Methods: []string{"GET"}, Answer: teapot}}
	relaxed := *api
	relaxed.EnableBlocking = false
	tests := []struct {
		name                string
		api                 *apis.API
		firewall, detection bool
		answered            bool
		listed              int
	}{
		{"all on", api, true, true, true, 1},
		{"detection off", api, true, false, true, 0},
		{"firewall off", api, false, true, false, 0},
		{"the API does not block", &relaxed, true, true, false, 0},
	}
	for _, test := range tests {
		k := newRig(nil)
		k.settings = lists.Settings{Firewall: test.firewall, ASEDetectedAttack: test.detection}
		_, ok := k.Look(Request{HTTP: request("PUT", "/shop", nil), API: test.api, Client: client})
		if ok != test.answered || len(k.listed) != test.listed {
			t.Errorf("%s: answered %v, listed %v", test.name, ok, k.listed)
		}
	}
	k := newRig(nil)
	k.settings.ASEDetectedAttack = false
	if _, ok := k.Look(Request{HTTP: request("GET", "/shop", nil), API: api, Client: client}); ok {
		t.Error("a missing token is an attack with detection off")
	}
}

func TestDecoyInContext(t *testing.T) {
	api := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true, Decoy: apis.Decoy{Enabled: true, Subpaths: []string{"/admin", "shop/root"}, Answer: teapot}}
	for path, touched := range map[string]bool{
		"/shop/admin": true, "/shop/admin/x": true, "/shop//admin": true, "/shop/root": true, "/shop/shop/root": true,
		"/shop": false, "/shop/administrator": false, "/admin": false, "/shop/x/admin": false,
	} {
		k := newRig(map[lists.Source]time.Duration{lists.Decoy: time.Hour})
		got, ok := k.Look(Request{HTTP: request("GET", path, nil), API: api, Client: client})
		if ok != touched || ok && got.Answer != teapot {
			t.Errorf("%s: %+v, %v", path, got, ok)
		}
		var listed []lists.Key
		var touches []Touch
		if touched {
			listed = []lists.Key{listedAs(lists.Decoy, byAddr)}
			touches = []Touch{{Client: client, API: "shop", Method: "GET", Path: path, Context: true, Listed: true}}
		}
		if !cmp.Equal(k.listed, listed) || !cmp.Equal(k.touches, touches, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
			t.Errorf("%s: listed %v, alerts %v", path, k.listed, k.touches)
		}
		if touched && !k.expires[0].Equal(k.now.Add(time.Hour)) {
			t.Errorf("%s: ends %v, want an hour after %v", path, k.expires[0], k.now)
		}
	}
}

// TestDecoyOutOfContext: the touch alone lists nobody; going on to a real API does, and is not answered by it.
func TestDecoyOutOfContext(t *testing.T) {
	decoy := &apis.API{ID: "trap", URL: "/trap", EnableBlocking: true, Decoy: apis.Decoy{Enabled: true, Answer: teapot}}
	real := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true}
	k := newRig(nil)
	look := func(a *apis.API, from netip.Addr, white bool) (Finding, bool) {
		return k.Look(Request{HTTP: request("GET", a.URL, nil), API: a, Client: from, Whitelisted: white})
	}
	for range 2 {
		if f, ok := look(decoy, client, false); !ok || f.Answer != teapot {
			t.Fatalf("decoy: %+v, %v", f, ok)
		}
	}
	if len(k.listed) != 0 || len(k.touches) != 1 || k.touches[0].Listed {
		t.Fatalf("after the decoy alone: listed %v, alerts %v", k.listed, k.touches)
	}
	if _, ok := look(real, netip.MustParseAddr("192.0.2.8"), false); ok {
		t.Error("another client is stopped")
	}
	if f, ok := look(real, client, false); !ok || f.Answer != unauthorized || f.Source != lists.Decoy {
		t.Errorf("going on: %+v, %v", f, ok)
	}
	if diff := cmp.Diff([]lists.Key{listedAs(lists.Decoy, byAddr)}, k.listed); diff != "" {
		t.Errorf("blacklisted (-want +got):\n%s", diff)
	}

	friend := netip.MustParseAddr("192.0.2.9")
	if f, ok := look(decoy, friend, true); !ok || f.Answer != teapot {
		t.Errorf("a whitelisted client gets past the decoy: %+v, %v", f, ok)
	}
	if _, ok := look(real, friend, false); ok {
		t.Error("what a whitelisted client touched is held against it")
	}
	k.now = k.now.Add(Memory)
	if _, ok := look(real, client, false); ok {
		t.Error("a touch is remembered for ever")
	}
}

// TestPagesOfOthersBlockNobody: a page can have its visitors' browsers send requests that look like attacks. They are
// answered, and said to the alert, but it is not the visitors who are to be blacklisted. Those who go to the API by
// themselves are, whatever else they say.
func TestPagesOfOthersBlockNobody(t *testing.T) {
	trap := apis.Decoy{Enabled: true, Answer: teapot}
	decoy := &apis.API{ID: "trap", URL: "/trap", EnableBlocking: true, Decoy: trap}
	shop := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true}
	inShop := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true, Decoy: apis.Decoy{Enabled: true, Answer: teapot, Subpaths: []string{"/admin"}}}
	get := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true, Pattern: apis.Pattern{Methods: []string{"GET"}, ContentType: "application/json"}}
	mandatory := &apis.API{ID: "shop", URL: "/shop", EnableBlocking: true, TokenMandatory: true}
	for _, test := range []struct {
		name         string
		api          *apis.API
		method, path string
	}{
		{"an image that is a decoy", inShop, "GET", "/shop/admin"},
		{"an image of a decoy API", decoy, "GET", "/trap"},
		{"a form", get, "POST", "/shop"},
		{"a preflight", get, "OPTIONS", "/shop"},
		{"an image without a token", mandatory, "GET", "/shop"},
	} {
		for site, blamed := range map[string]bool{"cross-site": false, "Cross-Site": false, "same-origin": true, "none": true, "x, cross-site": true} {
			k := newRig(nil)
			r := request(test.method, test.path, nil, "Sec-Fetch-Site", site)
			f, ok := k.Look(Request{HTTP: r, API: test.api, Client: client, Credentials: creds{cookie: cookie}})
			if !ok || !f.Attack {
				t.Errorf("%s, %s: gets through", test.name, site)
			}
			k.Look(Request{HTTP: request("GET", "/shop/x", nil), API: shop, Client: client})
			if (len(k.listed) > 0) != blamed {
				t.Errorf("%s, %s: blacklisted %v", test.name, site, k.listed)
			}
			if len(k.touches) > 1 || len(k.touches) == 0 && test.api.Decoy.Enabled || !blamed && len(k.touches) == 1 && k.touches[0].Listed {
				t.Errorf("%s, %s: alerts %v", test.name, site, k.touches)
			}
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory(100)
	now := time.Unix(0, 0)
	addr := func(i int) netip.Addr {
		var b [16]byte
		binary.BigEndian.PutUint64(b[8:], uint64(i))
		return netip.AddrFrom16(b)
	}
	for i := range 1000 {
		if !m.add(addr(i), now) {
			t.Fatalf("%d is there already", i)
		}
	}
	if len(m.since) != 100 || m.oldest.Len() != 100 || m.count.Load() != 100 {
		t.Errorf("%d in the map, %d in the list, count %d, want 100", len(m.since), m.oldest.Len(), m.count.Load())
	}
	if m.has(addr(899), now) || !m.has(addr(900), now) || m.add(addr(999), now) {
		t.Error("it forgot the newest, or keeps the oldest")
	}
	if m.has(addr(999), now.Add(Memory)) || m.count.Load() != 0 {
		t.Error("it keeps what is too old")
	}
}
