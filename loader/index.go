package loader

import (
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader/compile"
)

// leaseSpan is how long the index may drop after a [Maps.Renew]. What ends before that is left to the tries.
const leaseSpan = 3 * time.Second

// index is the IPv4 index of Maps, as this process keeps it. Guarded by Maps.writing.
type index struct {
	outer *ebpf.Map
	gate  *ebpf.Map
	gates []uint64      // gate, of both sides, mapped
	spec  *ebpf.MapSpec // of a segment
	x     *compile.Index
	space *space
	table *compile.Table
	// horizon: what ends at or before is left to the tries (CLOCK_BOOTTIME). due has the other ends.
	horizon time.Duration
	due     ends
	state   atomic.Pointer[IndexState] // for those who must not wait for writers
}

// space is the memory of an index: segments in one side of the outer map.
type space struct {
	outer    *ebpf.Map
	spec     *ebpf.MapSpec
	side     int
	mapped   [][]uint64
	staged   []uint32    // keys of segments that wait for publish
	segments []*ebpf.Map // of staged
	public   bool        // readers find what Segment makes
	gate     []uint64
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
	s.staged = append(s.staged, uint32(s.side*bpf.IndexSlots+slot))
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

// Gate empties the side's gate.
func (s *space) Gate() []uint64 {
	clear(s.gate)
	return s.gate
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
func (n *index) clear(side int) error {
	for slot := range bpf.IndexSlots {
		key := uint32(side*bpf.IndexSlots + slot)
		var id uint32
		if n.outer.Lookup(&key, &id) != nil {
			continue
		}
		if err := patiently(func() error { return n.outer.Delete(&key) }); err != nil {
			return fmt.Errorf("remove segment of index: %w", err)
		}
	}
	return nil
}

// Follow tells the index the table that the rules of [Maps.Apply] come from: it must hold what the tries hold
// afterwards, and nobody may change it while a method of m runs. Without a table, the index leaves to the tries
// what Apply changes.
func (m *Maps) Follow(t *compile.Table) {
	m.writing.Lock()
	defer m.writing.Unlock()
	m.index.table = t
}

// soon reports whether an end is left to the tries.
func (m *Maps) soon(deadline int64) bool {
	return m.boot(time.Unix(deadline, 0)) <= m.index.horizon
}

// newIndex fills the side of the index that is not read. nil without an error if there is to be none.
type newIndex struct {
	filling compile.Filling
	due     ends
	m       *Maps
}

func (m *Maps) beginIndex() *newIndex {
	m.index.horizon = bootTime(time.Now()) + leaseSpan
	return &newIndex{m: m, due: ends{at: map[int64][]uint64{}}}
}

func (b *newIndex) add(p netip.Prefix, c compile.Cell) {
	if !p.Addr().Is4() || b.m.lookup == LookupLPM {
		return
	}
	b.filling.Add(p, c, b.m.soon)
	b.due.add(p, c, b.m.soon)
}

// finish builds the index on the side that is not read. It returns what makes it the one that is read, which also
// says what to do once readers have left the old one.
func (b *newIndex) finish() (flip func() (after func() error), err error) {
	n, w := &b.m.index, b.m.words
	side := 1 - w.index()
	if err := n.clear(side); err != nil {
		return nil, err
	}
	var x *compile.Index
	s := &space{outer: n.outer, spec: n.spec, side: side, gate: n.gates[side*compile.GateWords:][:compile.GateWords]}
	if b.m.lookup != LookupLPM {
		x, err = b.filling.Index(s, rand.Uint64())
		if err == nil {
			err = s.publish()
		}
	}
	if err != nil {
		s.free()
		x = nil
		b.m.log.Warn("no index: every packet is looked up in the tries, which is slower", "error", err)
		if err := n.clear(side); err != nil {
			return nil, err
		}
	}
	return func() func() error {
		old := n.space
		n.x, n.space, n.due = x, s, b.due
		n.note()
		if x != nil {
			w.Sides[side].Multiply, w.Sides[side].Shift = x.Mixer()
		}
		atomic.StoreUint32(&w.Index, uint32(side))
		return func() error {
			if old != nil {
				old.free()
			}
			return n.clear(1 - side)
		}
	}, nil
}

// makeRoom makes the index anew, in another size, once the list has outgrown it.
func (m *Maps) makeRoom() {
	n := &m.index
	if n.x != nil && n.table != nil && n.x.Crowded() {
		if err := m.rebuild(); err != nil {
			m.log.Warn("index could not grow: some packets take one more memory access", "error", err)
		}
	}
	n.note()
}

func (m *Maps) rebuild() error {
	b := m.beginIndex()
	b.filling.Expect(m.index.x.Hosts())
	for p, c := range m.index.table.All() {
		b.add(p, c)
	}
	flip, err := b.finish()
	if err != nil {
		return err
	}
	m.changing()
	after := flip()
	m.changing()
	waitForReaders()
	return after()
}

// changing marks the beginning of a change that a self-check must not judge, and its end.
func (m *Maps) changing() { atomic.AddUint32(&m.words.Changes, 1) }

// disown forgets the index once another process has put its own in its place.
func (m *Maps) disown() {
	n := &m.index
	if n.x == nil {
		return
	}
	multiply, _ := n.x.Mixer() // as good as a name: drawn at random
	if side := n.space.side; m.words.index() != side || m.words.Sides[side].Multiply != multiply {
		n.space.free()
		n.x, n.space = nil, nil
		n.note()
	}
}

// removeFromIndex does what must be done to the index before rules are written to the tries, the function that it
// returns what must be done afterwards.
func (m *Maps) removeFromIndex(rules []compile.Rule) (add func(), err error) {
	n := &m.index
	m.disown()
	if n.x == nil {
		// There may be an index of another process, which does not know these rules.
		return func() {}, n.clear(m.words.index())
	}
	for _, r := range rules {
		if r.Prefix.Addr().Is4() && !r.Remove {
			n.due.add(r.Prefix, r.Cell, m.soon)
		}
	}
	if n.table == nil {
		m.ask(rules)
		return func() {}, nil
	}
	c := n.x.Change(n.table, rules, m.soon)
	c.Remove()
	return c.Add, nil
}

func (m *Maps) ask(rules []compile.Rule) {
	for _, r := range rules {
		if r.Prefix.Addr().Is4() {
			m.index.x.Ask(r.Prefix)
		}
	}
}

// Renew lets the index drop for another three seconds: without it, after that time, every drop is looked up in the
// tries, which know when it ends. Call it every second, from the goroutine that changes the table of [Maps.Follow].
func (m *Maps) Renew() error {
	leave, err := m.enter()
	if err != nil {
		return err
	}
	defer leave()
	m.writing.Lock()
	defer m.writing.Unlock()
	m.renew(m.index.table)
	m.drain()
	return nil
}

// renew leaves to the tries what ends before the lease, then extends the lease. table may be nil.
func (m *Maps) renew(table *compile.Table) {
	n := &m.index
	m.disown()
	if n.x == nil {
		return
	}
	n.horizon = bootTime(time.Now()) + leaseSpan
	if rules := n.due.take(m.soon); len(rules) > 0 {
		if table != nil {
			n.x.Change(table, rules, m.soon).Add()
		} else {
			m.ask(rules)
		}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return // cannot fail
	}
	atomic.StoreUint64(&m.words.Lease, uint64(now.Nano()+int64(leaseSpan-100*time.Millisecond)))
}

// ends are prefixes by when they end.
type ends struct {
	order deadlines
	at    map[int64][]uint64 // address, length
}

func (e *ends) add(p netip.Prefix, c compile.Cell, soon func(int64) bool) {
	d, ok := c.Ends()
	if !ok || soon(d) {
		return
	}
	if _, ok := e.at[d]; !ok {
		heap.Push(&e.order, d)
	}
	a := p.Addr().As4()
	e.at[d] = append(e.at[d], uint64(binary.BigEndian.Uint32(a[:]))<<8|uint64(p.Bits()))
}

// take removes what ends soon and returns it.
func (e *ends) take(soon func(int64) bool) (rules []compile.Rule) {
	for len(e.order) > 0 && soon(e.order[0]) {
		d := heap.Pop(&e.order).(int64)
		for _, k := range e.at[d] {
			a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(k>>8))))
			rules = append(rules, compile.Rule{Prefix: netip.PrefixFrom(a, int(k&0xff))})
		}
		delete(e.at, d)
	}
	return rules
}

type deadlines []int64

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i] < d[j] }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(v any)        { *d = append(*d, v.(int64)) }
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	v := (*d)[last]
	*d = (*d)[:last]
	return v
}

// index is the side of the index that programs read.
func (w *controlWords) index() int { return int(atomic.LoadUint32(&w.Index) & 1) }

// IndexState says what the index holds, and how the kernel's self-check of it goes.
type IndexState struct {
	Hosts, Leaves int           // single addresses; /24s with many. 0 if this process did not fill it
	Bytes         int           // of kernel memory
	Lease         time.Duration // how much longer it may drop; 0 or less: not at all
	Checked       uint64        // packets that were judged by the index and by the tries
	Mismatches    uint64        // of these, where they disagreed; anything but 0 is a bug of ours
}

// IndexSays is what the index answers about an IPv4 address: "drop", "pass", or "ask" the tries; "" where there is no index that
// this process filled, and for other addresses. It waits for a change of the lists that is being written.
func (m *Maps) IndexSays(a netip.Addr) (string, error) {
	leave, err := m.enter()
	if err != nil {
		return "", err
	}
	defer leave()
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.disown(); !a.Is4() || m.index.x == nil {
		return "", nil
	}
	b := a.As4()
	return m.index.x.Answer(binary.BigEndian.Uint32(b[:])).String(), nil
}

// note keeps what Index reports.
func (n *index) note() {
	s := new(IndexState)
	if n.x != nil {
		s.Hosts, s.Leaves, s.Bytes = n.x.Hosts(), n.x.Leaves(), n.x.Bytes()
	}
	n.state.Store(s)
}

// Index reports on the index.
func (m *Maps) Index() (IndexState, error) {
	leave, err := m.enter()
	if err != nil {
		return IndexState{}, err
	}
	defer leave()
	var s IndexState
	var perCPU []bpf.Check
	if err := m.checks.Lookup(uint32(0), &perCPU); err != nil {
		return s, fmt.Errorf("read self-checks: %w", err)
	}
	for _, c := range perCPU {
		s.Checked += c.Packets
		s.Mismatches += c.Mismatches
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return s, fmt.Errorf("read clock: %w", err)
	}
	s.Lease = time.Duration(int64(atomic.LoadUint64(&m.words.Lease)) - now.Nano())
	if n := m.index.state.Load(); n != nil {
		s.Hosts, s.Leaves, s.Bytes = n.Hosts, n.Leaves, n.Bytes
	}
	return s, nil
}

// indexing hands on cells to a filling of the tries and to one of the index, and keeps the lease of the index that
// is read meanwhile.
func (b *newIndex) indexing(ctx context.Context, cells iter.Seq2[netip.Prefix, compile.Cell]) iter.Seq2[netip.Prefix, compile.Cell] {
	return func(yield func(netip.Prefix, compile.Cell) bool) {
		n := 0
		for p, c := range cells {
			b.add(p, c)
			if n++; n%putBatch == 0 {
				b.m.renew(nil)
			}
			if ctx.Err() != nil || !yield(p, c) {
				return
			}
		}
	}
}
