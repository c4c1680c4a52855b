package spoe

import (
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"

	"github.com/portcullis/portcullis/userspace/shim/front"
)

// maxNames bounds the header names whose canonical form a connection remembers.
const maxNames = 512

// maxHeaders bounds the header lines of a request; HAProxy's own bound is 101 by default.
const maxHeaders = 1000

// question is what a NOTIFY says of a request.
type question struct {
	method, url, ver, hdrs, ssl value
	src                         netip.Addr
}

// parseQuestion reads every message of the payload; what it does not know it skips.
func parseQuestion(b []byte) (q question, err error) {
	for len(b) > 0 {
		if _, b, err = takeBytes(b); err != nil || len(b) == 0 { // the message's name
			return q, errFrame
		}
		count := b[0]
		b = b[1:]
		for range count {
			var name []byte
			var v value
			if name, b, err = takeBytes(b); err != nil {
				return q, err
			}
			if v, b, err = takeValue(b); err != nil {
				return q, err
			}
			q.set(name, v)
		}
	}
	return q, nil
}

func (q *question) set(name []byte, v value) {
	switch string(name) {
	case "method":
		q.method = v
	case "url":
		q.url = v
	case "ver":
		q.ver = v
	case "hdrs":
		q.hdrs = v
	case "src":
		q.src = v.addr
	case "ssl":
		q.ssl = v
	}
}

// complete reports whether all is said that a decision needs.
func (q *question) complete() bool {
	return len(q.method.text) > 0 && len(q.url.text) > 0 && q.hdrs.kind == typeString && q.ssl.kind == typeBool && q.src.IsValid()
}

// builder makes requests of questions, one at a time, in memory that it uses again: a request that it returned is void
// once the next one is made. Its strings are not reused, and may be kept.
type builder struct {
	request http.Request
	header  http.Header
	values  []string          // what the slices of header point into
	names   map[string]string // as sent → canonical
	scratch []byte
	client  netip.Addr // of the last request
	remote  string     // client, as text
}

func newBuilder() *builder {
	return &builder{header: make(http.Header), names: make(map[string]string), values: make([]string, maxHeaders)}
}

// build returns the request. ok is false if it is malformed.
func (s *builder) build(q *question) (r *http.Request, ok bool) {
	// One string holds everything of the request: decisions may keep parts of it, long after the frame is overwritten.
	b := append(s.scratch[:0], q.method.text...)
	b = append(b, q.url.text...)
	b = append(b, q.ver.text...)
	b = append(b, q.hdrs.text...)
	s.scratch = b
	text := string(b)
	cut := func(n int) (part string) {
		part, text = text[:n], text[n:]
		return part
	}
	asked := front.Asked{Method: cut(len(q.method.text)), Target: cut(len(q.url.text)), Proto: cut(len(q.ver.text)), HTTPS: q.ssl.num == 1}
	if q.src != s.client || s.remote == "" {
		s.client, s.remote = q.src, netip.AddrPortFrom(q.src, 0).String()
	}
	asked.Client, asked.Remote, asked.Header = s.client, s.remote, s.header
	if !s.readHeader(text) {
		return nil, false
	}
	host := s.header["Host"]
	if len(host) > 1 {
		return nil, false // which one the backend believes is anybody's guess
	}
	if len(host) == 1 {
		asked.Host = host[0]
		delete(s.header, "Host")
	}
	return &s.request, asked.Fill(&s.request)
}

// readHeader fills header from lines as req.hdrs gives them.
func (s *builder) readHeader(text string) bool {
	clear(s.header)
	used := 0
	for text != "" {
		line, rest, ended := strings.Cut(text, "\r\n")
		text = rest
		if line == "" && rest == "" {
			return true
		}
		name, val, ok := strings.Cut(line, ":")
		if !ok || name == "" || !ended || used == len(s.values) {
			return false
		}
		name = s.canonical(name)
		s.values[used] = strings.Trim(val, " \t")
		if have := s.header[name]; have == nil {
			s.header[name] = s.values[used : used+1 : used+1]
		} else {
			s.header[name] = append(have, s.values[used]) // moves it: rare enough
		}
		used++
	}
	return true
}

// canonical is [textproto.CanonicalMIMEHeaderKey], remembered.
func (s *builder) canonical(name string) string {
	if c, ok := s.names[name]; ok {
		return c
	}
	c := textproto.CanonicalMIMEHeaderKey(name)
	if len(s.names) < maxNames && len(name) <= 64 {
		s.names[strings.Clone(name)] = strings.Clone(c)
	}
	return c
}
