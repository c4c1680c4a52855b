package shim

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// The lists of most tests: KIND NAME VALUE, or KIND VALUE.
const (
	badToken = "opaque-token_4.2~+/="
	badJWT   = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJldmUifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmUtc2lnbmF0dXJl"
)

func black(kind lists.Kind, name, value string) lists.Entry {
	return lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: kind, Name: name, Value: value}}}
}

func white(kind lists.Kind, name, value string) lists.Entry {
	e := black(kind, name, value)
	e.List = lists.Whitelist
	return e
}

func snapshot(t testing.TB, entries ...lists.Entry) *lists.Snapshot {
	t.Helper()
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	for _, e := range entries {
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
		b.Put(e)
	}
	return b.Snapshot(1)
}

// root is an API that has every identifier configured.
func root() *apis.API {
	return &apis.API{
		ID: "root", Hostname: "*", URL: "/", EnableBlocking: true, Cookie: "JSESSIONID", APIKeyHeader: "X-API-Key",
		APIKeyQuery: "api_key", UsernameHeader: "X-User", JWT: apis.JWT{Location: "h:authorization:bearer", Username: "sub"},
	}
}

func newShim(t testing.TB, o Options, all []*apis.API, entries ...lists.Entry) *Shim {
	t.Helper()
	s := New(o)
	s.Use(snapshot(t, entries...), nil, true)
	s.UseAPIs(apis.NewSet(all...))
	return s
}

// get makes a request of a target and "Name: value" lines.
func get(target string, lines ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.RemoteAddr = "192.0.2.1:4711"
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	return r
}

var l7 = Options{IPEnforcement: "l7"}

// TestSpellings: every way to write a blacklisted identifier is blocked, and what is another one is not.
func TestSpellings(t *testing.T) {
	entries := []lists.Entry{
		black(lists.KindIP, "", "1.2.3.4"), black(lists.KindIP, "", "10.1.0.0/16"), black(lists.KindIP, "", "2001:db8::/32"),
		black(lists.KindCookie, "JSESSIONID", "cookie_1.4"), black(lists.KindCookie, "unconfigured", "a b+c%d"),
		black(lists.KindCookie, "lang", "é"), black(lists.KindCookie, "jwt", badJWT),
		black(lists.KindToken, "", badToken), black(lists.KindToken, "", badJWT),
		black(lists.KindAPIKey, "X-API-KEY", "key,1"), black(lists.KindAPIKey, "x-other-key", "k2"), black(lists.KindAPIKey, "X-API-KEY", "k3"),
		black(lists.KindUsername, "", "eve"), black(lists.KindUsername, "", "Mallory"),
	}
	s := newShim(t, l7, []*apis.API{root()}, entries...)
	for _, c := range []struct {
		kind lists.Kind // 0: passes
		r    *http.Request
	}{
		{0, get("/")},
		// cookies
		{lists.KindCookie, get("/", "Cookie: JSESSIONID=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: a=1", "Cookie: b=2; JSESSIONID=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: JSESSIONID=x; JSESSIONID=cookie_1.4; JSESSIONID=y")},
		{lists.KindCookie, get("/", `Cookie: JSESSIONID="cookie_1.4"`)},
		{lists.KindCookie, get("/", `Cookie: JSESSIONID="cookie\_1\0564"`)},
		{lists.KindCookie, get("/", `Cookie: JSESSIONID="cookie_1.4`)},
		{lists.KindCookie, get("/", "Cookie: JSESSIONID = cookie_1.4 ; a=b")},
		{lists.KindCookie, get("/", "Cookie:  \tJSESSIONID=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: jsessionid=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: JSESSIONID=cookie%5f1%2E4")},
		{lists.KindCookie, get("/", "Cookie: JSESSION%49D=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: a=b,JSESSIONID=cookie_1.4,c=d")},
		{lists.KindCookie, get("/", "Cookie: a=b JSESSIONID=cookie_1.4 c=d")},
		{lists.KindCookie, get("/", "Cookie: JSESSIONID=cookie_1.4 x")},
		{lists.KindCookie, get("/", "Cookie: JSESSIONID=cookie_1.4, x")},
		{lists.KindCookie, get("/", `Cookie: a="x; JSESSIONID=cookie_1.4; y"`)},
		{lists.KindCookie, get("/", "Cookie: a=\xff\x80; JSESSIONID=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: ;;; =; x; JSESSIONID=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: JSESSIONID[]=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: "+strings.Repeat("a=1; ", 3001)+"JSESSIONID=cookie_1.4")},
		{lists.KindCookie, get("/", "Cookie: unconfigured=a b+c%d")},
		{lists.KindCookie, get("/", "Cookie: unconfigured=a+b%2Bc%25d")},
		{lists.KindCookie, get("/", "Cookie: unconfigured=\"a b+c%d\"")},
		{lists.KindCookie, get("/", "Cookie: lang=é")},
		{lists.KindCookie, get("/", "Cookie: lang=\xe9")},
		{lists.KindCookie, get("/", "Cookie: lang=%C3%A9")},
		{lists.KindCookie, get("/", "Cookie: lang=%E9")},
		{lists.KindCookie, get("/", "Cookie: jwt="+badJWT)},
		{lists.KindCookie, get("/", "Cookie: jwt="+badJWT[:len(badJWT)-1]+"m")},
		{0, get("/", "Cookie: JSESSIONID=cookie_1.44")},
		{0, get("/", "Cookie: JSESSIONID=ookie_1.4")},
		{0, get("/", "Cookie: XJSESSIONID=cookie_1.4")},
		{0, get("/", "Cookie: other=cookie_1.4; JSESSIONID=")},
		{0, get("/", "Cookie: other=JSESSIONID=cookie")},
		// tokens
		{lists.KindToken, get("/", "Authorization: Bearer "+badToken)},
		{lists.KindToken, get("/", "Authorization: bEARER   "+badToken+" ")},
		{lists.KindToken, get("/", "Authorization: Bearer\t"+badToken)},
		{lists.KindToken, get("/", "Authorization: Bearer a, Bearer "+badToken)},
		{lists.KindToken, get("/", "Authorization: Bearer a,"+badToken+",b")},
		{lists.KindToken, get("/", "Authorization: Basic eDp5", "Authorization: Bearer "+badToken)},
		{lists.KindToken, get("/", `Authorization: Bearer "`+badToken+`"`)},
		{lists.KindToken, get("/", "Authorization: "+badToken)},
		{lists.KindToken, get("/", "Authorization: DPoP "+badToken)},
		{lists.KindToken, get("/", "Authorization: Bearer Bearer "+badToken)},
		{lists.KindToken, get("/?access_token=opaque-token_4.2~%2B/=")},
		{lists.KindToken, get("/?access_token=" + badToken)},
		{lists.KindToken, get("/?x=%zz&a;b&Access_Token=opaque%2Dtoken_4.2~%2b%2f%3d")},
		{lists.KindToken, get("/?x=1;access%5Ftoken=" + badToken)},
		{0, get("/", "Authorization: Bearer opaque-token_4.2")},
		{0, get("/?token=" + badToken)},
		// JSON web tokens
		{lists.KindToken, get("/", "Authorization: Bearer "+badJWT)},
		{lists.KindToken, get("/", "Authorization: Bearer "+badJWT[:len(badJWT)-3])},
		{lists.KindToken, get("/", "Authorization: Bearer "+strings.Replace(badJWT, "fQ.", "fR==.", 1))},
		{lists.KindUsername, get("/", "Authorization: Bearer e30."+strings.Split(badJWT, ".")[1]+".")},
		{0, get("/", "Authorization: Bearer "+strings.Split(badJWT, ".")[0]+".e30.x")},
		// API keys
		{lists.KindAPIKey, get("/", "X-Api-Key: key,1")},
		{lists.KindAPIKey, get("/", "x_api_key: key,1")},
		{lists.KindAPIKey, get("/", "X-Api-Key: k1, k3")},
		{lists.KindAPIKey, get("/", "X-Api-Key: k1", "X-Api-Key: k3")},
		{lists.KindAPIKey, get("/", "X-Api-Key:  \"k3\" ")},
		{lists.KindAPIKey, get("/?api_key=k3")},
		{lists.KindAPIKey, get("/?API-KEY=%6b3")},
		{lists.KindAPIKey, get("/?api_key[]=k3")},
		{lists.KindAPIKey, get("/?x-api-key=k3")},
		{lists.KindAPIKey, get("/", "X_Other-Key: k2")},
		{lists.KindAPIKey, get("/?a=1&x-other-key=k2")},
		{0, get("/", "X-Other-Key: k3")},
		{0, get("/", "X-Api-Key: k33")},
		{0, get("/?api_key=K3")},
		// usernames
		{lists.KindUsername, get("/", "X-User: eve")},
		{lists.KindUsername, get("/", "x_user:  eve ")},
		{lists.KindUsername, get("/", "X-User: bob, eve")},
		{lists.KindUsername, get("/", "Authorization: Basic ZXZlOnB3")},
		{lists.KindUsername, get("/", "Authorization: basic RVZFOnB3")},
		{lists.KindUsername, get("/", "Authorization: Basic bWFsbG9yeTpwdw")},
		{lists.KindUsername, get("/").WithContext(WithClaims(context.Background(), Claims{Username: "eve"}))},
		{0, get("/", "X-User: Eve")},
		{0, get("/", "X-User: mallory")},
		{0, get("/", "Authorization: Basic ZXZlMTpwdw==")},
	} {
		d := s.Decide(c.r)
		what := c.r.URL.String() + " " + lists.Quote(strings.Join(c.r.Header["Cookie"], " | ")+strings.Join(c.r.Header["Authorization"], " | "))
		switch {
		case c.kind == 0:
			if d.Verdict != Pass || d.Reason != PassUnlisted || d.API == nil || d.ID != (lists.ID{}) {
				t.Errorf("%s %v: %v %v by %v, want it to pass", what, c.r.Header, d.Verdict, d.Reason, d.ID)
			}
		case d.Verdict != Block || d.Reason != Blacklisted || d.ID.Kind != c.kind || d.List != lists.Blacklist || d.Source != lists.Manual:
			t.Errorf("%s %v: %v %v by %v, want a block by %v", what, c.r.Header, d.Verdict, d.Reason, d.ID, c.kind)
		case d.Answer != (apis.Answer{Status: 403, Reason: "Unauthorized", Body: "Error: Unauthorized"}):
			t.Errorf("%s: answer %v", what, d.Answer)
		}
	}
}

// TestAddresses: who the client is, and that it is judged where the kernel cannot have judged it.
func TestAddresses(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, c := range []struct {
		remote string
		xff    []string
		want   string
	}{
		{"192.0.2.1:80", nil, "192.0.2.1"},
		{"192.0.2.1", nil, "192.0.2.1"},
		{"[2001:db8::1%eth0]:80", nil, "2001:db8::1"},
		{"[::ffff:192.0.2.1]:80", nil, "192.0.2.1"},
		{"@", nil, ""},
		{"", nil, ""},
		{"192.0.2.1:80", []string{"1.1.1.1"}, "192.0.2.1"},
		{"10.0.0.1:80", []string{"1.1.1.1"}, "1.1.1.1"},
		{"10.0.0.1:80", []string{"9.9.9.9, 1.1.1.1"}, "1.1.1.1"},
		{"10.0.0.1:80", []string{"9.9.9.9, 1.1.1.1 , 10.2.3.4"}, "1.1.1.1"},
		{"10.0.0.1:80", []string{"1.1.1.1", "10.2.3.4,10.2.3.5"}, "1.1.1.1"},
		{"10.0.0.1:80", []string{"1.1.1.1", "::ffff:10.2.3.4"}, "1.1.1.1"},
		{"[::1]:80", []string{"[2001:db8::2]:443"}, "2001:db8::2"},
		{"10.0.0.1:80", []string{"1.1.1.1:5555"}, "1.1.1.1"},
		{"10.0.0.1:80", []string{"1.1.1.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:80", []string{"1.1.1.1,,10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:80", []string{"1.1.1.1, garbage"}, "10.0.0.1"},
		{"10.0.0.1:80", []string{""}, "10.0.0.1"},
		{"10.0.0.1:80", []string{"10.0.0.2"}, "10.0.0.2"},
	} {
		r := get("/")
		r.RemoteAddr = c.remote
		r.Header["X-Forwarded-For"] = c.xff
		got := ClientAddr(r, trusted)
		if got.IsValid() != (c.want != "") || c.want != "" && got.String() != c.want {
			t.Errorf("%s %q: %v, want %s", c.remote, c.xff, got, c.want)
		}
	}
	entries := []lists.Entry{black(lists.KindIP, "", "1.2.3.4"), black(lists.KindIP, "", "10.1.0.0/16"), white(lists.KindIP, "", "10.1.2.0/24")}
	for _, c := range []struct {
		mode, remote, xff string
		relayed           bool
		want              Reason
		id                string
	}{
		{"l7", "1.2.3.4:1", "", false, Blacklisted, "1.2.3.4"},
		{"both", "1.2.3.4:1", "", false, Blacklisted, "1.2.3.4"},
		{"kernel", "1.2.3.4:1", "", false, PassUnlisted, ""},
		{"", "1.2.3.4:1", "", true, Blacklisted, "1.2.3.4"},
		{"kernel", "10.0.0.1:1", "1.2.3.4", false, Blacklisted, "1.2.3.4"},
		{"l7", "10.1.3.4:1", "", false, Blacklisted, "10.1.0.0/16"},
		{"l7", "10.1.2.4:1", "", false, PassWhitelisted, "10.1.2.0/24"},
		{"kernel", "10.1.2.4:1", "", false, PassWhitelisted, "10.1.2.0/24"},
	} {
		s := newShim(t, Options{IPEnforcement: c.mode, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}, []*apis.API{root()}, entries...)
		r := get("/")
		r.RemoteAddr = c.remote
		if c.xff != "" {
			r.Header.Set("X-Forwarded-For", c.xff)
		}
		r = r.WithContext(WithClaims(r.Context(), Claims{Relayed: c.relayed}))
		if d := s.Decide(r); d.Reason != c.want || d.ID.Value != c.id {
			t.Errorf("%+v: %v by %v", c, d.Reason, d.ID)
		}
	}
}

// TestXFFIgnored: disable_xff makes the TCP peer the client, whoever forwards.
func TestXFFIgnored(t *testing.T) {
	s := newShim(t, Options{IPEnforcement: "l7", TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}, []*apis.API{root()},
		black(lists.KindIP, "", "1.2.3.4"))
	r := get("/", "X-Forwarded-For: 1.2.3.4")
	r.RemoteAddr = "10.0.0.1:1"
	if d := s.Decide(r); d.Reason != Blacklisted {
		t.Fatalf("read: %v", d.Reason)
	}
	b := lists.NewBuilder(snapshot(t, black(lists.KindIP, "", "1.2.3.4")))
	on := lists.DefaultSettings()
	on.XFFIgnored = true
	b.Set(on)
	s.Use(b.Snapshot(2), nil, false)
	if d := s.Decide(r); d.Reason != PassUnlisted || d.Client.String() != "10.0.0.1" {
		t.Errorf("ignored: %v of %v", d.Reason, d.Client)
	}
}

// TestProtected: an address that the kernel never drops is not blocked here, its token is.
func TestProtected(t *testing.T) {
	s := newShim(t, Options{IPEnforcement: "both", Protected: func(a netip.Addr) bool { return a.String() == "10.0.0.1" }}, []*apis.API{root()},
		black(lists.KindIP, "", "10.0.0.0/8"), black(lists.KindToken, "", badToken))
	for _, c := range []struct {
		remote, header string
		want           Reason
	}{
		{"10.0.0.1:1", "", PassUnlisted}, {"10.0.0.2:1", "", Blacklisted}, {"10.0.0.1:1", "Authorization: Bearer " + badToken, Blacklisted},
	} {
		r := get("/", c.header)
		if c.header == "" {
			r = get("/")
		}
		r.RemoteAddr = c.remote
		if d := s.Decide(r); d.Reason != c.want {
			t.Errorf("%+v: %v", c, d.Reason)
		}
	}
}

// TestWhitelist: it wins, if the identifier is there once and spelled as it is listed.
func TestWhitelist(t *testing.T) {
	entries := []lists.Entry{
		black(lists.KindUsername, "", "eve"),
		white(lists.KindCookie, "sid", "good%3A1"), white(lists.KindToken, "", "good-token"), white(lists.KindAPIKey, "X-API-KEY", "good-key"),
		white(lists.KindAPIKey, "api_key", "good-key"), white(lists.KindUsername, "", "alice"),
		black(lists.KindCookie, "sid", "good%3A1"),
	}
	vouched := func(r *http.Request, verified bool) *http.Request {
		return r.WithContext(WithClaims(r.Context(), Claims{Username: "alice", Verified: verified}))
	}
	for _, c := range []struct {
		want Reason
		r    *http.Request
	}{
		{Blacklisted, get("/", "X-User: eve")},
		{PassWhitelisted, get("/", "X-User: eve", "Cookie: sid=good%3A1")},
		{PassWhitelisted, get("/", "X-User: eve", "Cookie: a=b; sid=good%3A1; c=d")},
		{PassWhitelisted, get("/", "X-User: eve", "Authorization: Bearer good-token")},
		{PassWhitelisted, get("/", "X-User: eve", "X-Api-Key: good-key")},
		{PassWhitelisted, get("/?a=1&api_key=good-key", "X-User: eve")},
		{PassWhitelisted, vouched(get("/", "X-User: eve"), true)},
		{Blacklisted, vouched(get("/", "X-User: eve"), false)},
		{Blacklisted, get("/", "X-User: eve", "X-User: alice")},
		{Blacklisted, get("/", "X-User: eve", "Cookie: sid=good:1")},
		{Blacklisted, get("/", "X-User: eve", "Cookie: SID=good%3A1")},
		{Blacklisted, get("/", "X-User: eve", `Cookie: sid="good%3A1"`)},
		{Blacklisted, get("/", "X-User: eve", "Cookie: sid= good%3A1")},
		{Blacklisted, get("/", "X-User: eve", "Cookie: sid=good%3A1; sid=good%3A1")},
		{Blacklisted, get("/", "X-User: eve", "Cookie: sid=good%3A1; SID=x")},
		{Blacklisted, get("/", "X-User: eve", "Cookie: sid=good%3A1", "Cookie: a=b,sid=x")},
		{Blacklisted, get("/", "X-User: eve", "Cookie: sid=good%3A1 x")},
		{Blacklisted, get("/", "X-User: eve", "Authorization: Bearer good-token, Bearer x")},
		{Blacklisted, get("/", "X-User: eve", "Authorization: Bearer good-token", "Authorization: Bearer x")},
		{Blacklisted, get("/?access_token=x", "X-User: eve", "Authorization: Bearer good-token")},
		{Blacklisted, get("/", "X-User: eve", "Authorization: Bearer  good-token")},
		{Blacklisted, get("/", "X-User: eve", "X_api_key: good-key")},
		{Blacklisted, get("/", "X-User: eve", "X-Api-Key: good-key", "X_api-Key: other")},
		{Blacklisted, get("/?api_key=x", "X-User: eve", "X-Api-Key: good-key")},
		{Blacklisted, get("/?api_key=good%2Dkey", "X-User: eve")},
		{Blacklisted, get("/?API_KEY=good-key", "X-User: eve")},
		{Blacklisted, get("/?a=1;api_key=good-key", "X-User: eve")},
	} {
		s := newShim(t, l7, []*apis.API{root()}, entries...)
		if d := s.Decide(c.r); d.Reason != c.want {
			t.Errorf("%v %v: %v by %v, want %v", c.r.URL, c.r.Header, d.Reason, d.ID, c.want)
		}
		// A whitelisted identifier that protects only itself never saves eve.
		s = newShim(t, Options{WhitelistScope: "identifier"}, []*apis.API{root()}, entries...)
		if d := s.Decide(c.r); d.Reason != Blacklisted {
			t.Errorf("scope identifier: %v %v: %v by %v", c.r.URL, c.r.Header, d.Reason, d.ID)
		}
	}
	s := newShim(t, Options{WhitelistScope: "identifier"}, []*apis.API{root()}, entries...)
	if d := s.Decide(get("/", "Cookie: sid=good%3A1")); d.Reason != PassWhitelisted {
		t.Errorf("an identifier on both lists: %v by %v", d.Reason, d.ID)
	}
	if d := s.Decide(get("/", `Cookie: sid="good%3A1"`)); d.Reason != Blacklisted {
		t.Errorf("an identifier on both lists, spelled otherwise: %v by %v", d.Reason, d.ID)
	}
}

// TestNotEnforced: firewall off, enable_blocking off, an entry that has ended.
func TestNotEnforced(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	open := root()
	open.ID, open.URL, open.EnableBlocking = "open", "/open", false
	e := black(lists.KindToken, "", "bad")
	e.Expires = now.Add(time.Second)
	clock := now
	s := New(Options{Now: func() time.Time { return clock }})
	s.UseAPIs(apis.NewSet(root(), open))
	snap := snapshot(t, e)
	s.Use(snap, nil, true)
	decide := func(target string, want Reason) {
		t.Helper()
		if d := s.Decide(get(target, "Authorization: Bearer bad")); d.Reason != want {
			t.Errorf("%s: %v, want %v", target, d.Reason, want)
		}
	}
	decide("/", Blacklisted)
	decide("/open/x", PassNotEnforced)
	clock = now.Add(time.Second)
	s.clock.jumped()
	decide("/", PassUnlisted)
	clock = now
	s.clock.jumped()
	b := lists.NewBuilder(snap)
	settings := lists.DefaultSettings()
	settings.Firewall = false
	b.Set(settings)
	s.Use(b.Snapshot(2), nil, false)
	decide("/", PassNotEnforced)
}

// jumped has the clock ask for the time again.
func (c *clock) jumped() { c.at.Store(0) }

// TestClock: it follows, and is not asked each time.
func TestClock(t *testing.T) {
	asked := 0
	start := time.Unix(1_000_000_000, 0)
	c := clock{now: func() time.Time { asked++; return start.Add(time.Duration(asked) * time.Hour) }}
	for since := 1; since <= 12; since++ {
		want := 1 + (since-1)/5 // 5 ms after it was asked last
		if got := c.unix(time.Duration(since) * time.Millisecond); asked != want || got != start.Add(time.Duration(want)*time.Hour).Unix() {
			t.Errorf("after %d ms: %d, asked %d times, want %d", since, got, asked, want)
		}
	}
}
