package userspace

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/shim"
)

// shimNumbers are the metrics of the shim: what was decided, on account of which kind of identifier, and how fast.
type shimNumbers struct{ stats func() shim.Stats }

// Describe leaves the descriptions out, as those of [metrics].
func (s shimNumbers) Describe(chan<- *prometheus.Desc) {}

// Collect reads the counters.
func (s shimNumbers) Collect(out chan<- prometheus.Metric) {
	st := s.stats()
	decisions := desc("decisions_total", "HTTP requests that were judged, by the kind of the identifier whose entry decided; none: no entry did.", "verdict", "reason", "kind")
	for reason := shim.Reason(0); reason.String() != "unknown"; reason++ {
		count := func(kind string, n uint64) {
			out <- prometheus.MustNewConstMetric(decisions, prometheus.CounterValue, float64(n), reason.Verdict().String(), reason.String(), kind)
		}
		count("none", st.Decisions[reason][lists.Kind(0)]) // 0 too: a series that begins with its first event shows no rate of it
		for kind, n := range st.Decisions[reason] {
			if kind != 0 {
				count(kind.String(), n)
			}
		}
	}
	out <- prometheus.MustNewConstHistogram(desc("decision_duration_seconds", "Time that judging an HTTP request took."),
		st.Latency.Count, st.Latency.Sum, st.Latency.Buckets)
}

// l7Numbers are the metrics of all that concerns requests.
func (n *node) l7Numbers() (all []prometheus.Collector) {
	if n.feed != nil {
		all = append(all, shimNumbers{n.shim.Stats})
	}
	for _, f := range n.fronts {
		all = append(all, f.collectors...)
	}
	return all
}
