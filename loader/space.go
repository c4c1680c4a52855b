package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/portcullis/portcullis/loader/compile"
)

// tables are the maps of one family's index: two sides of segments, and one small map for both sides (the gate of IPv4,
// the root of IPv6).
type tables struct {
	outer *ebpf.Map
	slots int           // of a side
	spec  *ebpf.MapSpec // of a segment
	small *ebpf.Map
	words []uint64 // of small, mapped
}

// openTables opens pinned ones.
func openTables(from string, spec *ebpf.CollectionSpec, outer, small string) (t tables, err error) {
	if t.outer, err = openMap(from, outer, spec.Maps[outer]); err != nil {
		return t, err
	}
	t.slots = int(t.outer.MaxEntries()) / 2
	t.spec = spec.Maps[outer].InnerMap.Copy()
	t.spec.Name = "segment"
	if t.small, err = openMap(from, small, spec.Maps[small]); err != nil {
		return t, err
	}
	t.words, err = mapWords(t.small, int(t.small.MaxEntries()*t.small.ValueSize()/8))
	return t, err
}

func (t *tables) unmap() {
	if t.words != nil {
		unmapWords(t.words)
	}
}

// on makes room for an index on a side.
func (t *tables) on(side int) *space {
	half := len(t.words) / 2
	return &space{tables: t, side: side, small: t.words[side*half:][:half]}
}

// space is the memory of an index: segments in one side of the outer map.
type space struct {
	*tables
	side     int
	mapped   [][]uint64
	staged   []uint32    // keys of segments that wait for publish
	segments []*ebpf.Map // of staged
	public   bool        // readers find what Segment makes
	small    []uint64
}

// Segment makes a map, needs CAP_BPF.
func (s *space) Segment(slot int) ([]uint64, error) {
	m, err := ebpf.NewMap(s.spec)
	if err != nil {
		return nil, fmt.Errorf("make segment of index: %w", permission(err))
	}
	words, err := mapWords(m, compile.SegmentWords)
	if err != nil {
		_ = m.Close()
		return nil, err
	}
	s.mapped = append(s.mapped, words)
	s.staged = append(s.staged, uint32(s.side*s.slots+slot))
	s.segments = append(s.segments, m)
	if s.public {
		if err := s.publish(); err != nil {
			return nil, err
		}
	}
	return words, nil
}

// publish puts the segments into the outer map, all in one call where the kernel can: each waits for readers.
func (s *space) publish() error {
	s.public = true
	fds := make([]uint32, len(s.segments))
	for i, m := range s.segments {
		fds[i] = uint32(m.FD())
	}
	_, err := s.outer.BatchUpdate(s.staged, fds, nil)
	for i := 0; err != nil && i < len(fds); i++ {
		if one := patiently(func() error { return s.outer.Update(&s.staged[i], &fds[i], ebpf.UpdateAny) }); one != nil {
			return fmt.Errorf("publish segment of index: %w", permission(one))
		}
	}
	for _, m := range s.segments {
		_ = m.Close()
	}
	s.staged, s.segments = nil, nil
	return nil
}

// Gate empties the side's part of the small map.
func (s *space) Gate() []uint64 {
	clear(s.small)
	return s.small
}

// Wait waits for readers.
func (s *space) Wait() { waitForReaders() }

// free gives the memory back once nobody reads the side.
func (s *space) free() {
	for _, p := range s.mapped {
		unmapWords(p)
	}
	for _, m := range s.segments {
		_ = m.Close()
	}
	s.mapped, s.staged, s.segments = nil, nil, nil
}

// clear removes all segments of a side, also those of an earlier process.
func (t *tables) clear(side int) error {
	for slot := range t.slots {
		key := uint32(side*t.slots + slot)
		var id uint32
		if t.outer.Lookup(&key, &id) != nil {
			continue
		}
		if err := patiently(func() error { return t.outer.Delete(&key) }); err != nil {
			return fmt.Errorf("remove segment of index: %w", err)
		}
	}
	return nil
}
