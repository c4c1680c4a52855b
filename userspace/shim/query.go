package shim

import (
	"strings"

	"github.com/portcullis/portcullis/lists"
)

// queryString reads a query as every backend might: parameters end at & and for some at ;.
func (w *work) queryString(q string) {
	signs := signsOf(q)
	for more := q != ""; more; {
		var piece string
		piece, q, more = strings.Cut(q, "&")
		odd := signs&signSemicolon != 0 && strings.IndexByte(piece, ';') >= 0
		w.parameter(piece, signs, !odd)
		if odd {
			for part := range strings.SplitSeq(piece, ";") {
				w.parameter(part, signs, false)
			}
		}
		if w.problem.reason != PassUnlisted {
			return
		}
	}
}

// parameter reads one pair; plain: every backend finds it there. signs are those of the query.
func (w *work) parameter(pair string, signs sign, plain bool) {
	if w.parameters++; w.parameters > MaxParameters {
		w.refuse(tooLarge("too many query parameters"))
		return
	}
	name, value, _ := strings.Cut(pair, "=")
	if name == "" {
		return
	}
	if w.fold(name, signs); !w.gather && !w.names.may(w.folded) {
		return
	}
	tag := w.index.name(textOf(w.folded))
	if string(w.folded) == "access-token" {
		plain = plain && isUnreserved(value)
		w.occurs(groupToken)
		w.from("query", name)
		w.tokenValue(value, true, true, plain && name == "access_token")
	}
	if w.keyWanted(tag) {
		w.from("query", name)
		group := w.keyGroup(tag)
		w.occurs(group)
		if plain && w.strictCounts(lists.KindAPIKey) && isUnreserved(value) {
			w.canonical(key{kind: lists.KindAPIKey, form: formStrict, name: name, value: value}, w.index.name(name), group)
		}
		w.apiKey(tag, value, true)
		if signs&signComma != 0 && strings.IndexByte(value, ',') >= 0 {
			for part := range strings.SplitSeq(value, ",") {
				w.apiKey(tag, part, true)
			}
		}
		w.done()
	}
	for _, p := range w.plans[:w.apis] {
		if p.jwtQuery == tag {
			w.from("query", name)
			w.buf = percentDecode(w.buf[:0], value, false)
			w.jwtUser(p, textOf(w.buf), plain && isUnreserved(value))
		}
	}
}

// isUnreserved reports whether a query value means the same encoded and decoded, to every backend.
func isUnreserved(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '.', c == '_', c == '~', c == '=', c == ':', c == '/', c == '@', c == '!', c == '*':
		default:
			return false
		}
	}
	return s != ""
}
