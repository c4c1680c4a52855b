package loader

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
)

// commonWords are the first words of control. They keep their place in every layout, so that a build can read and switch
// what another pinned.
type commonWords struct {
	Layout, Active, Bypass, FirewallOff uint32
	Generation                          uint64
}

// withCommon opens the control map that is pinned, whatever its layout, and calls f with its first words.
func (d pinDir) withCommon(f func(*commonWords)) error {
	m, err := loadPin(filepath.Join(d.path, bpf.MapControl))
	if err != nil {
		return err
	}
	defer m.Close()
	if m.Type() != ebpf.Array || m.ValueSize() < uint32(unsafe.Sizeof(commonWords{})) {
		return fmt.Errorf("read control words: %w: %s with values of %d bytes", ErrLayout, m.Type(), m.ValueSize())
	}
	p, err := unix.MmapPtr(m.FD(), 0, nil, uintptr(unix.Getpagesize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map control words: %w", permission(err))
	}
	f((*commonWords)(p))
	_ = unix.MunmapPtr(p, uintptr(unix.Getpagesize()))
	return nil
}

// SetBypass writes the emergency switch of `portcullis bypass` into what is pinned, also by a build of another layout: on
// passes everything, at once, on all interfaces. It needs no daemon, survives its restarts and upgrades, and not a reboot.
// pinDirectory "" is [DefaultPinDir]. [ErrNotLoaded], [ErrNotPermitted].
func SetBypass(pinDirectory string, on bool) error {
	path, err := filepath.Abs(Options{PinDir: pinDirectory}.withDefaults().PinDir)
	if err != nil {
		return fmt.Errorf("find pin directory: %w", err)
	}
	return pinDir{path}.withCommon(func(w *commonWords) { atomic.StoreUint32(&w.Bypass, word(on)) })
}

// mapControl maps the one element of the control map into memory; the mapping outlives m. ebpf.Memory is not used
// because it copies bytes, and only an aligned store of a whole word is atomic for the program that reads it.
func mapControl(m *ebpf.Map) (*controlWords, error) {
	if size := unsafe.Sizeof(controlWords{}); m.Type() != ebpf.Array || m.ValueSize() < uint32(size) {
		return nil, fmt.Errorf("map control words: %w: %s with values of %d bytes", ErrLayout, m.Type(), m.ValueSize())
	}
	p, err := unix.MmapPtr(m.FD(), 0, nil, uintptr(unix.Getpagesize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map control words: %w", permission(err))
	}
	return (*controlWords)(p), nil
}

func (w *controlWords) unmap() {
	_ = unix.MunmapPtr(unsafe.Pointer(w), uintptr(unix.Getpagesize())) // fails only for what is not mapped
}

// mapWords maps the elements of a mmapable array into memory, as words. The mapping outlives m.
func mapWords(m *ebpf.Map, n int) ([]uint64, error) {
	p, err := unix.MmapPtr(m.FD(), 0, nil, uintptr(n)*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", m, permission(err))
	}
	return unsafe.Slice((*uint64)(p), n), nil
}

func unmapWords(w []uint64) {
	_ = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(w)), uintptr(len(w))*8)
}
