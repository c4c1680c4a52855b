// Package check is the HTTP endpoint that a gateway asks whether a request may pass: nginx by auth_request, Caddy by
// forward_auth, Traefik by forwardAuth, Envoy by the HTTP form of ext_authz.
//
// The gateway sends the headers of the request that it asks about, and says the rest in a way of its own, which the path
// of the question tells:
//
//	/check/nginx     X-Original-Method, -Uri, -Proto, -Host, -Version and -Client; the
//	                 answers are 204, 403 and nothing else, since nginx takes only 2xx, 401 and 403 for an answer
//	/check/forward   X-Forwarded-Method, -Uri, -Proto, -Host; the client is the last hop of X-Forwarded-For
//	/check/envoy/... the request's own method, and its target after "/check/envoy"; scheme and client in
//	                 X-Forwarded-Proto and the last hop of X-Forwarded-For
//
// What says these things is not part of the original request: it is taken away before the request is judged. A header of
// them that comes twice was sent by the client too, so nothing can be told. A header of another gateway's way is an
// ordinary one. It is the gateway that must overwrite them (the configurations in deploy do).
//
// The answer is 204 for a request that may pass; otherwise that which the client is to get, with the reason (a word of
// the metrics) in X-Portcullis-Reason. Where the gateway could not take its status for an answer (2xx of a decoy, what
// nginx does not take), the status is 403 and the one to send is in X-Portcullis-Status. What cannot be told is answered with 403, reason "undecided", and counted.
package check
