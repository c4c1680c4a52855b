// Package control is the control API: wire types, server and client in one place, so that they cannot disagree.
//
// HTTP and JSON on a unix socket, described by an OpenAPI document that the server serves at /openapi.json and that
// docs/openapi.json is a copy of. Who calls is known by peer credentials and by HTTP Basic:
//
//	caller                     | may
//	root, no login             | everything, as user root
//	anybody, right login       | everything but speak for a detector (a source other than manual)
//	anybody, wrong login       | status, version (root too: who says -u and -p wants them to mean something)
//	not root, no login         | status, version
//
// Every mutation is written to the audit log, durably, before it is made; one that cannot be is refused. In the state
// directory the package keeps users.json (argon2id hashes), audit.log with audit.chain (its hash chain, see hash) and
// their rotated predecessors, which it never deletes, and audit.key (for the marks behind masked secrets).
package control
