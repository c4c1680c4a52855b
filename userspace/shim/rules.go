package shim

import (
	"strings"

	"github.com/portcullis/portcullis/userspace/apis"
)

// rules are the API definitions in force. Immutable.
type rules struct {
	set   *apis.Set
	plans map[*apis.API]*plan
}

// plan is where an API's identifiers are looked for: hashes of folded names, 0: nowhere.
type plan struct {
	api                           *apis.API
	cookie                        uint64
	header, query, keyGroup       uint64
	headerName, queryName         string // folded
	username, jwtHeader, jwtQuery uint64
	jwtBearer                     bool
	keys                          *keyring // nil: no token verifies
}

func (s *Shim) newRules(set *apis.Set) *rules {
	r := &rules{set: set, plans: make(map[*apis.API]*plan)}
	hash := func(name string) (uint64, string) {
		if name == "" {
			return 0, ""
		}
		folded := string(foldName(nil, name))
		return s.writer.name(folded), folded
	}
	for api := range set.All() {
		p := &plan{api: api}
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
