package main

import "fmt"

// ratio compares two figures of one run.
type ratio struct {
	Name string `json:"name"`
	// Goal is what the project wants to reach. Floor is what make bench-check fails beyond: what holds with room for
	// noise. 0: none.
	Goal   float64 `json:"goal,omitempty"`
	Floor  float64 `json:"floor,omitempty"`
	AtMost bool    `json:"at_most,omitempty"` // both bounds; else at least
	Value  float64 `json:"value"`
}

// met reports whether the value keeps a bound.
func (r ratio) met(bound float64) bool {
	if r.AtMost {
		return r.Value <= bound
	}
	return r.Value >= bound
}

func (r ratio) bound(b float64) string {
	switch {
	case b == 0:
		return "-"
	case r.AtMost:
		return "≤ " + digits(b)
	default:
		return "≥ " + digits(b)
	}
}

// wanted is a ratio to be worked out.
type wanted struct {
	name   string
	goal   float64
	floor  float64 // while mode lpm is all there is
	floors float64 // as soon as there is another; about 0.6 of what it does today, wider for what waits for the disk
	atMost bool
	of     func(r *report) (float64, bool)
}

// Names of lists that ratios ask for.
const (
	hosts1K   = "1 K hosts"
	hosts10K  = "10 K hosts"
	hosts120K = "120 K hosts"
	hosts1M   = "1 M hosts"
	hosts10M  = "10 M hosts"
	mixed1M   = "1 M mixed"
	mixedIPv6 = "1 M mixed, IPv6"
	bgpTable  = "BGP table"
)

// ratios is the one table of goals and floors.
func ratios() []wanted {
	return []wanted{
		against("1 M hosts, legitimate, overlapped", hosts1M, legitimate, overlapped, 20, 11),
		against("1 M hosts, blocked, overlapped", hosts1M, blocked, overlapped, 20, 10),
		against("1 M hosts, spoofed, overlapped", hosts1M, spoofed, overlapped, 20, 7),
		against("1 M hosts, legitimate, dependent", hosts1M, legitimate, dependent, 15, 12),
		against("1 M hosts, blocked, dependent", hosts1M, blocked, dependent, 7, 6),
		against("1 M hosts, spoofed, dependent", hosts1M, spoofed, dependent, 25, 7),
		against("BGP table, legitimate, overlapped", bgpTable, legitimate, overlapped, 60, 2.5),
		against("BGP table, blocked, overlapped", bgpTable, blocked, overlapped, 60, 20),
		against("1 M mixed, legitimate, overlapped", mixed1M, legitimate, overlapped, 15, 7),
		against("1 M mixed, blocked, overlapped", mixed1M, blocked, overlapped, 15, 7),
		against("1 M mixed IPv6, legitimate, overlapped", mixedIPv6, legitimate, overlapped, 8, 6.5),
		against("1 M mixed IPv6, blocked, overlapped", mixedIPv6, blocked, overlapped, 4, 3.5),

		{"lookup, blocked, 10 M hosts against 120 K, overlapped: times slower", 3.5, 0, 5, true,
			lookups(hosts10M, blocked, best, hosts120K, blocked, best, overlapped)},
		{"lookup, 1 M hosts, adversarial against blocked, overlapped: times slower", 1.5, 1.7, 2, true,
			lookups(hosts1M, adversary, best, hosts1M, blocked, best, overlapped)},
		{"lookup, blocked, 1 M hosts against 1 K, overlapped: times slower", 0, 80, 5, true,
			lookups(hosts1M, blocked, best, hosts1K, blocked, best, overlapped)},

		{"live, 1 M hosts, blocked, against nftables", 4, 0.3, 1.8, false, rates(hosts1M, blocked, nftables)},
		{"live, 1 M hosts, blocked, against ipset", 4, 0.35, 2.1, false, rates(hosts1M, blocked, ipset)},
		{"live, 1 K hosts, blocked, against nftables", 0, 1.7, 1.7, false, rates(hosts1K, blocked, nftables)},
		{"live, 1 K hosts, blocked, against ipset", 0, 2, 2, false, rates(hosts1K, blocked, ipset)},
		{"live, 1 K hosts, blocked, against an empty program", 0.85, 0.45, 0.55, false, rates(hosts1K, blocked, emptyDrop)},
		{"live, 1 M hosts, blocked, against an empty program", 0.55, 0.04, 0.33, false, rates(hosts1M, blocked, emptyDrop)},
		{"live, 1 M hosts, legitimate, against a program that only passes", 0.8, 0.2, 0.55, false, rates(hosts1M, legitimate, emptyPass)},

		{"live, 1 M hosts, blocked, watched against not watched", 0, 0.8, 0.8, false, func(r *report) (float64, bool) {
			a, ok := r.live(hosts1M, blocked.name, watched)
			b, ok2 := r.live(hosts1M, blocked.name, ours(best(r)))
			return a.Rate.Median / b.Rate.Median, ok && ok2
		}},

		{"daemon, p99 of an add with the big list, ms", 10, 50, 50, true, daemonValue(func(d daemonSide) float64 { return d.AddBig.P99 })},
		{"daemon, p99 of an add, big list against 1 K: times slower", 1.5, 5, 5, true,
			daemonValue(func(d daemonSide) float64 { return d.AddBig.P99 / d.AddSmall.P99 })},
		{"daemon, import of the big list from a file against nft -f: times slower", 1, 3, 3, true,
			daemonValue(func(d daemonSide) float64 { return d.LoadImport.Median / d.LoadNft.Median })},
		{"daemon, resident memory with 1 M hosts, MB", 350, 400, 400, true, ofMillion(func(d daemonSide) float64 { return d.Resident.Median })},
		{"daemon, kernel memory with 1 M hosts, MB", 200, 230, 230, true, ofMillion(func(d daemonSide) float64 { return d.Kernel.Median })},
		{"daemon, kernel memory with 1 M hosts after restarts, MB", 200, 320, 320, true, ofMillion(func(d daemonSide) float64 { return d.Restarted.Median })},
	}
}

func overlapped(l lookup) float64 { return l.Overlapped.Median }
func dependent(l lookup) float64  { return l.Dependent.Median }

// against is how many times faster the best mode judges than mode lpm; it needs both.
func against(name, list string, w workload, which func(lookup) float64, goal, floors float64) wanted {
	of := lookups(list, w, authority, list, w, best, which)
	return wanted{"lookup, " + name + ": times faster than lpm", goal, 0, floors, false, func(r *report) (float64, bool) {
		v, ok := of(r)
		return v, ok && len(r.Modes) > 1
	}}
}

// authority and best are the modes that are compared: the first of a run and the last, which the program is to be
// judged by.
func authority(r *report) string { return r.Modes[0] }
func best(r *report) string      { return r.Modes[len(r.Modes)-1] }

// lookups divides the cost of one verdict by that of another.
func lookups(list string, w workload, m func(*report) string, list2 string, w2 workload, m2 func(*report) string, which func(lookup) float64) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		a, ok := r.lookup(list, w.name, m(r))
		b, ok2 := r.lookup(list2, w2.name, m2(r))
		return which(a) / which(b), ok && ok2
	}
}

// rates divides the rate of our best mode by that of another receiver.
func rates(list string, w workload, other string) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		a, ok := r.live(list, w.name, ours(best(r)))
		b, ok2 := r.live(list, w.name, other)
		return a.Rate.Median / b.Rate.Median, ok && ok2
	}
}

func daemonValue(f func(daemonSide) float64) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		if r.Daemon == nil {
			return 0, false
		}
		return f(*r.Daemon), true
	}
}

func ofMillion(f func(daemonSide) float64) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		if r.Daemon == nil || r.Daemon.Entries < 1_000_000 {
			return 0, false
		}
		return f(*r.Daemon), true
	}
}

// judge works out the ratios whose figures are in the report.
func (r *report) judge() {
	r.Ratios = nil
	for _, w := range ratios() {
		v, ok := w.of(r)
		if !ok {
			continue
		}
		floor := w.floor
		if len(r.Modes) > 1 {
			floor = w.floors
		}
		r.Ratios = append(r.Ratios, ratio{w.name, w.goal, floor, w.atMost, v})
	}
}

// beyond lists the ratios that are beyond their floors.
func (r *report) beyond() (bad []string) {
	for _, q := range r.Ratios {
		if q.Floor != 0 && !q.met(q.Floor) {
			bad = append(bad, fmt.Sprintf("%s: %s, must be %s", q.Name, digits(q.Value), q.bound(q.Floor)))
		}
	}
	return bad
}
