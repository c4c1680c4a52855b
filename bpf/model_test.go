package bpf

import (
	"encoding/binary"
	"net/netip"
)

// world is everything that a verdict depends on besides the packet.
type world struct {
	words Control
	lists [2][]entry // by Control.Active
	now   uint64     // deadlines are chosen far from it
}

// model says what must become of a packet. It is written from the rules, not from the C: where the C asks what is
// there, byte by byte, this takes the packet apart from the front and refuses what is missing.
func (w *world) model(packet []byte, layer3 bool) (Family, Reason) {
	if w.words.Bypass != 0 {
		return FamilyOther, PassBypass
	}
	if w.words.FirewallOff != 0 {
		return FamilyOther, PassFirewallOff
	}
	if !layer3 {
		return w.modelEthernet(packet)
	}
	if len(packet) == 0 {
		return FamilyOther, DropShort
	}
	switch packet[0] & 0xf0 {
	case 0x40:
		return w.modelIP(packet, 4)
	case 0x60:
		return w.modelIP(packet, 6)
	}
	return FamilyOther, PassNonIP
}

func (w *world) modelEthernet(packet []byte) (Family, Reason) {
	if len(packet) < 14 {
		return FamilyOther, DropShort
	}
	packet = packet[12:] // from here on it begins with an ethertype
	for tags := 0; ; tags++ {
		ethertype := binary.BigEndian.Uint16(packet)
		packet = packet[2:]
		switch ethertype {
		case 0x0800:
			return w.modelIP(packet, 4)
		case 0x86dd:
			return w.modelIP(packet, 6)
		case 0x8864:
			return w.modelPPPoE(packet)
		case 0x8100, 0x88a8, 0x9100:
			if tags == 8 {
				return FamilyOther, DropVLANDepth
			}
			if len(packet) < 4 {
				return FamilyOther, DropShort
			}
			packet = packet[2:]
		default:
			return FamilyOther, PassNonIP
		}
	}
}

func (w *world) modelPPPoE(packet []byte) (Family, Reason) {
	if len(packet) < 7 {
		return FamilyOther, DropShort
	}
	packet = packet[6:]
	proto := uint16(packet[0])
	if proto%2 == 1 {
		packet = packet[1:]
	} else {
		if len(packet) < 2 {
			return FamilyOther, DropShort
		}
		proto, packet = binary.BigEndian.Uint16(packet), packet[2:]
	}
	switch proto {
	case 0x0021:
		return w.modelIP(packet, 4)
	case 0x0057:
		return w.modelIP(packet, 6)
	}
	return FamilyOther, PassNonIP
}

func (w *world) modelIP(packet []byte, version byte) (Family, Reason) {
	family, fixed, at, end := FamilyIPv4, 20, 12, 16
	if version == 6 {
		family, fixed, at, end = FamilyIPv6, 40, 8, 24
	}
	if len(packet) < fixed {
		return family, DropShort
	}
	if packet[0]>>4 != version {
		return family, DropVersion
	}
	source, _ := netip.AddrFromSlice(packet[at:end])
	if source.IsUnspecified() {
		return family, PassUnspecified
	}
	if version == 6 {
		if netip.MustParsePrefix("fe80::/10").Contains(source) {
			return family, PassLinkLocal
		}
		if packet[6] == 58 && packet[7] == 255 && len(packet) > 40 && packet[40] >= 133 && packet[40] <= 137 {
			return family, PassNeighbour
		}
	}
	return family, w.modelSource(source.Unmap())
}

// modelSource is the longest prefix that contains the address, searched the slow way, and its deadlines.
func (w *world) modelSource(source netip.Addr) Reason {
	best := -1
	var c Cell
	for _, e := range w.lists[w.words.Active] {
		if p := netip.MustParsePrefix(e.prefix); p.Contains(source) && p.Bits() > best {
			best, c = p.Bits(), e.cell
		}
	}
	passes, drops := w.now < c.PassUntil, w.now < c.DropUntil
	switch {
	case best < 0, c.PassUntil == 0 && c.DropUntil == 0:
		return PassUnlisted
	case passes && c.Flags&CellProtected != 0:
		return PassProtected
	case passes:
		return PassWhitelisted
	case drops:
		return DropBlacklisted
	}
	return PassExpired
}
