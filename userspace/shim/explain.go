package shim

import (
	"net/http"
	"slices"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// Explanation says how a request is judged: everything that was found in it, and what decided.
type Explanation struct {
	Decision Decision
	Host     string       // as APIs are looked up: lower case, without port
	Paths    []Path       // the readings of the path, the one that counts first
	Found    []Identifier // in the order in which the request was read
	Notes    []string     // what else is worth knowing, one sentence each: why it was refused, what does not count
}

// Path is one way in which a backend may read the path.
type Path struct {
	Path string
	API  string // ID of its API, "": none
}

// Identifier is one reading of one identifier of a request. One value in the request has several readings if
// backends would read it differently.
type Identifier struct {
	ID        lists.ID
	Where     string // "Cookie header", "query parameter access_token", "claim sub of the token"
	Spelling  string // how it was read: "as it is", "percent-decoded"
	Canonical bool   // the only occurrence, in the spelling that a whitelist entry matches
	Verified  bool   // a username that may whitelist
	Matches   []Match
}

// Match is an entry that names an identifier.
type Match struct {
	List    lists.List
	Source  lists.Source
	Expires time.Time // the zero time: never
	Counts  bool      // false: Why says why it does not
	Why     string
}

// Explain says how a request is judged, without counting it or asking detectors. It takes microseconds and
// allocates: for people, not for traffic.
func (s *Shim) Explain(r *http.Request) Explanation {
	w := new(work)
	var e Explanation
	s.prepare(w, time.Since(s.began))
	w.trace = &e
	q := &e.Decision.seen.request
	w.refuse(s.read(r, q))
	e.Host = q.host
	s.judge(w, q, &e.Decision)
	if w.problem.why != "" {
		e.Notes = append(e.Notes, "refused: "+w.problem.why)
	}
	if e.Decision.Reason == PassNotEnforced {
		e.Notes = append(e.Notes, "the lists are not enforced here: the firewall is off, or enable_blocking of the API is")
	}
	if len(e.Paths) > 1 {
		e.Notes = append(e.Notes, "backends may read the path in several ways: the strictest of their APIs counts")
	}
	return e
}

// path notes one reading of the path.
func (e *Explanation) path(path string, api *apis.API) {
	p := Path{Path: path}
	if api != nil {
		p.API = api.ID
	}
	for _, other := range e.Paths {
		if other == p {
			return
		}
	}
	e.Paths = append(e.Paths, p)
}

// note adds an identifier that is being read.
func (w *work) note(id Identifier) {
	id.Where = w.where
	if w.whereName != "" {
		id.Where += " " + w.whereName
	}
	if w.where == "gateway" || w.where == "claim" {
		id.Verified = id.Canonical
	}
	if same := func(other Identifier) bool {
		return other.ID == id.ID && other.Where == id.Where && other.Spelling == id.Spelling && other.Canonical == id.Canonical
	}; slices.ContainsFunc(w.trace.Found, same) {
		return // some spellings come to the same
	}
	w.trace.Found = append(w.trace.Found, id)
}

// match describes a listing.
func (w *work) match(m meta) Match {
	match := Match{List: m.list(), Source: m.source(), Expires: m.expires(), Counts: m.live(w.now)}
	if !match.Counts {
		match.Why = "it has ended"
	}
	return match
}

// ambiguous notes that what seemed canonical is not the only one.
func (w *work) ambiguous(found int) {
	id := &w.trace.Found[found]
	id.Canonical, id.Verified = false, false
	for i := range id.Matches {
		id.Matches[i].Counts, id.Matches[i].Why = false, "it is there more than once: backends may take another"
	}
}
