package main

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/testenv/generator"
)

// lookup is what one verdict costs, in ns of CPU time, the loop around it included.
type lookup struct {
	List     string  `json:"list"`
	Entries  int     `json:"entries"`
	Workload string  `json:"workload"`
	Mode     string  `json:"mode"` // of modes; "loop": no verdict at all, what the loop itself costs
	Dropped  float64 `json:"dropped"`
	// Overlapped: sources are known beforehand, so the CPU works on several at once. Dependent: each is known only
	// after the verdict on the one before (an atomic addition in between, which costs some ns).
	Overlapped figure `json:"overlapped_ns"`
	Dependent  figure `json:"dependent_ns"`
}

// Words in a block of the ring, and blocks judged in one call: short enough to hold up nobody.
const (
	blockWords = 16
	callBlocks = 2048
)

// bench runs the lookup programs of one mode.
type bench struct {
	*ebpf.Collection
	family string
	words  int // of a source
	renew  func() error
	at     uint32
}

func newBench(h *held, m mode, v6 bool) (*bench, error) {
	spec, err := loadLookup()
	if err != nil {
		return nil, fmt.Errorf("read lookup programs: %w", err)
	}
	b := &bench{family: "v4_", words: 1, renew: h.renew}
	if v6 {
		b.family, b.words = "v6_", 4
	}
	spec.Maps[lookupMapRing].MaxEntries = uint32(ringSize * b.words / blockWords)
	b.Collection, err = h.load(spec, m, b.family+"loop", b.family+"overlapped", b.family+"dependent")
	return b, err
}

// set writes the sources.
func (b *bench) set(words []uint32) error {
	b.at = 0
	return errors.Join(
		generator.WriteRing(b.Maps[lookupMapRing], words),
		b.Variables[lookupVarSpread].Set(uint32(len(words)/blockWords-1)),
		b.Variables[lookupVarCount].Set(uint32(callBlocks)),
	)
}

// run judges at least so many sources for at least so long, the ones after those of the last run, and returns ns of CPU
// time for each, and the share that was dropped.
func (b *bench) run(kind string, sources int, atLeast time.Duration) (ns, dropped float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := b.Programs[b.family+kind]
	perCall := callBlocks * blockWords / b.words
	var took time.Duration
	var drops uint64
	calls := 0
	for ; calls*perCall < sources || took < atLeast; calls++ {
		if err := b.Variables[lookupVarFirst].Set(b.at); err != nil {
			return 0, 0, err
		}
		b.at += callBlocks
		if err := b.renew(); err != nil {
			return 0, 0, err
		}
		began, err := cpuTime()
		if err != nil {
			return 0, 0, err
		}
		action, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
		if err != nil || action != 2 {
			return 0, 0, fmt.Errorf("run %s: %d, %w", p, action, err)
		}
		ended, err := cpuTime()
		if err != nil {
			return 0, 0, err
		}
		took += ended - began
		var n uint64
		if err := b.Variables[lookupVarDropped].Get(&n); err != nil {
			return 0, 0, err
		}
		drops += n
	}
	n := float64(calls * perCall)
	return float64(took) / n, float64(drops) / n, nil
}

// cpuTime is that of this thread: what others do on the machine takes caches away, but is not counted itself.
func cpuTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// measureLookups measures workloads on a list, all modes in turn within each run.
func (s *session) measureLookups(d drawer, h *held, workloads []workload) error {
	var benches []*bench
	defer func() {
		for _, b := range benches {
			b.Close()
		}
	}()
	for _, m := range modes {
		b, err := newBench(h, m, d.list.v6)
		if err != nil {
			return err
		}
		benches = append(benches, b)
	}
	for _, w := range workloads {
		if err := s.measureLookup(w, d, benches); err != nil {
			return fmt.Errorf("measure %s, %s: %w", d.list.name, w.name, err)
		}
	}
	return nil
}

func (s *session) measureLookup(w workload, d drawer, benches []*bench) error {
	words, share := w.ring(d)
	for _, b := range benches {
		if err := b.set(words); err != nil {
			return err
		}
	}
	// Each bench's own kinds, and the loop alone in the first one.
	runs := make(map[string][]float64)
	record := func(b *bench, name, kind string) error {
		// What ran before has filled the caches with other maps: that is an effect of measuring side by side.
		if _, _, err := b.run(kind, s.plan.lookupSources/2, s.plan.lookupTime/2); err != nil {
			return err
		}
		ns, dropped, err := b.run(kind, s.plan.lookupSources, s.plan.lookupTime)
		if err != nil {
			return err
		}
		if kind != "loop" && math.Abs(dropped-share) > 0.02 {
			return fmt.Errorf("mode %s dropped %.3f of the sources, the list %.3f: the figures would mean nothing", name, dropped, share)
		}
		runs[name+" "+kind] = append(runs[name+" "+kind], ns)
		return nil
	}
	for range s.plan.runs + 1 { // the first warms up
		err := record(benches[0], "loop", "loop")
		for i, b := range benches {
			err = errors.Join(err, record(b, modes[i].name, "overlapped"), record(b, modes[i].name, "dependent"))
		}
		if err != nil {
			return err
		}
	}
	sum := func(key string) figure { return figureOf(runs[key][1:]) }
	for _, m := range modes {
		s.report.Lookups = append(s.report.Lookups, lookup{
			List: d.list.name, Entries: len(d.list.prefixes), Workload: w.name, Mode: m.name, Dropped: share,
			Overlapped: sum(m.name + " overlapped"), Dependent: sum(m.name + " dependent"),
		})
	}
	s.loops[d.list.v6] = append(s.loops[d.list.v6], runs["loop loop"][1:]...)
	s.say("  %-22s %-14s %s", d.list.name, w.name, s.report.lookupLine(d.list.name, w.name))
	return nil
}

// program is the real one on the maps of a list, to be attached to an interface.
func (h *held) program(m mode) (*ebpf.Collection, error) {
	spec, err := bpf.Spec()
	if err != nil {
		return nil, err
	}
	return h.load(spec, m, bpf.ProgEth)
}
