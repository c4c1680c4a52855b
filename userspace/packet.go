package userspace

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/portcullis/portcullis/userspace/control"
)

// describePacket fills in what the head of a packet tells, read as the kernel program reads it (bpf/parse.h) up to the IP
// header, and on to the ports where they are there. b may end anywhere and hold anything.
func describePacket(b []byte, layer3 bool, d *control.Drop) {
	ip := b
	if !layer3 {
		ip = skipEthernet(b)
	}
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		d.Source, d.Destination = netip.AddrFrom4([4]byte(ip[12:])).String(), netip.AddrFrom4([4]byte(ip[16:])).String()
		d.Protocol = protocolName(ip[9])
		if later := binary.BigEndian.Uint16(ip[6:]) & 0x1fff; later == 0 {
			describePorts(ip[9], after(ip, int(ip[0]&15)*4), d)
		}
	case len(ip) >= 40 && ip[0]>>4 == 6:
		d.Source, d.Destination = netip.AddrFrom16([16]byte(ip[8:])).String(), netip.AddrFrom16([16]byte(ip[24:])).String()
		next, rest := skipExtensions(ip[6], ip[40:])
		d.Protocol = protocolName(next)
		describePorts(next, rest, d)
	}
}

// after is what follows n bytes.
func after(b []byte, n int) []byte { return b[min(n, len(b)):] }

// skipEthernet returns what follows the Ethernet header, VLAN tags and PPPoE, nil if that is not IP.
func skipEthernet(b []byte) []byte {
	b = after(b, 12)
	for {
		if len(b) < 2 {
			return nil
		}
		switch proto := binary.BigEndian.Uint16(b); proto {
		case 0x8100, 0x88a8, 0x9100:
			b = after(b, 4)
		case 0x0800, 0x86dd:
			return b[2:]
		case 0x8864:
			return skipPPPoE(after(b, 2+6))
		default:
			return nil
		}
	}
}

func skipPPPoE(b []byte) []byte {
	switch {
	case len(b) > 0 && (b[0] == 0x21 || b[0] == 0x57):
		return b[1:]
	case len(b) > 1 && b[0] == 0 && (b[1] == 0x21 || b[1] == 0x57):
		return b[2:]
	}
	return nil
}

// skipExtensions follows the extension headers of IPv6 that lie before a protocol with ports.
func skipExtensions(next byte, b []byte) (byte, []byte) {
	for {
		var size int
		switch {
		case len(b) < 8:
			return next, nil
		case next == 0 || next == 43 || next == 60 || next == 135:
			size = 8 + int(b[1])*8
		case next == 51:
			size = 8 + int(b[1])*4
		case next == 44:
			if binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 {
				return b[0], nil // a later fragment
			}
			size = 8
		default:
			return next, b
		}
		next, b = b[0], after(b, size)
	}
}

// describePorts reads the ports of protocols that begin with them.
func describePorts(protocol byte, b []byte, d *control.Drop) {
	switch protocol {
	case 6, 17, 33, 132, 136:
		if len(b) >= 4 {
			d.SourcePort, d.DestinationPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
	}
}

func protocolName(n byte) string {
	switch n {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 47:
		return "gre"
	case 50:
		return "esp"
	case 58:
		return "icmpv6"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(int(n))
}
