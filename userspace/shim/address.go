package shim

import (
	"net/http"
	"net/netip"
	"strings"
)

// ClientAddr returns the client of a request by X-Forwarded-For as far as trusted proxies vouch for it, else its TCP
// peer; unmapped, without zone; the zero value if RemoteAddr is not an address. Enforcement, detection and logs all
// use this one function.
//
// All lines of the header count as one list. It is read from its end: addresses of trusted proxies are skipped, the
// first other one is the client, and what is no address ends the reading at the last proxy that was read.
func ClientAddr(r *http.Request, trusted []netip.Prefix) netip.Addr {
	client, _, _ := clientAddr(r.RemoteAddr, r.Header, trusted)
	return client
}

// clientAddr also returns the address as it is spelled in the request, and reports whether the client is the TCP peer
// itself.
func clientAddr(remote string, header http.Header, trusted []netip.Prefix) (client netip.Addr, text string, direct bool) {
	client, text, ok := parseHop(remote)
	if !ok {
		return netip.Addr{}, "", true
	}
	if len(trusted) == 0 || !contains(trusted, client) {
		return client, text, true
	}
	direct = true
	lines := header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		for rest, more := lines[i], true; more; {
			hop := rest
			comma := strings.LastIndexByte(rest, ',')
			if more = comma >= 0; more {
				hop, rest = rest[comma+1:], rest[:comma]
			}
			a, spelled, ok := parseHop(trimBlanks(hop))
			if !ok {
				return client, text, direct
			}
			client, text, direct = a, spelled, false
			if !contains(trusted, a) {
				return client, text, false
			}
		}
	}
	return client, text, direct
}

// parseHop reads an address with or without port, brackets and zone.
func parseHop(s string) (a netip.Addr, host string, ok bool) {
	if s == "" {
		return netip.Addr{}, "", false
	}
	host = s
	switch {
	case s[0] == '[':
		end := strings.IndexByte(s, ']')
		if end < 0 || end+1 < len(s) && !isPort(s[end+1:]) {
			return netip.Addr{}, "", false
		}
		host = s[1:end]
	case strings.Count(s, ":") == 1:
		colon := strings.IndexByte(s, ':')
		if !isPort(s[colon:]) {
			return netip.Addr{}, "", false
		}
		host = s[:colon]
	}
	if zone := strings.IndexByte(host, '%'); zone >= 0 {
		host = host[:zone]
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, "", false
	}
	return a.Unmap(), host, true
}

// isPort reports whether s is a colon and a number.
func isPort(s string) bool {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
