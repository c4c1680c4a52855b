package spoe

import (
	"hash/maphash"
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
	method, url, ver, hdrs, src, ssl value
	id, status                       value // of an answer
	other                            value // of no interest
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
			if name, b, err = takeBytes(b); err != nil {
				return q, err
			}
			v := q.argument(name)
			*v = value{}
			if b, err = v.take(b); err != nil {
				return q, err
			}
		}
	}
	return q, nil
}

// argument returns where an argument of that name belongs.
func (q *question) argument(name []byte) *value {
	switch string(name) {
	case "method":
		return &q.method
	case "url":
		return &q.url
	case "ver":
		return &q.ver
	case "hdrs":
		return &q.hdrs
	case "src":
		return &q.src
	case "ssl":
		return &q.ssl
	case "id":
		return &q.id
	case "status":
		return &q.status
	}
	return &q.other
}

// complete reports whether all is said that a decision needs.
func (q *question) complete() bool {
	return q.method.kind == typeString && len(q.method.text) > 0 && q.url.kind == typeString && len(q.url.text) > 0 &&
		q.hdrs.kind == typeString && q.ssl.kind == typeBool && (q.src.kind == typeIPv4 || q.src.kind == typeIPv6)
}

// name is one that a header was sent under.
type name struct {
	canonical string
	turn      uint64 // of the last request that had it, or forgotten
}

// forgotten is the turn of a name that is not remembered.
const forgotten = ^uint64(0)

// builder makes requests of questions, one at a time, in memory that it uses again: a request that it returned is void
// once the next one is made. Its strings are not reused, and may be kept.
type builder struct {
	request http.Request
	text    strings.Builder
	lines   []line // of the present request, but for Host
	values  []string
	header  http.Header // of a request that has no shape; its slices point into values
	shapes  shapes
	names   map[string]*name // as sent
	turn    uint64           // of the present request
	client  netip.Addr       // of the last request
	remote  string           // client, as text
}

// line is a field line of a header.
type line struct{ name, value string }

func newBuilder() *builder {
	return &builder{
		header: make(http.Header), names: make(map[string]*name), shapes: shapes{seed: maphash.MakeSeed()},
		values: make([]string, maxHeaders), lines: make([]line, 0, 64),
	}
}

// build returns the request. ok is false if it is malformed.
func (s *builder) build(q *question) (r *http.Request, ok bool) {
	text := s.copied(q)
	cut := func(n int) (part string) {
		part, text = text[:n], text[n:]
		return part
	}
	asked := front.Asked{Method: cut(len(q.method.text)), Target: cut(len(q.url.text)), Proto: cut(len(q.ver.text)), HTTPS: q.ssl.num == 1}
	if src := q.src.addr(); src != s.client || s.remote == "" {
		s.client, s.remote = src, netip.AddrPortFrom(src, 0).String()
	}
	asked.Client, asked.Remote = s.client, s.remote
	if asked.Host, ok = s.split(text); !ok {
		return nil, false
	}
	if asked.Header = s.shapes.fill(s.lines); asked.Header == nil {
		asked.Header = s.fill()
	}
	return &s.request, asked.Fill(&s.request)
}

// chunk is how much of requests is allocated together.
const chunk = 16 << 10

// copied returns all that is said of a request as one string, since decisions may keep parts of it, long after the frame
// is overwritten. It lies behind those of other requests, in memory that is written once: an allocation for each request
// would cost as much as to match its identifiers.
func (s *builder) copied(q *question) string {
	size := len(q.method.text) + len(q.url.text) + len(q.ver.text) + len(q.hdrs.text)
	if s.text.Cap()-s.text.Len() < size {
		s.text.Reset()
		s.text.Grow(max(size, chunk))
	}
	start := s.text.Len()
	s.text.Write(q.method.text)
	s.text.Write(q.url.text)
	s.text.Write(q.ver.text)
	s.text.Write(q.hdrs.text)
	return s.text.String()[start:]
}

// split cuts a header as req.hdrs gives it into lines, and returns the host. ok is false if it is none, or if it has
// several hosts: which one the backend believes is anybody's guess.
func (s *builder) split(text string) (host string, ok bool) {
	s.lines = s.lines[:0]
	for hosts := 0; text != ""; {
		end := strings.IndexByte(text, '\n')
		if end < 1 || text[end-1] != '\r' {
			return "", false
		}
		whole := text[:end-1]
		text = text[end+1:]
		if whole == "" && text == "" {
			return host, true
		}
		colon := strings.IndexByte(whole, ':')
		if colon < 1 || len(s.lines) == maxHeaders {
			return "", false
		}
		l := line{whole[:colon], trim(whole[colon+1:])}
		if len(l.name) == len("host") && strings.EqualFold(l.name, "host") {
			if hosts++; hosts > 1 {
				return "", false
			}
			host = l.value
			continue
		}
		s.lines = append(s.lines, l)
	}
	return host, true
}

// fill puts the lines into header, and remembers their shape for the next request that has it.
func (s *builder) fill() http.Header {
	clear(s.header)
	s.turn++
	plain := true
	for i, l := range s.lines {
		n := s.name(l.name)
		if n.turn == s.turn || n.turn == forgotten {
			s.header[n.canonical] = append(s.header[n.canonical], l.value) // moves it: rare enough
			plain = false
			continue
		}
		n.turn = s.turn // the first of this name
		s.values[i] = l.value
		s.header[n.canonical] = s.values[i : i+1 : i+1]
		plain = plain && n.canonical != "Transfer-Encoding" // which Fill takes out of the header
	}
	if plain {
		s.shapes.remember(s.lines, s.name)
	}
	return s.header
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
		n = &name{canonical: c}
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
