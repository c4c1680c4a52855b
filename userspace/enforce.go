package userspace

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// kernel is what enforcement needs of loader.Maps.
type kernel interface {
	Replace(ctx context.Context, generation uint64, cells iter.Seq2[netip.Prefix, compile.Cell], hosts int, progress func(done int)) error
	Apply(generation uint64, rules []compile.Rule) error
	SetFirewall(on bool) error
	Renew() error
}

// contents is what the kernel's maps hold, as loader.Maps tells.
type contents interface {
	Lookup(a netip.Addr) (c compile.Cell, found bool, err error)
	Next(after netip.Prefix, n int) ([]netip.Prefix, error)
}

// watcher is what enforcement needs of a store.
type watcher interface {
	Watch(ctx context.Context, from uint64) (lists.Update, error)
}

// renewEvery is how often the kernel is told that somebody looks after its index.
const renewEvery = time.Second

// protectEvery is how often the host is searched for protected addresses.
const protectEvery = 5 * time.Second

// retryEvery is how long enforcement waits before it writes the whole list again after the kernel refused a change.
const retryEvery = time.Second

// enforcement keeps the kernel's maps equal to the newest snapshot. One goroutine (run) writes; any may wait.
type enforcement struct {
	kernel kernel
	store  watcher
	log    *slog.Logger
	// protect finds the protected prefixes anew.
	protect func() []netip.Prefix
	// applied is called with every snapshot that the kernel has come to hold.
	applied func(*lists.Snapshot)
	// observe is told how long the kernel took to take over a "change" or the "whole" list; nil: nobody wants to know.
	observe func(how string, took time.Duration)
	// contents is compared with the lists, by this clock; nil: nobody does.
	contents contents
	now      func() time.Time
	audit    audit

	table     *compile.Table
	snapshot  *lists.Snapshot
	protected []netip.Prefix
	inStep    bool // the maps hold what table says; false: only a Replace helps

	mu      sync.Mutex
	reached uint64 // generation the kernel enforces
	tried   uint64 // newest generation handed to the kernel
	failure error  // what the last try came to
	drift   drift
	moved   chan struct{} // closed at each try
}

func newEnforcement(k kernel, w watcher, log *slog.Logger, protect func() []netip.Prefix, applied func(*lists.Snapshot)) *enforcement {
	return &enforcement{
		kernel: k, store: w, log: log, protect: protect, applied: applied,
		table: compile.New(), moved: make(chan struct{}),
	}
}

// start brings the kernel to the store's present state. It must return before the program is attached anywhere.
func (e *enforcement) start(ctx context.Context, progress func(done int)) error {
	u, err := e.store.Watch(ctx, 0)
	if err != nil {
		return fmt.Errorf("read lists: %w", err)
	}
	e.snapshot, e.protected = u.Snapshot, e.protect()
	if err := e.replace(ctx, progress); err != nil {
		return fmt.Errorf("fill kernel maps: %w", err)
	}
	e.report(u.Snapshot.Generation(), nil)
	return nil
}

// run follows the store and the host's own addresses until ctx ends. Call start first.
func (e *enforcement) run(ctx context.Context) error {
	updates := make(chan lists.Update)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { failed <- e.follow(ctx, e.snapshot.Generation(), updates) }()

	protect := time.NewTicker(protectEvery)
	defer protect.Stop()
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	compare := time.NewTimer(passEvery)
	defer compare.Stop()
	defer e.audit.end()
	for {
		select {
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case u := <-updates:
			e.update(ctx, u)
		case <-protect.C:
			e.refreshProtected()
		case <-renew.C:
			e.renew()
		case <-compare.C:
			compare.Reset(e.compare(ctx))
		case <-retry.C:
			if !e.inStep {
				e.report(e.snapshot.Generation(), e.replace(ctx, nil))
			}
		}
	}
}

// follow hands over every update of the store, in order.
func (e *enforcement) follow(ctx context.Context, from uint64, out chan<- lists.Update) error {
	for {
		u, err := e.store.Watch(ctx, from)
		if err != nil {
			return fmt.Errorf("watch lists: %w", err)
		}
		select {
		case out <- u:
			from = u.Snapshot.Generation()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *enforcement) update(ctx context.Context, u lists.Update) {
	e.snapshot = u.Snapshot
	start, how := time.Now(), "change"
	var err error
	switch {
	case u.Whole || !e.inStep:
		how, err = "whole", e.replace(ctx, nil)
	default:
		if err = e.kernel.Apply(u.Snapshot.Generation(), e.table.Apply(u.Changes)); err == nil {
			err = e.kernel.SetFirewall(u.Snapshot.Settings().Firewall)
		}
		if err != nil {
			// Part of it may be written. The whole list again is slower and always right.
			e.log.Warn("kernel refused a change, writing the whole list", "generation", u.Snapshot.Generation(), "error", err)
			how, err = "whole", e.replace(ctx, nil)
		}
	}
	if err == nil && e.observe != nil {
		e.observe(how, time.Since(start))
	}
	e.report(u.Snapshot.Generation(), err)
}

// renew keeps the kernel's index in force; without it every drop is looked up in the tries.
func (e *enforcement) renew() {
	if err := e.kernel.Renew(); err != nil {
		e.log.Warn("kernel looks packets up in the slower way", "error", err)
	}
}

// replace writes the whole state: tries first, then the firewall switch.
func (e *enforcement) replace(ctx context.Context, progress func(done int)) error {
	e.inStep = false
	e.audit.end()
	e.renew() // a big table takes a while
	cells, finish := ahead(e.table.Rebuild(e.snapshot, e.protected))
	defer finish() // also when the kernel refuses: the table must never be half of a list
	if err := e.kernel.Replace(ctx, e.snapshot.Generation(), cells, e.hosts(), progress); err != nil {
		return err
	}
	if err := e.kernel.SetFirewall(e.snapshot.Settings().Firewall); err != nil {
		return err
	}
	e.inStep = true
	return nil
}

// hosts is how many single IPv4 addresses the kernel is to drop, or some more: /30s and longer are held as such.
func (e *enforcement) hosts() (n int) {
	if e.table.PassOnly {
		return 0
	}
	lengths := e.snapshot.Lengths(lists.Blacklist, lists.ClassIPv4)
	for bits := 30; bits <= 32; bits++ {
		n += int(lengths[bits]) << (32 - bits)
	}
	return n
}

// ahead works cells out to their end, on another CPU while who reads them writes to the kernel. finish returns when
// that is done; what nobody read is dropped.
func ahead(cells iter.Seq2[netip.Prefix, compile.Cell]) (out iter.Seq2[netip.Prefix, compile.Cell], finish func()) {
	type pair struct {
		prefix netip.Prefix
		cell   compile.Cell
	}
	const some = 8 << 10
	ready, used := make(chan []pair, 16), make(chan []pair, 16)
	go func() {
		defer close(ready)
		var batch []pair
		for p, c := range cells {
			if batch == nil {
				select {
				case batch = <-used:
				default:
					batch = make([]pair, 0, some)
				}
			}
			if batch = append(batch, pair{p, c}); len(batch) == some {
				ready <- batch
				batch = nil
			}
		}
		ready <- batch
	}()
	out = func(yield func(netip.Prefix, compile.Cell) bool) {
		for batch := range ready {
			for _, p := range batch {
				if !yield(p.prefix, p.cell) {
					return
				}
			}
			select {
			case used <- batch[:0]:
			default:
			}
		}
	}
	return out, func() {
		for range ready {
		}
	}
}

func (e *enforcement) refreshProtected() {
	now := e.protect()
	if slices.Equal(now, e.protected) {
		return
	}
	e.log.Info("protected addresses changed", "before", len(e.protected), "now", len(now))
	e.protected = now
	if !e.inStep {
		return // the next replace takes them along
	}
	if err := e.kernel.Apply(e.snapshot.Generation(), e.table.Protect(now)); err != nil {
		e.inStep = false
		e.report(e.snapshot.Generation(), err)
	}
}

// report publishes what a try came to and wakes who waits.
func (e *enforcement) report(generation uint64, err error) {
	if err != nil {
		e.log.Error("kernel does not enforce the newest lists, will try again", "generation", generation, "error", err)
	} else if e.applied != nil {
		e.applied(e.snapshot)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tried, e.failure = generation, err
	if err == nil {
		e.reached = generation
	}
	close(e.moved)
	e.moved = make(chan struct{})
}

// state returns the generation in force and what is wrong, nil if nothing is.
func (e *enforcement) state() (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reached, e.failure
}

// errNotEnforced: the change is stored, and the kernel would not take it yet.
var errNotEnforced = errors.New("stored, but the kernel does not enforce it yet")

// wait returns once the kernel enforces the generation, or with errNotEnforced once a try at it has failed.
func (e *enforcement) wait(ctx context.Context, generation uint64) error {
	for {
		e.mu.Lock()
		reached, tried, failure, moved := e.reached, e.tried, e.failure, e.moved
		e.mu.Unlock()
		switch {
		case reached >= generation:
			return nil
		case tried >= generation && failure != nil:
			return fmt.Errorf("%w: %w", errNotEnforced, failure)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errNotEnforced, context.Cause(ctx))
		}
	}
}
