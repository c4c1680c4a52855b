package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

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
	// Which segments of a side are filled, if that is known: to ask the kernel takes long before Linux 6.8.
	known  [2]bool
	filled [2][]uint32
	blank  [2]bool // the side's part of small is surely all zero
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

// forget is for when another process may have written.
func (t *tables) forget() { t.known, t.blank = [2]bool{}, [2]bool{} }

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
	s.filled[s.side] = append(s.filled[s.side], s.staged...)
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
	s.blank[s.side] = false
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

// clear removes all segments of a side, also those of an earlier process, and then what the small map tells of them:
// in the other order, it would deny what readers still find.
func (t *tables) clear(side int) error {
	if !t.known[side] {
		if err := t.scan(side); err != nil {
			return err
		}
	}
	var g errgroup.Group
	g.SetLimit(waiters)
	for _, key := range t.filled[side] {
		g.Go(func() error {
			err := patiently(func() error { return t.outer.Delete(&key) })
			if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("remove segment of index: %w", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	t.known[side], t.filled[side] = true, nil
	if !t.blank[side] {
		clear(t.on(side).small)
		t.blank[side] = true
	}
	return nil
}

// waiters is how many calls that each wait for readers, 20 ms or so, are made at a time: they wait together.
const waiters = 32

// scan finds the segments of a side. Before Linux 6.8 each look-up of one waits for readers.
func (t *tables) scan(side int) error {
	workers := 1
	if olderThan(6, 8) {
		workers = waiters
	}
	found := make([]bool, t.slots)
	var g errgroup.Group
	for w := range workers {
		g.Go(func() error {
			for slot := w; slot < t.slots; slot += workers {
				key := uint32(side*t.slots + slot)
				var id uint32
				err := patiently(func() error { return t.outer.Lookup(&key, &id) })
				if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
					return fmt.Errorf("look for segments of index: %w", err)
				}
				found[slot] = err == nil
			}
			return nil
		})
	}
	err := g.Wait()
	t.filled[side] = nil
	for slot, there := range found {
		if there {
			t.filled[side] = append(t.filled[side], uint32(side*t.slots+slot))
		}
	}
	return err
}
