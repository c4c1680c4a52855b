package front

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Asked is a request as a gateway tells it.
type Asked struct {
	Method string
	Target string // as the client sent it: "/path?query", an absolute URL, or "*"
	Host   string // of the Host header; that of an absolute URL wins, as in a server
	Proto  string // "HTTP/1.1", "1.1", "HTTP/2.0", "2", ...; "": HTTP/1.1
	HTTPS  bool
	Client netip.Addr // who sent it to the gateway
	// Remote is Client as text with a port, where the caller has that at hand; "": made from Client.
	Remote string
	// Header is the request's, under canonical names. Fill takes it over.
	Header http.Header
}

// Fill makes r the request that was asked about, as net/http's server would have read it from its client; r may have
// been used before. It returns false, with r in no certain state, if the request is malformed.
func (a *Asked) Fill(r *http.Request) bool {
	u := r.URL
	if u == nil {
		u = new(url.URL)
	}
	*r = http.Request{Method: a.Method, RequestURI: a.Target, Host: a.Host, URL: u, Header: a.Header, Body: http.NoBody, RemoteAddr: a.Remote}
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	if r.RemoteAddr == "" {
		r.RemoteAddr = netip.AddrPortFrom(a.Client, 0).String()
	}
	if !isToken(a.Method) || !parseTarget(u, a.Target) || !setProto(r, a.Proto) {
		return false
	}
	if u.Host != "" {
		r.Host = u.Host
	}
	u.Scheme = "http"
	if a.HTTPS {
		u.Scheme = "https"
	}
	return setLength(r)
}

// setLength moves what net/http moves out of the headers.
func setLength(r *http.Request) bool {
	if te, ok := r.Header["Transfer-Encoding"]; ok {
		r.TransferEncoding = te
		delete(r.Header, "Transfer-Encoding")
		r.ContentLength = -1
	}
	if cl := r.Header["Content-Length"]; len(cl) > 0 && cl[0] != "" {
		n, err := strconv.ParseUint(cl[0], 10, 63)
		if err != nil {
			return false
		}
		r.ContentLength = int64(n)
	}
	return true
}

// setProto reads "HTTP/1.1", "1.1", "HTTP/2" and the like.
func setProto(r *http.Request, text string) bool {
	text = strings.TrimPrefix(text, "HTTP/")
	switch text {
	case "", "1.1":
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	case "1.0":
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0
	case "2", "2.0":
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	case "3", "3.0":
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/3.0", 3, 0
	default:
		return false
	}
	return true
}

// parseTarget reads a request target into u. It allocates nothing for a plain path.
func parseTarget(u *url.URL, target string) bool {
	if path, query, plain := splitPlain(target); plain {
		*u = url.URL{Path: path, RawQuery: query}
		return true
	}
	parsed, err := url.ParseRequestURI(target)
	if err != nil || parsed.Opaque != "" || target[0] != '/' && target != "*" && parsed.Host == "" {
		return false
	}
	*u = *parsed
	return true
}

// splitPlain splits a path of letters, digits and -._~/ from its query. net/url would do the same to it, slower.
func splitPlain(target string) (path, query string, plain bool) {
	if target == "" || target[0] != '/' {
		return "", "", false
	}
	for i := range len(target) {
		c := target[i]
		switch {
		case c == '?':
			return target[:i], target[i+1:], i+1 < len(target) && printable(target[i+1:])
		case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '-' && c <= '9', c == '_', c == '~': // - . / 0-9
		default:
			return "", "", false
		}
	}
	return target, "", true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("()<>@,;:\\\"/[]?={}", c) >= 0 {
			return false
		}
	}
	return s != ""
}
