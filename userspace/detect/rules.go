package detect

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// violation holds a request against api_pattern_enforcement.
func violation(r Request) (Finding, bool) {
	p := &r.API.Pattern
	answer := orElse(p.Answer, refused)
	switch {
	case p.Protocol != "" && !r.SchemeUnknown && !speaks(r, p.Protocol):
		if redirect := p.Redirect; redirect != nil && !r.HTTPS {
			return Finding{Source: lists.Protocol, Answer: *redirect}, true
		}
		return Finding{Source: lists.Protocol, Answer: answer, Attack: true}, true
	case len(p.Methods) > 0 && !slices.Contains(p.Methods, r.HTTP.Method):
		return Finding{Source: lists.Method, Answer: answer, Attack: true}, true
	case p.ContentType != "" && !sends(r.HTTP, p.ContentType):
		return Finding{Source: lists.ContentType, Answer: answer, Attack: true}, true
	}
	return Finding{}, false
}

// speaks reports whether the request came by the protocol: ws and wss by the handshake of WebSocket, http and https with
// or without one, since what is behind an upgrade is none of theirs.
func speaks(r Request, protocol string) bool {
	switch protocol {
	case "https":
		return r.HTTPS
	case "http":
		return !r.HTTPS
	case "wss":
		return r.HTTPS && isWebSocket(r.HTTP)
	case "ws":
		return !r.HTTPS && isWebSocket(r.HTTP)
	}
	return true
}

// isWebSocket knows the handshake of HTTP/1.1, and that of HTTP/2 (RFC 8441).
func isWebSocket(r *http.Request) bool {
	if r.Method == http.MethodConnect {
		return strings.EqualFold(r.Header.Get(":protocol"), "websocket")
	}
	return slices.ContainsFunc(r.Header.Values("Upgrade"), func(v string) bool { return strings.EqualFold(strings.TrimSpace(v), "websocket") })
}

// sends reports whether what the request carries is of the media type. A request without a body needs to name none.
func sends(r *http.Request, allowed string) bool {
	named := r.Header.Values("Content-Type")
	if len(named) == 0 {
		return r.ContentLength == 0
	}
	return !slices.ContainsFunc(named, func(v string) bool { return !strings.EqualFold(mediaType(v), mediaType(allowed)) })
}

func mediaType(v string) string {
	v, _, _ = strings.Cut(v, ";")
	return strings.TrimSpace(v)
}

// sentByAnotherSite: a browser says that a page of somebody else's had it send the request (Sec-Fetch-Site, which pages
// cannot set). Such a page can have each of its visitors fetch a decoy, by an image, or send what the API does not take:
// they are answered as everybody, and not blacklisted for it. An attacker who says the same of himself is refused every
// time, and gains nothing else.
func sentByAnotherSite(r *http.Request) bool {
	return slices.ContainsFunc(r.Header["Sec-Fetch-Site"], func(v string) bool { return strings.EqualFold(v, "cross-site") })
}

// missesToken: a browser asks by OPTIONS, without credentials, whether it may send the real request (CORS): that is no
// attack.
func missesToken(r Request) bool {
	if !r.API.TokenMandatory || r.HasToken {
		return false
	}
	preflight := r.HTTP.Method == http.MethodOptions && r.HTTP.Header.Get("Origin") != "" && r.HTTP.Header.Get("Access-Control-Request-Method") != ""
	return !preflight
}

// onSubpath reports whether the request's path, as any backend may read it, is a decoy's or below it.
func onSubpath(r Request) bool {
	if r.Paths == nil {
		return isDecoy(r.API, r.HTTP.URL.Path)
	}
	return slices.ContainsFunc(r.Paths, func(p string) bool { return isDecoy(r.API, p) })
}

// isDecoy reports whether a path is a decoy's or below it. A sub-path may be written with the API's URL in front or
// without.
func isDecoy(a *apis.API, requested string) bool {
	requested = path.Clean("/" + requested)
	for _, sub := range a.Decoy.Subpaths {
		sub = path.Clean("/" + sub)
		if below(requested, path.Join(a.URL, sub)) || below(sub, a.URL) && below(requested, sub) {
			return true
		}
	}
	return false
}

func below(requested, dir string) bool {
	return dir == "/" || requested == dir || strings.HasPrefix(requested, dir) && requested[len(dir)] == '/'
}
