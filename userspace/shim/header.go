package shim

import (
	"maps"
	"slices"
	"strings"

	"github.com/portcullis/portcullis/lists"
)

// Groups of what must occur once to be canonical, beside those of names.
const (
	groupToken uint64 = iota + 1
	groupUser
	groupIP
)

// fields is what was seen of the header so far.
type fields struct {
	bytes, lines, lengths int
	coded                 bool
}

// headers checks every header field and reads the identifiers in it.
func (w *work) headers(q *request) {
	f := fields{coded: q.coded}
	if w.trace == nil {
		for name, values := range q.header {
			if w.field(q, &f, name, values); w.problem.reason != PassUnlisted {
				return
			}
		}
	} else { // for people, in order
		for _, name := range slices.Sorted(maps.Keys(q.header)) {
			if w.field(q, &f, name, q.header[name]); w.problem.reason != PassUnlisted {
				return
			}
		}
	}
	if f.coded && f.lengths > 0 {
		w.refuse(malformed("both Content-Length and Transfer-Encoding"))
	}
}

// field checks all lines of one name, and reads them.
func (w *work) field(q *request, f *fields, name string, values []string) {
	for _, v := range values {
		f.bytes += len(name) + len(v)
		if hasControl(v) {
			w.refuse(malformed("control characters in a header field"))
			return
		}
	}
	w.bytes = f.bytes
	if f.lines += len(values); f.bytes > MaxHeaderBytes || f.lines > MaxHeaders {
		w.refuse(tooLarge("the header is too long"))
		return
	}
	if !isToken(name) {
		w.refuse(malformed("the name of a header field is no word"))
		return
	}
	if !w.gather && !w.names.mayField(name) {
		return
	}
	w.folded = foldField(w.folded[:0], name)
	switch string(w.folded) {
	case "host":
		if len(values) > 1 || len(values) == 1 && !sameHost(values[0], q.host) {
			w.refuse(malformed("several Host fields"))
		}
	case "transfer-encoding":
		f.coded = true
		if len(values) != 1 || !strings.EqualFold(values[0], "chunked") {
			w.refuse(malformed("a transfer encoding other than chunked"))
		}
		w.onlyDashes(name)
	case "content-length":
		if f.lengths += len(values); f.lengths > 1 || len(values) == 1 && !isNumber(values[0]) {
			w.refuse(malformed("Content-Length is not one number"))
		}
		w.onlyDashes(name)
	default:
		w.header(name, values)
	}
}

// onlyDashes refuses a framing field whose name only some backends recognise.
func (w *work) onlyDashes(name string) {
	if strings.IndexByte(name, '-') < 0 {
		w.refuse(malformed("a framing field with another name"))
	}
}

// foldField is foldName of a header field's name, which is a token.
func foldField(to []byte, name string) []byte {
	for i := 0; i < len(name); i++ {
		to = append(to, folds[name[i]])
	}
	return to
}

// header reads the identifiers in one field, whose folded name is in w.folded.
func (w *work) header(name string, values []string) {
	if w.gather || w.keyNames.may(w.folded) {
		w.namedHeader(name, values)
	}
	switch string(w.folded) {
	case "cookie":
		for _, v := range values {
			w.cookieLine(v)
		}
	case "authorization":
		for _, v := range values {
			w.authorization(v, len(values) == 1)
		}
	}
}

// namedHeader reads what lists and APIs look for in a field by its name.
func (w *work) namedHeader(name string, values []string) {
	tag := w.index.name(textOf(w.folded))
	if w.keyWanted(tag) {
		w.keyHeader(tag, name, values)
	}
	for _, p := range w.plans[:w.apis] {
		if p.username == tag {
			w.userHeader(name, values)
		}
		if p.jwtHeader == tag {
			for _, v := range values {
				w.jwtHeader(p, name, v, len(values) == 1)
			}
		}
	}
}

// keyWanted reports whether an API key of that folded name could be listed, under it or under the other name that an
// API has for keys.
func (w *work) keyWanted(tag uint64) bool {
	if w.lists(lists.KindAPIKey, tag) {
		return true
	}
	for _, p := range w.plans[:w.apis] {
		if p.header == tag || p.query == tag {
			return true
		}
	}
	return false
}

// keyGroup is what must occur only once if a key of that name is to be canonical.
func (w *work) keyGroup(tag uint64) uint64 {
	for _, p := range w.plans[:w.apis] {
		if tag == p.header || tag == p.query {
			return nameTag(lists.KindAPIKey, p.keyGroup)
		}
	}
	return nameTag(lists.KindAPIKey, tag)
}

// keyHeader reads API keys from a field.
func (w *work) keyHeader(tag uint64, name string, values []string) {
	w.from("header", name)
	group := w.keyGroup(tag)
	for _, v := range values {
		v = trimBlanks(v)
		w.occurs(group)
		if len(values) == 1 && w.strictCounts(lists.KindAPIKey) && isPlain(v) {
			w.buf = appendLower(w.buf[:0], name)
			w.canonical(key{kind: lists.KindAPIKey, form: formHeader, name: textOf(w.buf), value: v}, w.index.name(textOf(w.buf)), group)
		}
		w.apiKey(tag, v, false)
		if comma := strings.IndexByte(v, ','); comma >= 0 {
			for part := range strings.SplitSeq(v, ",") {
				w.apiKey(tag, trimBlanks(part), false)
			}
		}
		if _, rest := cutWord(v); rest != "" { // Authorization: ApiKey KEY
			w.apiKey(tag, rest, false)
		}
		w.done()
	}
}

// apiKey looks the readings of one value up under the name in w.folded, and under the other names that an API has.
func (w *work) apiKey(tag uint64, v string, decode bool) {
	if w.lists(lists.KindAPIKey, tag) || w.trace != nil {
		w.apiKeyAs(tag, v, decode)
	}
	for _, p := range w.plans[:w.apis] {
		other, name := p.query, p.queryName
		if tag == p.query {
			other, name = p.header, p.headerName
		} else if tag != p.header {
			continue
		}
		if other == tag || other == 0 || !w.lists(lists.KindAPIKey, other) {
			continue
		}
		mine := len(w.folded)
		both := append(w.folded, name...)
		w.folded = both[mine:]
		w.apiKeyAs(other, v, decode)
		w.folded = both[:mine]
	}
}

// apiKeyAs looks them up under the name in w.folded alone.
func (w *work) apiKeyAs(tag uint64, v string, decode bool) {
	if signsOf(v)&signSpelled == 0 {
		w.readingAsIs(lists.KindAPIKey, tag, v)
		return
	}
	w.speller.each(v, decode, func(value string, how spelling) { w.reading(lists.KindAPIKey, tag, value, how) })
}

// isPlain reports whether every backend takes a header or cookie value for what it is: no spaces, quotes, escapes or
// separators in it.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ',', ';', '"', '\\':
			return false
		default:
			if c <= ' ' || c >= 0x7f {
				return false
			}
		}
	}
	return s != ""
}

// cutWord splits at the first white space; rest has none around it.
func cutWord(s string) (word, rest string) {
	if i := indexBlank(s); i >= 0 {
		return s[:i], trimBlanks(s[i:])
	}
	return s, ""
}

// authorization reads tokens and Basic user names from one field; alone: there is no other.
func (w *work) authorization(line string, alone bool) {
	w.from("header", "Authorization")
	line = trimBlanks(line)
	bearer := false // what has no scheme has that of what came before
	several := false
	for rest, more := line, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		several = several || more
		if part = trimBlanks(part); part == "" {
			continue
		}
		scheme, token := cutWord(part)
		switch {
		case token == "":
			token = part
		case strings.EqualFold(scheme, "Basic"):
			w.basic(token)
			continue
		default:
			bearer = strings.EqualFold(scheme, "Bearer")
		}
		w.occurs(groupToken)
		plain := alone && bearer && (w.strictCounts(lists.KindToken) || w.strictCounts(lists.KindUsername)) && len(part) == len(line) && len(line) == len("Bearer ")+len(token)
		w.tokenValue(token, bearer, false, plain && isPlain(token))
	}
	if !several {
		return
	}
	if scheme, rest := cutWord(line); strings.IndexByte(rest, ',') >= 0 && !strings.EqualFold(scheme, "Basic") {
		w.speller.each(rest, false, func(value string, how spelling) { w.reading(lists.KindToken, 0, value, how) })
	}
}

// tokenValue reads one token.
func (w *work) tokenValue(v string, bearer, decode, plain bool) {
	if v == "" {
		return
	}
	if w.tokens++; w.tokens > MaxTokens {
		w.refuse(tooLarge("too many tokens"))
		return
	}
	if bearer {
		if w.hasToken = true; w.token == "" {
			w.token = v
		}
	}
	if plain {
		w.canonical(key{kind: lists.KindToken, form: formStrict, value: v}, 0, groupToken)
	}
	signs := signsOf(v)
	if signs&signSpelled == 0 {
		w.readingAsIs(lists.KindToken, 0, v)
	} else {
		w.speller.each(v, decode, func(value string, how spelling) { w.reading(lists.KindToken, 0, value, how) })
	}
	if i := lastBlank(v, signs); i >= 0 { // Bearer Bearer TOKEN
		w.speller.each(v[i+1:], decode, func(value string, how spelling) { w.reading(lists.KindToken, 0, value, how) })
	}
	w.done()
	if !bearer {
		return
	}
	for _, p := range w.plans[:w.apis] {
		if p.jwtBearer {
			w.jwtUser(p, v, plain)
		}
	}
}
