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
	id, status                  value // of an answer
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
	case "id":
		q.id = v
	case "status":
		q.status = v
	}
}

// complete reports whether all is said that a decision needs.
func (q *question) complete() bool {
	return len(q.method.text) > 0 && len(q.url.text) > 0 && q.hdrs.kind == typeString && q.ssl.kind == typeBool && q.src.IsValid()
}

// name is one that a header was sent under.
type name struct {
	canonical string
	host      bool   // Host is not among the headers of a request
	turn      uint64 // of the last request that had it, or forgotten
}

// forgotten is the turn of a name that is not remembered.
const forgotten = ^uint64(0)

// builder makes requests of questions, one at a time, in memory that it uses again: a request that it returned is void
// once the next one is made. Its strings are not reused, and may be kept.
type builder struct {
	request http.Request
	header  http.Header
	values  []string         // what the slices of header point into
	names   map[string]*name // as sent
	turn    uint64           // of the present request
	hosts   int              // how many Host headers it has
	scratch []byte
	client  netip.Addr // of the last request
	remote  string     // client, as text
}

func newBuilder() *builder {
	return &builder{header: make(http.Header), names: make(map[string]*name), values: make([]string, maxHeaders)}
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
	if asked.Host, ok = s.readHeader(text); !ok || s.hosts > 1 { // which one the backend believes is anybody's guess
		return nil, false
	}
	return &s.request, asked.Fill(&s.request)
}

// readHeader fills header from lines as req.hdrs gives them, and returns the last Host.
func (s *builder) readHeader(text string) (host string, ok bool) {
	clear(s.header)
	s.turn++
	s.hosts = 0
	used := 0
	for text != "" {
		end := strings.IndexByte(text, '\n')
		if end < 1 || text[end-1] != '\r' {
			return "", false
		}
		line := text[:end-1]
		text = text[end+1:]
		if line == "" && text == "" {
			return host, true
		}
		colon := strings.IndexByte(line, ':')
		if colon < 1 || used == len(s.values) {
			return "", false
		}
		n, val := s.name(line[:colon]), trim(line[colon+1:])
		switch {
		case n.host:
			host = val
			s.hosts++
			continue
		case n.turn == s.turn, n.turn == forgotten:
			s.header[n.canonical] = append(s.header[n.canonical], val) // moves it: rare enough
		default: // the first of this name
			n.turn = s.turn
			s.values[used] = val
			s.header[n.canonical] = s.values[used : used+1 : used+1]
		}
		used++
	}
	return host, true
}

// trim takes white space off both ends.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// name returns what is known of a header's name: the same for every spelling of it.
func (s *builder) name(sent string) *name {
	if n := s.names[sent]; n != nil {
		return n
	}
	c := strings.Clone(textproto.CanonicalMIMEHeaderKey(sent))
	n := s.names[c]
	if n == nil {
		n = &name{canonical: c, host: c == "Host"}
		if len(s.names) >= maxNames || len(c) > 64 {
			n.turn = forgotten
			return n
		}
		s.names[c] = n
	}
	if len(s.names) < maxNames {
		s.names[strings.Clone(sent)] = n
	}
	return n
}
