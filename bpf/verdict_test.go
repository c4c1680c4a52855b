package bpf

import (
	"fmt"
	"slices"
	"testing"
)

// row is one packet, the lists it meets, and the only counter that may move.
type row struct {
	name   string
	rule   string
	packet []byte
	lists  []entry
	words  Control
	family Family
}

var (
	listed      = Cell{DropUntil: Never, Source: 1}
	everyone    = []entry{{"0.0.0.0/0", listed}, {"::/0", listed}}
	everyoneV4  = everyone[:1]
	everyoneV6  = everyone[1:]
	allowed     = Cell{PassUntil: Never}
	both        = Cell{PassUntil: Never, DropUntil: Never, Source: 1}
	protected   = Cell{PassUntil: Never, DropUntil: Never, Source: 1, Flags: CellProtected}
	neighbour   = []byte{135, 0, 0, 0}
	source4     = "198.51.100.7"
	source6     = "2001:db8:7::9"
	mapped      = "::ffff:198.51.100.7"
	solicit     = ipv6(source6, 58, 255, neighbour...)
	plain4      = ipv4(source4)
	plain6      = ipv6(source6, 17, 64, udp()...)
	mappedPlain = ipv6(mapped, 17, 64, udp()...)
)

// ipRows are IP packets; each is tried in every encapsulation.
func ipRows() []row {
	rows := []row{
		{"IPv4, empty lists", "unlisted", plain4, nil, Control{}, FamilyIPv4},
		{"IPv6, empty lists", "unlisted", plain6, nil, Control{}, FamilyIPv6},
		{"mapped, empty lists", "unlisted", mappedPlain, nil, Control{}, FamilyIPv6},

		{"IPv4 host listed", "blacklisted", plain4, []entry{{source4 + "/32", listed}}, Control{}, FamilyIPv4},
		{"IPv4 neighbour host listed", "unlisted", plain4, []entry{{"198.51.100.6/32", listed}, {"198.51.100.8/32", listed}}, Control{}, FamilyIPv4},
		{"IPv4 network listed", "blacklisted", plain4, []entry{{"198.51.100.0/24", listed}}, Control{}, FamilyIPv4},
		{"IPv4 all listed", "blacklisted", plain4, everyoneV4, Control{}, FamilyIPv4},
		{"IPv4 with IPv6 all listed", "unlisted", plain4, everyoneV6, Control{}, FamilyIPv4},
		{"IPv4 whitelisted host in a listed network", "whitelisted", plain4, []entry{{"198.51.100.0/24", listed}, {source4 + "/32", both}}, Control{}, FamilyIPv4},
		{"IPv4 listed host in a whitelisted network", "whitelisted", plain4, []entry{{"198.51.100.0/24", allowed}, {source4 + "/32", both}}, Control{}, FamilyIPv4},
		{"IPv4 protected", "protected", plain4, []entry{{"198.51.100.0/24", listed}, {source4 + "/32", protected}}, Control{}, FamilyIPv4},
		{"IPv4 other of a listed network with a hole", "blacklisted", ipv4("198.51.100.8"), []entry{{"198.51.100.0/24", listed}, {source4 + "/32", both}}, Control{}, FamilyIPv4},

		{"IPv6 host listed", "blacklisted", plain6, []entry{{source6 + "/128", listed}}, Control{}, FamilyIPv6},
		{"IPv6 neighbour host listed", "unlisted", plain6, []entry{{"2001:db8:7::8/128", listed}, {"2001:db8:7::a/128", listed}}, Control{}, FamilyIPv6},
		{"IPv6 network listed", "blacklisted", plain6, []entry{{"2001:db8::/32", listed}}, Control{}, FamilyIPv6},
		{"IPv6 all listed", "blacklisted", plain6, everyoneV6, Control{}, FamilyIPv6},
		{"IPv6 with IPv4 all listed", "unlisted", plain6, everyoneV4, Control{}, FamilyIPv6},
		{"IPv6 whitelisted host in a listed network", "whitelisted", plain6, []entry{{"2001:db8::/32", listed}, {source6 + "/128", both}}, Control{}, FamilyIPv6},
		{"IPv6 protected", "protected", plain6, []entry{{source6 + "/128", protected}}, Control{}, FamilyIPv6},

		{"mapped, IPv4 host listed", "blacklisted", mappedPlain, []entry{{source4 + "/32", listed}}, Control{}, FamilyIPv6},
		{"mapped, IPv4 host whitelisted", "whitelisted", mappedPlain, []entry{{"198.51.100.0/24", listed}, {source4 + "/32", both}}, Control{}, FamilyIPv6},
		{"mapped, IPv4 host protected", "protected", mappedPlain, []entry{{source4 + "/32", protected}}, Control{}, FamilyIPv6},
		{"mapped, not by the IPv6 list", "unlisted", mappedPlain, everyoneV6, Control{}, FamilyIPv6},
		{"mapped 0.0.0.0 is no IPv4 packet without a source", "blacklisted", ipv6("::ffff:0.0.0.0", 17, 64), everyoneV4, Control{}, FamilyIPv6},
		{"nearly mapped, by the IPv6 list", "blacklisted", ipv6("::fffe:c633:6407", 17, 64), everyoneV6, Control{}, FamilyIPv6},
		{"nearly mapped, not by the IPv4 list", "unlisted", ipv6("::1:ffff:c633:6407", 17, 64), everyoneV4, Control{}, FamilyIPv6},
		{"mapped but for the first bit", "unlisted", ipv6("8000::ffff:c633:6407", 17, 64), everyoneV4, Control{}, FamilyIPv6},
		{"mapped but for bit 63", "unlisted", ipv6("0:0:0:1:0:ffff:c633:6407", 17, 64), everyoneV4, Control{}, FamilyIPv6},
		{"compatible address, by the IPv6 list", "blacklisted", ipv6("::198.51.100.7", 17, 64), everyoneV6, Control{}, FamilyIPv6},

		{"IPv4 without a source", "unspecified", ipv4("0.0.0.0"), everyone, Control{}, FamilyIPv4},
		{"IPv4 source 0.0.0.1", "blacklisted", ipv4("0.0.0.1"), everyone, Control{}, FamilyIPv4},
		{"IPv6 without a source", "unspecified", ipv6("::", 58, 255, neighbour...), everyone, Control{}, FamilyIPv6},
		{"IPv6 source ::1", "blacklisted", ipv6("::1", 17, 64), everyone, Control{}, FamilyIPv6},
		{"link-local, first", "link-local", ipv6("fe80::", 17, 64), everyone, Control{}, FamilyIPv6},
		{"link-local, last", "link-local", ipv6("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 17, 64), everyone, Control{}, FamilyIPv6},
		{"below link-local", "blacklisted", ipv6("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 17, 64), everyone, Control{}, FamilyIPv6},
		{"above link-local", "blacklisted", ipv6("fec0::", 17, 64), everyone, Control{}, FamilyIPv6},

		{"neighbour solicitation from a whitelisted host", "neighbour", solicit, []entry{{source6 + "/128", allowed}}, Control{}, FamilyIPv6},
		{"neighbour solicitation from a mapped source", "neighbour", ipv6(mapped, 58, 255, neighbour...), everyone, Control{}, FamilyIPv6},
		{"neighbour solicitation, hop limit 254", "blacklisted", ipv6(source6, 58, 254, neighbour...), everyone, Control{}, FamilyIPv6},
		{"neighbour solicitation, hop limit 0", "blacklisted", ipv6(source6, 58, 0, neighbour...), everyone, Control{}, FamilyIPv6},
		{"ICMPv6 without a type", "blacklisted", ipv6(source6, 58, 255), everyone, Control{}, FamilyIPv6},
		{"type 135 of UDP", "blacklisted", ipv6(source6, 17, 255, neighbour...), everyone, Control{}, FamilyIPv6},
		{"type 135 of ICMP for IPv4", "blacklisted", ipv6(source6, 1, 255, neighbour...), everyone, Control{}, FamilyIPv6},
		{"neighbour solicitation behind hop-by-hop options", "blacklisted",
			ipv6(source6, 0, 255, append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, neighbour...)...), everyone, Control{}, FamilyIPv6},
		{"neighbour solicitation in a fragment", "blacklisted",
			ipv6(source6, 44, 255, append([]byte{58, 0, 0, 1, 0, 0, 0, 9}, neighbour...)...), everyone, Control{}, FamilyIPv6},
		{"hop-by-hop options that look like a solicitation", "blacklisted", ipv6(source6, 0, 255, 135, 0, 0, 0, 0, 0, 0, 0), everyone, Control{}, FamilyIPv6},

		{"IPv4 later fragment", "blacklisted", with(plain4, 6, 0, 100), everyone, Control{}, FamilyIPv4},
		{"IPv4 with options", "blacklisted", with(plain4, 0, 0x4f), everyone, Control{}, FamilyIPv4},
		{"IPv4 with an impossible header length", "blacklisted", with(plain4, 0, 0x40), everyone, Control{}, FamilyIPv4},
		{"IPv4 with total length 0", "blacklisted", with(plain4, 2, 0, 0), everyone, Control{}, FamilyIPv4},
		{"IPv4 of an unknown protocol", "blacklisted", with(plain4, 9, 253), everyone, Control{}, FamilyIPv4},
		{"IPv6 routing header", "blacklisted", ipv6(source6, 43, 64, 59, 0, 0, 0, 0, 0, 0, 0), everyone, Control{}, FamilyIPv6},
		{"IPv6 with payload length 0", "blacklisted", with(plain6, 4, 0, 0), everyone, Control{}, FamilyIPv6},
		{"IPv6 without payload", "blacklisted", ipv6(source6, 59, 64), everyone, Control{}, FamilyIPv6},
		{"IPv4 jumbo", "blacklisted", append(ipv4(source4), make([]byte, 8900)...), everyone, Control{}, FamilyIPv4},

		{"bypass of a listed host", "bypass", plain4, everyone, Control{Bypass: 1}, FamilyOther},
		{"bypass with the firewall off", "bypass", plain6, everyone, Control{Bypass: 1, FirewallOff: 1}, FamilyOther},
		{"bypass, any value", "bypass", plain4, everyone, Control{Bypass: 1 << 31}, FamilyOther},
		{"firewall off, listed host", "firewall off", plain6, everyone, Control{FirewallOff: 1}, FamilyOther},
		{"firewall off, any value", "firewall off", plain4, everyone, Control{FirewallOff: 1 << 31}, FamilyOther},
		{"trie b is active and empty", "unlisted", plain4, everyone, Control{Active: 1}, FamilyIPv4},
		{"trie b is active and empty, IPv6", "unlisted", plain6, everyone, Control{Active: 1}, FamilyIPv6},
		{"trie b is active and empty, mapped", "unlisted", mappedPlain, everyone, Control{Active: 1}, FamilyIPv6},
	}
	for icmp := byte(132); icmp <= 138; icmp++ {
		rule := "neighbour"
		if icmp == 132 || icmp == 138 {
			rule = "blacklisted"
		}
		rows = append(rows, row{fmt.Sprintf("ICMPv6 type %d", icmp), rule, ipv6(source6, 58, 255, icmp, 0, 0, 0), everyone, Control{}, FamilyIPv6})
	}
	return rows
}

// frameRows are about what comes before the IP header; only the Ethernet programs see them.
func frameRows() []row {
	nine := []uint16{protoQ, protoQ, protoAD, protoQ, protoQ, protoQ, protoQinQ, protoQ, protoQ}
	rows := []row{
		{"nine tags", "tag depth", tagged(nine...)(plain4), everyone, Control{}, FamilyOther},
		{"nine tags before ARP", "tag depth", slices.Concat(tagged(nine...)(nil)[:14+8*4], tag(9, protoARP), make([]byte, 28)), nil, Control{}, FamilyOther},
		{"nine tags, whitelisted source", "tag depth", tagged(nine...)(plain4), []entry{{"0.0.0.0/0", allowed}}, Control{}, FamilyOther},
		{"nine tags, bypass", "bypass", tagged(nine...)(plain4), everyone, Control{Bypass: 1}, FamilyOther},
		{"IPv6 ethertype, version 4", "version", ethernet(protoIPv6, plain4, make([]byte, 20)), nil, Control{}, FamilyIPv6},
		{"IPv4 ethertype, version 6", "version", ethernet(protoIPv4, plain6), nil, Control{}, FamilyIPv4},
		{"IPv4 ethertype, version 0", "version", ethernet(protoIPv4, with(plain4, 0, 5)), nil, Control{}, FamilyIPv4},
		{"IPv4 ethertype, version 15, whitelisted source", "version", ethernet(protoIPv4, with(plain4, 0, 0xf5)), []entry{{"0.0.0.0/0", allowed}}, Control{}, FamilyIPv4},
		{"PPP IPv4, version 6", "version", ethernet(protoPPPoE, pppoe(0, 0x21), plain6), nil, Control{}, FamilyIPv4},
		{"PPP IPv6, version 4", "version", ethernet(protoPPPoE, pppoe(0x57), plain4, make([]byte, 20)), nil, Control{}, FamilyIPv6},
		{"version is judged before the source", "version", ethernet(protoIPv4, with(ipv4("0.0.0.0"), 0, 0x65)), everyone, Control{}, FamilyIPv4},
		{"length is judged before the version", "short IP", ethernet(protoIPv6, plain4[:20]), everyone, Control{}, FamilyIPv6},
		{"ARP in a tag", "non-IP", ethernet(protoQ, tag(5, protoARP), make([]byte, 28)), everyone, Control{}, FamilyOther},
		{"ethertype with its bytes swapped", "non-IP", ethernet(0x0008, plain4), everyone, Control{}, FamilyOther},
	}
	for _, proto := range []uint16{0, 46, 1500, 0x05ff, 0x0600, protoARP, 0x8035, 0x8847, 0x8848, 0x8863, 0x888e, 0x88cc, 0x88e5, 0x88f7, 0x9200, 0xffff} {
		rows = append(rows, row{fmt.Sprintf("ethertype %#04x", proto), "non-IP", ethernet(proto, plain4), everyone, Control{}, FamilyOther})
	}
	for _, ppp := range [][]byte{{0xc0, 0x21}, {0x80, 0x21}, {0x80, 0x57}, {0, 0x2d}, {0, 0x20}, {0x23}, {0xff, 0x03}, {0x21 + 0x80}} {
		rows = append(rows, row{fmt.Sprintf("PPP protocol %x", ppp), "non-IP", ethernet(protoPPPoE, pppoe(ppp...), plain4), everyone, Control{}, FamilyOther})
	}
	return rows
}

// layer3Rows are about the first byte on devices without an Ethernet header.
func layer3Rows() []row {
	var rows []row
	for _, nibble := range []byte{0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15} {
		rows = append(rows, row{fmt.Sprintf("version nibble %d", nibble), "non-IP", with(plain4, 0, nibble<<4|5), everyone, Control{}, FamilyOther})
	}
	return rows
}

func TestVerdicts(t *testing.T) {
	k := load(t)
	seen := map[string]bool{}
	check := func(e encapsulation, r row) {
		seen[r.rule] = true
		t.Run(r.name+"/"+e.name, func(t *testing.T) {
			r.words.Layout = Layout
			k.set(t, r.words)
			k.fill(t, 0, r.lists...)
			k.check(t, e.layer3, r, e.wrap(r.packet))
		})
	}
	for _, r := range ipRows() {
		for _, e := range encapsulations {
			check(e, r)
		}
	}
	asIs := func(b []byte) []byte { return b }
	for _, r := range frameRows() {
		check(encapsulation{name: "ethernet", wrap: asIs}, r)
	}
	for _, r := range layer3Rows() {
		check(encapsulation{name: "layer 3", layer3: true, wrap: asIs}, r)
	}
	seen["short frame"], seen["short IP"] = true, true // TestTruncated
	seen["expired"] = true                             // TestDeadlines
	seen["index"] = true                               // TestIndex
	for _, r := range rules {
		if !seen[r.name] {
			t.Errorf("no packet for the rule %q", r.name)
		}
	}
}

// check runs a frame through both programs of a device type, and the Frags one with every fragment boundary in the
// headers, and compares action and counters.
func (k *kernel) check(t *testing.T, layer3 bool, r row, frame []byte) {
	t.Helper()
	want := ruleNamed(t, r.rule).reason
	progs := []string{ProgEth, ProgEthFrags}
	if layer3 {
		progs = []string{ProgL3, ProgL3Frags}
	}
	if len(frame) > linearMax {
		progs = progs[1:] // a driver never hands several fragments to the other
	}
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, prog := range progs {
		if k.Programs[prog] == nil {
			continue
		}
		k.expect(t, prog, frame, -1, r.family, want)
		if prog == ProgEthFrags || prog == ProgL3Frags {
			for linear := 0; linear < min(len(frame), 100); linear += step {
				k.expect(t, prog, frame, linear, r.family, want)
			}
		}
	}
}

// expect runs a frame once and asserts the action, the counter that moved, its bytes, and that no other moved.
func (k *kernel) expect(t *testing.T, prog string, frame []byte, linear int, f Family, want Reason) {
	t.Helper()
	before := k.tallies(t)
	action, ok := k.run(t, prog, frame, linear)
	if !ok {
		return
	}
	after := k.tallies(t)
	if wanted := xdpAction(want); action != wanted {
		t.Errorf("%s, %d of %d bytes linear: action %d, want %d", prog, linear, len(frame), action, wanted)
	}
	expected := before
	expected[Way(f, want)].Packets++
	expected[Way(f, want)].Bytes += uint64(len(frame))
	if after != expected {
		t.Errorf("%s, %d of %d bytes linear, want %s %s: %s", prog, linear, len(frame), f, want, moved(before, after))
	}
	if t.Failed() {
		t.Fatalf("frame %x", frame[:min(len(frame), 128)])
	}
}

const (
	xdpDrop = 1
	xdpPass = 2
)

func xdpAction(r Reason) uint32 {
	if r.Drops() {
		return xdpDrop
	}
	return xdpPass
}

// moved names the counters that differ.
func moved(before, after tallies) string {
	s := ""
	for f := range Family(Families) {
		for r := range Reason(Reasons) {
			b, a := before[Way(f, r)], after[Way(f, r)]
			if a != b {
				s += fmt.Sprintf("%s %s moved by %d packets, %d bytes; ", f, r, a.Packets-b.Packets, a.Bytes-b.Bytes)
			}
		}
	}
	if s == "" {
		return "no counter moved"
	}
	return s
}
