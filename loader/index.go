package loader

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/loader/compile"
)

// leaseSpan is how long the index may drop after a [Maps.Renew]. What ends before that is left to the tries.
const leaseSpan = 3 * time.Second

// index is the IPv4 index of Maps, as this process keeps it, and what it shares with the one of IPv6. Guarded by
// Maps.writing.
type index struct {
	tables
	x     *compile.Index
	space *space
	table *compile.Table
	// horizon: what ends at or before is left to the tries (CLOCK_BOOTTIME). due has the other ends.
	horizon time.Duration
	due     ends[uint64]               // address, length
	state   atomic.Pointer[IndexState] // for those who must not wait for writers
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

// newIndex fills the side of the IPv4 index that is not read. What it is given it writes on another CPU, if it was told
// how many hosts to expect, else in the end. It must be finished or abandoned.
type newIndex struct {
	m     *Maps
	side  int
	space *space
	x     *compile.Index // nil: none, because of err or nobody knows how large
	err   error
	due   ends[uint64]
	cells []compile.Packed
	ready chan []compile.Packed // to the goroutine that writes; nil: there is none
	group errgroup.Group        // of that goroutine
}

// Cells are handed over in batches, of which some may wait.
const (
	indexBatch   = 8 << 10
	indexBatches = 32
)

// lookAhead is for before either index is filled: whose side is read, and which entries end within the lease.
func (m *Maps) lookAhead() {
	m.disown()
	m.index.horizon = bootTime(time.Now()) + leaseSpan
}

// beginIndex expects a number of hosts; 0: not known.
func (m *Maps) beginIndex(hosts int) *newIndex {
	m.lookAhead()
	b := &newIndex{m: m, side: 1 - m.words.index()}
	if hosts == 0 || m.lookup == LookupLPM {
		return b
	}
	if b.make(hosts); b.x == nil {
		return b
	}
	b.ready = make(chan []compile.Packed, indexBatches)
	b.group.Go(func() error {
		b.x.Fill(func(yield func(compile.Packed) bool) {
			for cells := range b.ready {
				for _, c := range cells {
					yield(c)
				}
			}
		})
		return nil
	})
	return b
}

// make makes an empty index.
func (b *newIndex) make(hosts int) {
	if b.err = b.m.index.clear(b.side); b.err == nil {
		b.space = b.m.index.on(b.side)
		b.x, b.err = compile.NewIndex(b.space, rand.Uint64(), hosts)
	}
}

// add takes a prefix; in the order of [compile.Table.All] if hosts are expected.
func (b *newIndex) add(p netip.Prefix, c compile.Cell) {
	b.due.add(address(p), c, b.m.soon)
	if b.err != nil {
		return
	}
	b.cells = append(b.cells, compile.Pack(p, c, b.m.soon))
	if b.ready != nil && len(b.cells) == indexBatch {
		b.ready <- b.cells
		b.cells = make([]compile.Packed, 0, indexBatch)
	}
}

// write has everything written that was added.
func (b *newIndex) write() {
	switch {
	case b.ready != nil:
		b.ready <- b.cells
		close(b.ready)
		_ = b.group.Wait()
		b.ready = nil
	case b.err == nil && b.m.lookup != LookupLPM:
		slices.Sort(b.cells)
		if b.make(compile.Hosts(b.cells)); b.x != nil {
			b.x.Fill(slices.Values(b.cells))
		}
	}
	b.cells = nil
}

// abandon frees what there is so far. After finish it does nothing.
func (b *newIndex) abandon() {
	if b.ready != nil {
		close(b.ready)
		_ = b.group.Wait()
		b.ready = nil
	}
	if b.space != nil {
		b.space.free()
	}
}

// finish builds the index on the side that is not read. It returns what makes it the one that is read, which also
// says what to do once readers have left the old one.
func (b *newIndex) finish() (flip func() (after func() error), err error) {
	n, w := &b.m.index, b.m.words
	if b.write(); b.x != nil && b.err == nil {
		b.err = b.space.publish()
	}
	if b.err != nil {
		b.abandon()
		b.x = nil
		b.m.log.Warn("no index: every packet is looked up in the tries, which is slower", "error", b.err)
	}
	if b.x == nil {
		if err := n.clear(b.side); err != nil {
			return nil, err
		}
	}
	x, s := b.x, b.space
	b.space = nil // it is not to be abandoned any more
	return func() func() error {
		old := n.space
		n.x, n.space, n.due = x, s, b.due
		if x != nil {
			w.Sides[b.side].Multiply, w.Sides[b.side].Shift = x.Mixer()
		}
		atomic.StoreUint32(&w.Index, uint32(b.side))
		b.m.drawn = w.drawn()
		return func() error {
			if old != nil {
				old.free()
			}
			return n.clear(1 - b.side)
		}
	}, nil
}

// makeRoom makes an index anew, in another size, once the list has outgrown it.
func (m *Maps) makeRoom() {
	n := &m.index
	if n.x != nil && n.table != nil && n.x.Crowded() {
		if err := m.rebuild(); err != nil {
			m.log.Warn("index could not grow: some packets take one more memory access", "error", err)
		}
	}
	if n := &m.index6; n.x != nil && m.index.table != nil && n.x.Crowded() {
		if err := m.rebuild6(); err != nil {
			m.log.Warn("IPv6 index could not grow: some packets are looked up in the tries, which is slower", "error", err)
		}
	}
	m.note()
}

func (m *Maps) rebuild() error {
	hosts := 0
	if m.index.x != nil {
		hosts = m.index.x.Hosts()
	}
	b := m.beginIndex(hosts)
	for p, c := range m.index.table.All() {
		if !p.Addr().Is4() {
			break
		}
		b.add(p, c)
	}
	flip, err := b.finish()
	if err != nil {
		return err
	}
	return m.switchIndex(flip)
}

// mendIndexes makes an index that could not be made before: the memory for it may be there now.
func (m *Maps) mendIndexes() {
	four, six := m.index.x == nil, m.index6.x == nil && loadsInOrder
	if !four && !six {
		m.mend = retry{}
		return
	}
	if m.lookup == LookupLPM || m.unsure || m.index.table == nil || !m.mend.due() {
		return
	}
	if four {
		if err := m.rebuild(); err != nil {
			m.log.Warn("old index is not freed yet", "error", err)
		}
	}
	if six {
		if err := m.rebuild6(); err != nil {
			m.log.Warn("old IPv6 index is not freed yet", "error", err)
		}
	}
	m.note()
	m.renew(m.index.table)
}

// retry tells when to try again what failed: after 1 s, 2 s, and so on up to 32 s. The zero value begins.
type retry struct {
	at       time.Time
	patience time.Duration
}

// due reports whether to try now, and then counts the try.
func (r *retry) due() bool {
	if r.patience == 0 {
		r.wait()
		return false
	}
	if time.Now().Before(r.at) {
		return false
	}
	r.wait()
	return true
}

func (r *retry) wait() {
	r.patience = min(max(time.Second, 2*r.patience), 32*time.Second)
	r.at = time.Now().Add(r.patience)
}

// switchIndex makes a new index the one that is read, and frees the old one.
func (m *Maps) switchIndex(flip func() (after func() error)) error {
	done := m.changing()
	after := flip()
	done()
	waitForReaders()
	return after()
}

// changing marks the beginning of a change that a self-check must not judge; done marks its end.
func (m *Maps) changing() (done func()) { return makeOdd(&m.words.Changes) }

// makeOdd makes a word odd and returns what makes it even again. It is odd already if a process died in between.
func makeOdd(word *uint32) (makeEven func()) {
	n := atomic.LoadUint32(word) | 1
	atomic.StoreUint32(word, n)
	return func() { atomic.StoreUint32(word, n+1) }
}

// disown forgets what another process has put its own in the place of.
func (m *Maps) disown() {
	if now := m.words.drawn(); now != m.drawn {
		m.drawn = now
		m.index.forget()
		m.index6.forget()
	}
	if n := &m.index; n.x != nil {
		multiply, _ := n.x.Mixer() // as good as a name: drawn at random
		if side := n.space.side; m.words.index() != side || m.words.Sides[side].Multiply != multiply {
			n.space.free()
			n.x, n.space, m.unsure = nil, nil, true
			m.note()
		}
	}
	if n := &m.index6; n.x != nil {
		if side := n.space.side; m.words.index6() != side || m.words.Sides6[side].Multiply != n.x.Mixer().Multiply {
			n.space.free()
			n.x, n.space, m.unsure = nil, nil, true
			m.note()
		}
	}
}

// removeFromIndexes does what must be done to the indexes before rules are written to the tries, the function that it
// returns what must be done afterwards.
func (m *Maps) removeFromIndexes(rules []compile.Rule) (add func(), err error) {
	m.disown()
	add4, err := m.removeFromIndex(rules)
	if err != nil {
		return nil, err
	}
	add6 := m.askIndex6(rules)
	return func() { add4(); add6() }, nil
}

func (m *Maps) removeFromIndex(rules []compile.Rule) (add func(), err error) {
	n := &m.index
	if n.x == nil {
		// There may be an index of another process, which does not know these rules.
		return func() {}, n.clear(m.words.index())
	}
	for _, r := range rules {
		if r.Prefix.Addr().Is4() && !r.Remove {
			n.due.add(address(r.Prefix), r.Cell, m.soon)
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
	m.mendIndexes()
	return nil
}

// renew leaves to the tries what ends before the lease, then extends the lease. table may be nil.
func (m *Maps) renew(table *compile.Table) {
	n := &m.index
	m.disown()
	if n.x == nil && m.index6.x == nil {
		return
	}
	n.horizon = bootTime(time.Now()) + leaseSpan
	if n.x != nil {
		if ended := n.due.take(m.soon); len(ended) > 0 {
			rules := make([]compile.Rule, len(ended))
			for i, k := range ended {
				a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(k>>8))))
				rules[i].Prefix = netip.PrefixFrom(a, int(k&0xff))
			}
			if table != nil {
				n.x.Change(table, rules, m.soon).Add()
			} else {
				m.ask(rules)
			}
		}
	}
	m.renew6(table)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return // cannot fail
	}
	atomic.StoreUint64(&m.words.Lease, uint64(now.Nano()+int64(leaseSpan-100*time.Millisecond)))
}

// address is an IPv4 prefix in a number: address, length.
func address(p netip.Prefix) uint64 {
	a := p.Addr().As4()
	return uint64(binary.BigEndian.Uint32(a[:]))<<8 | uint64(p.Bits())
}

// drawn is what is different once a process has put an index in its place: numbers drawn at random.
type drawn struct {
	four [2][2]uint32
	six  [2][2]uint64
}

func (w *controlWords) drawn() (d drawn) {
	for i := range d.four {
		d.four[i], d.six[i] = w.Sides[i].Multiply, w.Sides6[i].Multiply
	}
	return d
}

// index is the side of the index that programs read.
func (w *controlWords) index() int { return int(atomic.LoadUint32(&w.Index) & 1) }

// IndexState says what the indexes hold, and how the kernel's self-check of them goes.
type IndexState struct {
	IPv4, IPv6    bool          // there is an index of the family that this process filled
	Hosts, Leaves int           // IPv4: single addresses; /24s with many
	Nets6, Hosts6 int           // IPv6: prefixes as they are written out; single addresses
	Bytes         int           // of kernel memory, both
	Lease         time.Duration // how much longer it may drop; 0 or less: not at all
	Checked       uint64        // packets that were judged by the index and by the tries
	Mismatches    uint64        // of these, where they disagreed; anything but 0 is a bug of ours
}

// IndexSays is what the index of its family answers about an address: "drop", "pass", or "ask" the tries; "" where there
// is none that this process filled. It waits for a change of the lists that is being written.
func (m *Maps) IndexSays(a netip.Addr) (string, error) {
	leave, err := m.enter()
	if err != nil {
		return "", err
	}
	defer leave()
	m.writing.Lock()
	defer m.writing.Unlock()
	m.disown()
	switch a = a.Unmap(); {
	case a.Is4() && m.index.x != nil:
		b := a.As4()
		return m.index.x.Answer(binary.BigEndian.Uint32(b[:])).String(), nil
	case a.Is6() && m.index6.x != nil:
		return m.index6.x.Answer(a).String(), nil
	}
	return "", nil
}

// note keeps what Index reports.
func (m *Maps) note() {
	s := new(IndexState)
	s.IPv4, s.IPv6 = m.index.x != nil, m.index6.x != nil || !loadsInOrder
	if x := m.index.x; x != nil {
		s.Hosts, s.Leaves, s.Bytes = x.Hosts(), x.Leaves(), x.Bytes()
	}
	if x := m.index6.x; x != nil {
		s.Nets6, s.Hosts6 = x.Nets(), x.Hosts()
		s.Bytes += x.Bytes()
	}
	m.index.state.Store(s)
}

// Index reports on the indexes.
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
		s.IPv4, s.IPv6 = n.IPv4, n.IPv6
		s.Hosts, s.Leaves, s.Nets6, s.Hosts6, s.Bytes = n.Hosts, n.Leaves, n.Nets6, n.Hosts6, n.Bytes
	}
	return s, nil
}
