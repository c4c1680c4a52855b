package shim

import "github.com/portcullis/portcullis/lists"

// Credentials are the request's token and session cookie, each if there is no doubt which it is; the zero value if not.
// They are known only if the shim has a detector. For logs: what they name need not be true.
func (d Decision) Credentials() (token, cookie lists.ID) { return d.seen.token, d.seen.cookie }
