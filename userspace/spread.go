package userspace

import (
	"fmt"
	"net/netip"
	"slices"

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

// danger tells whether they cover more than one entry may. What is listed already does not count.
func (s *spread) danger(before *lists.Snapshot) (danger, bool) {
	covered := s.covered()
	if covered.over() == "" {
		return danger{}, false
	}
	s.wide = slices.DeleteFunc(s.wide, func(p netip.Prefix) bool { return len(covering(before, lists.Blacklist, p)) > 0 })
	text := s.covered().over()
	return danger{riskWide, text}, text != ""
}

// extent is a number of addresses: of IPv4, and of IPv6 in networks of narrowIPv6.
type extent struct{ v4, v6 uint64 }

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
