package loader

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
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
	ErrNativeMode     = errors.New("driver does not support native XDP")
	ErrFull           = errors.New("kernel map is full")
	ErrNotLoaded      = errors.New("nothing is pinned there") // no daemon ever ran with this pin directory
)

// Mode is how the program is attached.
type Mode string

const (
	ModeNative            Mode = "native"              // or refuse
	ModeGeneric           Mode = "generic"             // or refuse
	ModeNativeThenGeneric Mode = "native-then-generic" // native with xdp.frags, native without, generic
)

// Options of [Open] and [OpenMaps].
type Options struct {
	PinDir string // "": /sys/fs/bpf/portcullis
	Mode   Mode   // "": ModeNativeThenGeneric
	// Capacity bounds the prefixes of each family (0: 16 Mi); tries take memory only for what they hold.
	Capacity uint32
	// Boot turns Unix seconds into CLOCK_BOOTTIME (lists/store.Clock.Boot).
	Boot   func(t time.Time) time.Duration
	Logger *slog.Logger
}

// Maps is the half of the loader that needs no privilege. Safe for concurrent use.
type Maps struct{}

// OpenMaps opens what a daemon pinned. [ErrNotLoaded], [ErrLayout], [ErrNotPermitted].
func OpenMaps(o Options) (*Maps, error) { panic("contract") }

// Replace fills the idle tries with cells (sorted, as compile.Table.All yields them), makes them the active ones
// by one store, and empties the old ones in paced batches before it returns. Readers see the old list or the new
// one, never a mix. On error the active tries are as before. progress may be nil.
func (m *Maps) Replace(ctx context.Context, generation uint64, cells iter.Seq2[netip.Prefix, compile.Cell], progress func(done int)) error {
	panic("contract")
}

// Apply writes the rules to the active tries, in order. Transient errors (ENOMEM, EBUSY, EDEADLK, ETIMEDOUT) are
// retried; [ErrFull] leaves a part applied, which Replace or a further Apply mends. Applying is idempotent.
func (m *Maps) Apply(generation uint64, rules []compile.Rule) error { panic("contract") }

// Generation is that of the lists which the kernel enforces.
func (m *Maps) Generation() uint64 { panic("contract") }

// SetFirewall writes the durable switch: off passes everything. It survives this process, not a reboot.
func (m *Maps) SetFirewall(on bool) error { panic("contract") }

// SetBypass writes the emergency switch of `portcullis bypass`.
func (m *Maps) SetBypass(on bool) error { panic("contract") }

// Bypass reads it.
func (m *Maps) Bypass() (bool, error) { panic("contract") }

// Lookup reads the cell that the kernel would use for an address: the prefix that matched and its cell.
func (m *Maps) Lookup(a netip.Addr) (c compile.Cell, found bool, err error) { panic("contract") }

// Count is one counter, summed over CPUs since the map was made.
type Count struct {
	Reason  string // "drop_blacklisted"
	Family  string // "ipv4", "ipv6", "other"
	Packets uint64
	Bytes   uint64
}

// Counters returns every counter of an interface, in a fixed order, zeros included.
func (m *Maps) Counters(iface string) ([]Count, error) { panic("contract") }

// Close closes file descriptors; nothing in the kernel changes.
func (m *Maps) Close() error { panic("contract") }

// Attachment is the state of one interface.
type Attachment struct {
	Interface string
	Index     int    // 0: the interface does not exist now
	Mode      Mode   // native or generic as it is, "" if not attached
	Frags     bool   // the multi-buffer program
	Layer3    bool   // the entry program for devices without an Ethernet header
	Fallback  string // why native was refused, in the kernel's words; "" if native
	Err       error  // why it is not attached now; nil if it is
	Adopted   bool   // a previous daemon had attached it
}

// Loader is the privileged half. Its methods must not be called concurrently, except Maps.
type Loader struct{}

// Open checks privileges and kernel, mounts a bpf filesystem if PinDir is under /sys/fs/bpf and none is there,
// takes a lock on the pin directory, adopts pinned maps or makes them (published by rename), and loads nothing yet.
func Open(o Options) (*Loader, error) { panic("contract") }

// Maps returns the other half, open for as long as the Loader is.
func (l *Loader) Maps() *Maps { panic("contract") }

// Attach puts the program of this build on the interface, pinned: by link.Update if a link of ours is pinned for
// it (no packet in between is unjudged), else by attaching in the order of Options.Mode. A program of somebody
// else is left alone: [ErrForeignProgram] names it. The interface is remembered for [Loader.Reconcile].
func (l *Loader) Attach(iface string) (Attachment, error) { panic("contract") }

// Reconcile looks at every interface given to Attach and attaches again where one was deleted and made anew.
// Call it on RTM_NEWLINK and every second.
func (l *Loader) Reconcile() []Attachment { panic("contract") }

// Watch blocks until an interface appears, changes or goes away, or ctx ends.
func Watch(ctx context.Context, changed func()) error { panic("contract") }

// Close closes file descriptors and the lock; packets are judged as before.
func (l *Loader) Close() error { panic("contract") }

// Detach takes the program off these interfaces (none given: off all) and removes their pins; when none is left
// it removes the maps too. It works with and without a daemon. It is the only way to end enforcement.
// It returns the interfaces it detached.
func Detach(pinDir string, ifaces ...string) ([]string, error) { panic("contract") }

var _ lists.Verdict
