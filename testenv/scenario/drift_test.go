package scenario

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/loader/compile"
)

// TestWhyTellsDrift changes the kernel's maps behind the daemon's back: why goes by what they hold, and says in what the
// lists differ.
func TestWhyTellsDrift(t *testing.T) {
	r := start(t)
	client, another := r.Client.IPv4, r.Another.IPv6
	r.cli("add_blacklist", "ip", client.String())
	maps, err := loader.OpenMaps(loader.Options{PinDir: r.daemon.PinDir})
	r.must(err)
	defer maps.Close()
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	r.must(maps.Apply(maps.Generation(), []compile.Rule{
		{Prefix: host(client), Remove: true},
		{Prefix: host(another), Cell: compile.Cell{DropUntil: compile.Never}, New: true},
	}))
	r.reach(r.Client)
	r.blocked(r.Another, ipv6...)
	for _, test := range []struct {
		address     netip.Addr
		code        int
		first, says string
	}{
		{client, 0, "pass, pass_unlisted", "it is dropped never in the kernel, for ever in the store"},
		{another, 10, "drop, drop_blacklisted", "it is dropped for ever in the kernel, never in the store"},
	} {
		out, err := r.daemon.CLI("why", test.address.String())
		r.must(err)
		if out.Code != test.code || !strings.HasPrefix(out.Stdout, test.address.String()+": "+test.first+"\n") ||
			!strings.Contains(out.Stdout, "; store and kernel do not agree (generation ") ||
			!strings.Contains(out.Stderr, "kernel and store do not agree: "+test.says) {
			t.Errorf("why %s: %+v", test.address, out)
		}
	}
}
