package format

import (
	"fmt"
	"net/netip"

	"github.com/portcullis/portcullis/lists"
)

// parseIPv4 reads an IPv4 address, which is written in one way only.
func parseIPv4(text string) (string, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return "", fmt.Errorf("%w ipv4 %s", lists.ErrInvalid, lists.Quote(text))
	}
	return text, nil
}

// rangePrefixes returns the fewest prefixes that cover the addresses from first to last and no other.
func rangePrefixes(first, last string) ([]netip.Prefix, error) {
	a, err1 := netip.ParseAddr(first)
	b, err2 := netip.ParseAddr(last)
	a, b = a.Unmap(), b.Unmap()
	switch {
	case err1 != nil || err2 != nil || a.Zone() != "" || b.Zone() != "":
		return nil, fmt.Errorf("%w range %s: expected two addresses, such as 192.0.2.10-192.0.2.20", lists.ErrInvalid, lists.Quote(first+"-"+last))
	case a.Is4() != b.Is4():
		return nil, fmt.Errorf("%w range %s: one address is IPv4, the other IPv6", lists.ErrInvalid, lists.Quote(first+"-"+last))
	case b.Less(a):
		return nil, fmt.Errorf("%w range %s: it ends before it begins", lists.ErrInvalid, lists.Quote(first+"-"+last))
	}
	var out []netip.Prefix
	for {
		bits := a.BitLen()
		// The widest prefix that begins at a and does not go beyond b.
		for bits > 0 {
			p := netip.PrefixFrom(a, bits-1)
			if p.Masked().Addr() != a || b.Less(lastOf(p)) {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(a, bits)
		out = append(out, p)
		end := lastOf(p)
		if end == b {
			return out, nil
		}
		a = end.Next()
	}
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
