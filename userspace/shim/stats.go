package shim

import (
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Stats counts decisions since [New]. Fronts count for themselves what they could not have decided (undecided).
type Stats struct {
	// Decisions by reason and the kind of the identifier whose entry decided (0: no entry did).
	Decisions map[Reason]map[lists.Kind]uint64
	Latency   Histogram // of Decide, in seconds
}

// Histogram is what prometheus.NewConstHistogram wants to be told.
type Histogram struct {
	Count   uint64
	Sum     float64            // seconds
	Buckets map[float64]uint64 // upper bound in seconds: how many took at most that long
}

// bounds are the buckets' upper bounds in nanoseconds.
var bounds = [...]int64{250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 1_000_000, 10_000_000}

// Sizes of the counters. Sharing one word between all processors would cost more than deciding.
const (
	counterShards = 16
	kinds         = int(lists.KindUsername) + 1
)

type counters struct {
	shard [counterShards]counterShard
}

type counterShard struct {
	decisions [reasons][kinds]atomic.Uint64
	latency   [len(bounds) + 1]atomic.Uint64
	nanos     atomic.Uint64
	_         [64]byte // the next shard's words lie in other cache lines
}

// count adds one to a shard: any will do, but one that no other processor uses is quicker.
func (c *counters) count(shard uint8, reason Reason, kind lists.Kind, took time.Duration) {
	s := &c.shard[shard%counterShards]
	s.decisions[reason][kind].Add(1)
	n, i := int64(took), 0
	for i < len(bounds) && n > bounds[i] {
		i++
	}
	s.latency[i].Add(1)
	s.nanos.Add(uint64(max(n, 0)))
}

// Stats returns the counts so far. Counts of requests judged meanwhile may be in one number and not yet in another.
func (s *Shim) Stats() Stats {
	st := Stats{Decisions: make(map[Reason]map[lists.Kind]uint64), Latency: Histogram{Buckets: make(map[float64]uint64)}}
	var latency [len(bounds) + 1]uint64
	var nanos uint64
	for i := range s.counters.shard {
		c := &s.counters.shard[i]
		for reason := range c.decisions {
			for kind := range c.decisions[reason] {
				if n := c.decisions[reason][kind].Load(); n != 0 {
					if st.Decisions[Reason(reason)] == nil {
						st.Decisions[Reason(reason)] = make(map[lists.Kind]uint64)
					}
					st.Decisions[Reason(reason)][lists.Kind(kind)] += n
				}
			}
		}
		for b := range c.latency {
			latency[b] += c.latency[b].Load()
		}
		nanos += c.nanos.Load()
	}
	st.Latency.Sum = time.Duration(nanos).Seconds()
	for b, n := range latency {
		st.Latency.Count += n
		if b < len(bounds) {
			st.Latency.Buckets[time.Duration(bounds[b]).Seconds()] = st.Latency.Count
		}
	}
	return st
}

// String returns the reason in the words of the metrics.
func (r Reason) String() string {
	if int(r) < len(reasonWords) {
		return reasonWords[r]
	}
	return "unknown"
}

var reasonWords = [reasons]string{
	PassUnlisted: "unlisted", PassWhitelisted: "whitelisted", PassNotEnforced: "not_enforced",
	Blacklisted: "blacklisted", Malformed: "malformed", TooLarge: "too_large",
	UnknownAPI: "unknown_api", UnknownHost: "unknown_host", Detected: "detected",
}

// String returns the verdict in the words of the metrics.
func (v Verdict) String() string {
	switch v {
	case Pass:
		return "pass"
	case Block:
		return "block"
	}
	return "refuse"
}

// Verdict returns what a decision with that reason says.
func (r Reason) Verdict() Verdict {
	switch r {
	case PassUnlisted, PassWhitelisted, PassNotEnforced:
		return Pass
	case Blacklisted:
		return Block
	}
	return Refuse
}
