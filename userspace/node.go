package userspace

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/store"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
)

// bytesPerPrefix is about what one prefix takes in a kernel LPM map at a million random hosts: docs/BENCHMARKS.md has the
// kernel memory of both tries and index together.
const bytesPerPrefix = 128

// manyEntries is from how many imported entries on memory is given back at once.
const manyEntries = 100_000

// maxSkew is how far the wall clock may be from the lists' steady clock before status says so.
const maxSkew = time.Minute

// node is one gateway: it implements control.Backend. Safe for concurrent use.
type node struct {
	config  Config
	version string
	started time.Time
	log     *slog.Logger
	limited *slog.Logger // of what requests and connections can cause

	store    *store.Store
	opened   uint64       // generation the store was opened at
	maps     *loader.Maps // nil, as enforce: no interfaces, so only requests are judged
	enforce  *enforcement
	watchers *watchers // of drops
	l7
	definitions *definitions
	files       atomic.Pointer[[]error] // what keepFiles could not do

	protector  *protector
	protected  atomic.Pointer[[]protection]
	shielded   atomic.Pointer[bart.Lite] // the same prefixes, for a look at every request
	interfaces atomic.Pointer[[]loader.Attachment]
	noMetrics  atomic.Value // string: why Prometheus gets nothing
	leftover   bool         // without interfaces: an earlier daemon's pins are there
	room       atomic.Int64 // protected prefixes, which take places in the maps too
	evictor    evictor
}

// Apply guards against lock-out, makes the change durable, waits until kernel and shim enforce it, and answers.
func (n *node) Apply(ctx context.Context, r control.Request) (control.Reply, error) {
	before, now := n.store.Snapshot(), n.store.Clock().Now()
	notes, err := checkLockOut(r, before, *n.protected.Load(), now)
	if err != nil {
		return control.Reply{}, err
	}
	if r.DryRun {
		return n.plan(r, before, now, notes)
	}
	res, err := n.store.ApplyIf(ctx, r.Batch, allow(r, n.store.Clock().Now))
	if err != nil {
		return control.Reply{}, wireError(err)
	}
	if i := res.Imported; i.Added+i.Unchanged+i.Removed > manyEntries {
		defer func() { go debug.FreeOSMemory() }() // working out so many takes more memory than holding them
	}
	if err := n.wait(ctx, res.Generation); err != nil {
		return control.Reply{}, &control.Error{
			Code:    control.CodeFailed,
			Message: err.Error(),
			Hint:    "the daemon tries again every second; see: portcullis status",
		}
	}
	notes = append(notes, n.notBlocked(r.Batch, n.store.Snapshot(), now)...)
	return control.Reply{Result: res, Notes: notes}, nil
}

// plan says what a request would come to.
func (n *node) plan(r control.Request, before *lists.Snapshot, now time.Time, notes []string) (control.Reply, error) {
	a, err := lists.ApplyOps(before, r.Batch, now)
	if err == nil {
		err = n.checkRoom(r.Batch, a.Next, a.Changes)
	}
	if err != nil {
		return control.Reply{}, wireError(err)
	}
	if n.maps == nil {
		return control.Reply{Result: a.Result, Notes: notes}, nil
	}
	v4, v6 := n.lenPrefixes(a.Next)
	notes = append(notes, fmt.Sprintf("the kernel would hold at most %d IPv4 and %d IPv6 prefixes of %d each", v4, v6, n.config.Capacity))
	return control.Reply{Result: a.Result, Notes: notes}, nil
}

// wireError gives a store's error the code that the exit code comes from.
func wireError(err error) error {
	var wire *control.Error
	switch {
	case errors.As(err, &wire):
		return wire
	case errors.Is(err, lists.ErrInvalid):
		return &control.Error{Code: control.CodeInvalid, Message: err.Error()}
	case errors.Is(err, store.ErrNotDurable):
		return &control.Error{Code: control.CodeFailed, Message: err.Error(), Hint: "nothing was changed; free space in the state directory and try again"}
	}
	return &control.Error{Code: control.CodeFailed, Message: err.Error()}
}

// lenPrefixes counts the IP entries that the kernel is to hold: at most so many prefixes are in the maps.
func (n *node) lenPrefixes(s *lists.Snapshot) (v4, v6 int) {
	w4, w6 := s.LenPrefixes(lists.Whitelist)
	if n.config.ipEnforcement() == enforceL7 {
		return w4, w6
	}
	b4, b6 := s.LenPrefixes(lists.Blacklist)
	return w4 + b4, w6 + b6
}

func (n *node) Snapshot() *lists.Snapshot { return n.store.Snapshot() }

func (n *node) History(ctx context.Context, limit int) iter.Seq2[lists.Event, error] {
	return n.store.History(ctx, limit)
}

// Status gathers what every part says of itself.
func (n *node) Status() control.Status {
	snap, st := n.store.Snapshot(), n.store.Status()
	s := control.Status{
		Version:   n.version,
		Started:   n.started,
		Mode:      "inline",
		Settings:  snap.Settings(),
		Entries:   map[string]int{"whitelist": snap.Len(lists.Whitelist), "blacklist": snap.Len(lists.Blacklist)},
		Timezone:  time.Now().Format("MST"),
		Protected: wireProtected(*n.protected.Load()),
		Degraded:  []string{},
	}
	s.Generation.Store = snap.Generation()
	n.wireL7(&s)
	v4, v6 := n.lenPrefixes(snap)
	s.Memory.Configured = uint64(n.config.Capacity) * bytesPerPrefix
	s.Memory.Used = uint64(v4+v6) * bytesPerPrefix

	bad := func(format string, args ...any) { s.Degraded = append(s.Degraded, fmt.Sprintf(format, args...)) }
	if st.Degraded != "" {
		bad("store: %s", st.Degraded)
	} else if st.LastError != "" {
		s.Warnings = append(s.Warnings, "store: the last write or copy failed: "+st.LastError)
	}
	for _, problem := range n.definitions.problems() {
		bad("%s", problem)
	}
	if n.shim != nil {
		for _, problem := range n.shim.Problems() {
			bad("%s", problem)
		}
	}
	if skew := n.store.Clock().Skew(); skew.Abs() > maxSkew {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the wall clock was set %s after this boot: times of entries are off by that, durations are right; a reboot mends it", skew.Round(time.Second)))
	}
	if lost := n.files.Load(); lost != nil {
		for _, err := range *lost {
			bad("%s", err)
		}
	}
	n.statusRoom(bad)
	if why, _ := n.noMetrics.Load().(string); why != "" {
		s.Warnings = append(s.Warnings, why)
	}
	if n.enforce == nil {
		if n.leftover {
			bad("kernel: %s holds lists of an earlier daemon, which nobody keeps up to date; name the interfaces, or run: portcullis detach", n.config.PinDir)
		}
		return s
	}
	n.statusKernel(&s, bad)
	return s
}

// statusKernel is the part of status that concerns packets.
func (n *node) statusKernel(s *control.Status, bad func(string, ...any)) {
	reached, failure := n.enforce.state()
	if s.Generation.Kernel = reached; failure != nil {
		bad("kernel: does not enforce generation %d: %s", s.Generation.Store, failure)
	}
	if d := n.enforce.drifted(); d.addresses > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("kernel: its maps judged %d addresses otherwise than the lists, and were written again at %s; the last was %s",
			d.addresses, d.mended.UTC().Format(time.RFC3339), d.last))
	}
	bypass, err := n.maps.Bypass()
	if err != nil {
		bad("kernel: read bypass: %s", err)
	}
	if s.Bypass = bypass; bypass {
		bad("kernel: bypass is on, nothing is blocked; end it with: portcullis bypass off")
	}
	s.Memory.Used += n.checkIndex(bad)
	n.countDrops(s, bad)
	for _, a := range *n.interfaces.Load() {
		s.Interfaces = append(s.Interfaces, n.wireInterface(a, bad))
	}
}

// checkIndex says what is wrong with the kernel's index over the tries, and how much memory it takes.
func (n *node) checkIndex(bad func(string, ...any)) (bytes uint64) {
	if n.config.Lookup == string(loader.LookupLPM) {
		return 0
	}
	x, err := n.index()
	switch {
	case err != nil:
		bad("kernel: read index: %s", err)
	case x.Mismatches > 0:
		bad("kernel: the index contradicted the tries for %d of %d packets that were judged by both; please report it", x.Mismatches, x.Checked)
	case !x.IPv4:
		bad("kernel: no index, IPv4 sources are looked up in the slower way; the log says why")
	case !x.IPv6:
		bad("kernel: no index, IPv6 sources are looked up in the slower way; the log says why")
	case x.Lease <= 0:
		bad("kernel: drops are looked up in the slower way until the lists are written")
	}
	return uint64(x.Bytes)
}

// index is the state of the kernel's index.
func (n *node) index() (loader.IndexState, error) {
	if n.maps == nil {
		return loader.IndexState{}, errors.New("no packets are judged here")
	}
	return n.maps.Index()
}

func (n *node) wireInterface(a loader.Attachment, bad func(string, ...any)) control.Interface {
	w := control.Interface{Name: a.Interface, Mode: string(a.Mode), Frags: a.Frags, Layer3: a.Layer3, Fallback: a.Fallback, Counters: []control.Counter{}}
	if a.Err != nil {
		w.Error = a.Err.Error()
		if protected(a) {
			bad("%s: %s", a.Interface, a.Err)
		} else {
			bad("%s: not protected: %s", a.Interface, a.Err)
		}
	}
	if a.Fallback != "" {
		bad("%s: generic mode, slower than native: %s", a.Interface, a.Fallback)
	}
	counts, err := n.maps.Counters(a.Interface)
	if err != nil && protected(a) {
		bad("%s: read counters: %s", a.Interface, err)
	}
	for _, c := range counts {
		w.Counters = append(w.Counters, control.Counter(c))
	}
	return w
}
