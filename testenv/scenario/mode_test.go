package scenario

import (
	"strings"
	"testing"
)

// TestModeOfAnEarlierDaemon: an interface that an earlier daemon attached in another mode goes on being judged, and
// every command says so.
func TestModeOfAnEarlierDaemon(t *testing.T) {
	r := newRig(t)
	r.daemon.Mode = "generic"
	r.must(r.daemon.Start())
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.blocked(r.Client, ipv4...)
	r.must(r.daemon.Stop())

	r.daemon.Mode = "native"
	r.must(r.daemon.Start())
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
	s, err := r.daemon.Status()
	r.must(err)
	if degraded := strings.Join(s.Degraded, "\n"); !strings.Contains(degraded, "attached in generic mode") || strings.Contains(degraded, "not protected") {
		t.Errorf("degraded: %q", s.Degraded)
	}
	out, err := r.daemon.CLI("why", r.Client.IPv4.String())
	r.must(err)
	if out.Code != 10 || !strings.Contains(out.Stdout, "drop") || strings.Contains(out.Stdout, "not protected") {
		t.Errorf("why: %+v; want a drop, exit code 10", out)
	}
	out, err = r.daemon.CLI("add_blacklist", "ip", "203.0.113.77")
	r.must(err)
	if out.Code != 0 || strings.Contains(out.Stderr, "not protected") {
		t.Errorf("add: %+v", out)
	}
}
