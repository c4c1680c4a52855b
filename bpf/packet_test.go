package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

const (
	protoIPv4  = 0x0800
	protoARP   = 0x0806
	protoIPv6  = 0x86dd
	protoPPPoE = 0x8864
	protoQ     = 0x8100
	protoAD    = 0x88a8
	protoQinQ  = 0x9100
)

// ethernet is a header with this ethertype, and what follows it.
func ethernet(proto uint16, rest ...[]byte) []byte {
	h := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	return join(binary.BigEndian.AppendUint16(h, proto), rest...)
}

// tag is what follows the ethertype of a VLAN tag: its control information and the next ethertype.
func tag(vid, proto uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, vid), proto)
}

// pppoe is a session header and the PPP protocol: one byte if it fits and is odd (compressed), else two.
func pppoe(proto ...byte) []byte {
	return append([]byte{0x11, 0, 0, 1, 0, 200}, proto...)
}

// ipv4 is a UDP packet from the source.
func ipv4(source string) []byte {
	h := []byte{0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0}
	h = append(h, netip.MustParseAddr(source).AsSlice()...)
	h = append(h, 192, 0, 2, 1)
	return append(h, udp()...)
}

// ipv6 is a packet from the source whose fixed header names this next header and hop limit.
func ipv6(source string, next, hops byte, payload ...byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, byte(len(payload)), next, hops}
	source16 := netip.MustParseAddr(source).As16()
	h = append(h, source16[:]...)
	to := netip.MustParseAddr("2001:db8::1").As16()
	return append(append(h, to[:]...), payload...)
}

func udp() []byte { return []byte{0x30, 0x39, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8} }

// with returns a copy of the packet that has these bytes at the offset.
func with(packet []byte, offset int, b ...byte) []byte {
	packet = slices.Clone(packet)
	copy(packet[offset:], b)
	return packet
}

func join(first []byte, rest ...[]byte) []byte {
	return append(slices.Clone(first), slices.Concat(rest...)...)
}

// encapsulation is a way in which an IP packet reaches an interface.
type encapsulation struct {
	name   string
	layer3 bool
	wrap   func(ip []byte) []byte
}

// outer is the ethertype (or PPP protocol) of an IP packet; rows with a wrong version choose it themselves.
func outer(ip []byte) (ethertype uint16, ppp byte) {
	if len(ip) > 0 && ip[0]>>4 == 6 {
		return protoIPv6, 0x57
	}
	return protoIPv4, 0x21
}

var encapsulations = []encapsulation{
	{name: "ethernet", wrap: func(ip []byte) []byte {
		proto, _ := outer(ip)
		return ethernet(proto, ip)
	}},
	{name: "802.1Q", wrap: tagged(protoQ)},
	{name: "802.1Q with VID 0", wrap: func(ip []byte) []byte {
		proto, _ := outer(ip)
		return ethernet(protoQ, tag(0, proto), ip)
	}},
	{name: "802.1ad and 802.1Q", wrap: tagged(protoAD, protoQ)},
	{name: "0x9100 and 802.1Q", wrap: tagged(protoQinQ, protoQ)},
	{name: "eight tags", wrap: tagged(protoAD, protoQ, protoQ, protoQinQ, protoQ, protoAD, protoQ, protoQ)},
	{name: "PPPoE", wrap: func(ip []byte) []byte {
		_, ppp := outer(ip)
		return ethernet(protoPPPoE, pppoe(0, ppp), ip)
	}},
	{name: "PPPoE with a compressed protocol", wrap: func(ip []byte) []byte {
		_, ppp := outer(ip)
		return ethernet(protoPPPoE, pppoe(ppp), ip)
	}},
	{name: "PPPoE in 802.1Q", wrap: func(ip []byte) []byte {
		_, ppp := outer(ip)
		return ethernet(protoQ, tag(7, protoPPPoE), pppoe(0, ppp), ip)
	}},
	{name: "layer 3", layer3: true, wrap: slices.Clone[[]byte]},
}

// tagged wraps an IP packet into tags with these tag protocols, outermost first.
func tagged(tpids ...uint16) func(ip []byte) []byte {
	return func(ip []byte) []byte {
		proto, _ := outer(ip)
		frame := ethernet(tpids[0])
		for i := range tpids {
			next := proto
			if i+1 < len(tpids) {
				next = tpids[i+1]
			}
			frame = append(frame, tag(uint16(i), next)...)
		}
		return append(frame, ip...)
	}
}
