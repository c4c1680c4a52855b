// Package shim decides about one HTTP request: [Shim.Decide] is the only place that judges, and the reverse proxy and
// every endpoint that a gateway asks are thin fronts of it (packages below this one).
//
// A front hands over a *http.Request as its client sent it: RemoteAddr is the TCP peer (or who the gateway says it is),
// Host, URL, Header and TransferEncoding are untouched, hop-by-hop headers included; https is known by TLS or by
// URL.Scheme. Decide finds the request's API, reads every identifier in it, matches them against the lists, and says
// pass, block or refuse with the answer to send. Then, if it passed:
//
//   - [Shim.Answered] tells what the backend made of it: that is how a credential becomes one that may be learned from;
//   - [Shim.Hold] ends a stream (WebSocket, gRPC, HTTP/2) whose client is listed while it is open.
//
// # Which entry wins
//
// An entry of the whitelist wins over any of the blacklist that this layer can see (with whitelist_scope "identifier":
// it protects only the identifier that it names). What the kernel drops never comes here: a token cannot speak for a
// blacklisted address, unless ip_enforcement is "l7". A username whitelists only if it is verified.
//
// Matching against the blacklist is liberal (every spelling that a backend may accept), against the whitelist strict.
package shim
