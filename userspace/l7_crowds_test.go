package userspace

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

// TestCrowds: who has a network of IPv6 addresses fills no list with them, however many are detected, and nobody else is
// blocked for it, unless the configuration says so and nobody protected or whitelisted is in it.
func TestCrowds(t *testing.T) {
	const limit = 3
	in := func(network string, from, to int) (all []string) {
		for i := from; i < to; i++ {
			all = append(all, fmt.Sprintf("ip %s%x", network, i))
		}
		return all
	}
	white := lists.Entry{Key: lists.Key{List: lists.Whitelist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindIP, Value: "2001:db8:0:2::8000:0/97"}}}
	manual := blackIP("2001:db8:0:2::ffff")
	var sites []string // each a /64 of one /48
	for i := range 16*limit + 10 {
		sites = append(sites, fmt.Sprintf("2001:db8:7:%x::1", i+1))
	}
	tests := []struct {
		name    string
		network bool
		listed  []lists.Entry
		protect string
		from    []string
		want    []string
	}{
		{"as many as fit", false, nil, "", in("2001:db8:0:2::", 1, 4), in("2001:db8:0:2::", 1, 4)},
		{"the newest of one network", false, nil, "", in("2001:db8:0:2::", 1, 50), in("2001:db8:0:2::", 47, 50)},
		{"networks beside each other", false, nil, "", append(in("2001:db8:0:2::", 1, 4), in("2001:db8:0:3::", 1, 4)...), append(in("2001:db8:0:2::", 1, 4), in("2001:db8:0:3::", 1, 4)...)},
		{"what somebody added himself stays", false, []lists.Entry{manual}, "", in("2001:db8:0:2::", 1, 50), append([]string{manual.ID.String()}, in("2001:db8:0:2::", 47, 50)...)},
		{"IPv4 has no bound", false, nil, "", in("198.51.100.", 1, 10), in("198.51.100.", 1, 10)},
		{"one site", false, nil, "", sites, sites[10:]},
		{"the network itself", true, nil, "", in("2001:db8:0:2::", 1, 5), []string{"ip 2001:db8:0:2::/64"}},
		{"not for as many as fit", true, nil, "", in("2001:db8:0:2::", 1, 4), in("2001:db8:0:2::", 1, 4)},
		{"a friend is in the network", true, []lists.Entry{white}, "", in("2001:db8:0:2::", 1, 50), in("2001:db8:0:2::", 47, 50)},
		{"somebody protected is in it", true, nil, "2001:db8:0:2::abcd/128", in("2001:db8:0:2::", 1, 50), in("2001:db8:0:2::", 47, 50)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, s := newDetecting(t)
			n.config.Detect.IPv6Clients, n.config.Detect.IPv6Network = limit, test.network
			restart := func() {
				d, err := newDetection(n)
				if err != nil {
					t.Fatal(err)
				}
				n.detection.crowds = d.crowds // which knows nothing of what was found before
			}
			restart()
			for _, e := range test.listed {
				if _, err := n.store.Apply(t.Context(), lists.Batch{Ops: []lists.Operation{{Op: lists.OpAdd, Entry: e}}, By: "admin", Via: "cli"}); err != nil {
					t.Fatal(err)
				}
			}
			if test.protect != "" {
				n.protected.Store(&[]protection{{prefix: netip.MustParsePrefix(test.protect), risk: riskProxy, why: "trusted proxy"}})
			}
			for i, client := range test.from {
				r := attack("[" + strings.TrimPrefix(client, "ip ") + "]")
				if strings.Contains(client, ".") {
					r = attack(strings.TrimPrefix(client, "ip "))
				}
				s.Decide(r)
				if i%7 != 0 { // one by one, and several at once
					n.listedBy(t.Context())
				}
				if i == len(test.from)/2 {
					restart()
				}
			}
			got := n.listedBy(t.Context())
			want := slices.Clone(test.want)
			for i := range want {
				if !strings.HasPrefix(want[i], "ip ") {
					want[i] = "ip " + want[i]
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("blacklisted (-want +got):\n%s", diff)
			}
		})
	}
}
