package shim

import (
	"strings"

	"github.com/portcullis/portcullis/lists"
)

// user looks up a username. anyCase: the client chose the spelling, and backends commonly ignore case there.
func (w *work) user(v string, anyCase bool) {
	w.speller.charsets(v, asIs, func(value string, how spelling) {
		w.reading(lists.KindUsername, 0, value, how)
		if !anyCase {
			return
		}
		lower := value
		if !ascii(value) {
			lower = strings.ToLower(value)
		} else {
			w.buf = appendLower(w.buf[:0], value)
			lower = textOf(w.buf)
		}
		if lower != value {
			w.reading(lists.KindUsername, 0, lower, caseless)
		}
		w.readingOf(key{kind: lists.KindUsername, form: formCase, value: lower}, caseless)
	})
}

// readingOf is reading for a form of its own.
func (w *work) readingOf(k key, how spelling) {
	if w.index.count.black[k.kind] == 0 && !w.gather {
		return
	}
	var matches []Match
	if m := w.look(k, 0, lists.Blacklist, w.tracing(&matches)); m != 0 {
		w.blacklisted(hit{kind: k.kind, value: k.value, meta: m})
	}
	if len(matches) > 0 {
		w.note(Identifier{ID: lists.ID{Kind: k.kind, Value: strings.Clone(k.value)}, Spelling: how.String(), Matches: matches})
	}
}

// basic reads the user name of HTTP Basic.
func (w *work) basic(credentials string) {
	text, ok := decodeBase64(w.claim[:0], credentials)
	w.claim = text
	if !ok {
		return
	}
	w.from("HTTP Basic", "")
	name, _, _ := strings.Cut(textOf(text), ":")
	w.user(name, true)
	w.from("header", "Authorization")
}

// userHeader reads the API's username header.
func (w *work) userHeader(name string, values []string) {
	w.from("header", name)
	for _, v := range values {
		v = trimBlanks(v)
		w.user(v, false)
		if strings.IndexByte(v, ',') >= 0 {
			for part := range strings.SplitSeq(v, ",") {
				w.user(trimBlanks(part), false)
			}
		}
	}
}

// vouched reads the username that a gateway named.
func (w *work) vouched(c Claims) {
	if c.Username == "" {
		return
	}
	w.from("gateway", "")
	if c.Verified {
		w.canonical(key{kind: lists.KindUsername, form: formStrict, value: c.Username}, 0, 0)
	}
	w.user(c.Username, false)
	w.done()
}

// jwtHeader reads the API's header for tokens, with or without a scheme.
func (w *work) jwtHeader(p *plan, name, line string, alone bool) {
	w.from("header", name)
	for part := range strings.SplitSeq(line, ",") {
		part = trimBlanks(part)
		if _, rest := cutWord(part); rest != "" {
			part = rest
		}
		w.jwtUser(p, part, alone && strings.IndexByte(line, ',') < 0)
	}
}

// jwtUser reads the username in a JSON web token. plain: every backend finds the same token there. Only a verified
// token may whitelist.
func (w *work) jwtUser(p *plan, token string, plain bool) {
	token = unquote(token)
	_, payload, _, ok := jwtParts(token)
	if !ok {
		return
	}
	if w.claim, ok = decodeBase64(w.claim[:0], payload); !ok {
		return
	}
	where, name := w.where, w.whereName
	w.from("claim", p.api.JWT.Username)
	w.occurs(groupUser)
	n := 0
	claims(w.claim, p.api.JWT.Username, func(string) { n++ })
	claims(w.claim, p.api.JWT.Username, func(v string) {
		if v == "" {
			return
		}
		k := key{kind: lists.KindUsername, form: formStrict, value: v}
		mayCount := w.trace != nil || !w.late && w.index.count.white[k.kind] > 0 && w.look(k, 0, lists.Whitelist, nil) != 0
		// A second token takes its voice from the first: many of them are not worth the check of a signature each.
		if mayCount && plain && n == 1 && w.occurred(groupUser) == 1 && p.keys.verify(w, token) {
			k.value = strings.Clone(v)
			w.canonical(k, 0, groupUser)
		}
		w.user(v, false)
		w.done()
	})
	w.from(where, name)
}

// address looks up the client's address. enforced: the kernel has not dropped what is blacklisted.
func (w *work) address(q *request, enforced bool) {
	c := &w.index.count
	whitelisted := c.white[lists.KindIP]+c.prefixes[lists.Whitelist] > 0
	if !q.client.IsValid() || !enforced && !whitelisted && w.trace == nil {
		return
	}
	w.from("address", "")
	if h := w.lookAddress(q, lists.Whitelist); h.kind != 0 {
		w.current = len(w.strict)
		w.strict = append(w.strict, candidate{hit: h, found: -1})
	}
	if h := w.lookAddress(q, lists.Blacklist); h.kind != 0 && enforced {
		w.blacklisted(h)
	}
	w.done()
}

// lookAddress returns the most specific listing that covers the client and counts.
func (w *work) lookAddress(q *request, list lists.List) (h hit) {
	var matches []Match
	traced := w.tracing(&matches)
	count := w.index.count.black[lists.KindIP]
	if list == lists.Whitelist {
		count = w.index.count.white[lists.KindIP]
	}
	if count > 0 {
		addr := q.client.As16()
		w.buf = append(w.buf[:0], addr[:]...)
		if m := w.look(key{kind: lists.KindIP, value: textOf(w.buf)}, 0, list, traced); m != 0 {
			h = hit{kind: lists.KindIP, value: w.addressText(q), meta: m}
		}
	}
	if w.index.prefixes != nil {
		w.lookPrefixes(q, list, &h, traced)
	}
	if w.trace != nil && (list == lists.Blacklist || matches != nil) {
		w.note(Identifier{ID: lists.ID{Kind: lists.KindIP, Value: q.client.String()}, Spelling: asIs.String(), Canonical: true, Matches: matches})
	}
	return h
}

func (w *work) lookPrefixes(q *request, list lists.List, h *hit, traced *[]Match) {
	if _, any := w.index.prefixes.Lookup(q.client); !any {
		return
	}
	host, _ := q.client.Prefix(q.client.BitLen())
	for _, listed := range w.index.prefixes.Supernets(host) { // the longest first
		for _, m := range listed.meta {
			if m.list() != list {
				continue
			}
			if traced != nil {
				*traced = append(*traced, w.match(m))
			}
			if m.live(w.now) && (h.kind == 0 || h.value == listed.id && m.source() < h.meta.source()) {
				*h = hit{kind: lists.KindIP, value: listed.id, meta: m}
			}
		}
	}
}

// addressText is the client's address as it is listed, out of the request if it is spelled so there.
func (w *work) addressText(q *request) string {
	w.buf = q.client.AppendTo(w.buf[:0])
	if string(w.buf) == q.clientText {
		return q.clientText
	}
	return string(w.buf)
}
