package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestForgedSourceBlamesNobody: a datagram with somebody else's source address, to the port where a decoy is touched by
// TCP and with the bytes that would do it, lists nobody; who touches it really is listed.
func TestForgedSourceBlamesNobody(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	config, api := filepath.Join(dir, "portcullis.toml"), filepath.Join(dir, "shop.json")
	r.must(os.WriteFile(config, []byte("[proxy]\nhttp = \":8080\"\n"), 0o600))
	r.must(os.WriteFile(api, []byte(shopAPI), 0o600))
	r.daemon.Args = []string{"--config", config}
	r.must(r.daemon.Start())
	r.cli("add_api", api)
	r.cli("enable_ase_detected_attack")

	out, in := r.wire(r.Internet.Namespace, "uplink0"), r.wire(r.Gateway.Namespace, "eth0")
	forged := r.frame(r.Another, "GET /shop/admin HTTP/1.1\r\nHost: shop.com\r\nX-Mark: forged\r\n\r\n")
	forged.Destination, forged.Port = r.Gateway.IPv4, 8080
	for range 20 {
		r.must(out.Send(forged.Bytes()))
		if _, err := in.Receive([]byte("X-Mark: forged"), 5*time.Second); err != nil {
			t.Fatalf("the datagram did not arrive: %v", err)
		}
	}
	// Findings are taken to the list in order: when this one is there, others would be.
	if status, body := r.inline(r.Client, "/shop/admin", "a"); status != "200 OK" || body != "welcome" {
		t.Errorf("a decoy: %s, %q", status, body)
	}
	want := "Realtime Decoy Blacklist\n1)  type : ip, value : " + r.Client.IPv4.String() + "\n"
	r.must(testenv.Poll(10*time.Second, func() error {
		if got := r.cli("view_blacklist", "all"); got != want {
			return fmt.Errorf("view_blacklist all: %q, want %q", got, want)
		}
		return nil
	}))
	r.reach(r.Another)
}
