package proxy

import (
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// field is one header line of a message.
type field struct{ name, canon, value string }

// framing says how long a body is.
type framing struct {
	chunked bool
	length  int64 // -1: until the end of the connection (answers only)
}

func (f framing) empty() bool { return !f.chunked && f.length == 0 }

var (
	errMalformed   = errors.New("malformed request")
	errTooLarge    = errors.New("header too large")
	errExpectation = errors.New("unknown expectation")
)

// head is one request as it was read. All strings share one allocation.
type head struct {
	method, target, proto string
	http10                bool
	host                  string
	fields                []field // in the order and spelling of the client; Host is not among them
	framing
	close    bool   // the client wants the connection closed, or cannot keep it
	expect   bool   // it waits for 100 Continue
	upgrade  string // the protocol it wants to change to
	connHead string // what its Connection lines say, joined
}

// parseHead reads a request's head: everything up to and with the empty line. What RFC 9112 lets a server repair is an
// error here: a repaired request is one that somebody else may read in another way.
func (h *head) parseHead(s string, maxFields int) error {
	*h = head{fields: h.fields[:0]}
	line, rest, ok := strings.Cut(s, "\r\n")
	if !ok {
		return errMalformed
	}
	if err := h.parseLine(line); err != nil {
		return err
	}
	hosts := 0
	for rest != "\r\n" {
		line, after, ok := strings.Cut(rest, "\r\n")
		if !ok {
			return errMalformed
		}
		rest = after
		name, value, ok := cutField(line)
		if !ok {
			return errMalformed
		}
		f := field{name, textproto.CanonicalMIMEHeaderKey(name), value}
		if f.canon == "Host" {
			h.host, hosts = value, hosts+1
			continue
		}
		if len(h.fields) == maxFields {
			return errTooLarge
		}
		h.fields = append(h.fields, f)
	}
	if hosts > 1 || hosts == 0 && !h.http10 || h.host != "" && !validHost(h.host) {
		return errMalformed
	}
	return h.interpret()
}

func (h *head) parseLine(line string) error {
	method, rest, ok := strings.Cut(line, " ")
	target, proto, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !isToken(method) || target == "" || method == http.MethodConnect {
		return errMalformed
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return errMalformed
		}
	}
	switch proto {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.http10, h.close = true, true
	default:
		return errMalformed
	}
	h.method, h.target, h.proto = method, target, proto
	return nil
}

// interpret reads the fields that say where the message ends and what becomes of the connection.
func (h *head) interpret() error {
	lengths, encodings := 0, 0
	for _, f := range h.fields {
		switch f.canon {
		case "Content-Length":
			n, ok := parseLength(f.value)
			if lengths++; !ok || lengths > 1 {
				return errMalformed
			}
			h.length = n
		case "Transfer-Encoding":
			if encodings++; encodings > 1 || h.http10 || !strings.EqualFold(f.value, "chunked") {
				return errMalformed
			}
			h.chunked = true
		case "Connection":
			if h.connHead += f.value + ","; !validTokens(f.value) {
				return errMalformed
			}
		case "Expect":
			if !strings.EqualFold(f.value, "100-continue") {
				return errExpectation
			}
			h.expect = !h.http10
		case "Upgrade":
			h.upgrade = f.value
		default:
			if strings.IndexByte(f.name, '_') >= 0 && framesMessage(f.name) {
				return errMalformed // a backend may take _ for -
			}
		}
	}
	if lengths > 0 && encodings > 0 {
		return errMalformed
	}
	if hasToken(h.connHead, "close") {
		h.close = true
	} else if h.http10 && hasToken(h.connHead, "keep-alive") {
		h.close = false
	}
	// HTTP/2 without TLS begins with its preface or not at all: forwarding such an upgrade would open a tunnel to the
	// backend that nobody judges. A body before the upgrade would be part of it.
	if !hasToken(h.connHead, "upgrade") || !h.empty() || h.http10 || !isToken(h.upgrade) || strings.EqualFold(h.upgrade, "h2c") {
		h.upgrade = ""
	}
	return nil
}

// framesMessage reports whether the name, with _ for -, is one of those that say where a message ends.
func framesMessage(name string) bool {
	name = strings.ReplaceAll(name, "_", "-")
	return strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Transfer-Encoding") || strings.EqualFold(name, "Host")
}

// cutField splits a header line. No folding, no space before the colon, no control characters.
func cutField(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, ":")
	if !ok || !isToken(name) {
		return "", "", false
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return "", "", false
		}
	}
	return name, strings.Trim(value, " \t"), true
}

// parseLength reads a Content-Length: digits, and few enough of them.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// tokenBytes are those that RFC 9110 has in methods and field names.
var tokenBytes = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

// validTokens: a comma-separated list of tokens; empty members are let pass.
func validTokens(list string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.Trim(t, " \t"); t != "" && !isToken(t) {
			return false
		}
	}
	return true
}

// hasToken reports whether a comma-separated list has the token, in any case.
func hasToken(list, token string) bool {
	for list != "" {
		t, rest, _ := strings.Cut(list, ",")
		if strings.EqualFold(strings.Trim(t, " \t"), token) {
			return true
		}
		list = rest
	}
	return false
}

// validHost: a name or address, and perhaps a port.
func validHost(h string) bool {
	for i := range len(h) {
		c := h[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~:[]%!$&'()*+,;=", c) >= 0) {
			return false
		}
	}
	return h != ""
}

// parseTarget fills in u, and the host if the target is a whole URL. It sets Path and RawPath as url.ParseRequestURI does.
func (h *head) parseTarget(u *url.URL) error {
	*u = url.URL{}
	switch {
	case h.target == "*" && h.method == http.MethodOptions:
		u.Path = "*"
		return nil
	case h.target[0] == '/' && strings.IndexByte(h.target, '%') < 0:
		// The same as below, without an allocation. Two slashes at the start are a path here, not a host.
		u.Path, u.RawQuery, u.ForceQuery = h.target, "", false
		if i := strings.IndexByte(h.target, '?'); i >= 0 {
			u.Path, u.RawQuery = h.target[:i], h.target[i+1:]
			u.ForceQuery = u.RawQuery == ""
		}
		if !plainPath(u.Path) {
			u.RawPath = u.Path
		}
	case h.target[0] == '/':
		parsed, err := url.ParseRequestURI(h.target)
		if err != nil {
			return errMalformed
		}
		*u = *parsed
	default:
		return h.parseAbsolute(u)
	}
	if hasDots(u.Path) {
		return errMalformed
	}
	return nil
}

// parseAbsolute reads a target as a client sends it to a proxy; its host and the Host line must agree.
func (h *head) parseAbsolute(u *url.URL) error {
	parsed, err := url.ParseRequestURI(h.target)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" || parsed.User != nil || parsed.Opaque != "" {
		return errMalformed
	}
	if h.host != "" && !strings.EqualFold(h.host, parsed.Host) || !validHost(parsed.Host) {
		return errMalformed
	}
	h.host = parsed.Host
	h.target = parsed.RequestURI()
	parsed.Scheme, parsed.Host = "", ""
	if parsed.Path == "" {
		parsed.Path = "/"
	}
	*u = *parsed
	if hasDots(u.Path) {
		return errMalformed
	}
	return nil
}

// plainPath reports whether url.URL would write the path as it is.
func plainPath(p string) bool {
	for i := range len(p) {
		c := p[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/$&+,:;=@!'()*", c) >= 0) {
			return false
		}
	}
	return true
}

// hasDots reports whether a decoded path has a segment that a backend may resolve: clients do that themselves, and the
// API of such a path is anybody's guess. \ counts as /, and what follows a ; as no part of a segment.
func hasDots(path string) bool {
	if strings.IndexByte(path, '.') < 0 {
		return strings.IndexByte(path, 0) >= 0
	}
	for segment := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == '\\' }) {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return true
		}
	}
	return strings.IndexByte(path, 0) >= 0
}
