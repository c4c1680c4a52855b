package shim

import (
	"net/http"
	"testing"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// TestJWTLocations: the username is read where the API's definition says that its tokens are, in every spelling of that
// place, and nowhere else.
func TestJWTLocations(t *testing.T) {
	bearer, scheme, header := get("/", "Authorization: Bearer "+badJWT), get("/", "Authorization: bEARER  "+badJWT), get("/", "X-Jwt: "+badJWT)
	inScheme, second, underscored := get("/", "X-Jwt: Token "+badJWT), get("/", "X-Jwt: x", "X-Jwt: y,"+badJWT), get("/", "X_jWT: "+badJWT)
	query, repeated, encoded := get("/?id="+badJWT), get("/?a=b&id=x&ID="+badJWT), get("/?%69d="+badJWT)
	all := []*http.Request{bearer, scheme, header, inScheme, second, underscored, query, repeated, encoded}
	for location, found := range map[string][]*http.Request{
		"h:authorization:bearer": {bearer, scheme},
		"H:Authorization":        {bearer, scheme},
		"h:X-JWT":                {header, inScheme, second, underscored},
		"qs:id":                  {query, repeated, encoded},
		"":                       nil,
	} {
		api := root()
		api.JWT.Location = location
		if location == "" {
			api.JWT = apis.JWT{}
		}
		s := newShim(t, l7, []*apis.API{api}, black(lists.KindUsername, "", "eve"))
		want := make(map[*http.Request]bool)
		for _, r := range found {
			want[r] = true
		}
		for _, r := range all {
			if d := s.Decide(r); (d.Verdict == Block) != want[r] {
				t.Errorf("%q: %v %v: %v", location, r.URL, r.Header, d.Reason)
			}
		}
	}
}
