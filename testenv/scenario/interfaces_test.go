package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/portcullis/portcullis/testenv"
)

// TestSeveralInterfaces: each interface that is named is judged, and one that is not there leaves the others protected
// and the daemon degraded, until it appears.
func TestSeveralInterfaces(t *testing.T) {
	r := newRig(t)
	r.daemon.Interfaces = []string{"eth0", "eth1", "late0"}
	r.must(r.daemon.Start())
	s, err := r.daemon.Status()
	r.must(err)
	if len(s.Interfaces) != 3 || s.Interfaces[0].Error != "" || s.Interfaces[1].Error != "" || s.Interfaces[2].Mode != "" ||
		len(s.Degraded) != 1 || !strings.HasPrefix(s.Degraded[0], "late0: not protected: ") {
		t.Errorf("interfaces %+v, degraded %q", s.Interfaces, s.Degraded)
	}
	r.reach(r.Client)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
	r.cli("delete_blacklist", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "ip", r.Backend.IPv4.String()) // its answers come in at eth1
	r.blocked(r.Another, ipv4...)
	r.reach(r.Another, ipv6...)

	r.must(testenv.Connect(r.Gateway.Namespace, "late0", r.Backend.Namespace, "late1"))
	testenv.Eventually(t, settle, "the late one is protected", func() error {
		s, err := r.daemon.Status()
		if err == nil && len(s.Degraded) != 0 {
			return fmt.Errorf("degraded: %q", s.Degraded)
		}
		return err
	})
	for _, name := range r.daemon.Interfaces {
		if pins := " " + r.pins() + " "; !strings.Contains(pins, " link_"+name+" ") || !strings.Contains(pins, " prog_"+name+" ") || !strings.Contains(pins, " counters_"+name+" ") {
			t.Errorf("pinned: %s, nothing of %s", pins, name)
		}
	}
}
