// Package control is the control API: wire types, server and client in one place, so that they cannot disagree.
//
// HTTP and JSON on a unix socket, described by an OpenAPI document that the server serves at /openapi.json.
// Who calls is known by peer credentials (root needs no password) or by HTTP Basic (users with argon2id hashes).
// Every mutation is audited before it is answered.
package control
