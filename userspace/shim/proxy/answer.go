package proxy

import (
	"errors"
	"net/http"
	"net/textproto"
	"strings"
)

// errAnswer: a backend's answer is not HTTP, or can be read in two ways.
var errAnswer = errors.New("malformed answer")

// answerHead is the head of a backend's answer. All strings share one allocation.
type answerHead struct {
	status int
	line   string // from the status on, with the reason phrase
	fields []field
	framing
	http10, keep bool // keep: the backend keeps its connection
	upgrade      string
	connHead     string
	trailer      bool
}

// parse reads everything up to and with the empty line; method is the request's.
func (a *answerHead) parse(s, method string) error {
	*a = answerHead{fields: a.fields[:0]}
	line, rest, ok := strings.Cut(s, "\r\n")
	if !ok || len(line) < len("HTTP/1.1 200") || line[:7] != "HTTP/1." || line[8] != ' ' {
		return errAnswer
	}
	a.http10 = line[7] == '0'
	a.line = line[9:]
	for i := range 3 {
		if a.line[i] < '0' || a.line[i] > '9' {
			return errAnswer
		}
		a.status = a.status*10 + int(a.line[i]-'0')
	}
	if a.status < 100 || len(a.line) > 3 && a.line[3] != ' ' || strings.ContainsAny(a.line, "\n\x00") {
		return errAnswer
	}
	if len(a.line) == 3 {
		a.line += " "
	}
	for rest != "\r\n" {
		line, after, ok := strings.Cut(rest, "\r\n")
		name, value, valid := cutField(line)
		if !ok || !valid {
			return errAnswer
		}
		rest = after
		a.fields = append(a.fields, field{name, textproto.CanonicalMIMEHeaderKey(name), value})
	}
	return a.interpret(method)
}

func (a *answerHead) interpret(method string) error {
	a.length, a.keep = -1, !a.http10
	for _, f := range a.fields {
		switch f.canon {
		case "Content-Length":
			n, ok := parseLength(f.value)
			if !ok || a.length >= 0 && a.length != n {
				return errAnswer
			}
			a.length = n
		case "Transfer-Encoding":
			if a.chunked || !strings.EqualFold(f.value, "chunked") {
				return errAnswer
			}
			a.chunked = true
		case "Connection":
			a.connHead += f.value + ","
		case "Upgrade":
			a.upgrade = f.value
		case "Trailer":
			a.trailer = true
		}
	}
	if a.chunked && a.length >= 0 {
		return errAnswer
	}
	if hasToken(a.connHead, "close") {
		a.keep = false
	} else if hasToken(a.connHead, "keep-alive") {
		a.keep = true
	}
	if bodiless(method, a.status) {
		a.framing = framing{}
	} else if a.chunked {
		a.length = 0
	} else if a.length < 0 {
		a.keep = false
	}
	return nil
}

// bodiless: answers that end with their head, whatever it says.
func bodiless(method string, status int) bool {
	return method == http.MethodHead || status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
}

// isHopByHop: fields that are about one connection. They are never carried over; what must be said of ours is written anew.
func isHopByHop(canon string) bool {
	switch canon {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Te", "Upgrade", "Trailer", "Content-Length",
		"Proxy-Authenticate", "Proxy-Authorization":
		return true
	}
	return false
}

// append writes the head that a client gets. The body is framed as out says; reuse: the connection is kept.
func (a *answerHead) append(to []byte, method string, out framing, http10, reuse bool) []byte {
	to = append(to, "HTTP/1.1 "...)
	to = append(to, a.line...)
	to = append(to, "\r\n"...)
	plain := a.connHead == "" || a.connHead == "keep-alive," || a.connHead == "close,"
	bare := bodiless(method, a.status)
	for _, f := range a.fields {
		if f.canon == "Content-Length" && bare && a.status >= 200 && a.status != http.StatusNoContent {
			to = appendField(to, f.name, f.value) // what it would be with a body
			continue
		}
		if isHopByHop(f.canon) && (f.canon != "Trailer" || !out.chunked) || !plain && hasToken(a.connHead, f.name) {
			continue
		}
		to = appendField(to, f.name, f.value)
	}
	switch {
	case bare:
	case out.chunked:
		to = append(to, "Transfer-Encoding: chunked\r\n"...)
	case out.length >= 0:
		to = appendLength(to, out.length)
	}
	switch {
	case !reuse:
		to = append(to, "Connection: close\r\n"...)
	case http10:
		to = append(to, "Connection: keep-alive\r\n"...)
	}
	return append(to, "\r\n"...)
}
