package main

import (
	"slices"
	"time"
)

// plan is what a run measures and how long.
type plan struct {
	name          string
	atMost        time.Duration
	runs          int
	lookupSources int           // judged in one run, at least
	lookupTime    time.Duration // of one run, at least
	liveSeconds   float64       // of sending in one run
	adds, loads   int
	steps         []step
	receivers     func() []receiver
	daemon        int // hosts in the list of the big daemon; 0: leave it out
}

// step is one list and what is measured with it.
type step struct {
	list    func(s *session) (blocklist, error)
	lookups []workload
	live    []workload
}

func random(name string, n int) func(*session) (blocklist, error) {
	return func(s *session) (blocklist, error) { return hosts(name, n, s.random), nil }
}

func routing(v6 bool) func(*session) (blocklist, error) {
	return func(s *session) (blocklist, error) { return bgp(s.root, v6) }
}

func published(s *session) (blocklist, error) { return real120K(s.root, s.random) }

func mixedV4(s *session) (blocklist, error) { return mixed(mixed1M, 1_000_000, s.random), nil }
func mixedV6(s *session) (blocklist, error) { return mixed6(mixedIPv6, 1_000_000, s.random), nil }

// plans by name. A full run takes less than 15 minutes on two CPUs, a quick one less than 2. A check measures all but
// the list of ten million; how cost grows it sees by the list of a million beside that of a thousand.
func plans() map[string]plan {
	few := []workload{legitimate, blocked}
	some := []workload{legitimate, blocked, spoofed, adversary}
	return map[string]plan{
		"full": {
			name: "full", atMost: 30 * time.Minute, runs: 7, lookupSources: ringSize / 8, lookupTime: 40 * time.Millisecond, liveSeconds: 0.2, adds: 300, loads: 7, daemon: 1_000_000,
			receivers: receivers,
			steps: []step{
				{list: random(hosts1K, 1000), lookups: workloads4, live: few},
				{list: random(hosts10K, filterMax), lookups: workloads4, live: few},
				{list: published, lookups: workloads4, live: few},
				{list: random(hosts1M, 1_000_000), lookups: workloads4, live: workloads4},
				{list: random(hosts10M, 10_000_000), lookups: workloads4},
				{list: routing(false), lookups: workloads4},
				{list: mixedV4, lookups: workloads4},
				{list: mixedV6, lookups: workloads6},
				{list: routing(true), lookups: workloads6},
			},
		},
		"quick": {
			name: "quick", atMost: 5 * time.Minute, runs: 3, lookupSources: ringSize / 16, lookupTime: 20 * time.Millisecond, liveSeconds: 0.15, adds: 100, loads: 1, daemon: 120_000,
			receivers: receivers,
			steps: []step{
				{list: random(hosts1K, 1000), lookups: some, live: few},
				{list: random(hosts10K, filterMax), lookups: few, live: []workload{blocked}},
				{list: published, lookups: some},
				{list: random(hosts1M, 1_000_000), lookups: some, live: few},
				{list: routing(false), lookups: few},
				{list: mixedV4, lookups: few},
				{list: mixedV6, lookups: workloads6},
			},
		},
		"daemon": {
			name: "daemon", atMost: 10 * time.Minute, runs: 1, adds: 300, loads: 7, daemon: 1_000_000, receivers: receivers,
		},
		"check": {
			name: "check", atMost: 8 * time.Minute, runs: 5, lookupSources: ringSize / 16, lookupTime: 20 * time.Millisecond, liveSeconds: 0.15, adds: 300, loads: 1, daemon: 1_000_000,
			receivers: func() []receiver {
				return slices.DeleteFunc(receivers(), func(r receiver) bool { return r.name == noFilter || r.name == xdpFilter })
			},
			steps: []step{
				{list: random(hosts1K, 1000), lookups: few, live: few},
				{list: random(hosts1M, 1_000_000), lookups: some, live: few},
				{list: routing(false), lookups: few},
				{list: mixedV4, lookups: few},
				{list: mixedV6, lookups: workloads6},
			},
		},
	}
}
