package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestOnlyInterfaceMissing: a daemon whose only interface is not there yet starts, says so loudly, takes changes, and
// protects the interface when it appears; one that is there and cannot be protected keeps it from starting.
func TestOnlyInterfaceMissing(t *testing.T) {
	r := newRig(t)
	r.daemon.Interfaces = []string{"lo"}
	if err := r.daemon.Start(); err == nil || !strings.Contains(r.daemon.Log(), "no interface could be protected") {
		t.Fatalf("on the loopback interface alone: %v", err)
	}
	r.daemon.Interfaces = []string{"late0"}
	r.must(r.daemon.Start())
	s, err := r.daemon.Status()
	r.must(err)
	if len(s.Interfaces) != 1 || s.Interfaces[0].Mode != "" || len(s.Degraded) != 1 || !strings.HasPrefix(s.Degraded[0], "late0: not protected: ") {
		t.Errorf("interfaces %+v, degraded %q", s.Interfaces, s.Degraded)
	}
	if !strings.Contains(r.daemon.Log(), "level=ERROR msg=\"interface is not protected\" interface=late0") {
		t.Errorf("the log does not say so")
	}
	out, err := r.daemon.CLI("add_blacklist", "ip", r.Client.IPv4.String())
	r.must(err)
	if out.Code != 0 || !strings.Contains(out.Stderr, "late0 is not protected") {
		t.Errorf("add: %+v", out)
	}

	r.must(testenv.Connect(r.Gateway.Namespace, "late0", r.Backend.Namespace, "late1"))
	began := time.Now()
	testenv.Eventually(t, 10*time.Second, "the interface is protected", func() error {
		if id, err := r.Gateway.Program("late0"); err != nil || id == 0 {
			return fmt.Errorf("program %d, %w", id, err)
		}
		return nil
	})
	t.Logf("protected %v after it appeared", time.Since(began).Round(time.Millisecond))
	r.judgedFrom(r.Backend.Namespace, "late1", r.Gateway.Namespace, "late0", 0)
	r.cleanStatus()
}

// TestPinsRemoved: pins that somebody removes are there again within seconds, and the interface is judged.
func TestPinsRemoved(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	want := r.pins()
	for _, name := range []string{"link_eth0", "control", "lpm_v4_a"} {
		r.must(os.Remove(filepath.Join(r.daemon.PinDir, name)))
	}
	testenv.Eventually(t, 10*time.Second, "the pins are there again", func() error {
		if got := r.pins(); got != want {
			return fmt.Errorf("there are %s, want %s", got, want)
		}
		return nil
	})
	r.judged(r.Gateway.Namespace, "eth0", 0)
	r.cleanStatus()
	r.must(r.daemon.Kill())
	r.must(r.daemon.Start())
	r.judged(r.Gateway.Namespace, "eth0", 0)
	r.cleanStatus()
}
