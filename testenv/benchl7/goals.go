package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// goal is what is to be reached, and whether it was.
type goal struct {
	what, want, got string
	met             bool
	failed          string // what a check wanted at least; "": it does not fail. Microseconds move with the machine, and fail none
}

// What is asked of us beside the ratios of floors.
const (
	mostSPOE  = 3.0 // microseconds of our CPU time a request
	mostAdded = time.Millisecond
)

// goals are those of which everything was measured.
func (r *report) goals() (all []goal) {
	for _, f := range floors {
		if got := r.ratio(f.workload, f.name, f.over); got > 0 {
			g := goal{what: f.workload + ": requests per CPU second, times those of " + f.over, want: fmt.Sprintf("at least %.2f", f.goal),
				got: fmt.Sprintf("%.2f", got), met: got >= f.goal}
			if got < f.least {
				g.failed = fmt.Sprintf("at least %.2f", f.least)
			}
			all = append(all, g)
		}
	}
	if w, ok := r.find(workSPOE, ours); ok {
		all = append(all, goal{what: workSPOE + ": our CPU time a request", want: fmt.Sprintf("at most %.0f us", mostSPOE),
			got: fmt.Sprintf("%.1f us", w.askedMicroseconds), met: w.askedMicroseconds <= mostSPOE})
	}
	w, ok := r.find(workSideband, ours)
	if nothing, also := r.find(workSideband, askedEmpty); ok && also {
		added := max(0, w.p99-nothing.p99)
		all = append(all, goal{what: workSideband + ": p99 beyond that of " + askedEmpty, want: fmt.Sprintf("at most %v", mostAdded),
			got: added.String(), met: added <= mostAdded})
	}
	for _, h := range r.held {
		more := h.most - h.before
		g := goal{what: fmt.Sprintf("%d %s: more memory", h.clients, h.what), want: fmt.Sprintf("at most %d MB", h.bound()>>20),
			got: fmt.Sprintf("%.1f MB", mb(more)), met: more <= h.bound()}
		if !g.met {
			g.failed = g.want
		}
		all = append(all, g)
	}
	return all
}

// check fails when something is beyond what noise explains.
func (r *report) check() error {
	var failed []error
	for _, g := range r.goals() {
		if g.failed != "" {
			failed = append(failed, fmt.Errorf("%s: %s, a check wants %s", g.what, g.got, g.failed))
		}
	}
	return errors.Join(failed...)
}

// goalTable is the goals in the document.
func (r *report) goalTable() string {
	var b strings.Builder
	b.WriteString("\n## Goals\n\n| | goal | this run | |\n|---|---|---|---|\n")
	for _, g := range r.goals() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", g.what, g.want, g.got, map[bool]string{true: "met", false: "**missed**"}[g.met])
	}
	b.WriteString("\nWhat a decision alone takes of time and memory: `go test -run '^TestMillionMemory$' -bench 'Decide|Use' -v ./userspace/shim`.\n")
	return b.String()
}
