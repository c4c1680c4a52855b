package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader/compile"
)

// Maps is the half of the loader that needs no capability: from Linux 6.0 on a process without any may use it,
// if it may enter the pin directory and owns the pins (before, unless kernel.unprivileged_bpf_disabled is 0,
// CAP_BPF is needed). Safe for concurrent use; the lists are to be written by one process at a time, the switches
// may be written by any.
type Maps struct {
	dir      pinDir
	boot     clock
	log      *slog.Logger
	capacity uint32
	lookup   Lookup
	exact    bool // accounting

	life     sync.RWMutex // held for reading by every method, for writing by Close
	open     bool
	control  *ebpf.Map
	words    *controlWords
	sides    [2]side // a, b: the active one is words.Active
	checks   *ebpf.Map
	sources  *ebpf.Map
	prefixes *ebpf.Map // of exact accounting, only where a Loader is
	samples  *ebpf.Map
	sampled  *ebpf.Map

	watching sync.Mutex // ReadSamples

	writing sync.Mutex // Replace, Apply, Renew
	index   index
	index6  index6
	// unsure: the table of Follow may not be what the tries hold. Then no index is made from it.
	unsure bool
	mend   retry
	drawn  drawn  // as this process left it
	held   [2]int // prefixes in the active tries, v4 and v6; -1: not known
	idle   idle
}

// side is one of the two sets of tries.
type side struct {
	v4 trie[bpf.KeyV4]
	v6 trie[bpf.KeyV6]
}

// controlWords is the control map, mapped into memory. Every word is written by one aligned store of its own, so
// processes that write different words (lists, bypass) cannot lose each other's.
type controlWords bpf.Control

// OpenMaps opens what a daemon pinned. [ErrNotLoaded], [ErrLayout], [ErrNotPermitted].
func OpenMaps(o Options) (*Maps, error) {
	o = o.withDefaults()
	path, err := filepath.Abs(o.PinDir)
	if err != nil {
		return nil, fmt.Errorf("find pin directory: %w", err)
	}
	return openPinned(pinDir{path}, path, o)
}

// openPinned opens the maps that are pinned in from, the pin directory or its staging directory.
func openPinned(dir pinDir, from string, o Options) (_ *Maps, err error) {
	m := &Maps{dir: dir, boot: o.Boot, log: o.Logger, lookup: o.Lookup, exact: o.Accounting == AccountingExact, held: [2]int{-1, -1}, unsure: true, open: true}
	defer func() {
		if err != nil {
			_ = m.Close()
		}
	}()
	if m.control, err = loadPin(filepath.Join(from, bpf.MapControl)); err != nil {
		return nil, err
	}
	if m.words, err = mapControl(m.control); err != nil {
		return nil, err
	}
	if got := atomic.LoadUint32(&m.words.Layout); got != o.layout {
		return nil, fmt.Errorf("open pinned maps in %s: %w: they have layout %d, this build has %d", from, ErrLayout, got, o.layout)
	}
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	for _, t := range []struct {
		name string
		to   **ebpf.Map
	}{
		{bpf.MapV4A, &m.sides[0].v4.m}, {bpf.MapV4B, &m.sides[1].v4.m},
		{bpf.MapV6A, &m.sides[0].v6.m}, {bpf.MapV6B, &m.sides[1].v6.m},
	} {
		if *t.to, err = openMap(from, t.name, spec.Maps[t.name]); err != nil {
			return nil, err
		}
	}
	m.capacity = m.sides[0].v4.m.MaxEntries()
	m.idle.full = true // a process may have been killed before it emptied them
	if m.index.tables, err = openTables(from, spec, bpf.MapIndex, bpf.MapGate); err != nil {
		return nil, err
	}
	if m.index6.tables, err = openTables(from, spec, bpf.MapIndex6, bpf.MapRoot6); err != nil {
		return nil, err
	}
	for _, t := range []struct {
		name string
		to   **ebpf.Map
	}{{bpf.MapChecks, &m.checks}, {bpf.MapSources, &m.sources}, {bpf.MapSamples, &m.samples}, {bpf.MapSampled, &m.sampled}} {
		if *t.to, err = openMap(from, t.name, spec.Maps[t.name]); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// openMap opens a pinned map of any capacity.
func openMap(from, name string, want *ebpf.MapSpec) (*ebpf.Map, error) {
	t, err := loadPin(filepath.Join(from, name))
	if errors.Is(err, ErrNotLoaded) {
		return nil, fmt.Errorf("%w: %w", ErrLayout, err) // control is there, so an incomplete set
	}
	if err != nil {
		return nil, err
	}
	want = want.Copy()
	want.MaxEntries = t.MaxEntries()
	if err := want.Compatible(t); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("open pinned map %s: %w: %w", name, ErrLayout, err)
	}
	return t, nil
}

func loadPin(path string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open %s: %w: start the daemon first, or name its pin directory", path, ErrNotLoaded)
	case err != nil:
		return nil, fmt.Errorf("open pinned map %s: %w", path, permission(err))
	}
	return m, nil
}

// createMaps makes empty maps in the staging directory.
func createMaps(dir pinDir, o Options) error {
	if err := stage(dir.stagingMaps()); err != nil {
		return err
	}
	spec, err := o.spec()
	if err != nil {
		return err
	}
	for _, name := range mapNames {
		if err := createMap(spec.Maps[name], filepath.Join(dir.stagingMaps(), name), func(m *ebpf.Map) error {
			if name != bpf.MapControl {
				return nil
			}
			w, err := mapControl(m)
			if err != nil {
				return err
			}
			defer w.unmap()
			w.Layout = o.layout
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// createMap makes a map, prepares it, and pins it.
func createMap(spec *ebpf.MapSpec, path string, prepare func(*ebpf.Map) error) error {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make map %s: %w", spec.Name, permission(err))
	}
	defer m.Close()
	if err := prepare(m); err != nil {
		return err
	}
	if err := m.Pin(path); err != nil {
		return fmt.Errorf("pin map %s: %w", spec.Name, permission(err))
	}
	return nil
}

// Close closes file descriptors; nothing in the kernel changes. It waits for running calls.
func (m *Maps) Close() error {
	m.life.Lock()
	defer m.life.Unlock()
	if !m.open {
		return nil
	}
	m.open = false
	if m.words != nil {
		m.words.unmap()
	}
	for _, s := range []*space{m.index.space, m.index6.space} {
		if s != nil {
			s.free()
		}
	}
	m.index.unmap()
	m.index6.unmap()
	var errs []error
	if m.prefixes != nil {
		errs = append(errs, m.prefixes.Close())
	}
	for _, each := range m.shared() {
		errs = append(errs, each.Close())
	}
	for t := m.discarded(); t != nil; t = m.discarded() {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// shared are the maps that all interfaces read, by name: those of mapNames.
func (m *Maps) shared() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		bpf.MapControl: m.control,
		bpf.MapV4A:     m.sides[0].v4.m, bpf.MapV6A: m.sides[0].v6.m,
		bpf.MapV4B: m.sides[1].v4.m, bpf.MapV6B: m.sides[1].v6.m,
		bpf.MapIndex: m.index.outer, bpf.MapGate: m.index.small,
		bpf.MapIndex6: m.index6.outer, bpf.MapRoot6: m.index6.small,
		bpf.MapChecks: m.checks, bpf.MapSources: m.sources, bpf.MapSamples: m.samples, bpf.MapSampled: m.sampled,
	}
}

// enter keeps Close away until leave, or says that it was called.
func (m *Maps) enter() (leave func(), err error) {
	m.life.RLock()
	if !m.open {
		m.life.RUnlock()
		return nil, fmt.Errorf("use maps: %w", os.ErrClosed)
	}
	return m.life.RUnlock, nil
}

// Generation is that of the lists which the kernel enforces, as the last Replace or Apply of any process left it;
// 0 after Close.
func (m *Maps) Generation() uint64 {
	leave, err := m.enter()
	if err != nil {
		return 0
	}
	defer leave()
	return atomic.LoadUint64(&m.words.Generation)
}

// Capacity is how many prefixes each trie has room for.
func (m *Maps) Capacity() uint32 { return m.capacity }

// SetFirewall writes the durable switch: off passes everything. It survives this process, not a reboot.
func (m *Maps) SetFirewall(on bool) error {
	leave, err := m.enter()
	if err != nil {
		return err
	}
	defer leave()
	atomic.StoreUint32(&m.words.FirewallOff, word(!on))
	return nil
}

// Bypass reads the emergency switch, see [SetBypass].
func (m *Maps) Bypass() (bool, error) {
	leave, err := m.enter()
	if err != nil {
		return false, err
	}
	defer leave()
	return atomic.LoadUint32(&m.words.Bypass) != 0, nil
}

func word(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

// Lookup reads the cell that the kernel would use for an address: that of the longest prefix in the active tries
// that contains it, deadlines to the second. An IPv4-mapped address is looked up as IPv4, as the kernel does.
func (m *Maps) Lookup(a netip.Addr) (c compile.Cell, found bool, err error) {
	leave, err := m.enter()
	if err != nil {
		return c, false, err
	}
	defer leave()
	var k bpf.Cell
	s := &m.sides[m.words.active()]
	if a = a.Unmap(); a.Is4() {
		key := keyV4(netip.PrefixFrom(a, 32))
		err = patiently(func() error { return s.v4.m.Lookup(&key, &k) })
	} else {
		key := keyV6(netip.PrefixFrom(a, 128))
		err = patiently(func() error { return s.v6.m.Lookup(&key, &k) })
	}
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return c, false, nil
	case err != nil:
		return c, false, fmt.Errorf("look up %s: %w", a, err)
	}
	return m.boot.listed(k), true, nil
}

// Next reads up to n prefixes of the active tries, those that come after one that it returned, or the first ones: where
// that one is gone, too. Fewer than n are the last.
func (m *Maps) Next(after netip.Prefix, n int) ([]netip.Prefix, error) {
	leave, err := m.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	s := &m.sides[m.words.active()]
	var last4, last6 any
	switch {
	case !after.IsValid():
	case after.Addr().Is4():
		key := keyV4(after)
		last4 = &key
	default:
		key := keyV6(after)
		last6 = &key
	}
	var all []netip.Prefix
	if last6 == nil {
		keys := make([]bpf.KeyV4, n)
		found, err := s.v4.after(last4, keys)
		if err != nil {
			return nil, err
		}
		for _, k := range keys[:found] {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4(k.Addr), int(k.Prefixlen)))
		}
	}
	keys := make([]bpf.KeyV6, n-len(all))
	found, err := s.v6.after(last6, keys)
	if err != nil {
		return nil, err
	}
	for _, k := range keys[:found] {
		all = append(all, netip.PrefixFrom(netip.AddrFrom16(k.Addr), int(k.Prefixlen)))
	}
	return all, nil
}

// active is the index of the side that programs read; anything but 0 is b, as the program has it.
func (w *controlWords) active() int {
	if atomic.LoadUint32(&w.Active) == 0 {
		return 0
	}
	return 1
}
