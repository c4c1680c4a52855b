// Package spoe is an agent of HAProxy's Stream Processing Offload Engine: HAProxy sends what it knows of a request in a
// NOTIFY frame of SPOP 2.0, and acts on the variables that the ACK sets.
//
// The agent reads these arguments, of whatever message: method, url, ver (req.ver), src, ssl (ssl_fc) and hdrs
// (req.hdrs; not req.hdr, which gives only the last of repeated headers). It sets, in the scope of the transaction and
// under the prefix that the engine is configured with:
//
//	block    bool    whether the request is to be stopped; not set: nobody has decided
//	status   int32   if block: the status to answer with
//	reason   string  if block: a word of the metrics, such as "blacklisted"; "undecided" if nothing could be told
//	body     string  if block: the body to answer with
//	location string  if block: where to redirect to, if at all
//	id       int64   unless block, if the backend's answer is to be learned from: what HAProxy names the request by then
//
// A message with the arguments id (that variable) and status (of the backend's answer) tells of an answer.
//
// Frames that come together are answered together (pipelining), so that a busy HAProxy costs few system calls.
// Payloads may be fragmented. Every ACK goes over the connection that its NOTIFY came by: "async" is not announced,
// since HAProxy would then wait out its timeout for the questions of a connection that broke, rather than know at once.
package spoe
