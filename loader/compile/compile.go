// Package compile turns lists into what the kernel's LPM maps hold. It is pure: no kernel, no clock, no files.
//
// For each prefix that occurs in either list a [Cell] holds the latest end of any whitelist entry that equals or
// contains the prefix, and the same for the blacklist, so that one longest-prefix lookup answers exactly, nested
// and expiring entries included: now < PassUntil passes, else now < DropUntil drops, else it passes. Protected
// prefixes (the host's own addresses, gateways, ...) count as whitelist entries without an end.
//
// An entry past its end stays in a cell until the snapshot loses it; it changes no verdict, because every reader
// compares the deadline with its clock.
package compile

import (
	"net/netip"

	"github.com/portcullis/portcullis/lists"
)

// Never is the deadline of an entry without an end.
const Never int64 = 1<<63 - 1

// Cell is the verdict of one prefix. Deadlines are Unix seconds (wall clock; the loader turns them into boot
// time), 0 = no entry, [Never] = no end.
type Cell struct {
	PassUntil int64
	DropUntil int64
	// Source is that of the blacklist entry that holds DropUntil (0 if none): of entries that end at the same
	// time the most specific one, then the first in the order of sources.
	Source lists.Source
	// Protected: a protected prefix covers this one, so PassUntil is Never.
	Protected bool
}

// Rule is one step towards the wanted map contents: put Cell at Prefix, or remove Prefix.
type Rule struct {
	Prefix netip.Prefix // masked; IPv4 in its own family
	Cell   Cell         // zero if Remove
	Remove bool
	// New: the prefix was not in the table before, so the map grows by one.
	New bool
}
