package testenv

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Ethernet types and IP protocols of the frames that tests craft.
const (
	EtherIPv4  = 0x0800
	EtherIPv6  = 0x86dd
	EtherVLAN  = 0x8100 // 802.1Q
	EtherQinQ  = 0x88a8 // 802.1ad
	ProtoUDP   = 17
	protoFrag6 = 44
)

// Frame describes an Ethernet frame with a UDP datagram in it; Bytes writes it. The addresses' family decides between
// IPv4 and IPv6; an IPv4-mapped Source makes an IPv6 frame with that source.
type Frame struct {
	From, To net.HardwareAddr
	// Tags are VLAN tags, outermost first.
	Tags []Tag

	Source, Destination netip.Addr
	SourcePort, Port    uint16
	Payload             []byte

	// Fragment makes the datagram a fragment: Offset in bytes (a multiple of 8) and whether more follow. One with an
	// Offset carries Payload without a UDP header.
	Fragment bool
	Offset   uint16
	More     bool
	ID       uint32
}

// Tag is a VLAN tag.
type Tag struct {
	Type uint16 // EtherVLAN or EtherQinQ
	ID   uint16
}

// Bytes returns the frame as it goes on the wire, checksums included.
func (f Frame) Bytes() []byte {
	b := append([]byte(nil), f.To...)
	b = append(b, f.From...)
	for _, t := range f.Tags {
		b = binary.BigEndian.AppendUint16(b, t.Type)
		b = binary.BigEndian.AppendUint16(b, t.ID)
	}
	l4 := f.Payload
	if f.Offset == 0 {
		l4 = f.udp()
	}
	if f.Source.Is4() {
		b = binary.BigEndian.AppendUint16(b, EtherIPv4)
		return append(append(b, f.ipv4(len(l4))...), l4...)
	}
	b = binary.BigEndian.AppendUint16(b, EtherIPv6)
	return append(append(b, f.ipv6(len(l4))...), l4...)
}

func (f Frame) ipv4(size int) []byte {
	h := make([]byte, 20)
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(20+size))
	binary.BigEndian.PutUint16(h[4:], uint16(f.ID))
	if f.Fragment {
		word := f.Offset / 8
		if f.More {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(h[6:], word)
	}
	h[8], h[9] = 64, ProtoUDP
	copy(h[12:], f.Source.AsSlice())
	copy(h[16:], f.Destination.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return h
}

func (f Frame) ipv6(size int) []byte {
	h := make([]byte, 40)
	h[0] = 0x60
	h[6], h[7] = ProtoUDP, 64
	source, destination := f.Source.As16(), f.Destination.As16()
	copy(h[8:], source[:])
	copy(h[24:], destination[:])
	if f.Fragment {
		h[6] = protoFrag6
		h = append(h, ProtoUDP, 0)
		word := f.Offset
		if f.More {
			word |= 1
		}
		h = binary.BigEndian.AppendUint16(h, word)
		h = binary.BigEndian.AppendUint32(h, f.ID)
	}
	binary.BigEndian.PutUint16(h[4:], uint16(len(h)-40+size))
	return h
}

// udp returns the datagram; its checksum covers the pseudo header of its family.
func (f Frame) udp() []byte {
	size := 8 + len(f.Payload)
	d := make([]byte, 8, size)
	binary.BigEndian.PutUint16(d, f.SourcePort)
	binary.BigEndian.PutUint16(d[2:], f.Port)
	binary.BigEndian.PutUint16(d[4:], uint16(size))
	d = append(d, f.Payload...)

	// Source.AsSlice is 4 bytes for IPv4 and 16 for IPv6, mapped ones included. The order of the rest of the pseudo
	// header differs between the families, but not its sum.
	pseudo := append(f.Source.AsSlice(), f.Destination.AsSlice()...)
	pseudo = append(pseudo, 0, ProtoUDP, byte(size>>8), byte(size))
	sum := checksum(append(pseudo, d...))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(d[6:], sum)
	return d
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
