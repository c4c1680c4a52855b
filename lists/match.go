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
// it; else any unexpired blacklist entry that contains it drops it; else it passes. The address is unmapped first
// and its zone does not count.
// It walks every entry: use it in tests and to explain, never on a path that matters.
//
// by is the entry that decided: the most specific one, the longest-lived among equals.
func Match(s *Snapshot, addr netip.Addr, now time.Time) (v Verdict, by Entry) {
	addr = addr.Unmap().WithZone("")
	if e, ok := covering(s, Whitelist, addr, now); ok {
		return PassWhitelisted, e
	}
	if e, ok := covering(s, Blacklist, addr, now); ok {
		return Drop, e
	}
	return Pass, Entry{}
}

// covering returns the most specific, then longest-lived unexpired entry of the list that contains the address.
func covering(s *Snapshot, l List, addr netip.Addr, now time.Time) (best Entry, found bool) {
	bestBits := -1
	for e := range s.Entries(l) {
		p, ok := e.ID.Prefix()
		if !ok || !p.Contains(addr) || e.Expired(now) {
			continue
		}
		longer := !best.Expires.IsZero() && (e.Expires.IsZero() || e.Expires.After(best.Expires))
		if p.Bits() > bestBits || p.Bits() == bestBits && longer {
			best, bestBits, found = e, p.Bits(), true
		}
	}
	return best, found
}
