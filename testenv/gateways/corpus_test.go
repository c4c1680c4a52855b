package gateways

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// corpusAPI recognises users by a claim too.
const corpusAPI = `{"api_metadata":{"protocol":"http","url":"/","hostname":"*","cookie":"JSESSIONID","oauth2_access_token":true,
"apikey_header":"X-API-KEY","apikey_qs":"api_key","username_header":"x-user","jwt":{"location":"h:authorization:bearer","username":"user"},
"enable_blocking":true,"servers":[{"host":"127.0.0.1","port":%s}]}}`

// hard is one case of the corpus.
type hard struct {
	name, why string
	block     bool
	leak      *regexp.Regexp // of what the backend got; nil: anything at all
	raw       []byte
	marker    string
}

// contestant is what stands between client and backend.
type contestant struct {
	name  string
	ours  bool // must be right in every case
	start func(r *rig) string
}

func contestants() []contestant {
	return []contestant{
		{"Portcullis inline", true, startInline},
		{"nginx asking", true, startNginx},
		{"HAProxy asking", true, startHAProxy},
		{"Caddy asking", true, startCaddy},
		{"nginx map", false, startNginxMaps},
		{"HAProxy acl", false, startHAProxyACLs},
	}
}

// TestCorpus: of the hard cases, nothing that must be blocked reaches the backend through us, and nothing clean is
// stopped. L7_CORPUS=FILE writes the comparison with rules that one writes from the manuals of nginx and HAProxy.
func TestCorpus(t *testing.T) {
	cases := readCorpus(t)
	backend := newRawBackend(t)
	inline := freeAddress(t)
	r := newRigWith(t, backend.address, corpusAPI, fmt.Sprintf("[proxy]\nhttp = %q\n", inline), freeAddress(t))
	r.inline = inline
	for _, args := range append(slices.Clone(lists), []string{"add_blacklist", "token", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtYWxsb3J5In0.c2lnbmF0dXJl"}) {
		r.cli(args...)
	}
	results := make([][]string, len(cases))
	all := contestants()
	for _, c := range all {
		address := c.start(r)
		r.settled(address)
		for i, h := range cases {
			began := time.Now()
			got := backend.try(h, address)
			if took := time.Since(began); took > time.Second {
				t.Logf("%s, %s: took %v", c.name, h.name, took)
			}
			results[i] = append(results[i], got)
			if c.ours && got != right {
				t.Errorf("%s, %s (%s): %s", c.name, h.name, h.why, got)
			}
		}
	}
	if path := os.Getenv("L7_CORPUS"); path != "" {
		if err := os.WriteFile(path, []byte(document(cases, all, results)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What becomes of a case.
const (
	right   = "right"
	leaked  = "leaked"
	stopped = "stopped"
)

// try sends a case and says what became of it.
func (b *rawBackend) try(h hard, address string) string {
	b.begin(h.marker)
	a, err := send("127.0.0.1", address, h.raw)
	got := b.end(h.block && err == nil && a.status < 400)
	switch {
	case h.block && len(got) > 0 && (h.leak == nil || h.leak.Match(got)):
		return leaked
	case !h.block && (err != nil || a.status != 200 || len(got) == 0):
		return stopped
	}
	return right
}

func readCorpus(t *testing.T) []hard {
	t.Helper()
	text, err := os.ReadFile("testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	long := strings.NewReplacer("{cookies}", strings.Repeat("a=b; ", 3001), "{some}", strings.Repeat("abcdefgh=0123456789; ", 60), "{long}", strings.Repeat("x", 4000))
	var all []hard
	_, rest, _ := strings.Cut(string(text), "\n== ")
	for i, block := range strings.Split(rest, "\n== ") {
		lines := strings.Split(strings.TrimSuffix(block, "\n"), "\n")
		h := hard{name: lines[0], marker: fmt.Sprintf("case-%d", i)}
		must, why, ok := strings.Cut(lines[1], ": ")
		if h.why, h.block = why, must == "must block"; !ok || !h.block && must != "must pass" {
			t.Fatalf("%s: %q says neither must block nor must pass", h.name, lines[1])
		}
		lines = lines[2:]
		if pattern, ok := strings.CutPrefix(lines[0], "leak: "); ok {
			h.leak, lines = regexp.MustCompile(pattern), lines[1:]
		}
		h.raw = rawRequest(t, long, h.marker, lines)
		all = append(all, h)
	}
	return all
}

// rawRequest puts the lines of a case together; Host and the marker come after the first one.
func rawRequest(t *testing.T, long *strings.Replacer, marker string, lines []string) []byte {
	t.Helper()
	if !slices.Contains(lines, "") {
		lines = append(lines, "")
	}
	end := slices.Index(lines, "")
	var b bytes.Buffer
	for i, line := range lines {
		line, eol := strings.ReplaceAll(line, "{case}", marker), "\r\n"
		if cut, ok := strings.CutSuffix(line, `\n\`); ok {
			line, eol = cut, "\n"
		}
		plain, err := strconv.Unquote(`"` + strings.ReplaceAll(line, `"`, `\"`) + `"`)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if i == len(lines)-1 && i > end {
			eol = "" // a body has no line's end of its own
		}
		b.WriteString(long.Replace(plain) + eol)
		if i == 0 {
			fmt.Fprintf(&b, "Host: shop.example\r\nX-Case: %s\r\n", marker)
		}
	}
	return b.Bytes()
}

// rawBackend keeps what it gets as it gets it, and answers every head.
type rawBackend struct {
	address string
	mu      sync.Mutex
	marker  string
	got     bytes.Buffer
	came    chan struct{}
}

func newRawBackend(t *testing.T) *rawBackend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := &rawBackend{address: l.Addr().String(), came: make(chan struct{}, 1)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(c)
		}
	}()
	return b
}

// serve answers each connection once, after all of the request: its head, and what a length or chunks announce.
func (b *rawBackend) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	var got []byte
	buf := make([]byte, 64<<10)
	for !whole(got) {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			break
		}
	}
	b.keep(got)
	_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nbackend"))
	for { // what else comes on the connection counts too
		n, err := c.Read(buf)
		b.keep(buf[:n])
		if err != nil {
			return
		}
	}
}

var lengths = regexp.MustCompile(`(?i)\r\ncontent-length: *([0-9]+)`)

func whole(got []byte) bool {
	head, body, ok := bytes.Cut(got, []byte("\r\n\r\n"))
	if !ok {
		return false
	}
	if m := lengths.FindSubmatch(head); m != nil {
		n, _ := strconv.Atoi(string(m[1]))
		return len(body) >= n
	}
	return !bytes.Contains(bytes.ToLower(head), []byte("\r\ntransfer-encoding:")) || bytes.HasSuffix(body, []byte("0\r\n\r\n"))
}

func (b *rawBackend) keep(got []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.marker != "" && bytes.Contains(got, []byte(b.marker)) || b.got.Len() > 0 {
		b.got.Write(got)
		select {
		case b.came <- struct{}{}:
		default:
		}
	}
}

// begin forgets what was kept, and keeps what has the marker from now on.
func (b *rawBackend) begin(marker string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marker = marker
	b.got.Reset()
	select {
	case <-b.came:
	default:
	}
}

// end returns what was kept. If something is still expected, it waits a little for it.
func (b *rawBackend) end(more bool) []byte {
	if more {
		select {
		case <-b.came:
		case <-time.After(200 * time.Millisecond):
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marker = ""
	return bytes.Clone(b.got.Bytes())
}

// document is docs/L7-CORPUS.md.
func document(cases []hard, all []contestant, results [][]string) string {
	var b strings.Builder
	b.WriteString("# Hard cases\n\n`make l7-corpus` wrote this page. Each request of `testenv/gateways/testdata/corpus.txt` is sent through us, in front of the backend and asked by\n" +
		"a gateway with the files of `deploy`, and through nginx and HAProxy with rules as one writes them from their manuals (`map` on `$cookie_`,\n" +
		"`$http_`, `$arg_`; ACLs on `req.cook`, `req.hdr`, `http_auth_bearer`, `url_param`): nginx 1.22, HAProxy 2.6 and Caddy 2.6 of Debian 12.\n\n" +
		"- *leaked*: it had to be blocked, and the backend got it. *stopped*: it had to pass, and did not.\n\n| | wrong |\n|---|---|\n")
	for i, c := range all {
		count := map[string]int{}
		for _, row := range results {
			count[row[i]]++
		}
		fmt.Fprintf(&b, "| %s | %d leaked, %d stopped, of %d |\n", c.name, count[leaked], count[stopped], len(cases))
	}
	b.WriteString("\n| request | must |")
	for _, c := range all {
		fmt.Fprintf(&b, " %s |", c.name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(all)) + "\n")
	for i, h := range cases {
		must := "pass"
		if h.block {
			must = "block"
		}
		fmt.Fprintf(&b, "| %s: %s | %s |", h.name, h.why, must)
		for _, got := range results[i] {
			if got == right {
				got = "ok"
			} else {
				got = "**" + got + "**"
			}
			fmt.Fprintf(&b, " %s |", got)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
