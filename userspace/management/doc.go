// Package management answers ASE's management REST API, over TLS 1.3, below /v4/ase and /v5/ase: API definitions, firewall,
// both lists, sideband tokens and their authentication, the cluster. Everything is done through [control.Session], so
// that it is guarded and audited as commands are.
//
// Callers log in by the headers x-ase-access-key (the user) and x-ase-secret-key (the password); the password that every
// new node has is refused. Requests of browsers for other sites (Origin), and for host names that are not this node's, are
// refused before that; bodies must be application/json.
package management
