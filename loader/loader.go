package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
)

// Errors of the loader; test with errors.Is. Each is wrapped with what was tried, and how to mend it.
var (
	ErrNoInterface    = errors.New("no such interface")
	ErrUnsupported    = errors.New("interface type is not supported")
	ErrNotPermitted   = errors.New("not permitted") // not root, or capabilities missing
	ErrNoBPFFS        = errors.New("pin directory is not on a bpf filesystem")
	ErrForeignProgram = errors.New("another XDP program is attached")
	ErrLayout         = errors.New("pinned maps are of another version")
	ErrKernelTooOld   = errors.New("kernel is too old")
	ErrNativeMode     = errors.New("native XDP is not available")
	ErrGenericMode    = errors.New("generic XDP was asked for")
	ErrFull           = errors.New("kernel map is full")
	ErrNotLoaded      = errors.New("nothing is pinned there")                    // no daemon ever ran with this pin directory
	ErrLocked         = errors.New("pin directory is in use by another process") // two daemons on one pin directory
	ErrDetached       = errors.New("detached on request")                        // by Detach; Attach or a new daemon attaches again
)

// Mode is how the program is attached.
type Mode string

const (
	ModeNative            Mode = "native"              // or refuse
	ModeGeneric           Mode = "generic"             // or refuse
	ModeNativeThenGeneric Mode = "native-then-generic" // native with xdp.frags, native without, generic
)

// Lookup is a way to look up sources.
type Lookup string

const (
	LookupIndexed Lookup = "indexed" // in an index, which asks the tries where it does not know
	LookupLPM     Lookup = "lpm"     // in the tries alone: slower, and each way out has its counter
)

// DefaultPinDir is where pins are unless Options say otherwise.
const DefaultPinDir = "/sys/fs/bpf/portcullis"

// DefaultCapacity is the room of each trie, in prefixes, unless Options say otherwise.
const DefaultCapacity = 16 << 20

// Options of [Open] and [OpenMaps]. The zero value works.
type Options struct {
	PinDir string // "": DefaultPinDir
	Mode   Mode   // "": ModeNativeThenGeneric
	// Capacity bounds the prefixes of each family (0: DefaultCapacity); tries take memory only for what they hold.
	// Open with another capacity than before makes new maps, which take over as those of another layout do.
	Capacity uint32
	// Boot turns a wall-clock time into CLOCK_BOOTTIME (lists/store.Clock.Boot). nil: by the clocks as they are now.
	Boot   func(t time.Time) time.Duration
	Logger *slog.Logger // nil: no log
	// Lookup is how programs look up sources. "": LookupIndexed.
	Lookup Lookup
	// Accounting is what programs count for entries. "": AccountingSampled.
	Accounting Accounting

	layout uint32                  // 0: bpf.Layout; tests pretend to be another build
	step   func(step string) error // nil, or called before each named step of a change of pins; tests fail there
}

func (o Options) withDefaults() Options {
	if o.PinDir == "" {
		o.PinDir = DefaultPinDir
	}
	if o.Mode == "" {
		o.Mode = ModeNativeThenGeneric
	}
	if o.Capacity == 0 {
		o.Capacity = DefaultCapacity
	}
	if o.Boot == nil {
		o.Boot = bootTime
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.layout == 0 {
		o.layout = bpf.Layout
	}
	if o.step == nil {
		o.step = func(string) error { return nil }
	}
	return o
}

// spec describes programs and maps as these options want them.
func (o Options) spec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.Spec()
	if err != nil {
		return nil, err
	}
	for _, name := range trieNames {
		spec.Maps[name].MaxEntries = o.Capacity
	}
	mode := bpf.ModeIndexed
	if o.Lookup == LookupLPM {
		mode = bpf.ModeLPM
	}
	if err := spec.Variables[bpf.VarMode].Set(mode); err != nil {
		return nil, fmt.Errorf("set lookup mode: %w", err)
	}
	accounting := bpf.AccountingSampled
	if o.Accounting == AccountingExact {
		accounting = bpf.AccountingExact
		spec.Maps[bpf.MapPrefixes].MaxEntries = min(o.Capacity, hitsRoom)
	}
	if err := spec.Variables[bpf.VarAccounting].Set(accounting); err != nil {
		return nil, fmt.Errorf("set accounting: %w", err)
	}
	return spec, nil
}

// Loader is the privileged half: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. Its methods must not be called
// concurrently, except Maps. Interfaces are those of the network namespace of the calling thread.
type Loader struct {
	o    Options
	dir  pinDir
	lock *dirLock // held until Close: one Loader a pin directory
	maps *Maps
	// staged: maps lie in the staging directory, filled but read by no program; the first Attach makes them real.
	staged bool
	// tookOver: every pinned link has been seen to read these maps.
	tookOver bool
	ifaces   []*remembered
}

// Open checks privileges and kernel, mounts a bpf filesystem if PinDir is under /sys/fs/bpf and none is there,
// and locks the pin directory ([ErrLocked]). It adopts pinned maps, or makes and publishes empty ones; it attaches
// nothing.
//
// Where the pins are of another layout or capacity and programs still read them, new maps are made in a staging
// directory. Fill them with Maps().Replace; the first Attach points every pinned link at them, then publishes
// them in place of the old pins. Until then the old program judges by the old maps, so there is no moment
// without judgement, and a process that dies halfway leaves what a later Open begins anew from.
func Open(o Options) (*Loader, error) {
	o = o.withDefaults()
	switch o.Mode {
	case ModeNative, ModeGeneric, ModeNativeThenGeneric:
	default:
		return nil, fmt.Errorf("open loader: %w: mode %q; there are %s, %s and %s",
			ErrUnsupported, o.Mode, ModeNative, ModeGeneric, ModeNativeThenGeneric)
	}
	if err := checkHost(); err != nil {
		return nil, err
	}
	dir, err := makePinDir(o)
	if err != nil {
		return nil, err
	}
	lock, err := dir.claim()
	if err != nil {
		return nil, err
	}
	l := &Loader{o: o, dir: dir, lock: lock}
	if err := l.openMaps(); err != nil {
		lock.release()
		return nil, err
	}
	if err := l.openHits(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// openMaps adopts the pinned maps or makes new ones, under the lock for changes of pins.
func (l *Loader) openMaps() error {
	unlock, err := l.dir.lockChanges()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.dir.removeStaging(); err != nil {
		return err
	}
	m, err := openPinned(l.dir, l.dir.path, l.o)
	switch {
	case err == nil && m.capacity == l.o.Capacity:
		l.maps = m
		l.o.Logger.Info("adopted pinned maps", "pin_dir", l.dir.path, "generation", m.Generation())
		return nil
	case err == nil:
		l.o.Logger.Info("capacity changed, new maps will take over", "was", m.capacity, "is", l.o.Capacity)
		_ = m.Close()
	case errors.Is(err, ErrNotLoaded):
	case errors.Is(err, ErrLayout):
		l.o.Logger.Info("pinned maps are of another version, new ones will take over", "because", err)
	default:
		return err
	}
	return l.makeMaps()
}

// makeMaps makes empty maps and publishes them, unless programs read others: then they stay staged.
func (l *Loader) makeMaps() error {
	links, err := l.dir.links()
	if err != nil {
		return err
	}
	if err := createMaps(l.dir, l.o); err != nil {
		return err
	}
	if len(links) == 0 {
		if err := l.dir.publishMaps(l.o); err != nil {
			return err
		}
		l.maps, err = openPinned(l.dir, l.dir.path, l.o)
		return err
	}
	l.staged = true
	l.maps, err = openPinned(l.dir, l.dir.stagingMaps(), l.o)
	return err
}

// Enforced is the generation of the lists that the kernel enforces at this moment: those of an earlier daemon until the
// first Replace, or while new maps wait for the first Attach. 0 if nothing is enforced.
func (l *Loader) Enforced() uint64 {
	if !l.staged {
		return l.maps.Generation()
	}
	var generation uint64
	if err := l.dir.withCommon(func(w *commonWords) { generation = atomic.LoadUint64(&w.Generation) }); err != nil {
		return 0
	}
	return generation
}

// Maps returns the other half, open for as long as the Loader is. It may be called and used concurrently.
func (l *Loader) Maps() *Maps { return l.maps }

// Close closes file descriptors and the lock; packets are judged as before. Staged maps that no Attach made real
// are forgotten, and where no link is pinned, so that no packet is judged, the pins are removed.
func (l *Loader) Close() error {
	err := l.maps.Close()
	if l.staged {
		err = errors.Join(err, l.dir.removeStaging())
		l.staged = false
	}
	l.lock.release()
	unlock, lockErr := l.dir.lockChanges()
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer unlock()
	return errors.Join(err, l.dir.removeIfUnused())
}
