package shim

import (
	"strings"
	"sync"

	"github.com/portcullis/portcullis/userspace/apis"
)

// rules are the API definitions in force. Immutable.
type rules struct {
	set    *apis.Set
	plans  map[*apis.API]*plan
	serial uint64 // grows from rules to rules
}

// plan is where an API's identifiers are looked for: hashes of folded names, 0: nowhere.
type plan struct {
	api                           *apis.API
	cookie                        uint64
	header, query, keyGroup       uint64
	headerName, queryName         string // folded
	username, jwtHeader, jwtQuery uint64
	jwtBearer                     bool
	names                         names    // all of them
	keys                          *keyring // nil: no token verifies
}

func (s *Shim) newRules(set *apis.Set) *rules {
	s.rings.begin()
	defer s.rings.end()
	s.rings.serial++
	r := &rules{serial: s.rings.serial, set: set, plans: make(map[*apis.API]*plan)}
	var sp speller
	for api := range set.All() {
		p := &plan{api: api, keys: s.rings.ring(api.JWT)}
		hash := func(name string) (uint64, string) {
			if name == "" {
				return 0, ""
			}
			folded := sp.foldEncoded(nil, name)
			p.names.add(folded)
			return s.writer.name(string(folded)), string(folded)
		}
		p.cookie, _ = hash(api.Cookie)
		p.header, p.headerName = hash(api.APIKeyHeader)
		p.query, p.queryName = hash(api.APIKeyQuery)
		if p.keyGroup = p.header; p.keyGroup == 0 {
			p.keyGroup = p.query
		}
		p.username, _ = hash(api.UsernameHeader)
		if api.JWT.Username != "" {
			kind, name, _ := strings.Cut(api.JWT.Location, ":")
			switch strings.ToLower(kind) {
			case "h":
				header, scheme, _ := strings.Cut(name, ":")
				if strings.EqualFold(header, "authorization") && (scheme == "" || strings.EqualFold(scheme, "bearer")) {
					p.jwtBearer = true
				} else {
					p.jwtHeader, _ = hash(header)
				}
			case "qs":
				p.jwtQuery, _ = hash(name)
			}
		}
		r.plans[api] = p
	}
	return r
}

// rings are the keyrings of the APIs in force. Definitions that name the same keys share one, and keep it when they are
// replaced.
type rings struct {
	mu      sync.Mutex
	open    map[ringID]*keyring
	next    map[ringID]*keyring // while definitions are being replaced
	serial  uint64              // of the rules
	changed chan struct{}
}

func (r *rings) begin() {
	r.mu.Lock()
	r.next = make(map[ringID]*keyring)
}

func (r *rings) end() {
	r.open, r.next = r.next, nil
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// ring returns the keyring for an API between begin and end, nil if it has no keys.
func (r *rings) ring(j apis.JWT) *keyring {
	if j.KeysFile == "" && j.JWKSURL == "" {
		return nil
	}
	id := ringID{file: j.KeysFile, url: j.JWKSURL, issuer: j.Issuer, audience: j.Audience}
	k := r.open[id]
	if k == nil {
		k = r.next[id]
	}
	if k == nil {
		k = &keyring{ringID: id, seen: newMemory(maxVerified)}
	}
	r.next[id] = k
	return k
}

func (r *rings) all() (all []*keyring) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.open {
		all = append(all, k)
	}
	return all
}
