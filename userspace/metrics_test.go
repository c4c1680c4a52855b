package userspace

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/shim"
	shimfront "github.com/portcullis/portcullis/userspace/shim/front"
	"github.com/portcullis/portcullis/userspace/shim/proxy"
)

func testMetrics(t *testing.T) *metrics {
	t.Helper()
	b := lists.NewBuilder(nil)
	b.Set(lists.DefaultSettings())
	for _, e := range []struct {
		l     lists.List
		src   lists.Source
		value string
	}{{lists.Blacklist, lists.ABS, "198.51.100.7"}, {lists.Blacklist, lists.Manual, "2001:db8::/32"}, {lists.Whitelist, lists.Manual, "10.0.0.0/8"}} {
		id, _, err := lists.ParseID(lists.KindIP, "", e.value)
		if err != nil {
			t.Fatal(err)
		}
		b.Put(lists.Entry{Key: lists.Key{List: e.l, Source: e.src, ID: id}})
	}
	snap := b.Snapshot(9)
	st := control.Status{Version: "1.2", Settings: snap.Settings(), Degraded: []string{"kernel: is behind"}, Interfaces: []control.Interface{
		{Name: "eth0", Mode: "native", Counters: []control.Counter{{Reason: "drop_blacklisted", Family: "ipv4", Packets: 5, Bytes: 300}}},
		{Name: "eth1", Error: "no such interface"},
		{Name: "eth2", Mode: "generic", Error: "attached in generic mode and stays so"},
	}}
	st.Generation.Store, st.Generation.Kernel = 9, 7
	st.Accounting, st.Samples = "exact", control.Samples{Written: 70, Lost: 2}
	st.Sources = []control.SourceHits{{Source: "decoy", Hits: control.Hits{Packets: 5, Bytes: 300}}}
	m := newMetrics(func() control.Status { return st }, func() *lists.Snapshot { return snap }, new(node).lenPrefixes, 1000,
		func() (loader.IndexState, error) {
			return loader.IndexState{Checked: 70, Mismatches: 1, Lease: 2 * time.Second}, nil
		}, func() []place {
			return []place{{class: lists.ClassIPv4, entries: 7, reserved: 1, limit: 10, evicted: 3}, {class: lists.ClassIdentifier, entries: 7, limit: 10}}
		})
	m.also = []prometheus.Collector{
		shimNumbers{func() shim.Stats {
			return shim.Stats{
				Decisions: map[shim.Reason]map[lists.Kind]uint64{
					shim.PassUnlisted: {0: 90}, shim.Blacklisted: {lists.KindCookie: 3, lists.KindIP: 2}, shim.UnknownAPI: {0: 5},
				},
				Latency: shim.Histogram{Count: 100, Sum: .001, Buckets: map[float64]uint64{1e-6: 60, 1e-5: 99}},
			}
		}},
		frontNumbers{"check", func() shimfront.Counts { return shimfront.Counts{Passed: 90, Blocked: 5, Refused: 5, Undecided: 1} }, func() uint64 { return 7 }, nil},
		frontNumbers{"spoe", func() shimfront.Counts { return shimfront.Counts{} }, func() uint64 { return 0 }, func() uint64 { return 2 }},
		proxyNumbers{func() proxy.Stats {
			return proxy.Stats{Accepted: 1, Backends: []proxy.Backend{{API: "shop", Address: "192.0.2.10:80", Well: true}}}
		}},
	}
	return m
}

// TestMetrics compares the whole page, which is why it is long.
func TestMetrics(t *testing.T) {
	m := testMetrics(t)
	m.observe("change", 2*time.Millisecond)
	r := m.registry()
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	const want = `
# HELP portcullis_bytes_total Bytes of the packets that the program judged.
# TYPE portcullis_bytes_total counter
portcullis_bytes_total{family="ipv4",interface="eth0",reason="blacklisted",verdict="drop"} 300
# HELP portcullis_capacity_alarm Whether four fifths of the places are taken.
# TYPE portcullis_capacity_alarm gauge
portcullis_capacity_alarm{class="identifier"} 0
portcullis_capacity_alarm{class="ipv4"} 1
# HELP portcullis_capacity_entries Places that there are.
# TYPE portcullis_capacity_entries gauge
portcullis_capacity_entries{class="identifier"} 10
portcullis_capacity_entries{class="ipv4"} 10
# HELP portcullis_capacity_used_entries Places that the lists and protected addresses take, by class of identifiers.
# TYPE portcullis_capacity_used_entries gauge
portcullis_capacity_used_entries{class="identifier"} 7
portcullis_capacity_used_entries{class="ipv4"} 8
# HELP portcullis_decision_duration_seconds Time that judging an HTTP request took.
# TYPE portcullis_decision_duration_seconds histogram
portcullis_decision_duration_seconds_bucket{le="1e-06"} 60
portcullis_decision_duration_seconds_bucket{le="1e-05"} 99
portcullis_decision_duration_seconds_bucket{le="+Inf"} 100
portcullis_decision_duration_seconds_sum 0.001
portcullis_decision_duration_seconds_count 100
# HELP portcullis_decisions_total HTTP requests that were judged, by the kind of the identifier whose entry decided; none: no entry did.
# TYPE portcullis_decisions_total counter
portcullis_decisions_total{kind="cookie",reason="blacklisted",verdict="block"} 3
portcullis_decisions_total{kind="ip",reason="blacklisted",verdict="block"} 2
portcullis_decisions_total{kind="none",reason="blacklisted",verdict="block"} 0
portcullis_decisions_total{kind="none",reason="detected",verdict="refuse"} 0
portcullis_decisions_total{kind="none",reason="malformed",verdict="refuse"} 0
portcullis_decisions_total{kind="none",reason="not_enforced",verdict="pass"} 0
portcullis_decisions_total{kind="none",reason="too_large",verdict="refuse"} 0
portcullis_decisions_total{kind="none",reason="unknown_api",verdict="refuse"} 5
portcullis_decisions_total{kind="none",reason="unknown_host",verdict="refuse"} 0
portcullis_decisions_total{kind="none",reason="unlisted",verdict="pass"} 90
portcullis_decisions_total{kind="none",reason="whitelisted",verdict="pass"} 0
# HELP portcullis_degraded_states How many things are wrong; status says what.
# TYPE portcullis_degraded_states gauge
portcullis_degraded_states 1
# HELP portcullis_entries Entries of a list, by who found them.
# TYPE portcullis_entries gauge
portcullis_entries{list="blacklist",source="abs_detected"} 1
portcullis_entries{list="blacklist",source="decoy"} 0
portcullis_entries{list="blacklist",source="invalid_content_type"} 0
portcullis_entries{list="blacklist",source="invalid_method"} 0
portcullis_entries{list="blacklist",source="invalid_protocol"} 0
portcullis_entries{list="blacklist",source="manual"} 1
portcullis_entries{list="blacklist",source="missing_token"} 0
portcullis_entries{list="whitelist",source="manual"} 1
# HELP portcullis_evicted_entries_total Automatic entries that made room for others.
# TYPE portcullis_evicted_entries_total counter
portcullis_evicted_entries_total{class="identifier"} 0
portcullis_evicted_entries_total{class="ipv4"} 3
# HELP portcullis_generations_behind Generations that kernel or shim, whichever is further, are behind the store.
# TYPE portcullis_generations_behind gauge
portcullis_generations_behind 2
# HELP portcullis_index_lease_seconds How long the index may still be used if the daemon is gone.
# TYPE portcullis_index_lease_seconds gauge
portcullis_index_lease_seconds 2
# HELP portcullis_index_mismatches_total Of the packets checked, those on which index and maps did not agree.
# TYPE portcullis_index_mismatches_total counter
portcullis_index_mismatches_total 1
# HELP portcullis_interface_attached Whether the program is attached to an interface, and how; 0: not protected.
# TYPE portcullis_interface_attached gauge
portcullis_interface_attached{interface="eth0",mode="native"} 1
portcullis_interface_attached{interface="eth1",mode="none"} 0
portcullis_interface_attached{interface="eth2",mode="generic"} 1
# HELP portcullis_map_capacity_prefixes Prefixes that the kernel's maps have room for.
# TYPE portcullis_map_capacity_prefixes gauge
portcullis_map_capacity_prefixes{family="ipv4"} 1000
portcullis_map_capacity_prefixes{family="ipv6"} 1000
# HELP portcullis_map_prefixes Prefixes that the lists put into the kernel's maps, at most.
# TYPE portcullis_map_prefixes gauge
portcullis_map_prefixes{family="ipv4"} 2
portcullis_map_prefixes{family="ipv6"} 1
# HELP portcullis_packets_total Packets that the program judged.
# TYPE portcullis_packets_total counter
portcullis_packets_total{family="ipv4",interface="eth0",reason="blacklisted",verdict="drop"} 5
# HELP portcullis_samples_lost_total Samples of drops that found no room, because nobody read in time.
# TYPE portcullis_samples_lost_total counter
portcullis_samples_lost_total 2
# HELP portcullis_samples_written_total Samples of drops that were written for those who watch.
# TYPE portcullis_samples_written_total counter
portcullis_samples_written_total 70
# HELP portcullis_source_dropped_bytes_total Bytes of the packets dropped by source of the blacklist entry, with exact accounting.
# TYPE portcullis_source_dropped_bytes_total counter
portcullis_source_dropped_bytes_total{source="decoy"} 300
# HELP portcullis_source_dropped_packets_total Packets dropped by source of the blacklist entry, with exact accounting.
# TYPE portcullis_source_dropped_packets_total counter
portcullis_source_dropped_packets_total{source="decoy"} 5
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "portcullis_bytes_total", "portcullis_capacity_alarm", "portcullis_capacity_entries",
		"portcullis_capacity_used_entries", "portcullis_evicted_entries_total", "portcullis_decision_duration_seconds", "portcullis_decisions_total", "portcullis_degraded_states", "portcullis_entries",
		"portcullis_generations_behind", "portcullis_index_lease_seconds", "portcullis_index_mismatches_total", "portcullis_interface_attached", "portcullis_map_capacity_prefixes", "portcullis_map_prefixes", "portcullis_packets_total",
		"portcullis_samples_lost_total", "portcullis_samples_written_total", "portcullis_source_dropped_bytes_total", "portcullis_source_dropped_packets_total"); err != nil {
		t.Error(err)
	}
}

// TestMetricsHoldNoAddress: what is listed is for those who may see the lists.
func TestMetricsHoldNoAddress(t *testing.T) {
	l, err := listenMetrics("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- testMetrics(t).serve(ctx, l, slog.New(slog.DiscardHandler)) }()
	res, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res.Status, err)
	}
	if !strings.Contains(string(text), "portcullis_generation{") || !strings.Contains(string(text), "go_goroutines") {
		t.Errorf("metrics are missing:\n%.500s", text)
	}
	for _, address := range []string{"198.51.100.7", "2001:db8", "10.0.0.0"} {
		if strings.Contains(string(text), address) {
			t.Errorf("%s is in the metrics", address)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
