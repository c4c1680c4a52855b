package shim

import (
	"net/http"
	"slices"
	"strings"

	"github.com/portcullis/portcullis/lists"
)

// How many credentials that the backend accepted are remembered, and for how long after it accepted them last, in
// seconds.
const (
	maxAccepted  = 128 << 10
	keepAccepted = 3600
)

// leastSecret is the least length of a credential that is learned from, in bytes. Shorter ones are no secret of one
// client: "Bearer null" and "session=deleted" are sent by all who have not logged in, and backends answer them.
const leastSecret = 16

// formAccepted and formVerified are of fingerprints that are remembered rather than listed.
const (
	formAccepted form = iota + 100
	formVerified
	formForged
)

// Answered tells what status the backend answered a passed request with: a credential that it accepted (2xx; a redirect
// may lead to the login) is one that detectors may blacklist, one that it refuses (401) no longer. Nothing is remembered
// while ASE detected attacks are off.
func (s *Shim) Answered(d Decision, status int) {
	good := status >= http.StatusOK && status < http.StatusMultipleChoices
	if !s.mayLearn(&d) || !good && status != http.StatusUnauthorized {
		return
	}
	w := works.Get().(*work)
	defer works.Put(w)
	now := s.options.Now().Unix()
	for _, id := range [...]lists.ID{d.seen.token, d.seen.cookie} {
		switch {
		case id.Value == "":
		case good:
			s.accepted.remember(w.summer.sum(s.writer.secret, acceptedKey(id)), now+keepAccepted, 0)
		default:
			s.accepted.forget(w.summer.sum(s.writer.secret, acceptedKey(id)))
		}
	}
}

// Learns reports whether the answer to a request would tell anything new: not where its credentials were accepted within
// the last half hour. It is for gateways that have to be asked for the answer.
func (s *Shim) Learns(d Decision) bool {
	if !s.mayLearn(&d) {
		return false
	}
	w := works.Get().(*work)
	defer works.Put(w)
	soon := s.options.Now().Unix() + keepAccepted/2
	return slices.ContainsFunc([]lists.ID{d.seen.token, d.seen.cookie}, func(id lists.ID) bool {
		if id.Value == "" {
			return false
		}
		_, lately := s.accepted.knows(w.summer.sum(s.writer.secret, acceptedKey(id)), soon)
		return !lately
	})
}

func (s *Shim) mayLearn(d *Decision) bool {
	return d.Verdict == Pass && (d.seen.token.Value != "" || d.seen.cookie.Value != "") &&
		s.accepted != nil && s.index.Load().settings.ASEDetectedAttack
}

// ForAnswer returns what [Shim.Answered] needs of a decision and nothing of its request, for who waits for the answers to
// many: with what clients send, however long, they could have the memory filled. It cannot be held.
func (d Decision) ForAnswer() Decision {
	short := Decision{Verdict: d.Verdict, Reason: d.Reason, Client: d.Client}
	for i, id := range [...]lists.ID{d.seen.token, d.seen.cookie} {
		if len(id.Value) > lists.MaxValue || len(id.Name) > lists.MaxValue {
			continue // no list takes it
		}
		id = lists.ID{Kind: id.Kind, Name: strings.Clone(id.Name), Value: strings.Clone(id.Value)}
		if i == 0 {
			short.seen.token = id
		} else {
			short.seen.cookie = id
		}
	}
	return short
}

func acceptedKey(id lists.ID) key {
	return key{kind: id.Kind, form: formAccepted, name: id.Name, value: id.Value}
}

// credentials returns the request's token and session cookie where there is no doubt which they are, nor that they are
// one client's.
func (w *work) credentials() (token, cookie lists.ID) {
	if w.tokens == 1 && len(w.token) >= leastSecret && isUnreserved(w.token) {
		token = lists.ID{Kind: lists.KindToken, Value: w.token}
	}
	if len(w.cookie) >= leastSecret && w.occurred(w.cookieGroup) == 1 {
		cookie = lists.ID{Kind: lists.KindCookie, Name: w.cookieName, Value: w.cookie}
	}
	return token, cookie
}

// Learnable returns those credentials that detectors may blacklist: who sends them has been accepted with them, or
// cannot have made them.
func (w *work) Learnable() (token, cookie lists.ID) {
	token, cookie = w.credentials()
	if token.Value != "" && !w.shim.knows(w, token) && !w.verified(token.Value) || token.Value != "" && token.Validate() != nil {
		token = lists.ID{}
	}
	if cookie.Value != "" && !w.shim.knows(w, cookie) || cookie.Value != "" && cookie.Validate() != nil {
		cookie = lists.ID{}
	}
	return token, cookie
}

func (s *Shim) knows(w *work, id lists.ID) bool {
	_, ok := s.accepted.knows(w.summer.sum(s.writer.secret, acceptedKey(id)), w.now)
	return ok
}

// verified reports whether the keys of the request's API verify a token.
func (w *work) verified(token string) bool {
	return w.apis > 0 && w.plans[0].keys.verify(w, token)
}
