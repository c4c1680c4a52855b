package main

import (
	"bufio"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// row is one contender with one workload: medians over the rounds, and how far they were apart.
type row struct {
	workload, name, group  string
	perCPU, least, most    float64
	perSecond              float64
	p50, p99               time.Duration
	cpuMicroseconds, share float64 // a request's; of the CPU that it is pinned to
	askedMicroseconds      float64 // a request's, of whom the contender asks; part of cpuMicroseconds
}

func (r row) line() string {
	return fmt.Sprintf("%-62s %-14s %9.0f/CPU s (%.0f to %.0f)  %7.0f/s  p99 %v  %s", r.workload, r.name, r.perCPU, r.least, r.most, r.perSecond, r.p99, r.cpu())
}

// cpu is the CPU time of a request in words.
func (r row) cpu() string {
	if r.askedMicroseconds == 0 {
		return fmt.Sprintf("%.1f us", r.cpuMicroseconds)
	}
	return fmt.Sprintf("%.1f us, %.1f of them of who is asked", r.cpuMicroseconds, r.askedMicroseconds)
}

// report is one run.
type report struct {
	plan     string
	rounds   int
	each     time.Duration
	date     time.Time
	machine  []string
	versions []string
	rows     []row
	held     []held
}

func newReport(name string, p plan) *report {
	r := &report{plan: name, rounds: p.rounds, each: p.each, date: time.Now().UTC(), machine: machine()}
	for _, v := range [][]string{{"nginx", "-v"}, {"haproxy", "-v"}, {"caddy", "version"}} {
		out, _ := exec.Command(v[0], v[1:]...).CombinedOutput()
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		r.versions = append(r.versions, v[0]+": "+first)
	}
	r.versions = append(r.versions, "portcullis: "+runtime.Version())
	return r
}

// machine is what figures depend on.
func machine() []string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return []string{fmt.Sprintf("%s, %d CPUs", model, runtime.NumCPU()), "Linux " + unix.ByteSliceToString(u.Release[:]),
		"load when the run began " + strings.Join(strings.Fields(string(load))[:1], " ")}
}

// add works a contender's rounds out.
func (r *report) add(workload, name, group string, all []result) {
	median := func(of func(result) float64) float64 {
		values := make([]float64, len(all))
		for i, one := range all {
			values[i] = of(one)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	w := row{workload: workload, name: name, group: group, least: math.Inf(1)}
	for _, one := range all {
		w.least, w.most = min(w.least, one.perCPU()), max(w.most, one.perCPU())
	}
	w.perCPU, w.perSecond = median(result.perCPU), median(result.perSecond)
	w.p50 = time.Duration(median(func(x result) float64 { return float64(x.P50) })).Round(time.Microsecond)
	w.p99 = time.Duration(median(func(x result) float64 { return float64(x.P99) })).Round(time.Microsecond)
	w.cpuMicroseconds = 1e6 / w.perCPU
	w.askedMicroseconds = median(func(x result) float64 { return float64(x.Asked.Nanoseconds()) / 1e3 / float64(x.Requests) })
	w.share = median(func(x result) float64 { return x.CPU.Seconds() / x.Seconds })
	r.rows = append(r.rows, w)
}

func (r *report) find(workload, name string) (row, bool) {
	i := slices.IndexFunc(r.rows, func(w row) bool { return w.workload == workload && w.name == name })
	if i < 0 {
		return row{}, false
	}
	return r.rows[i], true
}

// ratio of requests per CPU second; 0 if one of the two was not measured.
func (r *report) ratio(workload, name, over string) float64 {
	a, haveA := r.find(workload, name)
	b, haveB := r.find(workload, over)
	if !haveA || !haveB {
		return 0
	}
	return a.perCPU / b.perCPU
}

// text is what a terminal shows at the end.
func (r *report) text() string {
	var b strings.Builder
	for _, w := range r.rows {
		if w.name == ours {
			for _, over := range r.rows {
				if over.workload == w.workload && over.group == w.group && over.name != ours {
					fmt.Fprintf(&b, "%s: %s %.2f times %s\n", w.workload, ours, w.perCPU/over.perCPU, over.name)
				}
			}
		}
	}
	for _, g := range r.goals() {
		fmt.Fprintf(&b, "goal: %s: %s, want %s: %s\n", g.what, g.got, g.want, map[bool]string{true: "met", false: "missed"}[g.met])
	}
	return b.String()
}

// document is docs/BENCHMARKS-L7.md.
func (r *report) document() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks of the HTTP layer\n\n`make bench-l7` wrote this page in one run (%d rounds of %v each, contenders in turn, medians; least and most in brackets). "+
		"Absolute figures move from machine to machine and from hour to hour; compare only within a run.\n\n", r.rounds, r.each)
	fmt.Fprintf(&b, "- %s\n", r.date.Format("2006-01-02 15:04 MST"))
	for _, line := range append(r.machine, r.versions...) {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteString("- Everybody forwards to the same backend over loopback, pinned to one CPU; generator and backend have another. " +
		"Requests per CPU second: of the contender's processes, from /proc/PID/task/TID/schedstat.\n\n| contender | how |\n|---|---|\n")
	for _, c := range contenders() {
		fmt.Fprintf(&b, "| %s | %s |\n", c.name, c.about)
	}
	workload := ""
	for _, w := range r.rows {
		if w.workload != workload {
			workload = w.workload
			fmt.Fprintf(&b, "\n## %s\n\n| | requests per CPU second | CPU time a request | %s is | requests a second | p50 | p99 |\n|---|---|---|---|---|---|---|\n", w.workload, ours)
		}
		times := "-"
		if ratio := r.ratio(w.workload, ours, w.name); w.name != ours && ratio > 0 {
			times = fmt.Sprintf("%.2f times", ratio)
		}
		fmt.Fprintf(&b, "| %s | %.0f (%.0f to %.0f) | %s | %s | %.0f | %v | %v |\n", w.name, w.perCPU, w.least, w.most, w.cpu(), times, w.perSecond, w.p50, w.p99)
	}
	if len(r.held) > 0 {
		b.WriteString("\n## Memory of the proxy while clients hold on to it\n\n| clients | resident before | at most | more |\n|---|---|---|---|\n")
		for _, h := range r.held {
			fmt.Fprintf(&b, "| %d %s | %.1f MB | %.1f MB | %.1f MB |\n", h.clients, h.what, mb(h.before), mb(h.most), mb(h.most-h.before))
		}
	}
	return b.String() + r.goalTable()
}

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}
