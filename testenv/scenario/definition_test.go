package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKilledWhileDefining: kill -9 amid the first add_api leaves no definition or a whole one, amid update_api the one
// before or the one after, whole; what was answered is there.
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
	is := func(info string, version int) bool {
		return strings.Contains(info, fmt.Sprintf(`"v%d"`, version)) && strings.Contains(info, fmt.Sprintf("x%d", version))
	}
	healthy := func(what string) {
		t.Helper()
		if s, err := r.daemon.Status(); err != nil || len(s.Degraded) != 0 {
			t.Errorf("%s: degraded %q, %v", what, s.Degraded, err)
		}
	}
	for round := range 3 {
		answered := make(chan error, 1)
		go func() { answered <- define("add_api", round) }()
		<-time.After(time.Duration(20+random.IntN(100)) * time.Millisecond)
		r.must(r.daemon.Kill())
		failed := <-answered
		r.must(r.daemon.Start())
		info, missing := r.daemon.Run("api_info", "shop")
		if missing == nil && !is(info, round) || missing != nil && (failed == nil || !strings.Contains(missing.Error(), "not found")) {
			t.Fatalf("first add %d came to %v, and then there is %.300s, %v", round, failed, info, missing)
		}
		healthy(fmt.Sprintf("first add %d", round))
		if missing == nil {
			r.cli("delete_api", "shop")
		}
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
		if !is(info, last) && !is(info, last+1) {
			t.Fatalf("round %d: %d was answered, and there is %.300s", round, last, info)
		}
		healthy(fmt.Sprintf("round %d", round))
		r.must(define("update_api", 100*(round+1)))
	}
}
