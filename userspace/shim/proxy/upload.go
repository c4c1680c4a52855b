package proxy

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/portcullis/portcullis/userspace/apis"
	"github.com/portcullis/portcullis/userspace/shim"
)

// writeHead makes the request's head in w.out, and adds the body if all of it has come already.
func (x *exchange) writeHead() {
	c, w := x.c, x.w
	out := append(w.out[:0], w.method...)
	out = append(out, ' ')
	out = append(out, backendTarget(w.target, w.url.Path, w.d.API)...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(append(out, w.host...), "\r\n"...)
	for i := range w.fields {
		f := &w.fields[i]
		if isHopByHop(f.canon) || f.canon == "Expect" || w.connHead != "" && namedByConnection(w.connHead, f.name) || isForwarding(f.canon) {
			continue
		}
		out = appendField(out, f.name, f.value)
	}
	out = c.appendForwarded(out, w)
	if w.upgrade != "" {
		out = appendField(out, "Connection", "Upgrade")
		out = appendField(out, "Upgrade", w.upgrade)
	}
	x.whole = w.empty()
	switch {
	case w.chunked:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
		if names := announced(w.req.Header["Trailer"], w.d.API); names != "" {
			out = appendField(out, "Trailer", names)
		}
	case w.length > 0 || hasBodyField(w.fields):
		out = appendLength(out, w.length)
	}
	if te := w.req.Header["Te"]; len(te) > 0 && hasToken(strings.Join(te, ","), "trailers") {
		out = append(out, "TE: trailers\r\n"...)
	}
	out = append(out, "\r\n"...)
	if have := c.in.buffered(); !w.chunked && w.length > 0 && int64(len(have)) >= w.length {
		out = append(out, have[:w.length]...)
		c.in.r += int(w.length)
		x.whole = true
	}
	w.out = out
}

// announced lists the trailers that a request announces and a backend may get.
func announced(lines []string, api *apis.API) string {
	var names []string
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); isToken(name) && passesTrailer(api, name) {
				names = append(names, name)
			}
		}
	}
	return strings.Join(names, ", ")
}

func hasBodyField(fields []field) bool {
	for i := range fields {
		if fields[i].canon == "Content-Length" {
			return true
		}
	}
	return false
}

// namedByConnection: the Connection line makes the field one of this hop. Fields that say who the client is, and were
// judged, are no one's to take away.
func namedByConnection(connHead, name string) bool {
	return hasToken(connHead, name) && !strings.EqualFold(name, "Authorization") && !strings.EqualFold(name, "Cookie")
}

// startUpload begins to carry the request's body to the server.
func (x *exchange) startUpload() error {
	c := x.c
	if x.w.expect && c.in.r == c.in.w {
		if _, err := c.Conn.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			return err
		}
	}
	x.hold()
	x.uploaded = make(chan struct{})
	c.uploaded.Store(0)
	c.uploading.Store(true)
	f, up := x.w.framing, x.up
	go func() {
		defer close(x.uploaded)
		defer c.uploading.Store(false)
		fromClient, err := c.upload(up, f, x.judgeTrailers, &x.upRead)
		switch {
		case err == nil:
			x.upDone = true
		case fromClient:
			x.upErr = err
			x.upFault.Store(true)
			up.Close() // the answer is not to be waited for
		}
	}()
	return nil
}

// errTrailers: what came after a body names somebody who is blocked, or is malformed.
var errTrailers = errors.New("trailers are refused")

// judgeTrailers returns those that the server gets. Before the last byte of the body it is not given, so that a request
// whose trailers are refused is for every server one that broke off.
func (x *exchange) judgeTrailers(all []field) ([]field, error) {
	if len(all) == 0 {
		return nil, nil
	}
	late := make(http.Header)
	for _, t := range all {
		if keepsTrailer(t.name) {
			late[t.name] = append(late[t.name], t.value)
		}
	}
	d := x.c.p.judge.Trailers(x.w.d, late)
	if d.Verdict != shim.Pass {
		x.late = d
		return nil, errTrailers
	}
	names := announced(x.w.req.Header["Trailer"], x.w.d.API)
	return slices.DeleteFunc(all, func(t field) bool { return !hasToken(names, t.name) }), nil
}

// upload copies a body, with those trailers that last lets pass. fromClient: the error came from reading; all is set once
// all of it is read.
func (c *conn) upload(up *upstream, f framing, last func([]field) ([]field, error), all *atomic.Bool) (fromClient bool, err error) {
	if f.chunked || f.length > bufferSize {
		c.bulkBuffer()
	}
	read := newBody(&c.in, f)
	var out []byte
	for {
		piece, err := read.next()
		if err != nil {
			return true, err
		}
		c.uploaded.Add(int64(len(piece)))
		c.set(phaseExchange)
		if f.chunked {
			if out = out[:0]; len(piece) > 0 {
				out = appendChunk(out, piece)
			}
			if read.done {
				trailers, err := last(read.trailers)
				if err != nil {
					return true, err
				}
				out = appendLast(out, trailers)
			}
			piece = out
		}
		if read.done {
			all.Store(true)
		}
		if _, err := up.Write(piece); err != nil {
			return false, err
		}
		if read.done {
			return false, nil
		}
		if to, ok := up.Conn.(*net.TCPConn); ok && !f.chunked && read.left >= spliceAbove && c.bottom != nil && c.tls == nil && c.in.r == c.in.w {
			return c.spliceUpload(to, read, all)
		}
	}
}

// spliceUpload leaves the rest of a long body to the kernel. Which side failed it cannot tell; a read that failed shows
// again when the connection goes on.
func (c *conn) spliceUpload(to *net.TCPConn, read *body, all *atomic.Bool) (fromClient bool, err error) {
	for read.left > 0 {
		n, err := c.move(to, c.bottom, min(read.left, spliceAbove))
		c.uploaded.Add(n)
		if read.left -= n; err != nil {
			return c.gone() || timedOut(err), err
		}
	}
	all.Store(true)
	return false, nil
}

// backendTarget is the request's target with the API's internal URL in the place of its public one.
func backendTarget(target, path string, api *apis.API) string {
	if api == nil || api.InternalURL == "" || api.InternalURL == api.URL || target == "" || target[0] != '/' {
		return target
	}
	return replacePrefix(target, path, api.URL, api.InternalURL)
}

// replacePrefix replaces the first segments of a path. Where they are written in another way than in the definition
// (%2e for a dot) the path is written anew from what it decodes to.
func replacePrefix(target, decoded, from, to string) string {
	path, query := target, ""
	if i := strings.IndexByte(target, '?'); i >= 0 {
		path, query = target[:i], target[i:]
	}
	if from == "/" {
		from = ""
	}
	to = strings.TrimSuffix(to, "/")
	rest, ok := strings.CutPrefix(path, from)
	if !ok {
		rest = (&url.URL{Path: strings.TrimPrefix(decoded, from)}).EscapedPath()
	}
	if path = to + rest; path == "" || path[0] != '/' {
		path = "/" + path
	}
	return path + query
}

// appendForwarded tells the backend who the client is. What is said by who is not trusted is not passed on.
func (c *conn) appendForwarded(out []byte, w *work) []byte {
	scheme := "http"
	if c.tls != nil {
		scheme = "https"
	}
	out = append(out, "X-Forwarded-For: "...)
	proto, host := scheme, w.host
	if c.trusted {
		for _, f := range w.fields {
			switch f.canon {
			case "X-Forwarded-For":
				if f.value != "" {
					out = append(append(out, f.value...), ", "...)
				}
			case "X-Forwarded-Proto":
				proto = f.value
			case "X-Forwarded-Host":
				host = f.value
			}
		}
	}
	out = c.peer.AppendTo(out)
	out = append(out, "\r\nX-Forwarded-Proto: "...)
	out = append(out, proto...)
	if host != "" {
		out = append(out, "\r\nX-Forwarded-Host: "...)
		out = append(out, host...)
	}
	out = append(out, "\r\n"...)
	if c.trusted {
		for _, f := range w.fields {
			if isForwarding(f.canon) && f.canon != "X-Forwarded-For" && f.canon != "X-Forwarded-Proto" && f.canon != "X-Forwarded-Host" {
				out = appendField(out, f.name, f.value)
			}
		}
	}
	return out
}

// isForwarding reports whether a field says for whom a request is forwarded, spelled with _ for - too.
func isForwarding(canon string) bool {
	switch canon[0] {
	case 'X', 'x', 'F', 'f', 'T', 't', 'C', 'c':
	default:
		return false
	}
	if strings.IndexByte(canon, '_') >= 0 {
		canon = strings.ReplaceAll(canon, "_", "-")
	}
	const prefix = "X-Forwarded-"
	if len(canon) > len(prefix) && strings.EqualFold(canon[:len(prefix)], prefix) {
		return true
	}
	for _, name := range []string{"Forwarded", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Client-Ip"} {
		if strings.EqualFold(canon, name) {
			return true
		}
	}
	return false
}

// passesTrailer says which trailers a backend gets: none that frame or route, and, though they were judged, none that are
// for who the client is: some backends take them for header fields.
func passesTrailer(api *apis.API, name string) bool {
	if !keepsTrailer(name) || isForwarding(name) {
		return false
	}
	plain := strings.ReplaceAll(name, "_", "-")
	for _, secret := range []string{"Authorization", "Cookie", api.APIKeyHeader, api.UsernameHeader, jwtHeader(api)} {
		if secret != "" && strings.EqualFold(plain, strings.ReplaceAll(secret, "_", "-")) {
			return false
		}
	}
	return true
}

// jwtHeader is the header in which an API's clients send a JWT, if it is one.
func jwtHeader(api *apis.API) string {
	rest, ok := strings.CutPrefix(api.JWT.Location, "h:")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, ":")
	return name
}

// keepsTrailer: fields that RFC 9110 has no place for after a body are left out, in both directions.
func keepsTrailer(name string) bool {
	if framesMessage(name) {
		return false
	}
	for _, no := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Upgrade", "Expect", "Set-Cookie",
		"Content-Encoding", "Content-Type", "Content-Range", "Max-Forwards", "Proxy-Authorization", "Proxy-Authenticate", "Www-Authenticate"} {
		if strings.EqualFold(name, no) {
			return false
		}
	}
	return true
}
