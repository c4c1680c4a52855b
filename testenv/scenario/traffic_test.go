package scenario

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

var (
	ipv4 = []string{"ping", "tcp", "udp"}
	ipv6 = []string{"ping6", "tcp6", "udp6"}
)

func TestListsDecideAboutTraffic(t *testing.T) {
	r := start(t)
	r.reach(r.Client)
	r.reach(r.Another)

	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.blocked(r.Client, ipv4...)
	r.reach(r.Client, ipv6...)
	r.reach(r.Another)

	r.cli("add_blacklist", "ip", "2001:db8:1::/64")
	r.blocked(r.Client, ipv6...)
	r.blocked(r.Another, ipv6...)
	r.reach(r.Another, ipv4...)
	r.cli("add_whitelist", "ip", r.Another.IPv6.String())
	r.reach(r.Another)
	r.blocked(r.Client)

	// The whitelist wins at any prefix length.
	r.cli("add_whitelist", "ip", "198.51.0.0/16")
	r.reach(r.Client, ipv4...)
	r.cli("delete_whitelist", "ip", "198.51.0.0/16")
	r.blocked(r.Client, ipv4...)

	r.cli("delete_blacklist", "ip", r.Client.IPv4.String())
	r.reach(r.Client, ipv4...)
	r.blocked(r.Client, ipv6...)
	out, err := r.daemon.Ask("y\n", "clear_blacklist")
	r.must(err)
	if out.Code != 0 {
		t.Fatalf("clear_blacklist: %+v", out)
	}
	r.reach(r.Client)
}

// TestOpenConnectionIsCutOff: listing a client stops a connection it already has, and taking it off lets it go on.
func TestOpenConnectionIsCutOff(t *testing.T) {
	r := start(t)
	to := netip.AddrPortFrom(r.Backend.IPv4, testenv.EchoPort)
	conn, err := r.Client.Dial("tcp", &net.TCPAddr{IP: r.Client.IPv4.AsSlice()}, to, 5*time.Second)
	r.must(err)
	defer conn.Close()
	r.must(testenv.Echo(conn))

	r.cli("add_blacklist", "ip", "198.51.100.0/24")
	r.must(conn.SetDeadline(time.Now().Add(500 * time.Millisecond)))
	if err := testenv.Echo(conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the open connection of a listed client: %v, want silence", err)
	}
	r.cli("delete_blacklist", "ip", "198.51.100.0/24")
	// What was sent into the void is sent again by TCP; its echo comes before that of what is sent now.
	r.must(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	buf := make([]byte, 16)
	if _, err := conn.Read(buf); err != nil {
		t.Fatalf("after the client was taken off the list: %v", err)
	}
}

// TestCraftedFrames sends frames that filters are known to miss, and counts them at the gateway and in its counters.
func TestCraftedFrames(t *testing.T) {
	r := start(t)
	out, in := r.wire(r.Internet.Namespace, "uplink0"), r.wire(r.Gateway.Namespace, "eth0")
	plain := r.frame(r.Client, "")
	six := plain
	six.Source, six.Destination = r.Client.IPv6, r.Backend.IPv6
	mapped := six
	mapped.Source = netip.AddrFrom16(r.Client.IPv4.As16())
	tag := func(f testenv.Frame, tags ...uint16) testenv.Frame {
		for i, id := range tags {
			kind := uint16(testenv.EtherVLAN)
			if i == 0 && len(tags) > 1 {
				kind = testenv.EtherQinQ
			}
			f.Tags = append(f.Tags, testenv.Tag{Type: kind, ID: id})
		}
		return f
	}
	fragment := func(f testenv.Frame, offset uint16) testenv.Frame {
		f.Fragment, f.Offset, f.More, f.ID = true, offset, offset == 0, 77
		return f
	}
	frames := []struct {
		name  string
		frame testenv.Frame
		moves string // the counter, when the source is listed
	}{
		{"plain ipv4", plain, "ipv4 drop_blacklisted"},
		{"plain ipv6", six, "ipv6 drop_blacklisted"},
		{"v4-mapped", mapped, "ipv6 drop_blacklisted"},
		{"vlan 0", tag(plain, 0), "ipv4 drop_blacklisted"},
		{"vlan 5", tag(plain, 5), "ipv4 drop_blacklisted"},
		{"vlan 0 in 0", tag(plain, 0, 0), "ipv4 drop_blacklisted"},
		{"vlan 6, ipv6", tag(six, 6), "ipv6 drop_blacklisted"},
		{"vlan 7 in 5, v4-mapped", tag(mapped, 5, 7), "ipv6 drop_blacklisted"},
		{"first fragment", fragment(plain, 0), "ipv4 drop_blacklisted"},
		{"later fragment", fragment(plain, 1480), "ipv4 drop_blacklisted"},
		{"first fragment, ipv6", fragment(six, 0), "ipv6 drop_blacklisted"},
		{"later fragment, ipv6", fragment(six, 1448), "ipv6 drop_blacklisted"},
	}
	const each = 20
	send := func(name string, f testenv.Frame) (mark []byte) {
		mark = []byte("mark of " + name + ".")
		f.Payload = append(mark, make([]byte, 32)...)
		for range each {
			r.must(out.Send(f.Bytes()))
		}
		return mark
	}
	for _, f := range frames {
		mark := send(f.name+" before", f.frame)
		for range each {
			if _, err := in.Receive(mark, 5*time.Second); err != nil {
				t.Fatalf("%s of a client on no list: %v", f.name, err)
			}
		}
	}
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "ip", r.Client.IPv6.String())
	for _, f := range frames {
		before := r.packets()
		mark := send(f.name+" after", f.frame)
		// veth hands frames over in order: once the counter has all of them, none is on its way any more.
		testenv.Eventually(t, 5*time.Second, f.name, func() error {
			return moved(before, r.packets(), f.moves, each)
		})
		if _, err := in.Receive(mark, 0); !errors.Is(err, testenv.ErrNoAnswer) {
			t.Errorf("%s of a listed client came through (%v)", f.name, err)
		}
	}
}

// TestEndlessTagsAreDropped: a frame with more VLAN tags than the parser follows is dropped, whoever sent it.
func TestEndlessTagsAreDropped(t *testing.T) {
	r := start(t)
	out, in := r.wire(r.Internet.Namespace, "uplink0"), r.wire(r.Gateway.Namespace, "eth0")
	f := r.frame(r.Another, "mark of many tags")
	for range 60 {
		f.Tags = append(f.Tags, testenv.Tag{Type: testenv.EtherVLAN})
	}
	before := r.packets()
	r.must(out.Send(f.Bytes()))
	testenv.Eventually(t, 5*time.Second, "count", func() error {
		return moved(before, r.packets(), "other drop_vlan_depth", 1)
	})
	if _, err := in.Receive(f.Payload, 0); !errors.Is(err, testenv.ErrNoAnswer) {
		t.Errorf("it came through (%v)", err)
	}
}
