package shim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// reader is how some backend reads a request: the values that it finds for a cookie or query parameter.
type reader struct {
	name   string
	cookie func(lines []string, name string) []string
	query  func(query, name string) []string
}

// readers are those that need no other process.
var readers = []reader{
	{"net/http", goCookie, func(q, name string) []string { v, _ := url.ParseQuery(q); return v[name] }},
	{"nginx", nginxCookie, nginxArg},
	{"cookie of npm", npmCookie, nil},
	{"PHP", phpCookie, phpQuery},
	{"RFC 2109", commaCookie, semicolonQuery},
}

func goCookie(lines []string, name string) (values []string) {
	r := http.Request{Header: http.Header{"Cookie": lines}}
	for _, c := range r.CookiesNamed(name) {
		values = append(values, c.Value)
	}
	return values
}

// nginxCookie is $cookie_NAME by ngx_http_parse_multi_header_lines: the first match, names in any case, pairs begin
// after ; or , and end at ;. What follows the name counts as read even if it is no =. TestNginxReads asks nginx itself.
func nginxCookie(lines []string, name string) []string {
	for _, line := range lines {
		line = strings.Trim(line, " ")
		for at := 0; at < len(line); {
			if len(line)-at >= len(name) && strings.EqualFold(line[at:at+len(name)], name) {
				for at += len(name); at < len(line) && line[at] == ' '; at++ {
				}
				if at < len(line) && line[at] == '=' {
					value, _, _ := strings.Cut(strings.TrimLeft(line[at+1:], " "), ";")
					return []string{value}
				}
				if at++; at > len(line) {
					break
				}
			}
			next := strings.IndexAny(line[at:], ";,")
			if next < 0 {
				break
			}
			for at += next + 1; at < len(line) && line[at] == ' '; at++ {
			}
		}
	}
	return nil
}

// nginxArg is $arg_NAME: the first match, the name in any case, as it is encoded.
func nginxArg(query, name string) []string {
	for pair := range strings.SplitSeq(query, "&") {
		if len(pair) > len(name) && strings.EqualFold(pair[:len(name)], name) && pair[len(name)] == '=' {
			return []string{pair[len(name)+1:]}
		}
	}
	return nil
}

// npmCookie is parse of the npm package cookie, which express and others use.
func npmCookie(lines []string, name string) (values []string) {
	for pair := range strings.SplitSeq(strings.Join(lines, "; "), ";") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || strings.TrimSpace(key) != name {
			continue
		}
		value = strings.TrimSpace(value)
		if strings.HasPrefix(value, `"`) && len(value) > 1 {
			value = value[1 : len(value)-1]
		}
		if decoded, err := url.PathUnescape(value); err == nil {
			value = decoded
		}
		values = append(values, value)
	}
	return values
}

// phpCookie: values are decoded with + for a space; dots, spaces and [ in names are _.
func phpCookie(lines []string, name string) (values []string) {
	for pair := range strings.SplitSeq(strings.Join(lines, "; "), ";") {
		key, value, ok := strings.Cut(pair, "=")
		if ok && phpName(strings.TrimSpace(key)) == phpName(name) {
			values = append(values, phpDecode(value))
		}
	}
	return values
}

func phpQuery(query, name string) (values []string) {
	for pair := range strings.SplitSeq(query, "&") {
		key, value, ok := strings.Cut(pair, "=")
		if ok && phpName(strings.TrimLeft(phpDecode(key), " ")) == phpName(name) {
			values = append(values, phpDecode(value))
		}
	}
	return values
}

func phpName(s string) string {
	s, _, _ = strings.Cut(s, "[")
	return strings.NewReplacer(".", "_", " ", "_").Replace(s)
}

func phpDecode(s string) string {
	return string(percentDecode(nil, strings.ReplaceAll(s, "+", " "), false))
}

// commaCookie: pairs end at ; and , but not in quotes, which are taken away with their escapes.
func commaCookie(lines []string, name string) (values []string) {
	for _, line := range lines {
		for line != "" {
			end := strings.IndexAny(line, ";,")
			eq := strings.IndexByte(line, '=')
			quoted := false
			if eq >= 0 && (end < 0 || eq < end) {
				if rest := strings.TrimLeft(line[eq+1:], " \t"); strings.HasPrefix(rest, `"`) {
					if n := quotedLen(rest); n > 0 {
						quoted, end = true, len(line)-len(rest)+n
					}
				}
			}
			if end < 0 {
				end = len(line)
			}
			key, value, ok := strings.Cut(line[:end], "=")
			value = strings.Trim(value, " \t")
			if quoted {
				value = string(unescape(nil, unquote(value)))
			}
			if ok && strings.Trim(key, " \t") == name {
				values = append(values, value)
			}
			line = strings.TrimLeft(line[end:], " \t")
			line = strings.TrimLeft(line, ";,")
		}
	}
	return values
}

// semicolonQuery is parse_qs of older Pythons and others: ; separates too.
func semicolonQuery(query, name string) (values []string) {
	for pair := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' }) {
		if key, value, ok := strings.Cut(pair, "="); ok && phpDecode(key) == name {
			values = append(values, phpDecode(value))
		}
	}
	return values
}

// python is a process that reads cookies with http.cookies and queries with urllib.parse.
type python struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
}

const pythonProgram = `
import sys, json, http.cookies, urllib.parse
for line in sys.stdin:
    cookie, query, name = json.loads(line)
    found = [[], []]
    try:
        c = http.cookies.SimpleCookie()
        c.load(cookie)
        if name in c: found[0].append(c[name].value)
    except http.cookies.CookieError: pass
    try: found[1] = [v for n, v in urllib.parse.parse_qsl(query, keep_blank_values=True, encoding='latin-1') if n == name]
    except ValueError: pass
    print(json.dumps(found), flush=True)
`

// startPython runs until the test ends.
func startPython(t testing.TB) *python {
	t.Helper()
	cmd := exec.Command("python3", "-c", pythonProgram)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("python3 (a Debian package, see .ci/deps): %v", err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("python3: %v", err)
		}
	})
	return &python{in: in, out: bufio.NewReader(out)}
}

// read asks for a cookie and a parameter of one name. Text goes over as Latin-1, as WSGI hands it to programs.
func (p *python) read(t testing.TB, cookies []string, query, name string) (cookie, parameter []string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	ask, err := json.Marshal([]string{toLatin1(strings.Join(cookies, "; ")), query, name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.Write(append(ask, '\n')); err != nil {
		t.Fatalf("python3: %v", err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	var found [2][]string
	if err := json.Unmarshal(line, &found); err != nil {
		t.Fatalf("python3 says %q: %v", line, err)
	}
	return found[0], found[1]
}

func toLatin1(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// fragments are what requests are put together from: identifiers in all spellings and what confuses parsers.
var fragments = []string{
	"sid", "sid", "sid", "SID", "s%69d", "s.id", "=", "=", "=", "=", ";", ";", "; ", "; ", ",", " ", "\t", `"`, `"`, `\`, "&", "&", "&", "+", "%", "%2",
	"v1/x", "v1/x", "v1/x", `"v1/x"`, "v1%2fx", "v1%2Fx", `v1\/x`, `"v1\057x"`, "%76%31/x", "v 1", "v+1", "v%201", `"v 1"`, "é", "\xe9", "%C3%A9", "%E9",
	"a", "b=c", "path", "$Version", "expires", "Mon, 01 Jan 2024 00:00:00 GMT", "[]", "[", "]", "%00", "%3B", "%3D", "{", "}", ":", "x=\"y", "zz",
}

// mix makes a text of fragments.
func mix(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(14) {
		b.WriteString(fragments[r.IntN(len(fragments))])
	}
	return b.String()
}

// listed are the values that the readers may find.
var listedValues = []string{"v1/x", "v 1", "é", "v1%2fx"}

// checkReaders holds Decide to what the readers find in a request: what one of them takes for a blacklisted value is
// blocked, and what one of them takes for another value than the whitelisted one is not passed for it.
func checkReaders(t *testing.T, p *python, s *Shim, cookies []string, query string) {
	t.Helper()
	r := get("/")
	r.Header["Cookie"], r.URL.RawQuery = cookies, query
	d := s.Decide(r)
	if d.Verdict == Refuse {
		return
	}
	found := func(who string, kind lists.Kind, values []string) {
		for _, v := range values {
			for _, bad := range listedValues {
				if v == bad && d.Verdict != Block {
					t.Fatalf("%s finds %s %q in cookies %q, query %q: %v", who, kind, v, cookies, query, d.Reason)
				}
			}
			if d.Reason == PassWhitelisted && d.ID.Kind == kind && v != d.ID.Value {
				t.Fatalf("%s finds %s %q in cookies %q, query %q: whitelisted as %q", who, kind, v, cookies, query, d.ID.Value)
			}
		}
	}
	for _, reader := range readers {
		found(reader.name, lists.KindCookie, reader.cookie(cookies, "sid"))
		if reader.query != nil {
			found(reader.name, lists.KindAPIKey, reader.query(query, "sid"))
		}
	}
	cookie, parameter := p.read(t, cookies, query, "sid")
	found("Python", lists.KindCookie, cookie)
	found("Python", lists.KindAPIKey, parameter)
}

// readerShims are one that blacklists what the readers look for and one that whitelists it.
func readerShims(t testing.TB) (blackShim, whiteShim *Shim) {
	var blacks, whites []lists.Entry
	for _, v := range listedValues {
		blacks = append(blacks, black(lists.KindCookie, "sid", v), black(lists.KindAPIKey, "sid", v))
		whites = append(whites, white(lists.KindCookie, "sid", v), white(lists.KindAPIKey, "sid", v))
	}
	return newShim(t, l7, []*apis.API{root()}, blacks...), newShim(t, l7, []*apis.API{root()}, whites...)
}

// checkWhite is checkReaders for a shim that only whitelists.
func checkWhite(t *testing.T, p *python, s *Shim, cookies []string, query string) {
	t.Helper()
	r := get("/")
	r.Header["Cookie"], r.URL.RawQuery = cookies, query
	d := s.Decide(r)
	if d.Reason != PassWhitelisted {
		return
	}
	other := func(who string, values []string) {
		for _, v := range values {
			if v != d.ID.Value {
				t.Fatalf("%s finds %s %q in cookies %q, query %q: whitelisted as %q", who, d.ID.Kind, v, cookies, query, d.ID.Value)
			}
		}
	}
	cookie, parameter := p.read(t, cookies, query, "sid")
	for _, reader := range readers {
		switch {
		case d.ID.Kind == lists.KindCookie && reader.name != "PHP" && reader.name != "cookie of npm": // they decode, see TestWhitelist
			other(reader.name, reader.cookie(cookies, "sid"))
		case d.ID.Kind == lists.KindAPIKey && reader.query != nil:
			other(reader.name, reader.query(query, "sid"))
		}
	}
	if d.ID.Kind == lists.KindCookie {
		other("Python", cookie)
	} else {
		other("Python", parameter)
	}
}

// TestReaders holds Decide to other readers of random requests.
func TestReaders(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	p := startPython(t)
	blackShim, whiteShim := readerShims(t)
	hits, passes := 0, 0
	for range 4000 {
		cookies := []string{mix(r)}
		if r.IntN(4) == 0 {
			cookies = append(cookies, mix(r))
		}
		query := strings.NewReplacer(" ", "", "\t", "").Replace(mix(r))
		switch r.IntN(3) {
		case 0:
			cookies[0] += "; sid=v1/x"
		case 1:
			query += "&sid=v1/x"
		}
		checkReaders(t, p, blackShim, cookies, query)
		checkWhite(t, p, whiteShim, cookies, query)
		req := get("/")
		req.Header["Cookie"], req.URL.RawQuery = cookies, query
		if blackShim.Decide(req).Verdict == Block {
			hits++
		}
		if whiteShim.Decide(req).Reason == PassWhitelisted {
			passes++
		}
	}
	t.Logf("%d of 4000 blocked, %d whitelisted", hits, passes)
	if hits < 400 || passes < 40 {
		t.Errorf("only %d blocked, %d whitelisted: the requests test little", hits, passes)
	}
}

// FuzzReaders is TestReaders for requests that a fuzzer thinks of.
func FuzzReaders(f *testing.F) {
	for _, c := range []string{"sid=v1/x", `sid="v1/x"`, `a="b; sid=v1/x"`, "sid=v1%2fx,sid=v1/x", "sid = v1/x c", "$Version=1; sid=v1/x; path=/"} {
		f.Add(c, "", "sid=v1/x")
		f.Add("a=b", c, strings.ReplaceAll(c, " ", "+"))
	}
	p := startPython(f)
	blackShim, whiteShim := readerShims(f)
	f.Fuzz(func(t *testing.T, cookie, second, query string) {
		if hasControl(cookie) || hasControl(second) || hasControl(query) || len(cookie)+len(second) > 300 || len(query) > 300 { // Python's patterns take for ever
			return
		}
		cookies := []string{cookie}
		if second != "" {
			cookies = append(cookies, second)
		}
		checkReaders(t, p, blackShim, cookies, query)
		checkWhite(t, p, whiteShim, cookies, query)
	})
}

// FuzzDecide: nothing in a request makes Decide panic, or takes it longer than reading it a few times.
func FuzzDecide(f *testing.F) {
	f.Add("shop.com", "/a/../b", "access_token=x", "Bearer "+badJWT, "a=b; JSESSIONID=\"c\"", "X-Api-Key", "k1, k2", "1.2.3.4, 5.6.7.8")
	s := newShim(f, l7, []*apis.API{root(), {ID: "a", Hostname: "*", URL: "/a", EnableBlocking: true}},
		black(lists.KindCookie, "JSESSIONID", "c"), black(lists.KindToken, "", badJWT), black(lists.KindAPIKey, "X-API-KEY", "k2"),
		black(lists.KindUsername, "", "eve"), white(lists.KindCookie, "JSESSIONID", "d"), black(lists.KindIP, "", "10.0.0.0/8"))
	f.Fuzz(func(t *testing.T, host, path, query, authorization, cookie, name, value, forwarded string) {
		r := get("/")
		r.Host, r.URL.Path, r.URL.RawQuery = host, path, query
		r.URL.RawPath = path
		r.Header = http.Header{"Authorization": {authorization}, "Cookie": {cookie, value}, name: {value}, "X-Forwarded-For": {forwarded}}
		d := s.Decide(r)
		if e := s.Explain(r); e.Decision.Reason != d.Reason || e.Decision.Verdict != d.Verdict {
			t.Fatalf("decided %v, explained as %v: %+v", d.Reason, e.Decision.Reason, e)
		}
		if fmt.Sprint(d.Reason.Verdict()) != fmt.Sprint(d.Verdict) {
			t.Fatalf("%v is no reason for %v", d.Reason, d.Verdict)
		}
	})
}
