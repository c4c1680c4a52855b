package userspace

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
	"github.com/portcullis/portcullis/userspace/serving"
)

// metrics is what a Prometheus server reads of a node: what status and lists say at that moment, and how long the
// kernel took to take over changes. No label ever holds an address, so the number of series is bounded.
type metrics struct {
	status   func() control.Status
	snapshot func() *lists.Snapshot
	prefixes func(*lists.Snapshot) (v4, v6 int) // that the kernel is to hold
	capacity uint32
	index    func() (loader.IndexState, error)
	places   func() []place
	drift    func() drift // nil: no packets are judged here
	apply    *prometheus.HistogramVec
	also     []prometheus.Collector // set before registry is called
}

func newMetrics(status func() control.Status, snapshot func() *lists.Snapshot, prefixes func(*lists.Snapshot) (v4, v6 int), capacity uint32,
	index func() (loader.IndexState, error), places func() []place,
) *metrics {
	return &metrics{status: status, snapshot: snapshot, prefixes: prefixes, capacity: capacity, index: index, places: places, apply: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "portcullis_apply_duration_seconds", Help: "Time the kernel's maps took to take over a change, or the whole list.",
		Buckets: []float64{.0001, .001, .01, .1, .5, 1, 2, 5, 10, 30},
	}, []string{"how"})}
}

// observe counts one change that the kernel took over: "change", or "whole" list. It may be called concurrently.
func (m *metrics) observe(how string, took time.Duration) {
	m.apply.WithLabelValues(how).Observe(took.Seconds())
}

// registry is one that nobody else writes to.
func (m *metrics) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(m.also...)
	r.MustRegister(m, m.apply, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// desc describes what is read at each scrape.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("portcullis_"+name, help, labels, nil)
}

// Describe leaves the descriptions out: they come with the values.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads everything once.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	st, snap := m.status(), m.snapshot()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(desc("build_info", "Version of the daemon; always 1.", "version"), 1, st.Version)
	entries := desc("entries", "Entries of a list, by who found them.", "list", "source")
	for _, src := range lists.Sources() {
		gauge(entries, float64(snap.LenSource(lists.Blacklist, src)), "blacklist", src.String())
	}
	gauge(entries, float64(snap.Len(lists.Whitelist)), "whitelist", lists.Manual.String())

	v4, v6 := m.prefixes(snap)
	prefixes := desc("map_prefixes", "Prefixes that the lists put into the kernel's maps, at most.", "family")
	room := desc("map_capacity_prefixes", "Prefixes that the kernel's maps have room for.", "family")
	for family, n := range map[string]int{"ipv4": v4, "ipv6": v6} {
		gauge(prefixes, float64(n), family)
		gauge(room, float64(m.capacity), family)
	}
	m.rooms(out)
	generation := desc("generation", "Generation of the lists, in the store, and as kernel and shim enforce it; without the latter where they do not.", "layer")
	gauge(generation, float64(st.Generation.Store), "store")
	behind := uint64(0)
	for layer, reached := range map[string]uint64{"kernel": st.Generation.Kernel, "shim": st.Generation.Shim} {
		if reached != 0 {
			gauge(generation, float64(reached), layer)
			behind = max(behind, st.Generation.Store-min(reached, st.Generation.Store))
		}
	}
	gauge(desc("generations_behind", "Generations that kernel or shim, whichever is further, are behind the store."), float64(behind))
	gauge(desc("firewall_enabled", "Whether the lists are enforced (enable_firewall)."), number(st.Settings.Firewall))
	gauge(desc("bypass_enabled", "Whether every packet passes (bypass on)."), number(st.Bypass))
	gauge(desc("degraded_states", "How many things are wrong; status says what."), float64(len(st.Degraded)))
	count := func(name, help string, v uint64) {
		out <- prometheus.MustNewConstMetric(desc(name, help), prometheus.CounterValue, float64(v))
	}
	if x, err := m.index(); err == nil { // status tells of the error
		gauge(desc("index_bytes", "Memory of the index over the kernel's maps; 0: there is none."), float64(x.Bytes))
		gauge(desc("index_lease_seconds", "How long the index may still be used if the daemon is gone."), max(0, x.Lease.Seconds()))
		count("index_checks_total", "Packets that were judged by the index and by the maps too.", x.Checked)
		count("index_mismatches_total", "Of the packets checked, those on which index and maps did not agree.", x.Mismatches)
	}
	if m.drift != nil {
		d := m.drift()
		count("drift_addresses_total", "Addresses that the kernel's maps judged otherwise than the lists, found by comparing their contents.", d.addresses)
		count("comparisons_total", "Comparisons of all that the kernel's maps hold with the lists.", d.passes)
	}
	m.interfaces(out, st)
	m.drops(out, st)
}

// drops is what is known of drops besides the counters of the interfaces.
func (m *metrics) drops(out chan<- prometheus.Metric, st control.Status) {
	if st.Accounting == "" {
		return // no packets are judged here
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	count(desc("samples_written_total", "Samples of drops that were written for those who watch."), st.Samples.Written)
	count(desc("samples_lost_total", "Samples of drops that found no room, because nobody read in time."), st.Samples.Lost)
	packets := desc("source_dropped_packets_total", "Packets dropped by source of the blacklist entry, with exact accounting.", "source")
	bytes := desc("source_dropped_bytes_total", "Bytes of the packets dropped by source of the blacklist entry, with exact accounting.", "source")
	for _, s := range st.Sources {
		count(packets, s.Packets, s.Source)
		count(bytes, s.Bytes, s.Source)
	}
}

// rooms says how full the lists are.
func (m *metrics) rooms(out chan<- prometheus.Metric) {
	used := desc("capacity_used_entries", "Places that the lists and protected addresses take, by class of identifiers.", "class")
	limit := desc("capacity_entries", "Places that there are.", "class")
	alarm := desc("capacity_alarm", "Whether four fifths of the places are taken.", "class")
	evicted := desc("evicted_entries_total", "Automatic entries that made room for others.", "class")
	for _, p := range m.places() {
		class := p.class.String()
		out <- prometheus.MustNewConstMetric(used, prometheus.GaugeValue, float64(p.entries+p.reserved), class)
		out <- prometheus.MustNewConstMetric(limit, prometheus.GaugeValue, float64(p.limit), class)
		out <- prometheus.MustNewConstMetric(alarm, prometheus.GaugeValue, number(p.alarming()), class)
		out <- prometheus.MustNewConstMetric(evicted, prometheus.CounterValue, float64(p.evicted), class)
	}
}

func (m *metrics) interfaces(out chan<- prometheus.Metric, st control.Status) {
	attached := desc("interface_attached", "Whether the program is attached to an interface, and how; 0: not protected.", "interface", "mode")
	labels := []string{"interface", "verdict", "reason", "family"}
	packets := desc("packets_total", "Packets that the program judged.", labels...)
	bytes := desc("bytes_total", "Bytes of the packets that the program judged.", labels...)
	for _, i := range st.Interfaces {
		mode := cmp.Or(i.Mode, "none")
		out <- prometheus.MustNewConstMetric(attached, prometheus.GaugeValue, number(mode != "none"), i.Name, mode)
		for _, c := range i.Counters {
			verdict, reason, _ := strings.Cut(c.Reason, "_")
			out <- prometheus.MustNewConstMetric(packets, prometheus.CounterValue, float64(c.Packets), i.Name, verdict, reason, c.Family)
			out <- prometheus.MustNewConstMetric(bytes, prometheus.CounterValue, float64(c.Bytes), i.Name, verdict, reason, c.Family)
		}
	}
}

func number(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// listenMetrics opens the address. A node that cannot show its metrics still enforces.
func listenMetrics(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics are not shown: %w", err)
	}
	return l, nil
}

// serve answers GET /metrics on l until ctx ends, and closes it.
func (m *metrics) serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	mux := http.NewServeMux()
	registry := m.registry()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if err := serving.HTTP(ctx, srv, l, time.Second); err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// showMetrics answers Prometheus until ctx ends. That it cannot ends nothing: status says so, and it tries again.
func (n *node) showMetrics(ctx context.Context, m *metrics) {
	again := time.NewTicker(10 * time.Second)
	defer again.Stop()
	for {
		l, err := listenMetrics(n.config.Metrics)
		if err == nil {
			n.log.Info("metrics are shown", "address", l.Addr().String())
			n.noMetrics.Store("")
			err = m.serve(ctx, l, n.log)
		}
		if ctx.Err() != nil {
			return
		}
		n.log.Error("metrics are not shown, will try again", "error", err)
		n.noMetrics.Store(err.Error())
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}
