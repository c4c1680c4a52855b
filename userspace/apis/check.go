package apis

import (
	"fmt"
	"mime"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// The checks say what is wrong with a text, "" if nothing is.

var protocols = []string{"http", "https", "ws", "wss"}

func isProtocol(t string) string {
	if !slices.Contains(protocols, strings.ToLower(t)) {
		return "not one of " + strings.Join(protocols, ", ")
	}
	return ""
}

// isPlain: text of one line.
func isPlain(t string) string {
	if i := strings.IndexFunc(t, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return "has a control character in it"
	}
	if len(t) > 1024 {
		return "longer than 1024 bytes"
	}
	return ""
}

// isToken: what may be the name of a cookie, a header or a method (RFC 9110, 5.6.2).
func isToken(t string) string {
	const also = "!#$%&'*+-.^_`|~"
	if strings.ContainsFunc(t, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(also, r))
	}) {
		return "has something in it that no name of a cookie, header or method has"
	}
	return isPlain(t)
}

// isPath: a path as it is matched: decoded and clean.
func isPath(t string) string {
	switch {
	case t[0] != '/':
		return "does not begin with /"
	case strings.ContainsAny(t, "?#"):
		return "a path has no ? and no #"
	case strings.Contains(t, "%"):
		return "write the path without percent signs, as it is after decoding"
	case path.Clean(t) != t:
		return fmt.Sprintf("not the shortest form of the path: write %s", show(path.Clean(t)))
	}
	return isPlain(t)
}

func isURL(t string) string {
	if problem := isPath(t); problem != "" {
		return problem
	}
	if n := strings.Count(t, "/"); n > maxLevels {
		return fmt.Sprintf("%d levels, expected at most %d", n, maxLevels)
	}
	return ""
}

// isSubpath: a decoy, with or without a slash before it.
func isSubpath(t string) string {
	if t = "/" + strings.Trim(t, "/"); t == "/" {
		return "the whole API: leave the list empty"
	}
	return isPath(t)
}

// isTarget: a path with a query perhaps.
func isTarget(t string) string {
	if _, err := url.ParseRequestURI(t); t[0] != '/' || err != nil {
		return "no path that begins with /"
	}
	return isPlain(t)
}

func isHostname(t string) string {
	if t == "*" {
		return ""
	}
	return isServer(t)
}

// isServer: a host name or an IP address, without port.
func isServer(t string) string {
	if a, err := netip.ParseAddr(strings.Trim(t, "[]")); err == nil && a.Zone() == "" {
		return ""
	}
	if _, port, found := strings.Cut(t, ":"); found && port != "" {
		return "a host name has no port"
	}
	if len(t) > 253 {
		return "longer than 253 bytes"
	}
	for _, label := range strings.Split(strings.TrimSuffix(t, "."), ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return !isWord(r) }) {
			return "no host name"
		}
	}
	return ""
}

func isMediaType(t string) string {
	if kind, _, err := mime.ParseMediaType(t); err != nil || !strings.Contains(kind, "/") {
		return "no media type such as application/json"
	}
	return isPlain(t)
}

func isHTTPS(t string) string {
	if u, err := url.Parse(t); err != nil || u.Scheme != "https" || u.Host == "" {
		return "no URL that begins with https://"
	}
	return isPlain(t)
}

// isKeysURL: keys that come over a network in the clear could be anybody's.
func isKeysURL(t string) string {
	u, err := url.Parse(t)
	if err == nil && u.Scheme == "http" {
		a, err := netip.ParseAddr(u.Hostname())
		if err == nil && a.IsLoopback() || u.Hostname() == "localhost" {
			return isPlain(t)
		}
	}
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "no URL that begins with https://, or http:// on this host"
	}
	return isPlain(t)
}

func isAbsolute(t string) string {
	if !filepath.IsAbs(t) {
		return "not an absolute path"
	}
	return isPlain(t)
}

// isLocation: where a JSON web token is.
func isLocation(t string) string {
	where, name, _ := strings.Cut(t, ":")
	switch where {
	case "h", "H":
		name = strings.TrimSuffix(strings.ToLower(name), ":bearer")
		if name != "" && isToken(name) == "" && (name == "authorization" || !strings.HasSuffix(strings.ToLower(t), ":bearer")) {
			return ""
		}
	case "qs", "QS":
		if name != "" {
			return isPlain(name)
		}
	}
	return "expected h:authorization:bearer, h:<header> or qs:<parameter>"
}
