package shim

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// work is the judging of one request: what was found in it so far. Reused, so that judging allocates nothing.
type work struct {
	index  *index
	now    int64 // Unix seconds
	single bool  // whitelist_scope "identifier"
	late   bool  // what is judged came after a body: nothing in it whitelists
	rules  *rules
	trace  *Explanation // nil: nobody wants to know
	gather bool         // tags is filled, and everything looked up, whether or not anything of its kind is listed
	tags   []uint64     // of all that was looked up, and of names under which nothing is listed
	bytes  int          // of the header
	shard  uint8        // of the counters: a work stays with its processor, mostly
	shim   *Shim        // while detectors look

	found [maxAPIs]*apis.API
	plans [maxAPIs]*plan
	apis  int
	// The folded names of fields and query parameters, of API keys and the like among them, and of cookies that may be of
	// interest.
	names, keyNames, cookieNames names

	problem problem
	budget  int // bytes of readings that may still be looked at

	summer  summer
	speller speller
	buf     []byte // of whoever works
	folded  []byte // the name that is being worked on
	payload []byte // what is signed in a token
	claim   []byte // what a token says

	black   hit // the one that decides so far
	strict  []candidate
	current int // index in strict of the identifier that is being read, -1: none
	counts  []occurrences

	where, whereName string // of what is being read, for the trace

	cookiePairs, parameters, tokens int
	hasToken                        bool
	token                           string // the first
	cookie                          string // of the API's session cookie, as it is
	cookieName                      string
	cookieGroup                     uint64
}

// hit is a listing that names the request.
type hit struct {
	kind  lists.Kind // 0: none
	name  string
	value string
	meta  meta
}

// candidate is an identifier in the one spelling that a whitelist entry matches.
type candidate struct {
	hit          // meta 0: not listed, noted for the trace
	group uint64 // what must be there only once
	black hit    // of the same identifier
	found int    // index in trace.Found, -1: none
}

// occurrences counts identifiers that backends may take for each other.
type occurrences struct {
	group uint64
	n     int
}

var (
	works  = sync.Pool{New: func() any { return &work{shard: uint8(worked.Add(1))} }}
	worked atomic.Uint32 // how many were made
)

// reset makes w ready for a request. It keeps buffers, and no string of the request before.
func (w *work) reset(ix *index, rl *rules, now int64, single bool) {
	clear(w.strict)
	*w = work{
		index: ix, rules: rl, now: now, single: single, budget: maxWork, current: -1,
		summer: w.summer, speller: w.speller, buf: w.buf, folded: w.folded, payload: w.payload, claim: w.claim,
		strict: w.strict[:0], counts: w.counts[:0], tags: w.tags[:0], shard: w.shard,
	}
	// One odd request must not leave its memory behind in every pooled work.
	for _, b := range []*[]byte{&w.buf, &w.folded, &w.payload, &w.claim, &w.speller.a, &w.speller.b, &w.speller.c} {
		if cap(*b) > 16<<10 {
			*b = nil
		}
	}
	if cap(w.strict) > 64 || cap(w.counts) > 256 || cap(w.tags) > 4096 {
		w.strict, w.counts, w.tags = nil, nil, nil
	}
}

// refuse notes the first problem.
func (w *work) refuse(p problem) {
	if w.problem.reason == PassUnlisted {
		w.problem = p
	}
}

// occurs counts one more of a group.
func (w *work) occurs(group uint64) {
	for i := range w.counts {
		if w.counts[i].group == group {
			w.counts[i].n++
			return
		}
	}
	w.counts = append(w.counts, occurrences{group, 1})
}

func (w *work) occurred(group uint64) int {
	for i := range w.counts {
		if w.counts[i].group == group {
			return w.counts[i].n
		}
	}
	return 0
}

// look returns the listing of k that counts: of several the first source's. name is what secret.name says of k.name.
// traced collects all, those that have ended too.
func (w *work) look(k key, name uint64, list lists.List, traced *[]Match) meta {
	tag := w.index.tag(k.kind, k.form, name, k.value)
	if w.gather {
		w.tags = append(w.tags, tag)
	}
	sh := w.index.values.shard(tag)
	var sum [2]uint64
	var best meta
	for i := sh.next(tag, -1); i >= 0; i = sh.next(tag, i) {
		s := &sh.slots[i]
		if sum == [2]uint64{} {
			sum = w.summer.sum(w.index.secret, k)
		}
		if s.sum != sum || s.meta.list() != list {
			continue
		}
		if traced != nil {
			*traced = append(*traced, w.match(s.meta))
		}
		if s.meta.live(w.now) && (best == 0 || s.meta.source() < best.source()) {
			best = s.meta
		}
	}
	return best
}

// lists reports whether anything of that kind and folded name is listed.
func (w *work) lists(kind lists.Kind, name uint64) bool {
	listed := w.index.lists(kind, name)
	if w.gather && !listed {
		w.tags = append(w.tags, nameTag(kind, name))
	}
	return listed
}

// from says where what is read next stands in the request.
func (w *work) from(where, name string) { w.where, w.whereName = where, name }

// idName is the name of an identifier that is read now.
func (w *work) idName(kind lists.Kind) string {
	if kind.Named() {
		return w.whereName
	}
	return ""
}

// reading looks one reading of an identifier up on the blacklist. w.folded holds the name, whose hash is name.
func (w *work) reading(kind lists.Kind, name uint64, value string, how spelling) {
	if w.budget -= len(value) + 32; w.budget < 0 {
		w.refuse(tooLarge("identifiers can be read in too many ways"))
		return
	}
	ix := w.index
	var matches []Match
	traced := w.tracing(&matches)
	var m meta
	if ix.count.black[kind] > 0 || w.gather {
		m = w.look(key{kind: kind, name: w.nameOf(kind), value: value}, name, lists.Blacklist, traced)
	}
	if ix.count.jwt[kind]+ix.count.signed[kind] > 0 || w.gather {
		if other := w.lookJWT(kind, name, value, traced); m == 0 {
			m = other
		}
	}
	if m != 0 {
		w.blacklisted(hit{kind: kind, value: value, meta: m})
	}
	if w.trace != nil {
		w.note(Identifier{ID: lists.ID{Kind: kind, Name: w.idName(kind), Value: strings.Clone(value)}, Spelling: how.String(), Matches: matches})
	}
}

// readingAsIs is reading for a value that has one spelling.
func (w *work) readingAsIs(kind lists.Kind, name uint64, value string) {
	if value != "" {
		w.reading(kind, name, value, asIs)
	}
}

// fold puts a name that may be percent-encoded into w.folded. signs are those of the name or of more.
func (w *work) fold(name string, signs sign) {
	if signs&signCode == 0 {
		w.folded = foldName(w.folded[:0], name)
		return
	}
	w.folded = w.speller.foldEncoded(w.folded[:0], name)
}

func (w *work) nameOf(kind lists.Kind) string {
	if kind.Named() {
		return textOf(w.folded)
	}
	return ""
}

// tracing returns to if somebody wants to know.
func (w *work) tracing(to *[]Match) *[]Match {
	if w.trace == nil {
		return nil
	}
	return to
}

// lookJWT looks up what is signed in a JSON web token, and, for entries that were made automatically, that with its
// signature.
func (w *work) lookJWT(kind lists.Kind, name uint64, value string, traced *[]Match) meta {
	head, payload, signature, ok := jwtParts(value)
	if !ok {
		return 0
	}
	if w.payload, ok = appendSigned(w.payload[:0], head, payload); !ok {
		return 0
	}
	var m meta
	if w.index.count.jwt[kind] > 0 || w.gather {
		m = w.look(key{kind: kind, form: formJWT, name: w.nameOf(kind), value: textOf(w.payload)}, name, lists.Blacklist, traced)
	}
	if w.index.count.signed[kind] > 0 || w.gather {
		w.payload = appendSignature(append(w.payload, 0, '.'), signature)
		if other := w.look(key{kind: kind, form: formSigned, name: w.nameOf(kind), value: textOf(w.payload)}, name, lists.Blacklist, traced); m == 0 {
			m = other
		}
	}
	return m
}

// blacklisted takes note of a listing. The kinds count in the order of the seed.
func (w *work) blacklisted(h hit) {
	best := &w.black
	if w.current >= 0 {
		best = &w.strict[w.current].black
	}
	if best.kind == 0 || h.kind < best.kind {
		h.name, h.value = w.idName(h.kind), strings.Clone(h.value) // it may lie in a buffer
		*best = h
	}
}

// canonical looks an identifier up on the whitelist that is spelled as an entry would be. Until [work.end] it is open
// whether that counts: it does if nothing else of its group occurs.
func (w *work) canonical(k key, name uint64, group uint64) {
	if !w.strictCounts(k.kind) {
		return
	}
	var matches []Match
	c := candidate{hit: hit{kind: k.kind, name: w.idName(k.kind), value: k.value}, group: group, found: -1}
	if w.index.count.white[k.kind] > 0 {
		c.meta = w.look(k, name, lists.Whitelist, w.tracing(&matches))
	}
	if c.meta == 0 && w.trace == nil {
		return
	}
	if w.trace != nil {
		c.found = len(w.trace.Found)
		w.note(Identifier{ID: lists.ID{Kind: k.kind, Name: w.idName(k.kind), Value: k.value}, Spelling: asIs.String(), Canonical: true, Matches: matches})
	}
	w.current = len(w.strict)
	w.strict = append(w.strict, c)
}

// strictCounts reports whether it matters that an identifier of that kind is spelled as an entry would be.
func (w *work) strictCounts(kind lists.Kind) bool {
	return !w.late && (w.index.count.white[kind] > 0 || w.trace != nil)
}

// done ends the reading of one identifier.
func (w *work) done() { w.current = -1 }

// outcome says what the lists make of everything that was read: the listing that blacklists, if one does, and the one
// that whitelists.
func (w *work) outcome() (black, white hit) {
	black = w.black
	for i := range w.strict {
		c := &w.strict[i]
		once := c.group == 0 || w.occurred(c.group) == 1
		if !once && c.found >= 0 {
			w.ambiguous(c.found)
		}
		speaks := once && c.meta != 0
		if speaks && white.kind == 0 {
			white = c.hit
		}
		if c.black.kind != 0 && !(speaks && w.single) && (black.kind == 0 || c.black.kind < black.kind) {
			black = c.black
		}
	}
	return black, white
}
