package userspace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gaissmai/bart"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// Entries wider than these need an accepted risk: they are more likely a slip than an intention.
const (
	widestIPv4 = 8
	widestIPv6 = 19
)

// danger is one reason not to make a change before somebody accepts it.
type danger struct {
	risk string
	text string
}

// entryDangers says what a blacklist entry over prefix puts at risk.
func entryDangers(prefix netip.Prefix, protected []protection) []danger {
	var found []danger
	widest := widestIPv4
	if prefix.Addr().Is6() {
		widest = widestIPv6
	}
	if prefix.Bits() < widest {
		found = append(found, danger{riskWide, fmt.Sprintf("it is wider than /%d", widest)})
	}
	for _, p := range protected {
		if p.prefix.Overlaps(prefix) && !slices.ContainsFunc(found, func(d danger) bool { return d.risk == p.risk }) {
			found = append(found, danger{p.risk, fmt.Sprintf("it covers %s (%s)", short(p.prefix), p.why)})
		}
	}
	return found
}

// refuse turns dangers that were not accepted into the error an admin sees; nil if none is left.
func refuse(what string, dangers []danger, accepted []string) error {
	var risks, texts []string
	for _, d := range dangers {
		if !slices.Contains(accepted, d.risk) && !slices.Contains(risks, d.risk) {
			risks = append(risks, d.risk)
			texts = append(texts, d.text)
		}
	}
	if len(risks) == 0 {
		return nil
	}
	return &control.Error{
		Code:    control.CodeRisk,
		Message: fmt.Sprintf("%s refused: %s", what, strings.Join(texts, "; ")),
		Hint:    "if you mean it: --accept-risk=" + strings.Join(risks, ","),
		Risks:   risks,
	}
}

// short writes a host prefix as an address.
func short(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// eternal is later than every end.
var eternal = time.Unix(1<<40, 0)

// firstDrop is when the lists of s begin to drop an address if nobody changes them: now, when the whitelist entries
// over it have ended but not those of the blacklist, or eternal.
func firstDrop(s *lists.Snapshot, a netip.Addr, now time.Time) time.Time {
	passed, dropped := latestEnd(s, lists.Whitelist, a), latestEnd(s, lists.Blacklist, a)
	if passed.Before(now) {
		passed = now
	}
	if !s.Settings().Firewall || !dropped.After(passed) {
		return eternal
	}
	return passed
}

// latestEnd is when the last entry of the list over an address ends: the zero time if there is none.
func latestEnd(s *lists.Snapshot, l lists.List, a netip.Addr) (latest time.Time) {
	for _, e := range covering(s, l, hostPrefix(a)) {
		switch {
		case e.Expires.IsZero():
			return eternal
		case e.Expires.After(latest):
			latest = e.Expires
		}
	}
	return latest
}

// covering returns the entries of a list that contain all of p, the most specific first, ended ones included: one
// look-up a prefix length instead of a walk over every entry.
func covering(s *lists.Snapshot, l lists.List, p netip.Prefix) (all []lists.Entry) {
	for bits := p.Bits(); bits >= 0; bits-- {
		wider, err := p.Addr().Prefix(bits)
		if err != nil {
			return all
		}
		if id, ok := lists.PrefixID(wider); ok {
			all = append(all, s.Find(l, id)...)
		}
	}
	return all
}

// checkLockOut refuses a request that would put a protected address, or the caller's own session, on the drop side.
// It is asked before anything changes; notes say what an accepted entry will not do.
func checkLockOut(r control.Request, before *lists.Snapshot, protected []protection, now time.Time) (notes []string, err error) {
	for _, name := range r.AcceptRisk {
		if !slices.Contains(knownRisks, name) {
			return nil, &control.Error{Code: control.CodeInvalid,
				Message: fmt.Sprintf("unknown risk %s: expected %s", lists.Quote(name), strings.Join(knownRisks, ", "))}
		}
	}
	var dangers []danger
	var together spread
	what := "change"
	for _, op := range r.Batch.Ops {
		if op.Op == lists.OpImport {
			found, first, more := packDangers(op.Pack, protected, &together)
			if first != "" {
				what = first
			}
			dangers, notes = append(dangers, found...), append(notes, more...)
		}
		prefix, isIP := op.Entry.ID.Prefix()
		if op.Op != lists.OpAdd || op.Entry.List != lists.Blacklist || !isIP {
			continue
		}
		together.add(prefix)
		found := entryDangers(prefix, protected)
		if len(found) > 0 {
			what = op.Entry.ID.String()
		}
		dangers = append(dangers, found...)
		notes = append(notes, staysReachable(prefix, protected)...)
	}
	if d, ok := together.danger(before); ok {
		dangers = append(dangers, d)
	}
	if d, ok := sessionDanger(r, before, now); ok {
		dangers = append(dangers, d)
	}
	return notes, refuse(what, dangers, r.AcceptRisk)
}

// allow is what checkLockOut says of the state that a change makes, for the store to ask while nobody else changes
// anything: two changes that are each harmless by themselves may together cut a session off.
func allow(r control.Request, now func() time.Time) func(before, after *lists.Snapshot) error {
	peer, err := netip.ParseAddr(r.Caller.SessionPeer)
	if err != nil {
		return nil
	}
	return func(before, after *lists.Snapshot) error {
		if d, ok := cutOff(before, after, peer, now()); ok {
			return refuse("change", []danger{d}, r.AcceptRisk)
		}
		return nil
	}
}

// sessionDanger tells whether the batch has the address of the caller's own session dropped, now or sooner than it
// would be, by whatever operation: an add, a whitelist entry taken away or given an end, the firewall switched on.
func sessionDanger(r control.Request, before *lists.Snapshot, now time.Time) (danger, bool) {
	peer, err := netip.ParseAddr(r.Caller.SessionPeer)
	if err != nil {
		return danger{}, false
	}
	b := r.Batch
	b.Ops = slices.Clone(b.Ops)
	for i, op := range b.Ops {
		if op.Op == lists.OpImport {
			b.Ops[i].Pack = op.Pack.Covering(peer) // the others make no difference and may be many
		}
	}
	next, err := lists.ApplyOps(before, b, now)
	if err != nil {
		return danger{}, false // the store will say what is wrong with the batch
	}
	return cutOff(before, next.Next, peer, now)
}

// cutOff tells whether the lists have an address dropped, now or sooner than they did before a change.
func cutOff(before, after *lists.Snapshot, peer netip.Addr, now time.Time) (danger, bool) {
	drop := firstDrop(after, peer, now)
	if !drop.Before(firstDrop(before, peer, now)) {
		return danger{}, false
	}
	text := fmt.Sprintf("it would cut off %s, where your SSH session comes from", peer)
	if drop.After(now) {
		text += ", when the whitelist entry of it ends at " + drop.UTC().Format(time.RFC3339)
	}
	return danger{riskSSH, text}, true
}

// packDangers is entryDangers and staysReachable of every blacklist entry of an import; first is the first dangerous one.
func packDangers(pack *lists.Pack, protected []protection, together *spread) (dangers []danger, first string, notes []string) {
	var table bart.Lite
	for _, p := range protected {
		table.Insert(p.prefix)
	}
	for l, p := range pack.Prefixes() {
		widest := widestIPv4
		if p.Addr().Is6() {
			widest = widestIPv6
		}
		if l == lists.Blacklist {
			together.add(p)
		}
		if l != lists.Blacklist || p.Bits() >= widest && !table.OverlapsPrefix(p) {
			continue
		}
		if first == "" {
			first = "ip " + short(p)
		}
		for _, d := range entryDangers(p, protected) {
			if !slices.ContainsFunc(dangers, func(e danger) bool { return e.risk == d.risk }) {
				dangers = append(dangers, danger{d.risk, short(p) + ": " + d.text})
			}
		}
		if len(notes) < 8 {
			notes = append(notes, staysReachable(p, protected)...)
		}
	}
	return dangers, first, notes
}

// staysReachable names the protected addresses under an entry: the kernel passes them whatever is listed.
func staysReachable(prefix netip.Prefix, protected []protection) []string {
	var notes []string
	for _, p := range protected {
		if p.prefix.Overlaps(prefix) && len(notes) < 8 {
			notes = append(notes, fmt.Sprintf("%s stays reachable: %s is never dropped", short(p.prefix), p.why))
		}
	}
	return notes
}
