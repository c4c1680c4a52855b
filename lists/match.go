package lists

import (
	"net/netip"
	"time"
)

// Verdict is what the lists say of one client.
type Verdict uint8

const (
	// Pass: nothing lists the client.
	Pass Verdict = iota
	// PassWhitelisted: an unexpired whitelist entry covers the client, whatever the blacklist says.
	PassWhitelisted
	// Drop: an unexpired blacklist entry covers the client and no whitelist entry does.
	Drop
)

// Match is the specification of the verdict on an address: any unexpired whitelist entry that contains it passes
// it; else any unexpired blacklist entry that contains it drops it; else it passes. The address is unmapped first.
// It walks every entry: use it in tests and to explain, never on a path that matters.
//
// by is the entry that decided: the most specific one, the longest-lived among equals.
func Match(s *Snapshot, addr netip.Addr, now time.Time) (v Verdict, by Entry) { panic("contract") }
