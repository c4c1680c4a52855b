package check

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/portcullis/portcullis/userspace/shim/front"
)

// Way says in which headers a gateway tells of the request that it asks about. "" is none: the question's own method or
// Host then is the request's. All names are canonical.
type Way struct {
	Method, URI, Proto, Host string
	// Client names a header with the one address of the client. "": the last hop of X-Forwarded-For is the client, the
	// hops before it stay in the request.
	Client string
	// Version names a header with the request's protocol ("HTTP/2.0"). "": that of the question.
	Version string
	// TargetInPath: the target follows the way's own path, as Envoy sends it, instead of being in URI.
	TargetInPath bool
	// Limited: the gateway takes 403 for an answer, and no other status but 2xx.
	Limited bool
	// Drop are headers that the gateway adds and that say nothing of the request.
	Drop []string
}

const forwardedFor = "X-Forwarded-For"

// Ways are those of the gateways, by the path that they ask.
func Ways() map[string]Way {
	return map[string]Way{
		"/check/nginx": {
			Method: "X-Original-Method", URI: "X-Original-Uri", Proto: "X-Original-Proto", Host: "X-Original-Host",
			Client: "X-Original-Client", Version: "X-Original-Version", Limited: true,
		},
		"/check/forward": {Method: "X-Forwarded-Method", URI: "X-Forwarded-Uri", Proto: "X-Forwarded-Proto", Host: "X-Forwarded-Host"},
		"/check/envoy":   {Proto: "X-Forwarded-Proto", TargetInPath: true, Drop: []string{"X-Envoy-Internal", "X-Envoy-Expected-Rq-Timeout-Ms"}},
	}
}

// rebuild makes the request that q, which came to path, asks about. It takes q's headers over. ok is false if q
// does not say all that is needed, or says it twice.
func (w *Way) rebuild(q *http.Request, path string) (a front.Asked, ok bool) {
	ok = true
	a = front.Asked{Method: q.Method, Host: q.Host, Proto: q.Proto, Header: q.Header}
	h := q.Header
	if w.Host != "" && len(h[w.Host]) == 0 {
		a.Host = "" // a gateway sends no empty header
	} else {
		ok = take(h, w.Host, &a.Host)
	}
	ok = ok && take(h, w.Method, &a.Method) && take(h, w.Version, &a.Proto)
	proto := ""
	ok = ok && take(h, w.Proto, &proto)
	switch proto {
	case "https", "wss":
		a.HTTPS = true
	case "http", "ws":
	default:
		ok = false
	}
	if w.TargetInPath {
		rest, found := strings.CutPrefix(q.RequestURI, path)
		a.Target, ok = rest, ok && found
	} else {
		ok = ok && take(h, w.URI, &a.Target)
	}
	if !ok {
		return a, false
	}
	for _, name := range w.Drop {
		delete(h, name)
	}
	if len(q.TransferEncoding) > 0 {
		h["Transfer-Encoding"] = q.TransferEncoding
	}
	if w.Client != "" {
		text := ""
		if !take(h, w.Client, &text) {
			return a, false
		}
		a.Client = parseHop(text)
	} else {
		a.Client = takeLastHop(h)
	}
	return a, a.Client.IsValid()
}

// take moves the one value of a header to value. Without a name it does nothing.
func take(h http.Header, name string, value *string) bool {
	if name == "" {
		return true
	}
	all := h[name]
	delete(h, name)
	if len(all) != 1 || all[0] == "" {
		return false
	}
	*value = all[0]
	return true
}

// takeLastHop takes the last address off X-Forwarded-For: the one that the gateway has put there.
func takeLastHop(h http.Header) netip.Addr {
	all := h[forwardedFor]
	if len(all) == 0 {
		return netip.Addr{}
	}
	last := len(all) - 1
	i := strings.LastIndexByte(all[last], ',')
	a := parseHop(all[last][i+1:])
	rest := all[:last:last]
	if i >= 0 {
		rest = append(rest, all[last][:i])
	}
	if len(rest) == 0 {
		delete(h, forwardedFor)
	} else {
		h[forwardedFor] = rest
	}
	return a
}

// parseHop reads an address, with or without a port; the zero value if it is none.
func parseHop(text string) netip.Addr {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "[") {
		if a, err := netip.ParseAddr(text); err == nil {
			return a.Unmap().WithZone("")
		}
	}
	if p, err := netip.ParseAddrPort(text); err == nil {
		return p.Addr().Unmap().WithZone("")
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
