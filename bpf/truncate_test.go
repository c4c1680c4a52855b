package bpf

import (
	"testing"
)

// header is a part of a frame that must be there whole: a frame that ends inside it is short, of this family.
type header struct {
	len    int
	family Family
}

// TestTruncated cuts every packet type at every length from 14 on: no Ethernet driver hands over less.
func TestTruncated(t *testing.T) {
	k := load(t)
	k.fill(t, 0, everyone...)
	eth, vlan := header{14, FamilyOther}, header{4, FamilyOther}
	links := map[string][]header{
		"ethernet":                         {eth},
		"802.1Q":                           {eth, vlan},
		"802.1Q with VID 0":                {eth, vlan},
		"802.1ad and 802.1Q":               {eth, vlan, vlan},
		"0x9100 and 802.1Q":                {eth, vlan, vlan},
		"eight tags":                       {eth, vlan, vlan, vlan, vlan, vlan, vlan, vlan, vlan},
		"PPPoE":                            {eth, {8, FamilyOther}},
		"PPPoE with a compressed protocol": {eth, {7, FamilyOther}},
		"PPPoE in 802.1Q":                  {eth, vlan, {8, FamilyOther}},
		"layer 3":                          {}, // its first byte tells the family
	}
	types := []struct {
		name  string
		ip    []byte
		fixed header
		typed bool // one byte more than the fixed header makes it neighbour discovery
	}{
		{"IPv4", plain4, header{20, FamilyIPv4}, false},
		{"IPv6", plain6, header{40, FamilyIPv6}, false},
		{"mapped", mappedPlain, header{40, FamilyIPv6}, false},
		{"neighbour", solicit, header{40, FamilyIPv6}, true},
	}
	for _, e := range encapsulations {
		link, ok := links[e.name]
		if !ok {
			t.Fatalf("headers of %q are not known", e.name)
		}
		for _, ty := range types {
			frame := e.wrap(ty.ip)
			headers := append(append([]header{}, link...), ty.fixed)
			t.Run(ty.name+"/"+e.name, func(t *testing.T) {
				for n := minRun; n <= len(frame); n++ {
					r := row{rule: "blacklisted", family: ty.fixed.family}
					end := 0
					for i, h := range headers {
						end += h.len
						if n < end {
							r = row{rule: "short frame", family: h.family}
							if i == len(headers)-1 {
								r.rule = "short IP"
							}
							break
						}
					}
					if n > end && ty.typed {
						r.rule = "neighbour"
					}
					k.check(t, e.layer3, r, frame[:n])
				}
			})
		}
	}
}
