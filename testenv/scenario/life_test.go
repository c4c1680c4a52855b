package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/testenv"
)

// TestStopIsNotDetach: after SIGTERM, and with no daemon, the lists are enforced; detach ends that.
func TestStopIsNotDetach(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.must(r.daemon.Stop())
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
	r.refused(3, "view_blacklist")

	r.must(r.daemon.Start())
	r.blocked(r.Client, ipv4...)
	r.must(r.daemon.Stop())

	out, err := r.daemon.InNamespace("detach", "--pin-dir", r.daemon.PinDir)
	r.must(err)
	if out.Code != 0 || out.Stdout != "eth0 detached\n" {
		t.Fatalf("detach: %+v", out)
	}
	r.reach(r.Client)
	if left, _ := os.ReadDir(r.daemon.PinDir); len(left) != 0 {
		t.Errorf("still pinned after detach: %s", r.pins())
	}
	// What was listed is kept: the next daemon enforces it again.
	r.must(r.daemon.Start())
	r.blocked(r.Client, ipv4...)
}

// TestLostStateDirectory: without its state directory a daemon does not put empty lists in the place of what is
// enforced; it starts when the directory is back, or after detach.
func TestLostStateDirectory(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.must(r.daemon.Stop())
	kept := r.daemon.StateDir + ".kept"
	r.must(os.Rename(r.daemon.StateDir, kept))
	usual := r.daemon.Bin
	for _, bin := range []string{usual, usual, r.anotherLayout()} { // the first try has made a directory
		r.daemon.Bin = bin
		if err := r.daemon.Start(); err == nil || !strings.Contains(r.daemon.Log(), "the kernel enforces lists that came from another") {
			t.Fatalf("start without state directory: %v", err)
		}
		r.blocked(r.Client, ipv4...)
	}
	r.daemon.Bin = usual
	r.must(os.RemoveAll(r.daemon.StateDir))
	r.must(os.Rename(kept, r.daemon.StateDir))
	r.must(r.daemon.Start())
	r.blocked(r.Client, ipv4...)

	r.must(r.daemon.Stop())
	r.must(os.RemoveAll(r.daemon.StateDir))
	out, err := r.daemon.InNamespace("detach", "--pin-dir", r.daemon.PinDir)
	if err != nil || out.Code != 0 {
		t.Fatalf("detach: %+v, %v", out, err)
	}
	r.must(r.daemon.Start())
	r.reach(r.Client)
}

// TestListensNowhereByDefault: nothing but the unix socket; metrics and HTTP are for who asks for them.
func TestListensNowhereByDefault(t *testing.T) {
	r := start(t)
	r.cli("status")
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", r.daemon.PID(), protocol)) // of its namespace
		r.must(err)
		if sockets := strings.Count(string(text), "\n") - 1; sockets != 0 {
			t.Errorf("%d sockets:\n%s", sockets, text)
		}
	}
}

// TestRemovedStateDirectory: a daemon whose state directory is removed under it writes all that is in force to a new one,
// and the next daemon finds it there: no list is lost, and no password becomes that of a new node.
func TestRemovedStateDirectory(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	api := filepath.Join(t.TempDir(), "kept.json")
	r.must(os.WriteFile(api, []byte(`{"api_metadata": {"protocol": "http", "url": "/kept", "hostname": "*"}}`), 0o600))
	r.cli("add_api", api)
	r.cli("create_sideband_token")
	tokens := r.cli("list_sideband_token")
	files := []string{"apis/kept.json", "apis/root.json", "audit.log", "lists.db", "lists.key", "lock", "sideband_tokens.json", "users.json"}
	users, err := os.ReadFile(filepath.Join(r.daemon.StateDir, "users.json"))
	r.must(err)

	r.must(os.RemoveAll(r.daemon.StateDir))
	testenv.Eventually(t, time.Minute, "the state directory to be written again", func() error {
		if out, err := r.daemon.CLI("add_blacklist", "ip", "198.18.0.1"); err != nil || out.Code != 0 {
			return fmt.Errorf("%+v, %w", out, err)
		}
		for _, f := range files {
			if _, err := os.Stat(filepath.Join(r.daemon.StateDir, f)); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := store.Open(store.Options{Dir: r.daemon.StateDir}, nil); !errors.Is(err, store.ErrLocked) {
		t.Errorf("another process opens the new directory: %v", err)
	}
	r.must(r.daemon.Stop())
	r.must(r.daemon.Start())
	r.blocked(r.Client, ipv4...)
	if got := r.cli("list_sideband_token"); got != tokens {
		t.Errorf("sideband tokens: %s, want %s", got, tokens)
	}
	r.cli("api_info", "kept")
	if got, err := os.ReadFile(filepath.Join(r.daemon.StateDir, "users.json")); err != nil || string(got) != string(users) {
		t.Errorf("users.json: %s, %v, want %s", got, err, users)
	}
}

// TestBypassNeedsNoDaemon: the emergency exit works with the daemon dead and alive, and keeps the lists.
func TestBypassNeedsNoDaemon(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.must(r.daemon.Kill())
	for _, alive := range []bool{false, true} {
		if alive {
			r.must(r.daemon.Start())
		}
		r.blocked(r.Client, ipv4...)
		r.bypass("on")
		r.reach(r.Client)
		r.bypass("off")
		r.blocked(r.Client, ipv4...)
	}
}

func (r *rig) bypass(state string) {
	r.t.Helper()
	out, err := r.daemon.InNamespace("bypass", state, "--pin-dir", r.daemon.PinDir)
	r.must(err)
	if out.Code != 0 {
		r.t.Fatalf("bypass %s: %+v", state, out)
	}
}

// TestDisableFirewallIsDurable: off means that the kernel drops nothing, also after a crash and a restart.
func TestDisableFirewallIsDurable(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.blocked(r.Client, ipv4...)
	r.cli("disable_firewall")
	r.reach(r.Client)
	r.must(r.daemon.Kill())
	r.reach(r.Client)
	r.must(r.daemon.Start())
	r.reach(r.Client)
	r.cli("enable_firewall")
	r.blocked(r.Client, ipv4...)
}

// TestEntriesEndWithTheDaemonDead: deadlines are the kernel's business. A block ends on time, and so does an exception
// from one.
func TestEntriesEndWithTheDaemonDead(t *testing.T) {
	r := start(t)
	const life = 4 * time.Second
	began := time.Now()
	r.cli("add_blacklist", "--for", "4s", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "ip", r.Another.IPv4.String())
	r.cli("add_whitelist", "--for", "4s", "ip", r.Another.IPv4.String())
	added := time.Now()
	r.must(r.daemon.Kill())
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)

	testenv.Eventually(t, life+2*time.Second, "the block ends", func() error {
		return r.Client.Ping(r.Client.IPv4, r.Backend.IPv4, 100*time.Millisecond)
	})
	// Ends are kept to the second.
	if ended := time.Since(began); ended < life-1100*time.Millisecond {
		t.Errorf("the block ended %v after it was asked for, want %v", ended, life)
	}
	testenv.Eventually(t, time.Until(added.Add(life+2*time.Second)), "the exception ends", func() error {
		return r.Blocked(r.Another, ipv4...)
	})
	r.must(r.daemon.Start())
	r.reach(r.Client)
	r.blocked(r.Another, ipv4...)
	testenv.Eventually(t, 3*time.Second, "ended entries leave the lists", func() error {
		if lists := r.lists(); len(lists) != 1 {
			return fmt.Errorf("%q", lists)
		}
		return nil
	})
}

// TestInterfaceMadeAgain: an interface that is deleted and made anew under its name is protected again.
func TestInterfaceMadeAgain(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	for range 3 {
		r.must(r.Gateway.Delete("eth0"))
		r.must(r.Uplink())
		testenv.Eventually(t, settle, "protected again", func() error { return r.Blocked(r.Client, "ping") })
		r.blocked(r.Client, ipv4...)
		r.reach(r.Another)
	}
	s, err := r.daemon.Status()
	r.must(err)
	if len(s.Interfaces) != 1 || s.Interfaces[0].Error != "" || s.Interfaces[0].Mode != "native" {
		t.Errorf("status: %+v", s.Interfaces)
	}
}

// TestTwoDaemons: a second daemon on the same directories is refused and changes nothing; one with its own directories
// runs beside the first, each with its own lists.
func TestTwoDaemons(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())

	intruder := testenv.NewDaemon(r.daemon.Bin, r.Gateway.Namespace, r.bpffs, "intruder")
	for name, share := range map[string]func(){
		"state directory": func() { intruder.StateDir = r.daemon.StateDir },
		"pin directory":   func() { intruder.PinDir = r.daemon.PinDir },
		"socket":          func() { intruder.Socket = r.daemon.Socket },
	} {
		*intruder = testenv.Daemon{
			Bin: r.daemon.Bin, Namespace: r.Gateway.Namespace, Interfaces: []string{"eth1"}, Mode: "native",
			StateDir: filepath.Join(r.Lab.Dir, "intruder.state"), PinDir: filepath.Join(r.bpffs, "intruder"),
			Socket: filepath.Join(r.Lab.Dir, "intruder.sock"),
		}
		share()
		r.must(intruder.Launch())
		select {
		case <-intruder.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("a second daemon on the same %s runs", name)
		}
		if intruder.ExitCode() == 0 || !strings.Contains(intruder.Log(), "error: ") {
			t.Errorf("a second daemon on the same %s: exit code %d, log:\n%s", name, intruder.ExitCode(), intruder.Log())
		}
		r.blocked(r.Client, "ping")
	}

	second := testenv.NewDaemon(r.daemon.Bin, r.Backend.Namespace, r.bpffs, "second")
	r.must(second.Start())
	if _, err := second.Run("add_blacklist", "ip", r.Another.IPv4.String()); err != nil {
		t.Fatal(err)
	}
	r.blocked(r.Another, ipv4...)
	r.blocked(r.Client, ipv4...)
	r.cli("delete_blacklist", "ip", r.Client.IPv4.String())
	r.reach(r.Client)
	r.blocked(r.Another, ipv4...)
	r.must(second.Kill())
	r.reach(r.Client)
	r.blocked(r.Another, ipv4...)
}

// TestOwnAddressesAreRefused: what would lock the admin out is refused with exit code 5, and nothing changes.
func TestOwnAddressesAreRefused(t *testing.T) {
	r := start(t)
	for _, own := range []string{r.Gateway.IPv4.String(), r.Gateway.IPv6.String(), r.Internet.IPv4.String(), "192.0.2.0/24", "0.0.0.0/0", "::/0"} {
		out := r.refused(5, "add_blacklist", "ip", own)
		if !strings.Contains(out.Stderr, "--accept-risk=") {
			t.Errorf("%s: the refusal names no risk to accept:\n%s", own, out.Stderr)
		}
	}
	if lists := r.lists(); len(lists) != 0 {
		t.Errorf("listed all the same: %q", lists)
	}
	r.reach(r.Client)
}
