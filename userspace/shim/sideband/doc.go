// Package sideband answers gateways that ask as they asked ASE: POST /ase/request before a request is forwarded,
// POST /ase/response when the backend has answered, GET /ase to see whether anybody is there.
//
// The gateway describes a client's request as JSON; it is rebuilt as a *http.Request and judged by [shim.Shim.Decide] like
// any other. The answer is a status:
//
//	200 | forward it
//	403 | do not: blocked, malformed, or answered by a detector (which cannot send its own answer through a gateway)
//	503 | no API has this path or host
//	400 | the JSON cannot be read
//	401 | sideband authentication is on, and ASE-Token is none of the tokens
//	404 | another path
//	413 | the JSON is longer than MaxBody
//
// A gateway that gets another status, or none in its time, decides by its own policy (the original's forward).
package sideband
