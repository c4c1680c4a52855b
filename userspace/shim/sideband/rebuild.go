package sideband

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/portcullis/portcullis/userspace/shim"
	"github.com/portcullis/portcullis/userspace/shim/front"
)

// rebuild makes the client's request of what the gateway says of it; ok is false if that request is malformed. verified:
// the gateway has authenticated itself, so that its user_info may be believed.
func (p *payload) rebuild(ctx context.Context, verified bool) (r *http.Request, ok bool, err error) {
	if p.Method == "" || p.URL == "" {
		return nil, false, fmt.Errorf("%w: method and url are needed", ErrPayload)
	}
	username := p.UserInfo.get("username")
	if p.latin1 {
		// One odd byte that a client puts anywhere makes the gateway's whole text ISO-8859-1: what else is in it may well be
		// UTF-8. The shim reads text of either kind out of the bytes.
		if raw, differs := toLatin1(username); differs {
			username = raw
		}
		p.URL, _ = toLatin1(p.URL)
	}
	asked := front.Asked{Method: p.Method, Target: target(p.URL), Proto: strings.ToUpper(string(p.HTTPVersion)), Header: make(http.Header, len(p.Headers))}
	asked.Remote = p.remoteAddr()
	hosts := 0
	for _, h := range p.Headers {
		if strings.EqualFold(h.name, "host") {
			if hosts++; hosts > 1 && !strings.EqualFold(h.value, asked.Host) {
				return nil, false, nil
			}
			asked.Host = h.value
			continue
		}
		asked.Header.Add(h.name, h.value)
		if raw, differs := toLatin1(h.value); differs || p.latin1 && raw != h.value {
			asked.Header.Add(h.name, raw)
		}
	}
	scheme := strings.ToLower(p.Headers.get("x-forwarded-proto"))
	if u, err := url.ParseRequestURI(p.URL); err == nil && u.Host != "" {
		scheme = strings.ToLower(u.Scheme)
		if asked.Host == "" {
			asked.Host = u.Host
		}
	}
	asked.HTTPS = scheme == "https"
	r = new(http.Request)
	if !asked.Fill(r) {
		return nil, false, nil
	}
	claims := shim.Claims{Username: username, SchemeUnknown: scheme == "", Relayed: true}
	claims.Verified = verified && claims.Username != ""
	return r.WithContext(shim.WithClaims(ctx, claims)), true, nil
}

// target is the URL without scheme and host, which are the gateway's own rather than what its client wrote: that is in
// the Host header.
func target(text string) string {
	u, err := url.ParseRequestURI(text)
	if err != nil || u.Host == "" {
		return text
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u.RequestURI()
}

// remoteAddr reads source_ip with brackets, zone, a port of its own, or none. Text that is no address says that nobody
// knows the client.
func (p *payload) remoteAddr() string {
	ip, port := strings.TrimSpace(p.SourceIP), string(p.SourcePort)
	if both, err := netip.ParseAddrPort(ip); err == nil {
		return both.String()
	}
	a, err := netip.ParseAddr(strings.Trim(ip, "[]"))
	if err != nil {
		return "unknown"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		n = 0
	}
	return netip.AddrPortFrom(a, uint16(n)).String()
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
