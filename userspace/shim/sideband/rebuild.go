package sideband

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/portcullis/portcullis/userspace/shim"
)

// rebuild makes the client's request of what the gateway says of it. verified: the gateway has authenticated itself, so
// that its user_info may be believed.
func (p *payload) rebuild(ctx context.Context, verified bool) (*http.Request, error) {
	if p.Method == "" || p.URL == "" {
		return nil, fmt.Errorf("%w: method and url are needed", ErrPayload)
	}
	r := &http.Request{Method: p.Method, RequestURI: p.URL, RemoteAddr: p.remoteAddr(), Header: make(http.Header, len(p.Headers))}
	r.Proto, r.ProtoMajor, r.ProtoMinor = p.version()
	r.URL = readURL(p.URL)
	hosts := 0
	for _, h := range p.Headers {
		switch {
		case strings.EqualFold(h.name, "host"):
			if hosts++; hosts > 1 && !strings.EqualFold(h.value, r.Host) {
				return nil, fmt.Errorf("%w: two Host headers", errMalformed)
			}
			r.Host = h.value
		case strings.EqualFold(h.name, "transfer-encoding"):
			r.TransferEncoding = append(r.TransferEncoding, h.value)
			r.ContentLength = -1
		default:
			r.Header.Add(h.name, h.value)
			if raw, differs := toLatin1(h.value); differs {
				r.Header.Add(h.name, raw)
			}
		}
	}
	if r.ContentLength == 0 {
		r.ContentLength = contentLength(r.Header)
	}
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	if s := p.Headers.get("x-forwarded-proto"); r.URL.Scheme == "" {
		r.URL.Scheme = strings.ToLower(s)
	}
	claims := shim.Claims{Username: p.UserInfo.get("username"), SchemeUnknown: r.URL.Scheme == ""}
	claims.Verified = verified && claims.Username != ""
	return r.WithContext(shim.WithClaims(ctx, claims)), nil
}

// readURL never fails: what url.Parse does not read is a path of its bytes and the query behind it, which the shim
// judges as it is.
func readURL(s string) *url.URL {
	if u, err := url.ParseRequestURI(s); err == nil {
		return u
	}
	path, query, _ := strings.Cut(s, "?")
	return &url.URL{Path: path, RawQuery: query}
}

// remoteAddr reads source_ip with brackets, zone, a port of its own, or none; "" if it is no address.
func (p *payload) remoteAddr() string {
	ip, port := strings.TrimSpace(p.SourceIP), string(p.SourcePort)
	if both, err := netip.ParseAddrPort(ip); err == nil {
		return both.String()
	}
	a, err := netip.ParseAddr(strings.Trim(ip, "[]"))
	if err != nil {
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		port = "0"
	}
	return net.JoinHostPort(a.String(), port)
}

// version reads "1.1", "HTTP/1.1", "2", or nothing, which is 1.1.
func (p *payload) version() (proto string, major, minor int) {
	v := strings.TrimPrefix(strings.ToUpper(string(p.HTTPVersion)), "HTTP/")
	first, second, _ := strings.Cut(v, ".")
	major, err := strconv.Atoi(first)
	if err != nil || major < 1 || major > 3 {
		return "HTTP/1.1", 1, 1
	}
	if minor, err = strconv.Atoi(second); err != nil || minor < 0 || minor > 9 {
		minor = 0
	}
	return fmt.Sprintf("HTTP/%d.%d", major, minor), major, minor
}

// contentLength is whether there is a body, for those who ask: what does not read as a length means there may be one.
func contentLength(h http.Header) int64 {
	v := h.Values("Content-Length")
	if len(v) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(v[0]), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// toLatin1: a gateway that read the client's bytes as ISO-8859-1 says é as two characters. The bytes that they stand for
// are the other reading of the value; both are judged.
func toLatin1(s string) (raw string, differs bool) {
	ascii := true
	for _, c := range s {
		if c > 0xff {
			return s, false
		}
		ascii = ascii && c < 0x80
	}
	if ascii {
		return s, false
	}
	b := make([]byte, 0, len(s))
	for _, c := range s {
		b = append(b, byte(c))
	}
	return string(b), utf8.Valid(b)
}
