// Package extauthz answers Envoy's external authorization filter (ext_authz v3) over gRPC.
//
// Everything a decision needs is in the question: the client is the source address of the connection as Envoy knows it
// (so that use_remote_address and xff_num_trusted_hops count), and headers are best sent raw (encode_raw_headers),
// since Envoy otherwise joins repeated ones by commas. Both forms are read; a joined Cookie header is matched whole and
// cut at its commas.
//
// A request that may not pass is denied with the status, headers and body that the client is to get, and with the reason
// (a word of the metrics) in X-Portcullis-Reason. What cannot be told is denied with 403, reason "undecided", and
// counted. What happens when nobody answers is said in Envoy's failure_mode_allow, by default that it is denied.
package extauthz
