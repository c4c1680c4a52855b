package loader

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

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
