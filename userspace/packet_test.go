package userspace

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

const (
	packetV4  = "45000024000100004011 0000 c6336407 c0000201"
	packetV6  = "60000000 0010 %s 40 20010db8000700000000000000000009 20010db8000000000000000000000001"
	packetUDP = "30390035 00100000 0102030405060708"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDescribePacket(t *testing.T) {
	v6 := func(next, rest string) string { return strings.Replace(packetV6, "%s", next, 1) + rest }
	eth := "020000000001 020000000002 "
	udp4 := control.Drop{Protocol: "udp", Source: "198.51.100.7", SourcePort: 12345, Destination: "192.0.2.1", DestinationPort: 53}
	udp6 := control.Drop{Protocol: "udp", Source: "2001:db8:7::9", SourcePort: 12345, Destination: "2001:db8::1", DestinationPort: 53}
	without := func(d control.Drop, protocol string) control.Drop {
		d.Protocol, d.SourcePort, d.DestinationPort = protocol, 0, 0
		return d
	}
	for _, tt := range []struct {
		name, packet string
		layer3       bool
		want         control.Drop
	}{
		{"IPv4", eth + "0800" + packetV4 + packetUDP, false, udp4},
		{"layer 3", packetV4 + packetUDP, true, udp4},
		{"eight tags", eth + strings.Repeat("8100 0001", 4) + strings.Repeat("88a8 0001", 2) + strings.Repeat("9100 0000", 2) + "0800" + packetV4 + packetUDP, false, udp4},
		{"PPPoE", eth + "8864 110000010000 0021" + packetV4 + packetUDP, false, udp4},
		{"PPPoE, compressed", eth + "8864 110000010000 57" + v6("11", packetUDP), false, udp6},
		{"PPPoE, not IP", eth + "8864 110000010000 c021 00", false, control.Drop{}},
		{"IPv4 with options", "4600002400010000401100 00 c6336407 c0000201 01010101" + packetUDP, true, udp4},
		{"a later fragment", "4500002400010001401100 00 c6336407 c0000201" + packetUDP, true, without(udp4, "udp")},
		{"IPv4, ports cut off", packetV4 + "3039", true, without(udp4, "udp")},
		{"IPv4, longer header than packet", "4f" + packetV4[2:], true, without(udp4, "udp")},
		{"ESP", strings.Replace(packetV4, "4011", "4032", 1) + packetUDP, true, without(udp4, "esp")},
		{"a protocol without a name", strings.Replace(packetV4, "4011", "40fd", 1) + packetUDP, true, without(udp4, "253")},
		{"IPv6", eth + "86dd" + v6("11", packetUDP), false, udp6},
		{"IPv6, hop by hop and routing", v6("00", "2b00000000000000 1100000000000000"+packetUDP), true, udp6},
		{"IPv6, first fragment", v6("2c", "1100000100000000"+packetUDP), true, udp6},
		{"IPv6, later fragment", v6("2c", "1100000900000000"+packetUDP), true, without(udp6, "udp")},
		{"IPv6, extension beyond the end", v6("3c", "11ff000000000000"+packetUDP), true, without(udp6, "udp")},
		{"ICMPv6", v6("3a", "8000000000000000"), true, without(udp6, "icmpv6")},
		{"short", eth + "0800" + packetV4[:20], false, control.Drop{}},
		{"short IPv6", "60000000001011400000", true, control.Drop{}},
		{"in a tag", eth + "8100", false, control.Drop{}},
		{"in the header", "0200", false, control.Drop{}},
		{"nothing", "", true, control.Drop{}},
	} {
		var got control.Drop
		describePacket(unhex(t, tt.packet), tt.layer3, &got)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// FuzzDescribePacket: whatever comes from outside, nothing is read beyond it.
func FuzzDescribePacket(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 1, 0x08, 0, 0x45}, false)
	f.Add(unhex(f, packetV4+packetUDP), true)
	f.Add(unhex(f, strings.Replace(packetV6, "%s", "00", 1)+"2b00000000000000"), true)
	f.Fuzz(func(_ *testing.T, b []byte, layer3 bool) {
		var d control.Drop
		describePacket(b, layer3, &d)
	})
}

// TestBlame: the entry that ends last is to blame, of several the most specific, as in the kernel's cells; the prefix is
// the longest of all.
func TestBlame(t *testing.T) {
	soon := time.Now().Add(time.Minute)
	b := lists.NewBuilder(nil)
	put := func(l lists.List, src lists.Source, value string, end time.Time) {
		id, _, err := lists.ParseID(lists.KindIP, "", value)
		if err != nil {
			t.Fatal(err)
		}
		b.Put(lists.Entry{Key: lists.Key{List: l, Source: src, ID: id}, Expires: end})
	}
	put(lists.Blacklist, lists.Manual, "198.51.0.0/16", time.Time{})
	put(lists.Blacklist, lists.Decoy, "198.51.100.7", soon)
	put(lists.Blacklist, lists.Method, "198.51.100.8", time.Time{})
	put(lists.Whitelist, lists.Manual, "198.51.100.128/25", soon)
	snap := b.Snapshot(2)
	protected := []protection{{prefix: netip.MustParsePrefix("198.51.100.200/32")}}
	for address, want := range map[string]control.Drop{
		"198.51.100.7":   {Entry: "198.51.0.0/16", EntrySource: "manual", Prefix: "198.51.100.7/32"},
		"198.51.100.8":   {Entry: "198.51.100.8", EntrySource: "invalid_method", Prefix: "198.51.100.8/32"},
		"198.51.100.129": {Entry: "198.51.0.0/16", EntrySource: "manual", Prefix: "198.51.100.128/25"},
		"198.51.100.200": {Entry: "198.51.0.0/16", EntrySource: "manual", Prefix: "198.51.100.200/32"},
		"203.0.113.1":    {},
	} {
		var got control.Drop
		if blame(snap, protected, netip.MustParseAddr(address), &got); !cmp.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", address, got, want)
		}
	}
}
