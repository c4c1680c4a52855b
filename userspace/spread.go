package userspace

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// What a feed of hosts and small networks lists is never too much together, however long it is: only prefixes wider
// than these count.
const (
	narrowIPv4 = 24
	narrowIPv6 = 48
)

// spread is what the blacklist entries of one change cover together: many that are each allowed may add up to most of
// the Internet. The zero value is empty.
type spread struct{ wide []netip.Prefix }

func (s *spread) add(p netip.Prefix) {
	if p.Addr().Is4() && p.Bits() < narrowIPv4 || p.Addr().Is6() && p.Bits() < narrowIPv6 {
		s.wide = append(s.wide, p)
	}
}

// Of the blacklist as a whole, wide entries may cover a quarter of IPv4 and of what is in use of IPv6 (2000::/3). Who
// means to block more says so, each time that it grows.
const (
	mostIPv4 = 2
	mostIPv6 = 5
)

// danger tells whether they cover more than one entry may, or with what is listed more than all of them may. What is
// listed already does not count.
func (s *spread) danger(before *lists.Snapshot) (danger, bool) {
	added := s.covered()
	if len(s.wide) == 0 || added.over() == "" && !added.plus(listedAtMost(before)).most() {
		return danger{}, false
	}
	s.wide = slices.DeleteFunc(s.wide, func(p netip.Prefix) bool { return len(covering(before, lists.Blacklist, p)) > 0 })
	if text := s.covered().over(); text != "" {
		return danger{riskWide, text}, true
	}
	if len(s.wide) == 0 {
		return danger{}, false
	}
	all := spread{slices.Clone(s.wide)}
	before.Prefixes(lists.Blacklist, func(p netip.Prefix, _ lists.Source, _ time.Time) bool {
		all.add(p)
		return true
	})
	if !all.covered().most() {
		return danger{}, false
	}
	return danger{riskWide, fmt.Sprintf("with it the blacklist would cover more than a /%d of IPv4 or a /%d of IPv6", mostIPv4, mostIPv6)}, true
}

// listedAtMost is what the wide entries of the blacklist cover, or more: where they overlap they count twice.
func listedAtMost(s *lists.Snapshot) (e extent) {
	four, six := s.Lengths(lists.Blacklist, lists.ClassIPv4), s.Lengths(lists.Blacklist, lists.ClassIPv6)
	for bits := range narrowIPv4 {
		e.v4 += uint64(four[bits]) << (32 - bits)
	}
	for bits := range narrowIPv6 {
		e.v6 += uint64(six[bits]) << (narrowIPv6 - bits)
	}
	return e
}

// extent is a number of addresses: of IPv4, and of IPv6 in networks of narrowIPv6.
type extent struct{ v4, v6 uint64 }

func (e extent) plus(other extent) extent { return extent{e.v4 + other.v4, e.v6 + other.v6} }

// most reports whether it is more than all entries together may cover.
func (e extent) most() bool { return e.v4 > 1<<(32-mostIPv4) || e.v6 > 1<<(narrowIPv6-mostIPv6) }

// covered counts every address once.
func (s *spread) covered() (e extent) {
	slices.SortFunc(s.wide, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var last netip.Prefix
	for _, p := range s.wide {
		switch {
		case last.IsValid() && last.Contains(p.Addr()): // sorted: what it lies in came first
			continue
		case p.Addr().Is4():
			e.v4 += 1 << (32 - p.Bits())
		default:
			e.v6 += 1 << (narrowIPv6 - p.Bits())
		}
		last = p
	}
	return e
}

// over says what is too much, "" if nothing is. One prefix that is too wide by itself is for entryDangers to name.
func (e extent) over() string {
	v4, v6 := float64(e.v4)/(1<<(32-widestIPv4)), float64(e.v6)/(1<<(narrowIPv6-widestIPv6))
	switch {
	case v4 > 1:
		return fmt.Sprintf("its entries together cover %.4g times as much as a /%d", v4, widestIPv4)
	case v6 > 1:
		return fmt.Sprintf("its entries together cover %.4g times as much as a /%d", v6, widestIPv6)
	}
	return ""
}
