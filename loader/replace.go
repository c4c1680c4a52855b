package loader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader/compile"
)

// Replace fills the idle tries with cells (sorted, as compile.Table.All yields them), makes them the active ones
// by one store. More than some thousands of old ones are for [Maps.Sweep] to delete; another Replace before they are
// deletes the rest itself, at once. Every packet is judged by the old list or by the new one, never by a mix. On error the active
// tries are as before: [ErrFull], ctx's error. hosts is about how many single IPv4 addresses are to be dropped: with it
// tries and index are filled at a time, each on a CPU of its own; 0 is not known.
// progress may be nil; it is called with the number of prefixes written, about every 16 Ki.
func (m *Maps) Replace(ctx context.Context, generation uint64, cells iter.Seq2[netip.Prefix, compile.Cell], hosts int, progress func(done int)) error {
	leave, err := m.enter()
	if err != nil {
		return err
	}
	defer leave()
	m.writing.Lock()
	defer m.writing.Unlock()

	idle := 1 - m.words.active()
	m.idle.Lock()
	defer m.idle.Unlock()
	m.unsure = true
	if err := m.emptyIdle(ctx); err != nil {
		return fmt.Errorf("empty idle tries: %w", err)
	}
	f := filler{to: &m.sides[idle], boot: m.boot, room: int(m.capacity), progress: progress}
	b := m.beginIndexes(hosts)
	defer b.four.abandon()
	flip, err := func() (func() func() error, error) {
		if err := f.fill(ctx, b.indexing(ctx, cells)); err != nil {
			return nil, err
		}
		return b.finish()
	}()
	m.idle.full, m.idle.likely4, m.idle.likely6 = true, f.keys4, f.keys6 // a list read anew changes little
	if err != nil {
		return fmt.Errorf("fill idle tries: %w", err)
	}
	done := m.changing()
	atomic.StoreUint32(&m.words.Active, uint32(idle))
	freeOld := flip()
	done()
	m.note()
	m.renew(nil)
	atomic.StoreUint64(&m.words.Generation, generation)
	m.held, m.unsure = [2]int{len(f.keys4), len(f.keys6)}, false

	waitForReaders()
	if err := freeOld(); err != nil {
		m.log.Warn("old index is not freed yet; the next replacement does", "error", err)
	}
	if err := m.forgetGone(); err != nil {
		m.log.Warn("counts of entries that are gone are kept", "error", err)
	}
	if err := m.sweepBatch(); err != nil { // all of a short list
		m.log.Warn("old tries are not empty yet; sweeping them will be tried again", "error", err)
	}
	return nil
}

// newIndexes are those of both families.
type newIndexes struct {
	m    *Maps
	four *newIndex
	six  *newIndex6
}

func (m *Maps) beginIndexes(hosts int) newIndexes {
	return newIndexes{m, m.beginIndex(hosts), &newIndex6{m: m}}
}

// indexing hands on cells to a filling of the tries and to those of the indexes, and keeps the lease of the indexes
// that are read meanwhile.
func (b newIndexes) indexing(ctx context.Context, cells iter.Seq2[netip.Prefix, compile.Cell]) iter.Seq2[netip.Prefix, compile.Cell] {
	return func(yield func(netip.Prefix, compile.Cell) bool) {
		n := 0
		for p, c := range cells {
			switch {
			case b.m.lookup == LookupLPM:
			case p.Addr().Is4():
				b.four.add(p, c)
			default:
				b.six.add(p, c)
			}
			if n++; n%putBatch == 0 {
				b.m.renew(nil)
			}
			if ctx.Err() != nil || !yield(p, c) {
				return
			}
		}
	}
}

// finish builds both on the sides that are not read.
func (b newIndexes) finish() (flip func() (after func() error), err error) {
	four, err := b.four.finish()
	if err != nil {
		return nil, err
	}
	b.m.renew(nil)
	six, err := b.six.finish()
	if err != nil {
		return nil, err
	}
	return func() func() error {
		free4, free6 := four(), six()
		return func() error { return errors.Join(free4(), free6()) }
	}, nil
}

// waitForReaders returns once no program runs that read the control words before the call.
func waitForReaders() {
	// It waits for an RCU grace period; programs run inside RCU read sections.
	const membarrierCmdGlobal = 1 // linux/membarrier.h
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierCmdGlobal, 0, 0)
	if errno != 0 { // nohz_full kernels refuse it; a program runs for microseconds
		time.Sleep(100 * time.Millisecond)
	}
}

// filler writes cells to empty tries in batches, and keeps the keys. One batch is written while the next is made.
type filler struct {
	to       *side
	boot     clock
	room     int // of each family
	progress func(done int)

	keys4 []bpf.KeyV4
	keys6 []bpf.KeyV6
	cells []bpf.Cell // of the last keys of the family that was met last: not written yet
	last4 bool
	spare []bpf.Cell
	put   errgroup.Group // writes the last batch
}

// fillBatch is how many prefixes are written in one system call, which takes some 15 ms.
const fillBatch = 16 << 10

func (f *filler) fill(ctx context.Context, cells iter.Seq2[netip.Prefix, compile.Cell]) (err error) {
	defer func() { err = cmp.Or(err, f.wait()) }() // nobody writes once this has returned
	for p, c := range cells {
		is4 := p.Addr().Is4()
		if len(f.cells) == fillBatch || is4 != f.last4 {
			if err := f.flush(ctx); err != nil {
				return err
			}
		}
		f.last4 = is4
		if is4 {
			f.keys4 = append(f.keys4, keyV4(p))
		} else {
			f.keys6 = append(f.keys6, keyV6(p))
		}
		f.cells = append(f.cells, f.boot.cell(p, c))
		if max(len(f.keys4), len(f.keys6)) > f.room {
			return fmt.Errorf("%w: more than %d prefixes of a family", ErrFull, f.room)
		}
	}
	return f.flush(ctx)
}

// flush begins to write the cells once the batch before is written.
func (f *filler) flush(ctx context.Context) error {
	if err := cmp.Or(f.wait(), ctx.Err()); err != nil {
		return err
	}
	cells, done := f.cells, len(f.keys4)+len(f.keys6)
	var write func() error
	if f.last4 {
		keys := f.keys4[len(f.keys4)-len(cells):]
		write = func() error { return f.to.v4.put(keys, cells) }
	} else {
		keys := f.keys6[len(f.keys6)-len(cells):]
		write = func() error { return f.to.v6.put(keys, cells) }
	}
	f.cells, f.spare = f.spare[:0], f.cells
	f.put.Go(func() error {
		err := write()
		if err == nil && f.progress != nil {
			f.progress(done)
		}
		return err
	})
	return nil
}

// wait returns what writing the batches came to.
func (f *filler) wait() error { return f.put.Wait() }
