package userspace

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Who has a network of IPv6 has more addresses than any list has room for, and could have them detected one after the
// other. So only so many of one /64 are listed at once, and sixteen times as many of one /48: for one more the oldest goes.
// That blocks nobody who was not detected. With ipv6_network one who fills a /64 has all of it listed instead.
const (
	defaultCrowd = 16
	maxCrowd     = 1 << 16
)

// crowds knows which IPv6 clients detectors have listed, by network. One goroutine uses it.
type crowds struct {
	limit   int  // of one /64
	network bool // that is full is listed itself
	read    bool // the lists, once
	listed  map[netip.Prefix][]lists.Key
	noted   int // since forgotten ones were looked for
}

// networks are those of an address that bounds are for, with how many times the limit each may have.
func (c *crowds) networks(a netip.Addr) [2]crowd {
	home, _ := a.Prefix(64)
	site, _ := a.Prefix(48)
	return [2]crowd{{home, c.limit}, {site, 16 * c.limit}}
}

type crowd struct {
	prefix netip.Prefix
	limit  int
}

// ipv6Client is the address of an entry that the bounds are for.
func ipv6Client(e lists.Entry) (netip.Addr, bool) {
	p, ok := e.ID.Prefix()
	return p.Addr(), ok && p.Addr().Is6() && e.Source.Realtime()
}

// place returns what listing e comes to: the entries that go for it, and what is added in its place, which is e unless its
// network is full and allowed says that this may be listed.
func (c *crowds) place(s *lists.Snapshot, e lists.Entry, fresh map[lists.Key]bool, allowed func(lists.Entry) bool) (gone []lists.Key, add lists.Entry) {
	addr, ok := ipv6Client(e)
	if !ok {
		return nil, e
	}
	if !c.read {
		c.readAll(s)
	}
	there := func(k lists.Key) bool {
		_, listed := s.Get(k)
		return listed || fresh[k]
	}
	for i, n := range c.networks(addr) {
		now := slices.DeleteFunc(c.listed[n.prefix], func(k lists.Key) bool { return !there(k) || slices.Contains(gone, k) })
		c.listed[n.prefix] = now
		if slices.Contains(now, e.Key) || len(now) < n.limit {
			continue
		}
		if whole, ok := wholeNetwork(e, n); i == 0 && c.network && ok && allowed(whole) {
			gone, e = append(gone, now...), whole
			continue
		}
		gone = append(gone, now[:len(now)-n.limit+1]...)
	}
	for _, k := range gone {
		delete(fresh, k)
	}
	fresh[e.Key] = true
	c.note(e.Key, addr, there)
	return gone, e
}

// wholeNetwork is the entry that lists the network in which too many clients were detected.
func wholeNetwork(e lists.Entry, n crowd) (lists.Entry, bool) {
	var ok bool
	e.ID, ok = lists.PrefixID(n.prefix)
	e.Reason = fmt.Sprintf("%d clients of it were detected; the last: %s", n.limit+1, e.Reason)
	return e, ok
}

// readAll notes what is listed from before.
func (c *crowds) readAll(s *lists.Snapshot) {
	c.read, c.listed = true, make(map[netip.Prefix][]lists.Key)
	var all []lists.Entry
	for source := lists.Decoy; source <= lists.MissingToken; source++ {
		for e := range s.Section(lists.Blacklist, source) {
			if _, ok := ipv6Client(e); ok {
				all = append(all, e)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b lists.Entry) int { return a.Created.Compare(b.Created) })
	for _, e := range all {
		addr, _ := ipv6Client(e)
		c.note(e.Key, addr, func(lists.Key) bool { return true })
	}
}

// note adds an entry, and now and then forgets those that are no longer there.
func (c *crowds) note(k lists.Key, addr netip.Addr, there func(lists.Key) bool) {
	for _, n := range c.networks(addr) {
		if !slices.Contains(c.listed[n.prefix], k) {
			c.listed[n.prefix] = append(c.listed[n.prefix], k)
		}
	}
	if c.noted++; c.noted < 1000+2*len(c.listed) {
		return
	}
	c.noted = 0
	for p, keys := range c.listed {
		if c.listed[p] = slices.DeleteFunc(keys, func(k lists.Key) bool { return !there(k) }); len(c.listed[p]) == 0 {
			delete(c.listed, p)
		}
	}
}

// mayListNetwork: nobody in it is protected or on the whitelist.
func (d *detection) mayListNetwork(e lists.Entry, now time.Time) bool {
	network, _ := e.ID.Prefix()
	friends := false
	d.node.Snapshot().Prefixes(lists.Whitelist, func(p netip.Prefix, _ lists.Source, _ time.Time) bool {
		friends = p.Overlaps(network)
		return !friends
	})
	if friends || slices.ContainsFunc(*d.node.protected.Load(), func(p protection) bool { return p.prefix.Overlaps(network) }) {
		return false
	}
	_, err := checkLockOut(request(lists.Operation{Op: lists.OpAdd, Entry: e}), d.node.Snapshot(), *d.node.protected.Load(), now)
	return err == nil
}
