package shim

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// TestRefused: what is refused before it is matched, and what only looks like it.
func TestRefused(t *testing.T) {
	with := func(f func(*http.Request)) *http.Request {
		r := get("http://shop.com/")
		f(r)
		return r
	}
	header := func(name string, values ...string) *http.Request {
		return with(func(r *http.Request) { r.Header[name] = values })
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want Reason
	}{
		"plain":                   {get("http://shop.com/"), PassUnlisted},
		"no host":                 {with(func(r *http.Request) { r.Host, r.URL.Host = "", "" }), Malformed},
		"no host in HTTP/1.0":     {with(func(r *http.Request) { r.Host, r.URL.Host, r.ProtoMinor = "", "", 0 }), PassUnlisted},
		"another host in target":  {with(func(r *http.Request) { r.URL.Host = "other.com" }), Malformed},
		"the same host in target": {with(func(r *http.Request) { r.URL.Host = "SHOP.com:80" }), PassUnlisted},
		"two hosts":               {header("Host", "shop.com", "shop.com"), Malformed},
		"another host field":      {header("Host", "other.com"), Malformed},
		"the same host field":     {header("Host", "Shop.com:443"), PassUnlisted},
		"host with a path":        {with(func(r *http.Request) { r.Host = "shop.com/x" }), Malformed},
		"host with a user":        {with(func(r *http.Request) { r.Host = "a@shop.com" }), Malformed},
		"host with a space":       {with(func(r *http.Request) { r.Host = "shop.com evil" }), Malformed},
		"host of a list":          {with(func(r *http.Request) { r.Host = "shop.com,evil.com" }), Malformed},
		"host with a bad port":    {with(func(r *http.Request) { r.Host = "shop.com:80x" }), Malformed},
		"host by address":         {with(func(r *http.Request) { r.Host, r.URL.Host = "[2001:db8::1]:443", "" }), PassUnlisted},
		"CONNECT":                 {with(func(r *http.Request) { r.Method = "CONNECT" }), Malformed},
		"bad method":              {with(func(r *http.Request) { r.Method = "GE T" }), Malformed},
		"empty method":            {with(func(r *http.Request) { r.Method = "" }), Malformed},
		"unusual method":          {with(func(r *http.Request) { r.Method = "M-SEARCH" }), PassUnlisted},
		"length and coding":       {with(func(r *http.Request) { r.TransferEncoding = []string{"chunked"}; r.Header.Set("Content-Length", "3") }), Malformed},
		"length and coded field": {with(func(r *http.Request) {
			r.Header.Set("Transfer-Encoding", "chunked")
			r.Header.Set("Content-Length", "3")
		}), Malformed},
		"chunked":               {with(func(r *http.Request) { r.TransferEncoding = []string{"chunked"} }), PassUnlisted},
		"length":                {header("Content-Length", "30"), PassUnlisted},
		"two lengths":           {header("Content-Length", "3", "3"), Malformed},
		"signed length":         {header("Content-Length", "+3"), Malformed},
		"list of lengths":       {header("Content-Length", "3, 3"), Malformed},
		"unknown coding":        {with(func(r *http.Request) { r.TransferEncoding = []string{"gzip", "chunked"} }), Malformed},
		"unknown coded field":   {header("Transfer-Encoding", "xchunked"), Malformed},
		"hidden coded field":    {header("Transfer_encoding", "chunked"), Malformed},
		"control in value":      {header("X-A", "a\x00b"), Malformed},
		"newline in value":      {header("X-A", "a\nb: c"), Malformed},
		"DEL in value":          {header("X-A", strings.Repeat("a", 20)+"\x7f"), Malformed},
		"tab in value":          {header("X-A", "a\tb"), PassUnlisted},
		"bytes in value":        {header("X-A", "\xff\x80é"), PassUnlisted},
		"space in name":         {header("X A", "b"), Malformed},
		"colon in name":         {header(":path", "/x"), Malformed},
		"empty name":            {header("", "b"), Malformed},
		"control in query":      {with(func(r *http.Request) { r.URL.RawQuery = "a=\x01" }), Malformed},
		"NUL in path":           {get("http://shop.com/a%00b"), Malformed},
		"no slash":              {with(func(r *http.Request) { r.URL.Path = "x" }), Malformed},
		"opaque":                {with(func(r *http.Request) { r.URL = &url.URL{Scheme: "mailto", Opaque: "x"} }), Malformed},
		"no path":               {with(func(r *http.Request) { r.URL.Path = "" }), PassUnlisted},
		"asterisk":              {with(func(r *http.Request) { r.Method, r.URL.Path = "OPTIONS", "*" }), PassUnlisted},
		"GET asterisk":          {with(func(r *http.Request) { r.URL.Path = "*" }), Malformed},
		"long header":           {header("X-A", strings.Repeat("a", MaxHeaderBytes)), TooLarge},
		"fairly long header":    {header("X-A", strings.Repeat("a", MaxHeaderBytes-10)), PassUnlisted},
		"many headers":          {header("X-A", make([]string, MaxHeaders+1)...), TooLarge},
		"many cookies":          {header("Cookie", strings.Repeat("a=b;", MaxCookies+1)), TooLarge},
		"3001 cookies":          {header("Cookie", strings.Repeat("a=b; ", 3001)), PassUnlisted},
		"long query":            {with(func(r *http.Request) { r.URL.RawQuery = strings.Repeat("a", MaxQueryBytes+1) }), TooLarge},
		"many parameters":       {with(func(r *http.Request) { r.URL.RawQuery = strings.Repeat("a=b&", MaxParameters+1) }), TooLarge},
		"many tokens":           {header("Authorization", "Bearer "+strings.Repeat("a,", MaxTokens+1)), TooLarge},
		"long path":             {get("http://shop.com/" + strings.Repeat("a", MaxPathBytes)), TooLarge},
		"read in too many ways": {header("Cookie", strings.Repeat("JSESSIONID=a,", 9000)), TooLarge},
		"proxy credentials":     {header("Authorization", "Negotiate "+strings.Repeat("YII=", 12000)), PassUnlisted},
	} {
		s := newShim(t, l7, []*apis.API{root()}, black(lists.KindCookie, "JSESSIONID", "x"), black(lists.KindToken, "", "x"), black(lists.KindAPIKey, "X-API-KEY", "x"))
		d := s.Decide(c.r)
		if d.Reason != c.want || d.Verdict != c.want.Verdict() {
			t.Errorf("%s: %v %v, want %v", name, d.Verdict, d.Reason, c.want)
		}
		want := map[Reason]apis.Answer{
			Malformed: {Status: 400, Reason: "Bad Request", Body: "Error: Malformed Request"},
			TooLarge:  {Status: 431, Reason: "Request Header Fields Too Large", Body: "Error: Request Header Fields Too Large"},
		}[c.want]
		if d.Answer != want {
			t.Errorf("%s: answer %+v", name, d.Answer)
		}
		if got := s.Stats().Decisions[c.want][0]; got != 1 {
			t.Errorf("%s: counted %v", name, s.Stats().Decisions)
		}
	}
}

// TestPaths: a path that backends read differently is judged by the strictest of its APIs, or refused.
func TestPaths(t *testing.T) {
	root := &apis.API{ID: "root", Hostname: "*", URL: "/"}
	shop := &apis.API{ID: "shop", Hostname: "*", URL: "/shop", EnableBlocking: true}
	one := &apis.API{ID: "one", Hostname: "one.com", URL: "/api"}
	for _, c := range []struct {
		target string
		api    string // of a request that lists name: "" refused
		want   Reason
	}{
		{"/shop/cart", "shop", Blacklisted},
		{"/shop", "shop", Blacklisted},
		{"/shopping", "root", PassNotEnforced},
		{"/other", "root", PassNotEnforced},
		// Honest requests have these too: the strictest reading counts.
		{"//shop/cart", "shop", Blacklisted},
		{"/shop//cart", "shop", Blacklisted},
		{"/shop;v=1/cart", "shop", Blacklisted},
		{"/shop%2Fcart", "shop", Blacklisted},
		{"/SHOP/cart", "root", Blacklisted},
		{"/%73hop/cart", "shop", Blacklisted},
		{"/other/a%2Fb", "root", PassNotEnforced},
		{"/other/.hidden", "root", PassNotEnforced},
		{"/other/x;jsessionid=1", "root", PassNotEnforced},
		{"/shop/a/../b", "shop", Blacklisted},
		{"/shop/100%25", "shop", Blacklisted},
		{"/a/../b/./c", "root", PassNotEnforced},
		// These cross the border of an API by a trick.
		{"/other/../shop/cart", "", Malformed},
		{"/other/%2e%2e/shop/cart", "", Malformed},
		{"/other/..%2fshop/cart", "", Malformed},
		{"/other/..;/shop/cart", "", Malformed},
		{`/other/..\shop/cart`, "", Malformed},
		{"/other/..%5cshop/cart", "", Malformed},
		{"/%2573hop/cart", "", Malformed},
		{"/shop/%252e%252e/other", "", Malformed},
		{"/shop/../other", "", Malformed},
		{"/./shop/cart", "", Malformed},
		// Hosts.
		{"http://one.com/api/x", "one", PassNotEnforced},
		{"http://ONE.com./api/x", "one", PassNotEnforced},
		{"http://one.com:8080/shop", "shop", Blacklisted},
	} {
		s := newShim(t, l7, []*apis.API{root, shop, one}, black(lists.KindToken, "", "bad"))
		r := get(c.target, "Authorization: Bearer bad")
		d := s.Decide(r)
		if d.Reason != c.want || d.API == nil != (c.api == "") || d.API != nil && d.API.ID != c.api {
			t.Errorf("%s: %v, API %v, want %v of %s", c.target, d.Reason, d.API, c.want, c.api)
		}
	}
	s := newShim(t, l7, []*apis.API{one})
	for target, want := range map[string]apis.Answer{
		"http://two.com/api": {Status: 503, Reason: "Service Unavailable", Body: "Error: Unknown Hostname"},
		"http://one.com/":    {Status: 503, Reason: "Service Unavailable", Body: "Error: Unknown API"},
	} {
		if d := s.Decide(get(target)); d.Verdict != Refuse || d.Answer != want {
			t.Errorf("%s: %v, answer %+v", target, d.Reason, d.Answer)
		}
	}
	if d := New(Options{}).Decide(get("/")); d.Reason != UnknownHost {
		t.Errorf("a shim without APIs: %v", d.Reason)
	}
}

// TestEveryReadingOfAPathCounts: also that of the last of five APIs, when it alone enforces the lists.
func TestEveryReadingOfAPathCounts(t *testing.T) {
	urls := []string{"/", "/x", "/x/A", "/x/a/b", "/x/A/b"}
	for _, enforced := range urls {
		var all []*apis.API
		for i, u := range urls {
			all = append(all, &apis.API{ID: fmt.Sprint("a", i), Hostname: "*", URL: u, EnableBlocking: u == enforced})
		}
		s := newShim(t, l7, all, black(lists.KindToken, "", "bad"))
		if d := s.Decide(get("//x/A%2Fb;q", "Authorization: Bearer bad")); d.Reason != Blacklisted {
			t.Errorf("only %s enforces: %v", enforced, d.Reason)
		}
	}
}

// TestDetect: detectors are asked about what passes, and told the truth.
func TestDetect(t *testing.T) {
	var told Seen
	var token, cookie lists.ID
	asked, found := 0, false
	o := Options{Detect: func(_ *http.Request, seen Seen) (apis.Answer, lists.Source, bool) {
		asked++
		told = seen
		token, cookie = seen.Credentials.Learnable()
		return apis.Answer{Status: 404}, lists.Decoy, found
	}}
	settings := lists.DefaultSettings()
	settings.ASEDetectedAttack = true
	b := lists.NewBuilder(snapshot(t, black(lists.KindToken, "", "bad"), white(lists.KindCookie, "other", "good")))
	b.Set(settings)
	now := time.Now()
	o.Now = func() time.Time { return now }
	s := New(o)
	s.Use(b.Snapshot(1), nil, true)
	s.UseAPIs(apis.NewSet(root()))
	learns := func(when string, d Decision, want bool) {
		t.Helper()
		if s.Learns(d) != want {
			t.Errorf("%s: Learns is %t", when, !want)
		}
	}
	ask := func(lines ...string) Decision {
		r := get("https://shop.com/", lines...)
		r.TLS = new(tls.ConnectionState)
		return s.Decide(r)
	}
	if d := ask("Authorization: Bearer bad"); d.Verdict != Block || asked != 0 {
		t.Errorf("a blocked request: %v, asked %d times", d.Verdict, asked)
	}
	lines := []string{"Authorization: Bearer new-token-0123456", "Cookie: JSESSIONID=session-01234567"}
	d := ask(lines...)
	if asked != 1 || !told.HasToken || !told.HTTPS || told.Whitelisted || told.Client.String() != "192.0.2.1" || told.API.ID != "root" {
		t.Errorf("asked %d times: %+v", asked, told)
	}
	if token != (lists.ID{}) || cookie != (lists.ID{}) {
		t.Errorf("nobody has accepted %v %v", token, cookie)
	}
	learns("nothing is known", d, true)
	learns("without credentials", ask("X-Other: a"), false)
	for _, status := range []int{403, 302} { // a redirect may lead to the login
		s.Answered(d, status)
		if ask(lines...); token != (lists.ID{}) {
			t.Errorf("%d accepted %v", status, token)
		}
	}
	s.Answered(d, 200)
	learns("just accepted", d, false)
	learns("one of two is new", ask("Authorization: Bearer new-token-0123456", "Cookie: JSESSIONID=session-76543210"), true)
	now = now.Add(keepAccepted*time.Second/2 + time.Second)
	learns("half an hour later", d, true)
	ask(lines...)
	if token != (lists.ID{Kind: lists.KindToken, Value: "new-token-0123456"}) || cookie != (lists.ID{Kind: lists.KindCookie, Name: "JSESSIONID", Value: "session-01234567"}) {
		t.Errorf("accepted: %v %v", token, cookie)
	}
	if ask("Authorization: Bearer other, Bearer new-token-0123456"); token != (lists.ID{}) {
		t.Errorf("one of two tokens: %v", token)
	}
	if ask("Cookie: JSESSIONID=session-01234567; jsessionid=x"); cookie != (lists.ID{}) || told.HasToken {
		t.Errorf("one of two cookies: %+v", told)
	}
	s.Answered(d, 401)
	learns("refused", d, true)
	if ask(lines...); token != (lists.ID{}) || cookie != (lists.ID{}) {
		t.Errorf("no longer accepted: %v %v", token, cookie)
	}
	if ask("Cookie: other=good"); !told.Whitelisted {
		t.Error("not whitelisted")
	}
	found = true
	if d := ask(); d.Verdict != Refuse || d.Reason != Detected || d.Answer.Status != 404 || d.Source != lists.Decoy {
		t.Errorf("%+v", d)
	}
}

// TestWorstCases: what takes longest to read takes bounded time.
func TestWorstCases(t *testing.T) {
	s := newShim(t, l7, []*apis.API{root()}, black(lists.KindCookie, "JSESSIONID", "x"), black(lists.KindToken, "", badJWT),
		black(lists.KindAPIKey, "X-API-KEY", "x"), black(lists.KindUsername, "", "x"), white(lists.KindCookie, "JSESSIONID", "y"))
	fill := func(s string, n int) string { return strings.Repeat(s, n/len(s)) }
	const h, q = MaxHeaderBytes - 100, MaxQueryBytes
	for _, c := range []struct{ name, value, query string }{
		{"Cookie", fill("=", h), ""}, {"Cookie", fill("a=", h), ""}, {"Cookie", fill(" a", h), ""}, {"Cookie", fill(`"=`, h), ""},
		{"Cookie", fill("JSESSIONID=", h), ""}, {"Cookie", fill("JSESSIONID=,", h), ""}, {"Cookie", fill(` JSESSIONID="a`, h), ""},
		{"Cookie", "JSESSIONID=" + fill(`%u0041\"é+`, h), ""}, {"Cookie", fill(";", h), ""}, {"Cookie", fill("JSESSIONID;", h), ""},
		{"Cookie", fill("%4aSESSIONID=%41;", h), ""},
		{"Authorization", "Bearer " + fill("a ", h), ""}, {"Authorization", fill(",", h), ""}, {"Authorization", "Basic " + fill("w6k6", h), ""},
		{"Authorization", "Bearer e30." + fill("WyJb", h) + ".x", ""}, {"Authorization", "Bearer " + fill("eyJ.", h), ""},
		{"X-Api-Key", fill("a,", h), ""}, {"X-Api-Key", fill(`"\`, h), ""}, {"X-User", fill("é,", h), ""},
		{"X-Forwarded-For", fill("1.1.1.1,", h), ""}, {fill("a-", h), "x", ""},
		{"A", "b", fill("api_key=x&", q)}, {"A", "b", fill("api_key=%41,%42;", q)}, {"A", "b", "api_key=" + fill("%u0041+", q-10)},
		{"A", "b", fill(";", q)}, {"A", "b", fill("access_token=a;", q)}, {"A", "b", fill("%41", q)},
	} {
		r := get("/")
		r.Header[c.name], r.URL.RawQuery = []string{c.value}, c.query
		start := processorTime()
		d := s.Decide(r)
		if took := processorTime() - start; took > 100*time.Millisecond {
			t.Errorf("%.20s: %.20s, query %.20s: %v takes %v", c.name, c.value, c.query, d.Reason, took)
		}
	}
	for _, path := range []string{fill("/", MaxPathBytes), fill("/..", MaxPathBytes), fill("/%2e;a", MaxPathBytes-10), fill("/a", MaxPathBytes)} {
		r := get("/")
		r.URL.Path, r.URL.RawPath = path, path
		start := processorTime()
		d := s.Decide(r)
		if took := processorTime() - start; took > 100*time.Millisecond {
			t.Errorf("path %.20s: %v takes %v", path, d.Reason, took)
		}
	}
}

// TestLimitsAreDocumented: docs/L7.md says the limits.
func TestLimitsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/L7.md")
	if err != nil {
		t.Fatal(err)
	}
	row := fmt.Sprintf("| %d KiB | %d lines | %d | %d KiB | %d | %d | %d KiB |",
		MaxHeaderBytes>>10, MaxHeaders, MaxCookies, MaxQueryBytes>>10, MaxParameters, MaxTokens, MaxPathBytes>>10)
	if !strings.Contains(string(text), row) {
		t.Errorf("docs/L7.md does not say %q", row)
	}
}
