package shim

import (
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// Credentials are the request's token and session cookie, each if there is no doubt which it is; the zero value if not.
// They are known only if the shim has a detector. For logs: what they name need not be true.
func (d Decision) Credentials() (token, cookie lists.ID) { return d.seen.token, d.seen.cookie }

// ClaimedUser is who a JSON web token of the API's says its bearer is, "" if it says nobody or several. For logs: nobody
// has verified it.
func ClaimedUser(api *apis.API, token string) (user string) {
	_, payload, _, ok := jwtParts(token)
	if !ok || api.JWT.Username == "" {
		return ""
	}
	object, ok := decodeBase64(nil, payload)
	if !ok {
		return ""
	}
	n := 0
	claims(object, api.JWT.Username, func(v string) { user, n = v, n+1 })
	if n != 1 {
		return ""
	}
	return user
}
