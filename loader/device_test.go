package loader

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestShowsOuterHeader(t *testing.T) {
	tests := []struct {
		name string
		link netlink.Link
		want bool
	}{
		{"unicast remote", &netlink.Gretun{Remote: net.IPv4(192, 0, 2, 1)}, false},
		{"no remote", &netlink.Gretun{}, true},
		{"remote any", &netlink.Gretun{Remote: net.IPv4zero}, true},
		{"multicast remote", &netlink.Gretun{Remote: net.IPv4(239, 1, 2, 3)}, true},
		{"external", &netlink.Gretun{FlowBased: true}, false},
		{"not gre", &netlink.Iptun{}, false},
	}
	for _, tt := range tests {
		if got := showsOuterHeader(tt.link); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
