package userspace

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// mostNotes bounds what one batch says.
const mostNotes = 8

var linkLocal = netip.MustParsePrefix("fe80::/10")

// notBlocked says why a client that an admin put on the blacklist passes all the same: who reads "added" must not
// believe it blocked. after is what the lists hold now.
func (n *node) notBlocked(b lists.Batch, after *lists.Snapshot, now time.Time) []string {
	var notes []string
	added, unseen := false, false
	for _, op := range b.Ops {
		if op.Op != lists.OpAdd || op.Entry.List != lists.Blacklist || op.Entry.Source != lists.Manual {
			continue
		}
		added, unseen = true, unseen || n.feed == nil && op.Entry.ID.Kind != lists.KindIP
		if len(notes) == mostNotes {
			break
		}
		if why := passes(op.Entry.ID, after, now); why != "" {
			notes = append(notes, why)
		}
	}
	if !added {
		return nil
	}
	if !after.Settings().Firewall {
		notes = append(notes, "the firewall is disabled: nothing is blocked until enable_firewall")
	}
	if unseen {
		notes = append(notes, "nothing here looks into requests, so only addresses are blocked: for cookies, tokens, API keys and user names configure one of proxy, check, ext_authz, spoe, sideband")
	}
	if n.maps == nil {
		return notes
	}
	if on, err := n.maps.Bypass(); err == nil && on {
		notes = append(notes, "bypass is on: nothing is blocked until: portcullis bypass off")
	}
	for _, a := range *n.interfaces.Load() {
		if !protected(a) {
			notes = append(notes, fmt.Sprintf("%s is not protected: nothing that comes in there is blocked; see: portcullis status", a.Interface))
		}
	}
	return notes
}

// passes says why all of an identifier passes whatever the blacklist holds, "" if it does not.
func passes(id lists.ID, s *lists.Snapshot, now time.Time) string {
	prefix, isIP := id.Prefix()
	switch {
	case isIP && prefix.IsSingleIP() && prefix.Addr().IsUnspecified():
		return fmt.Sprintf("%s is never dropped: it stands for no address", id)
	case isIP && prefix.Bits() >= linkLocal.Bits() && linkLocal.Contains(prefix.Addr()):
		return fmt.Sprintf("%s is never dropped: the link itself needs link-local addresses", id)
	case !isIP:
		for _, e := range s.Find(lists.Whitelist, id) {
			if !e.Expired(now) {
				return fmt.Sprintf("%s is in whitelist too, which wins", id)
			}
		}
		return ""
	}
	for _, e := range covering(s, lists.Whitelist, prefix) {
		if !e.Expired(now) {
			return fmt.Sprintf("%s is not blocked: %s is in whitelist, which wins", id, e.ID)
		}
	}
	return ""
}
