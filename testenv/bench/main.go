// Command bench measures what a packet costs and what a change takes, beside what people use today, in one run:
// `make bench` (BENCH=quick for a short one), `make bench-check`. It needs root, builds all it needs in throw-away
// namespaces, and leaves the host as it was, also when a step fails or a signal ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

func main() {
	name := flag.String("plan", "full", "full, quick, check, or daemon for that part alone")
	out := flag.String("out", "docs", "folder for bench.json, BENCHMARKS.md and the pictures, from the top folder; \"\": none")
	render := flag.Bool("render", false, "measure nothing: write the page and the pictures anew from bench.json")
	seed := flag.Uint64("seed", 0, "of all random numbers; 0: another one each run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	err := error(nil)
	if *render {
		err = rewrite(*out)
	} else {
		err = run(ctx, *name, *out, *seed, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: bench:", err)
		os.Exit(1)
	}
}

// session is one run.
type session struct {
	lab      *testenv.Lab
	bpffs    string
	root     string
	plan     plan
	random   *rand.Rand
	report   *report
	loops    map[bool][]float64 // cost of the loop alone, by "is IPv6"
	networks int
	out      io.Writer
}

func (s *session) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// rewrite makes the page and the pictures from the last run's figures.
func rewrite(out string) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	r, err := readReport(filepath.Join(root, out, "bench.json"))
	if err != nil {
		return err
	}
	return r.write(filepath.Join(root, out))
}

// run makes a lab, measures in it and removes it.
func run(ctx context.Context, name, out string, seed uint64, to io.Writer) error {
	p, ok := plans()[name]
	if !ok {
		return fmt.Errorf("there is no plan %q", name)
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root, to make network namespaces and load programs into the kernel")
	}
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	s := &session{root: root, plan: p, random: rand.New(rand.NewPCG(seed, 0)), loops: make(map[bool][]float64), out: to}
	if s.report, err = newReport(root, p, seed); err != nil {
		return err
	}
	if s.lab, err = testenv.Open(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.measure() }()
	select {
	case err = <-done:
		err = errors.Join(err, s.lab.Close())
	case <-ctx.Done():
		err = errors.Join(errors.New("interrupted"), s.lab.Close())
	case <-time.After(p.atMost):
		err = errors.Join(fmt.Errorf("not done after %v", p.atMost), s.lab.Close())
	}
	if err != nil {
		return err
	}
	return s.finish(out)
}

// measure does all that the plan names.
func (s *session) measure() (err error) {
	began := time.Now()
	if s.bpffs, err = s.lab.MountBPF(); err != nil {
		return err
	}
	r := s.report
	s.say("%s, %d CPUs, Linux %s, %s, commit %s, seed %d", r.Machine, r.CPUs, r.Kernel, r.Date.Format(time.RFC3339), r.Commit, r.Seed)
	if n := s.plan.daemon; n > 0 {
		// First, while nothing of ours is being freed, which would spoil the figure of the kernel's memory.
		r.Daemon = new(daemonSide)
		if err := s.measureDaemon(hosts("daemon", n, s.random)); err != nil {
			return fmt.Errorf("measure daemon: %w", err)
		}
	}
	for _, step := range s.plan.steps {
		at := time.Now()
		if err := s.measureStep(step); err != nil {
			return err
		}
		s.say("  took %v", time.Since(at).Round(100*time.Millisecond))
	}
	for _, v6 := range []bool{false, true} {
		if len(s.loops[v6]) > 0 {
			r.LoopNs = append(r.LoopNs, figureOf(s.loops[v6]))
		}
	}
	r.Load += " to " + loadAverage()
	r.Seconds = time.Since(began).Seconds()
	r.judge()
	return nil
}

// measureStep measures lookups and live frames on one list.
func (s *session) measureStep(st step) (err error) {
	list, err := st.list(s)
	if err != nil {
		return err
	}
	s.report.Lists = append(s.report.Lists, listed{list.name, len(list.prefixes), list.origin})
	s.say("%s (%d entries; %s)", list.name, len(list.prefixes), list.origin)
	h, err := hold(s.bpffs, list, len(list.prefixes) <= 2_000_000) // ten million more would take half a minute
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.release()) }()
	d := drawer{list, list.matcher(), s.random}
	if err := s.measureLookups(d, h, st.lookups); err != nil {
		return err
	}
	if len(st.live) == 0 {
		return nil
	}
	return s.measureLive(d, h, st.live, s.plan.receivers())
}

// finish prints the ratios, writes the files, and says which floors do not hold.
func (s *session) finish(out string) error {
	s.say("\nratios (goal, floor)")
	for _, q := range s.report.Ratios {
		s.say("  %-86s %7s  %8s  %8s", q.Name, digits(q.Value), q.bound(q.Goal), q.bound(q.Floor))
	}
	s.say("took %.0f s", s.report.Seconds)
	if out != "" {
		if err := s.report.write(filepath.Join(s.root, out)); err != nil {
			return err
		}
		s.say("written: %s", filepath.Join(out, "BENCHMARKS.md"))
	}
	if bad := s.report.beyond(); len(bad) > 0 && s.plan.name == "check" {
		return fmt.Errorf("beyond the floor:\n  %s", strings.Join(bad, "\n  "))
	}
	return nil
}
