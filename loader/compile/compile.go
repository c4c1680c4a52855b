// Package compile turns lists into what the kernel's LPM maps hold. It is pure: no kernel, no clock, no files.
//
// For each prefix that occurs in either list a [Cell] holds the latest end of any whitelist entry that equals or
// contains the prefix, and the same for the blacklist, so that one longest-prefix lookup answers exactly, nested
// and expiring entries included: now < PassUntil passes, else now < DropUntil drops, else it passes. Protected
// prefixes (the host's own addresses, gateways, ...) count as whitelist entries without an end.
package compile

import (
	"iter"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Never is the deadline of an entry without an end.
const Never int64 = 1<<63 - 1

// Cell is the verdict of one prefix. Deadlines are Unix seconds (wall clock; the loader turns them into boot
// time), 0 = no entry, [Never] = no end.
type Cell struct {
	PassUntil int64
	DropUntil int64
	// Source is that of the blacklist entry that holds DropUntil (0 if none).
	Source lists.Source
	// Protected: PassUntil comes from a protected prefix.
	Protected bool
}

// Rule is one step towards the wanted map contents: put Cell at Prefix, or remove Prefix.
type Rule struct {
	Prefix netip.Prefix // masked; IPv4 in its own family
	Cell   Cell
	Remove bool
}

// Table is the compiled form of one snapshot, kept to compute differences from. Not safe for concurrent use.
// Memory: about 100 bytes an IP entry.
type Table struct{}

// New returns an empty table.
func New() *Table { panic("contract") }

// Reset makes the table hold exactly the snapshot's IP entries and the protected prefixes.
func (t *Table) Reset(s *lists.Snapshot, protected []netip.Prefix) { panic("contract") }

// Apply takes over changes (those of other kinds are passed over) and returns the steps that bring map contents
// up to date, in the order in which they must be written so that no whitelisted address is dropped and no listed
// one passes in between: descendants are rewritten before a covering prefix is removed, and a new prefix is
// put with its inherited verdict at once.
// The cost is that of the changed prefixes and those below them.
func (t *Table) Apply(changes []lists.Change) []Rule { panic("contract") }

// Protect replaces the protected prefixes, with the steps as for Apply.
func (t *Table) Protect(protected []netip.Prefix) []Rule { panic("contract") }

// All yields every prefix with its cell, IPv4 before IPv6, sorted by address and then length: the fastest order to fill an LPM map in.
func (t *Table) All() iter.Seq2[netip.Prefix, Cell] { panic("contract") }

// Len counts the prefixes of each family: what the maps must have room for.
func (t *Table) Len() (v4, v6 int) { panic("contract") }

// Lookup answers for one address as the kernel would, at a wall-clock time.
func (t *Table) Lookup(a netip.Addr, now time.Time) (lists.Verdict, Cell) { panic("contract") }
