package lists

import (
	"hash/maphash"
	"math"
	"slices"
)

// table is one list: entries in the order they came, and an index by identifier.
//
// Both halves have two levels, of which a change copies the top and one leaf. Entries lie in pages of pageLen
// slots, numbered as they came; a deleted one leaves a hole, and when holes outnumber entries the table is built
// anew. The index is an extendible hash: the first depth bits of an identifier's hash choose a shard in dir, and
// a shard that is full splits in two, which doubles dir at most.
type table struct {
	seed     maphash.Seed
	pages    []*page
	slots    int // slots given out; the next entry's slot
	dir      []*shard
	depth    uint8 // len(dir) is 1<<depth
	live     int
	bySource [numSources]int
	lengths  [form6 + 1]Lengths
	byFamily [form6 + 1]int // places of distinct identifiers; those of form4 and form6 take one each
}

// Leaf sizes: with the word in front, a page and its header fill an allocation of 16 KiB.
const (
	pageLen  = 255
	shardMax = 256
	depthMax = 24 // a shard at this depth grows instead of splitting
)

// owner marks the leaves that one Builder made and may therefore still write to. It has a size, so that two are
// never at one address.
type owner struct{ _ byte }

type page struct {
	owner *owner
	live  int32
	slot  [pageLen]record
	ends  int64 // the earliest expires, of those that are not never
}

// shard lists hash<<32 | slot of each entry whose hash begins with the shard's depth bits, sorted.
type shard struct {
	owner *owner
	depth uint8
	items []uint64
}

// seek returns where the first item is that is not below want. Hashes are random, so it is near the place that its
// share of the shard's range says: a cache line or two are read, not the shard.
func (s *shard) seek(want uint64) int {
	i := int(want << s.depth >> 32 * uint64(len(s.items)) >> 32)
	for i < len(s.items) && s.items[i] < want {
		i++
	}
	for i > 0 && s.items[i-1] >= want {
		i--
	}
	return i
}

func newTable() *table {
	return &table{seed: maphash.MakeSeed(), dir: []*shard{{}}}
}

func (t *table) at(slot int) *record { return &t.pages[slot/pageLen].slot[slot%pageLen] }

// find appends the slots of every source that holds the identifier.
func (t *table) find(p *probe, to []int) []int {
	s := t.dir[t.dirIndex(p.hash)]
	for _, item := range s.items[s.seek(uint64(p.hash)<<32):] {
		if uint32(item>>32) != p.hash {
			break
		}
		if p.matches(t.at(int(uint32(item)))) {
			to = append(to, int(uint32(item)))
		}
	}
	return to
}

// findKey returns the slot of the entry, -1 if there is none.
func (t *table) findKey(k Key) int {
	p := newProbe(t.seed, k.ID)
	var buf [numSources]int
	for _, slot := range t.find(&p, buf[:0]) {
		if t.at(slot).source == k.Source {
			return slot
		}
	}
	return -1
}

func (t *table) dirIndex(hash uint32) int { return int(uint64(hash) << t.depth >> 32) }

// due calls f for every entry whose end is at or before now (Unix seconds), looking only into the pages that hold
// one, until f says false.
func (t *table) due(now int64, f func(*record) bool) bool {
	for _, pg := range t.pages {
		if pg == nil || pg.ends > now {
			continue
		}
		for i := range pg.slot {
			if r := &pg.slot[i]; r.kind != 0 && r.expires != never && r.expires <= now && !f(r) {
				return false
			}
		}
	}
	return true
}

// each calls f for every entry in order until it says false. A source of 0 means all.
func (t *table) each(src Source, f func(*record) bool) {
	for _, pg := range t.pages {
		if pg == nil {
			continue
		}
		for i := range pg.slot {
			if r := &pg.slot[i]; r.kind != 0 && (src == 0 || r.source == src) && !f(r) {
				return
			}
		}
	}
}

// write puts r into slot i of a page that the caller owns, record{} to empty it, and keeps the page's count and end.
func (pg *page) write(i int, r record) {
	old := pg.slot[i]
	pg.slot[i] = r
	if old.kind != 0 {
		pg.live--
	}
	if r.kind != 0 {
		pg.live++
		if r.expires != never {
			pg.ends = min(pg.ends, r.expires)
		}
	}
	if old.kind == 0 || old.expires != pg.ends {
		return
	}
	pg.ends = math.MaxInt64
	for i := range pg.slot {
		if r := &pg.slot[i]; r.kind != 0 && r.expires != never {
			pg.ends = min(pg.ends, r.expires)
		}
	}
}

// editor is a table that one Builder is changing: it copies what it does not own before it writes.
type editor struct {
	table
	me       *owner
	ownPages bool // the slice, not the pages
	ownDir   bool
}

func (e *editor) page(i int) *page {
	if !e.ownPages {
		e.pages, e.ownPages = append(make([]*page, 0, len(e.pages)+16), e.pages...), true
	}
	if i == len(e.pages) {
		e.pages = append(e.pages, &page{owner: e.me, ends: math.MaxInt64})
	}
	if pg := e.pages[i]; pg.owner != e.me {
		own := *pg
		own.owner = e.me
		e.pages[i] = &own
	}
	return e.pages[i]
}

// shard returns the shard of the hash, made writable.
func (e *editor) shard(hash uint32) *shard {
	e.writeDir()
	s := e.dir[e.dirIndex(hash)]
	if s.owner != e.me {
		s = &shard{owner: e.me, depth: s.depth, items: append(make([]uint64, 0, len(s.items)+8), s.items...)}
		e.setShard(hash, s)
	}
	return s
}

func (e *editor) writeDir() {
	if !e.ownDir {
		e.dir, e.ownDir = slices.Clone(e.dir), true
	}
}

// setShard puts s in every place of dir that begins as hash does in s.depth bits.
func (e *editor) setShard(hash uint32, s *shard) {
	span := 1 << (e.depth - s.depth)
	first := e.dirIndex(hash) &^ (span - 1)
	for i := first; i < first+span; i++ {
		e.dir[i] = s
	}
}

// index adds the slot under the hash, splitting shards that are full.
func (e *editor) index(hash uint32, slot int) {
	s := e.shard(hash)
	for len(s.items) >= shardMax && s.depth < depthMax {
		if s.depth == e.depth {
			wide := make([]*shard, 0, 2*len(e.dir))
			for _, s := range e.dir {
				wide = append(wide, s, s)
			}
			e.dir, e.depth = wide, e.depth+1
		}
		depth := s.depth + 1
		bit := uint32(1) << (32 - depth)
		cut := s.seek(uint64(hash&^(bit-1)|bit) << 32)
		var halves [2]*shard
		for i, items := range [][]uint64{s.items[:cut], s.items[cut:]} {
			halves[i] = &shard{owner: e.me, depth: depth, items: append(make([]uint64, 0, shardMax*5/8), items...)}
		}
		e.setShard(hash&^bit, halves[0])
		e.setShard(hash|bit, halves[1])
		s = halves[hash&bit>>(32-depth)]
	}
	item := uint64(hash)<<32 | uint64(slot)
	s.items = slices.Insert(s.items, s.seek(item), item)
}

// add puts r behind all others. others: the identifier is held by another source too.
func (e *editor) add(hash uint32, r record, others bool) {
	slot := e.slots
	e.page(slot/pageLen).write(slot%pageLen, r)
	e.slots++
	e.live++
	e.bySource[r.source]++
	if !others {
		e.byFamily[r.form] += r.places()
		e.lengths[r.form][r.bits]++
	}
	e.index(hash, slot)
}

// remove takes out the entry in the slot. others: the identifier stays, held by another source.
func (e *editor) remove(hash uint32, slot int, others bool) {
	r := e.at(slot)
	e.live--
	e.bySource[r.source]--
	if !others {
		e.byFamily[r.form] -= r.places()
		e.lengths[r.form][r.bits]--
	}
	pg := e.page(slot / pageLen)
	pg.write(slot%pageLen, record{})
	if pg.live == 0 && slot/pageLen < e.slots/pageLen { // not the page that the next entry goes to
		e.pages[slot/pageLen] = nil
	}
	s := e.shard(hash)
	i := s.seek(uint64(hash)<<32 | uint64(slot))
	s.items = slices.Delete(s.items, i, i+1)
	if e.slots > 2*e.live+64*pageLen {
		e.keep(func(*record) bool { return true })
	}
}

// keep builds the table anew from the entries that f wants, without holes, and returns how many went. It costs
// as much as the table is long.
func (e *editor) keep(f func(*record) bool) int {
	hashes := make([]uint32, e.slots)
	for i, s := range e.dir {
		if i > 0 && s == e.dir[i-1] {
			continue
		}
		for _, item := range s.items {
			hashes[uint32(item)] = uint32(item >> 32)
		}
	}
	next := editor{table: table{seed: e.seed, dir: []*shard{{owner: e.me}}}, me: e.me, ownPages: true, ownDir: true}
	var buf [numSources]int
	for slot, hash := range hashes {
		if pg := e.pages[slot/pageLen]; pg == nil {
			continue
		}
		if r := e.at(slot); r.kind != 0 && f(r) {
			p := probe{id: ID{Kind: r.kind, Value: r.value}, hash: hash, addr: r.addr, form: r.form, bits: r.bits}
			if r.kind.Named() {
				p.id.Name = r.texts.Value().name
			}
			next.add(hash, *r, len(next.find(&p, buf[:0])) > 0)
		}
	}
	removed := e.live - next.live
	*e = next
	return removed
}
