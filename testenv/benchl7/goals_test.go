package main

import (
	"strings"
	"testing"
	"time"
)

// TestGoals: every line that was measured is said to be met or missed, and what moves with the machine fails no check.
func TestGoals(t *testing.T) {
	r := &report{rows: []row{
		{workload: keepAlive, name: ours, group: inline, perCPU: 300},
		{workload: keepAlive, name: caddy, group: inline, perCPU: 100},
		{workload: workSPOE, name: ours, group: bySPOE, perCPU: 95, askedMicroseconds: 3.5},
		{workload: workSPOE, name: askedEmpty, group: bySPOE, perCPU: 100},
		{workload: workAuthRequest, name: ours, group: byAuthRequest, perCPU: 90},
		{workload: workAuthRequest, name: askedEmpty, group: byAuthRequest, perCPU: 100},
		{workload: workSideband, name: ours, group: bySideband, p99: 5 * time.Millisecond},
		{workload: workSideband, name: askedEmpty, group: bySideband, p99: time.Millisecond},
	}, held: []held{{what: "connections", clients: 10, before: 1 << 20, most: 25 << 20}}}
	var got []string
	for _, g := range r.goals() {
		got = append(got, g.got+" "+map[bool]string{true: "met", false: "missed"}[g.met])
	}
	if want := "3.00 met, 0.95 met, 0.90 met, 3.5 us missed, 4ms missed, 24.0 MB met"; strings.Join(got, ", ") != want {
		t.Errorf("goals %q, want %q", strings.Join(got, ", "), want)
	}
	if err := r.check(); err != nil {
		t.Errorf("check: %v", err)
	}
	r.rows[2].perCPU = 80
	if err := r.check(); err != nil {
		t.Errorf("check, a goal missed: %v", err)
	}
	r.rows[2].perCPU, r.held[0].most = 60, 28<<20
	err := r.check()
	if err == nil || !strings.Contains(err.Error(), "0.60, a check wants at least 0.65") || !strings.Contains(err.Error(), "27.0 MB, a check wants at most 25 MB") {
		t.Errorf("check: %v", err)
	}
	if doc := r.document(); strings.Count(doc, "**missed**") != 4 {
		t.Errorf("document:\n%s", doc)
	}
	if all := (&report{}).goals(); len(all) != 0 {
		t.Errorf("nothing was measured: %+v", all)
	}
}

// TestCheckMeasuresItsFloors: a check measures both sides of each floor, and nobody else.
func TestCheckMeasuresItsFloors(t *testing.T) {
	wanted, p := 0, plans()["check"]
	for _, w := range workloads() {
		for _, c := range contenders() {
			if p.wants(w, c) {
				wanted++
			}
		}
	}
	if wanted != 2*len(floors) {
		t.Errorf("%d measurements for %d floors", wanted, len(floors))
	}
}

// TestContendersAreToldApart: rows are found by workload and name, so that these must not meet twice.
func TestContendersAreToldApart(t *testing.T) {
	for _, w := range workloads() {
		seen := map[string]bool{}
		for _, c := range contenders() {
			for _, g := range w.groups {
				if c.group == g && seen[c.name] {
					t.Errorf("%s: two are called %s", w.name, c.name)
				}
				seen[c.name] = seen[c.name] || c.group == g
			}
		}
	}
}
