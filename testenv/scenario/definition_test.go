package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKilledWhileDefining: kill -9 amid update_api leaves the definition before or the one after, whole; what was answered
// is there.
func TestKilledWhileDefining(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "portcullis.toml")
	r.must(os.WriteFile(config, []byte("[sideband]\nlisten = \"127.0.0.1:8080\"\n"), 0o600))
	r.daemon.Args = []string{"--config", config}
	r.must(r.daemon.Start())
	random := random(t)
	define := func(command string, version int) error {
		path := filepath.Join(dir, "shop.json")
		body := strings.Repeat("x", 100<<10) // long enough to be cut
		text := fmt.Sprintf(`{"api_metadata": {"protocol": "http", "url": "/shop", "hostname": "*", "cookie": "v%d",
			"api_pattern_enforcement": {"error_code": "405", "error_message_body": "%s%d"}}}`, version, body, version)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		_, err := r.daemon.Run(command, path)
		return err
	}
	r.must(define("add_api", 0))
	const rounds = 4
	for round := range rounds {
		answered := make(chan int, 1)
		go func() { // until the daemon is gone
			last := 100 * round
			for define("update_api", last+1) == nil {
				last++
			}
			answered <- last
		}()
		<-time.After(time.Duration(20+random.IntN(300)) * time.Millisecond)
		r.must(r.daemon.Kill())
		last := <-answered
		r.must(r.daemon.Start())
		info := r.cli("api_info", "shop")
		is := func(version int) bool {
			return strings.Contains(info, fmt.Sprintf(`"v%d"`, version)) && strings.Contains(info, fmt.Sprintf("x%d", version))
		}
		if !is(last) && !is(last+1) {
			t.Fatalf("round %d: %d was answered, and there is %.300s", round, last, info)
		}
		if s, err := r.daemon.Status(); err != nil || len(s.Degraded) != 0 {
			t.Errorf("round %d: degraded %q, %v", round, s.Degraded, err)
		}
		r.must(define("update_api", 100*(round+1)))
	}
}
