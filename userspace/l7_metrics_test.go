package userspace

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/portcullis/portcullis/userspace/shim"
	asked "github.com/portcullis/portcullis/userspace/shim/front"
	"github.com/portcullis/portcullis/userspace/shim/proxy"
)

// TestRequestMetricsAreDocumented: every metric of fronts, shim and proxy is in docs/OPERATIONS.md by its whole name.
func TestRequestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	none := func() uint64 { return 0 }
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		shimNumbers{shim.New(shim.Options{}).Stats},
		frontNumbers{"check", func() (c asked.Counts) { return c }, none, none},
		proxyNumbers{func() proxy.Stats { return proxy.Stats{Backends: make([]proxy.Backend, 1)} }},
	)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) < 20 {
		t.Errorf("only %d metrics", len(families))
	}
	for _, f := range families {
		if !strings.Contains(string(doc), "`"+f.GetName()+"`") {
			t.Errorf("%s is not in docs/OPERATIONS.md", f.GetName())
		}
	}
}
