package gateways

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestDefinitionsChangeUnderRequests: while requests flow, an API is updated by two at once, deleted and added again:
// each request is judged by the definitions before a change or after it. What is in force at the end is so after kill -9.
func TestDefinitionsChangeUnderRequests(t *testing.T) {
	b := newRecorder(t)
	inline := freeAddress(t)
	r := newRigWith(t, b.Listener.Addr().String(), api, fmt.Sprintf("[proxy]\nhttp = %q\n", inline), freeAddress(t))
	r.backend = b
	r.settled(inline)
	shop := func(version int) string {
		return r.write(fmt.Sprintf("version-%d/shop.json", version), fmt.Sprintf(`{"api_metadata":{"protocol":"http","url":"/shop","hostname":"*","cookie":"v%d",
			"enable_blocking":true,"decoy_config":{"decoy_enabled":true,"response_code":404,"response_def":"Not Found","response_message":"decoy %d","decoy_subpaths":["decoy%d"]},
			"servers":[{"host":"127.0.0.1","port":%s}]}}`, version, version, version%2, port(r.app)))
	}
	r.cli("add_api", shop(0))
	r.cli("delete_api", "root")

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	var passed, unknown, decoys atomic.Int64
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				a, err := send("127.0.0.1", inline, request{name: "client", target: "/shop/decoy1"}.raw())
				switch {
				case err == nil && a == answer{200, "backend"}:
					passed.Add(1)
				case err == nil && a == answer{503, "Error: Unknown Hostname"}: // no API is left
					unknown.Add(1)
				case err == nil && a.status == 404 && strings.HasPrefix(a.body, "decoy "):
					decoys.Add(1)
				default:
					t.Errorf("a client got %+v, %v", a, err)
					return
				}
			}
		})
	}
	seen := func(n *atomic.Int64) {
		t.Helper()
		before := n.Load()
		testenv.Eventually(t, 20*time.Second, "requests see the change", func() error {
			if n.Load() == before && !t.Failed() {
				return fmt.Errorf("%d passed, %d to no API, %d to decoys", passed.Load(), unknown.Load(), decoys.Load())
			}
			return nil
		})
	}
	for round := range 3 {
		var both sync.WaitGroup
		for i := range 2 {
			path := shop(10*round + 2*i + 1)
			both.Go(func() {
				if _, err := r.try("update_api", path); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		seen(&decoys)
		r.cli("delete_api", "shop")
		seen(&unknown)
		r.cli("add_api", shop(0))
		seen(&passed)
	}
	stop()
	clients.Wait()
	r.cli("update_api", shop(41))
	before := r.cli("api_info", "shop")
	r.daemon.kill()
	r.startDaemon()
	if after := r.cli("api_info", "shop"); after != before || !strings.Contains(after, `"v41"`) {
		t.Errorf("before kill -9:\n%s\nafter:\n%s", before, after)
	}
	if list := r.cli("list_api"); strings.Contains(list, "root") || !strings.Contains(list, "shop ( loaded )") {
		t.Errorf("after kill -9: %s", list)
	}
	t.Logf("%d passed, %d to no API, %d to decoys", passed.Load(), unknown.Load(), decoys.Load())
}
