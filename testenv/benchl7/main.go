// Command benchl7 measures what an HTTP request costs in front of a backend: through us, and through the proxies that
// people use today, in one run (`make bench-l7`). The figure is requests per second of CPU time of the proxy's
// processes, read from /proc: it moves less with what else the machine does than requests per second of clock.
//
// Everything runs on loopback, in processes of this program (-role) and of Debian's packages: the contender pinned to
// one CPU, generator and backend to another. It needs no root and leaves nothing behind, also when a signal ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

func main() {
	var o options
	role := flag.String("role", "", "what a child of this program is: backend, backend-big, load, proxy, stdlib, or spoe, check, sideband, each with -nothing too")
	flag.StringVar(&o.plan, "plan", "full", "full, quick or check (fails when a ratio is below its floor)")
	flag.StringVar(&o.out, "out", "docs", "folder for BENCHMARKS-L7.md, from the top folder; \"\": none")
	flag.StringVar(&o.only, "only", "", "measure only contenders whose group and name have this in them; memory: only what is held")
	address := flag.String("address", "", "of a child: where it listens or whom it loads")
	backend := flag.String("backend", "", "of a proxy: whom it forwards to")
	load := flag.String("load", "", "of a load: what to send, as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	switch *role {
	case "":
		err = run(ctx, o, os.Stdout)
	case "backend":
		err = runBackend(ctx, *address)
	case "load":
		err = runLoad(ctx, *address, *load, os.Stdout)
	case "stdlib":
		err = runStdlib(ctx, *address, *backend)
	case "backend-big":
		err = runBig(ctx, *address)
	case "spoe", "spoe-nothing", "check", "check-nothing", "sideband", "sideband-nothing":
		err = runAsked(ctx, *role, *address)
	case "proxy":
		err = runProxy(ctx, *address, *backend)
	default:
		err = fmt.Errorf("there is no role %q", *role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: benchl7:", err)
		os.Exit(1)
	}
}

type options struct{ plan, out, only string }

// plan is how long a run measures.
type plan struct {
	rounds  int
	each    time.Duration
	clients int           // divides how many hold something of the proxy
	hold    time.Duration // and how long, once all have begun
	check   bool          // fail below a floor
}

func plans() map[string]plan {
	return map[string]plan{
		"full":  {rounds: 5, each: 2 * time.Second, clients: 1, hold: 15 * time.Second},
		"quick": {rounds: 3, each: 2 * time.Second, clients: 10, hold: 15 * time.Second},
		"check": {rounds: 3, each: time.Second, clients: 10, hold: 4 * time.Second, check: true},
	}
}

// wants reports whether a contender is measured with a workload: in a check those that a floor is about.
func (p plan) wants(w workload, c contender) bool {
	return slices.Contains(w.groups, c.group) && (!p.check || slices.ContainsFunc(floors, func(f floor) bool {
		return f.workload == w.name && (c.name == f.name || c.name == f.over)
	}))
}

// session is one run: what contenders need to start.
type session struct {
	dir     string // for their configurations, removed at the end
	backend string // host:port that answers every request
	out     io.Writer
}

// run measures every contender in turn, so that what else the machine does falls on all alike.
func run(ctx context.Context, o options, out io.Writer) error {
	p, ok := plans()[o.plan]
	if !ok {
		return fmt.Errorf("there is no plan %q", o.plan)
	}
	if runtime.NumCPU() < 2 {
		return errors.New("needs two CPUs: one for the contender, one for generator and backend")
	}
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "benchl7")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	_ = os.Chmod(dir, 0o755) // Debian's proxies drop to users of their own
	s := &session{dir: dir, out: out}
	backend, err := s.self(ctx, supportCPU, "-role", "backend", "-address", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer backend.stop()
	s.backend = backend.address

	r := newReport(o.plan, p)
	var all []*contest
	defer func() {
		for _, c := range all {
			c.running.stop()
		}
	}()
	for _, c := range contenders() {
		if !strings.Contains(c.group+" "+c.name, o.only) || !slices.ContainsFunc(workloads(), func(w workload) bool { return p.wants(w, c) }) {
			continue
		}
		up, err := c.start(ctx, s)
		if err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
		all = append(all, &contest{contender: c, running: up})
	}
	for _, w := range workloads() {
		if err := s.measure(ctx, r, p, w, all); err != nil {
			return err
		}
	}
	if strings.Contains(memory, o.only) {
		if err := s.measureHeld(ctx, r, p); err != nil {
			return err
		}
	}
	fmt.Fprint(out, r.text())
	if o.out != "" {
		path := filepath.Join(root, o.out, "BENCHMARKS-L7.md")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(r.document()), 0o644); err != nil {
			return err
		}
	}
	if p.check {
		return r.check()
	}
	return nil
}

// contest is a contender that runs.
type contest struct {
	contender
	running *running
}

// measure runs one workload against each contender that takes it, round by round.
func (s *session) measure(ctx context.Context, r *report, p plan, w workload, all []*contest) error {
	results := make(map[*contest][]result)
	for round := range p.rounds + 1 { // the first is a warm-up
		for _, c := range all {
			if !p.wants(w, c.contender) {
				continue
			}
			each := p.each
			if round == 0 {
				each = time.Second / 2
			}
			got, err := s.once(ctx, c, w, each)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", w.name, c.name, err)
			}
			if round > 0 {
				results[c] = append(results[c], got)
			}
		}
	}
	for _, c := range all {
		if got := results[c]; len(got) > 0 {
			r.add(w.name, c.name, c.group, got)
			fmt.Fprintln(s.out, r.rows[len(r.rows)-1].line())
		}
	}
	return nil
}

// once loads one contender and reads its CPU time around that.
func (s *session) once(ctx context.Context, c *contest, w workload, each time.Duration) (result, error) {
	before, err := cpuTime(c.running.pids())
	if err != nil {
		return result{}, err
	}
	askedBefore, err := cpuTime(c.running.asked())
	if err != nil {
		return result{}, err
	}
	got, err := s.load(ctx, c.running.address, w, each)
	if err != nil {
		return result{}, err
	}
	after, err := cpuTime(c.running.pids())
	got.CPU = after - before
	if err == nil {
		after, err = cpuTime(c.running.asked())
		got.Asked = after - askedBefore
	}
	if err == nil && got.Failed > 0 {
		err = fmt.Errorf("%d of %d requests failed: %s", got.Failed, got.Requests+got.Failed, got.Failure)
	}
	return got, err
}
