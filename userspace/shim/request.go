package shim

import (
	"encoding/binary"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/portcullis/portcullis/userspace/apis"
)

// Limits on one request. What is beyond is refused (431), never overlooked: up to them everything is read.
const (
	MaxHeaderBytes = 128 << 10 // names and values of the header fields
	MaxHeaders     = 1000      // lines
	MaxCookies     = 4096      // pairs
	MaxQueryBytes  = 64 << 10
	MaxParameters  = 4096 // of the query
	MaxTokens      = 64   // in Authorization and access_token
	MaxPathBytes   = 32 << 10
	// maxWork bounds the bytes of all readings of all identifiers: what is written so that it could be read in
	// thousands of ways is not read in all of them.
	maxWork = 2 << 20
)

// request is what is judged of a *http.Request. Hold keeps one.
type request struct {
	header        http.Header
	host          string // of the request line or the Host field
	path, rawPath string
	query         string
	client        netip.Addr
	clientText    string // as it is spelled in the request
	direct        bool   // the client is the TCP peer
	claims        Claims
	coded         bool // there is a Transfer-Encoding
}

// problem says why a request is refused before it is matched: Malformed, TooLarge, or PassUnlisted if it is not.
type problem struct {
	reason Reason
	why    string
}

func malformed(why string) problem { return problem{Malformed, why} }
func tooLarge(why string) problem  { return problem{TooLarge, why} }

// read takes from r what is judged. Header fields are checked while they are read (work.headers).
func (s *Shim) read(r *http.Request, q *request) problem {
	q.header = r.Header
	trusted := s.options.TrustedProxies
	if s.index.Load().settings.XFFIgnored {
		trusted = nil
	}
	q.client, q.clientText, q.direct = clientAddr(r.RemoteAddr, r.Header, trusted)
	q.claims = ClaimsOf(r.Context())
	if r.URL == nil || r.URL.Opaque != "" || r.URL.User != nil {
		return malformed("the request target is no path")
	}
	q.host, q.path, q.rawPath, q.query = r.Host, r.URL.Path, r.URL.RawPath, r.URL.RawQuery
	if q.path == "" {
		q.path = "/"
	}
	switch {
	case r.Method == http.MethodConnect:
		return malformed("CONNECT")
	case !isMethod(r.Method):
		return malformed("the method is no word")
	case len(q.path) > MaxPathBytes || len(q.rawPath) > MaxPathBytes:
		return tooLarge("the path is too long")
	case len(q.query) > MaxQueryBytes:
		return tooLarge("the query is too long")
	case q.path[0] != '/' && !(q.path == "*" && r.Method == http.MethodOptions):
		return malformed("the path does not begin with /")
	case strings.IndexByte(q.path, 0) >= 0:
		return malformed("NUL in the path")
	case hasControl(q.rawPath) || hasControl(q.query):
		return malformed("control characters in the request target")
	}
	if p := q.readHost(r); p.reason != PassUnlisted {
		return p
	}
	q.coded = len(r.TransferEncoding) > 0
	return framing(r)
}

// readHost finds the host that the request is for.
func (q *request) readHost(r *http.Request) problem {
	if q.host == "" {
		q.host = r.URL.Host
	}
	if lines := r.Header["Host"]; q.host == "" && len(lines) == 1 {
		q.host = lines[0]
	}
	if q.host == "" && !(r.ProtoMajor == 1 && r.ProtoMinor == 0) {
		return malformed("no Host field")
	}
	var ok bool
	if q.host, ok = cleanHost(q.host); !ok {
		return malformed("the host is no name")
	}
	if r.URL.Host != "" && r.URL.Host != r.Host && !sameHost(r.URL.Host, q.host) {
		return malformed("the request target names another host than the Host field")
	}
	return problem{}
}

// sameHost reports whether s is the host, which is clean.
func sameHost(s, host string) bool {
	s, ok := cleanHost(s)
	return ok && s == host
}

// framing refuses codings that backends do not agree about.
func framing(r *http.Request) problem {
	for i, c := range r.TransferEncoding {
		if i > 0 || !strings.EqualFold(c, "chunked") {
			return malformed("a transfer encoding other than chunked")
		}
	}
	return problem{}
}

func isNumber(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) < 20
}

// tokenBytes are those of methods and field names (RFC 9110, 5.6.2).
var tokenBytes = func() (t [256]bool) {
	for c := '0'; c <= 'z'; c++ {
		t[c] = c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a'
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func isMethod(s string) bool { return len(s) <= 64 && isToken(s) }

func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

// hasControl reports whether s holds a control character other than a tab, or DEL.
func hasControl(s string) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	b, i := bytesOf(s), 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		// A byte below 0x20 borrows into its top bit; 0x7f becomes 0 and does too. Either may be a false alarm.
		if ((x-ones*0x20)&^x|((x^ones*0x7f)-ones)&^(x^ones*0x7f))&high != 0 && anyControl(s[i:i+8]) {
			return true
		}
	}
	return anyControl(s[i:])
}

func anyControl(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// hostByte tells what a byte is to a host.
type hostByte uint8

const (
	hostUpper hostByte = 1 << iota // a letter in upper case
	hostOdd                        // [ ] : or %, which IPv6 addresses in brackets have
	hostNever
)

var hostBytes = func() (t [256]hostByte) {
	for i := range t {
		switch c := byte(i); {
		case c >= 'A' && c <= 'Z':
			t[i] = hostUpper
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c >= 0x80:
		case c == '[' || c == ']' || c == ':' || c == '%':
			t[i] = hostOdd
		default:
			t[i] = hostNever
		}
	}
	return t
}()

// cleanHost returns a host as APIs are looked up: lower case, without port and final dot.
func cleanHost(s string) (string, bool) {
	if s == "" {
		return "", true
	}
	var all hostByte
	for i := 0; i < len(s); i++ {
		all |= hostBytes[s[i]]
	}
	if all&hostOdd != 0 {
		if colon := strings.LastIndexByte(s, ':'); colon >= 0 && colon > strings.LastIndexByte(s, ']') {
			if colon+1 < len(s) && !isPort(s[colon:]) {
				return "", false
			}
			s = s[:colon]
		}
		all = 0
		for i := 0; i < len(s); i++ {
			all |= hostBytes[s[i]]
		}
		if all&hostOdd != 0 && s[0] != '[' {
			return "", false
		}
	}
	if all&hostNever != 0 {
		return "", false
	}
	s = strings.TrimSuffix(s, ".")
	if all&hostUpper != 0 {
		s = strings.ToLower(s)
	}
	return s, s != ""
}

// maxAPIs is how many APIs the readings of one path can belong to.
const maxAPIs = 6

// find fills w.found with the APIs that a backend may take the request to belong to, the one that it is sent to first.
//
// Backends differ in what they make of //, ;, %2F and upper case in a path. Where that makes it another API's, the
// request is held to the lists as strictly as the strictest of them asks. Dot segments, backslashes and what is encoded
// twice have no honest use at an API's border: there it is refused.
func (w *work) find(q *request, set *apis.Set) (miss apis.Miss, p problem) {
	main, miss := set.Find(q.host, q.path)
	switch shapeOf(q.path, q.rawPath) {
	case pathPlain:
		w.foundAPI(q.path, main)
		return miss, problem{}
	case pathUpper:
		w.foundAPI(q.path, main)
		w.buf = appendLower(w.buf[:0], q.path)
		if lower, _ := set.Find(q.host, textOf(w.buf)); lower != main && lower != nil && main != nil {
			w.foundAPI(string(w.buf), lower)
		}
		return miss, problem{}
	}
	honest, tricky := pathReadings(q.path, q.rawPath)
	main, miss = set.Find(q.host, honest[0])
	w.foundAPI(honest[0], main)
	for _, path := range honest[1:] {
		if api, _ := set.Find(q.host, path); api != nil && main != nil {
			w.foundAPI(path, api)
		}
	}
	for _, path := range tricky {
		before, _ := set.Find(q.host, path[0])
		if api, _ := set.Find(q.host, path[1]); api != before {
			w.foundAPI(path[1], api)
			return miss, malformed("dot segments, backslashes or what is encoded twice make the path another API's")
		}
	}
	return miss, problem{}
}

// foundAPI notes the API of one reading of the path.
func (w *work) foundAPI(path string, api *apis.API) {
	if w.trace != nil {
		w.trace.path(path, api)
	}
	if api != nil && w.apis < maxAPIs && !slices.Contains(w.found[:w.apis], api) {
		w.found[w.apis] = api
		w.apis++
	}
}

// pathShape says how a path can be read.
type pathShape uint8

const (
	pathPlain pathShape = iota // in one way
	pathUpper                  // letters may be folded
	pathOdd
)

func shapeOf(path, rawPath string) pathShape {
	shape := pathPlain
	if rawPath != "" {
		return pathOdd
	}
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '%' || c == ';' || c == '\\':
			return pathOdd
		case c == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.'):
			return pathOdd
		case c >= 'A' && c <= 'Z':
			shape = pathUpper
		}
	}
	return shape
}

func appendLower(to []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		to = append(to, c)
	}
	return to
}

// pathReadings returns what backends may read in a path: honest are the readings that honest requests have too, the
// first being the one that counts; tricky are readings before and after more is undone in them.
func pathReadings(path, rawPath string) (honest []string, tricky [][2]string) {
	merged := mergeSlashes(path)
	bare := mergeSlashes(withoutParameters(path))
	honest = []string{bare, merged, path, strings.ToLower(bare)}
	if rawPath != "" {
		honest = append(honest, mergeSlashes(string(percentDecode(nil, keepSlashes.Replace(rawPath), false))))
	}
	for _, p := range []string{merged, bare} {
		tricky = append(tricky, [2]string{p, withoutDots(p)},
			[2]string{p, withoutDots(mergeSlashes(strings.ReplaceAll(p, `\`, "/")))})
	}
	if strings.IndexByte(path, '%') >= 0 {
		twice := strings.ReplaceAll(string(percentDecode(nil, path, true)), `\`, "/")
		tricky = append(tricky, [2]string{bare, withoutDots(mergeSlashes(withoutParameters(twice)))})
	}
	return honest, tricky
}

// decoyPaths returns what some backend may read in a request's path, nil if that is the path itself. Letters stay as they
// are: what differs from a decoy in them may be a path of its own.
func decoyPaths(api *apis.API, q *request) (all []string) {
	if len(api.Decoy.Subpaths) == 0 || !api.Decoy.Enabled {
		return nil
	}
	if shapeOf(q.path, q.rawPath) != pathOdd && withoutTails(q.path) == q.path {
		return nil
	}
	honest, tricky := pathReadings(q.path, q.rawPath)
	add := func(path string) {
		for _, p := range []string{path, withoutTails(path)} {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	for _, p := range honest {
		if p != strings.ToLower(honest[0]) || p == honest[0] {
			add(p)
		}
	}
	for _, p := range tricky {
		add(p[1])
	}
	return all
}

// withoutTails takes dots and spaces at the ends of segments away, as file systems of Windows do.
func withoutTails(s string) string {
	if !strings.Contains(s, "./") && !strings.Contains(s, " /") && !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, " ") {
		return s
	}
	segments := strings.Split(s, "/")
	for i, segment := range segments {
		if segment != "." && segment != ".." {
			segments[i] = strings.TrimRight(segment, ". ")
		}
	}
	return strings.Join(segments, "/")
}

// keepSlashes hides encoded slashes from decoding.
var keepSlashes = strings.NewReplacer("%2f", "%252f", "%2F", "%252F")

func mergeSlashes(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	return s
}

// withoutParameters cuts each segment at its first ;.
func withoutParameters(s string) string {
	if strings.IndexByte(s, ';') < 0 {
		return s
	}
	segments := strings.Split(s, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

// withoutDots resolves . and .. segments.
func withoutDots(s string) string {
	if !strings.Contains(s, "/.") {
		return s
	}
	var out []string
	segments := strings.Split(s, "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			if len(out) > 1 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, segment)
		}
	}
	if len(out) == 1 {
		return "/"
	}
	return strings.Join(out, "/")
}
