package shim

// table is a multiset of listings by the fingerprint of what they list. It is immutable: an editor makes the next one,
// copying only the shards that it writes to, so that a change among a million costs microseconds. Listings hold no
// pointers, so the garbage collector does not walk them.
type table struct {
	shards []*shard // their number is a power of two; the upper bits of a tag choose one; nil: empty
	live   int
}

// shard is an open-addressed array with linear probing, always with a free slot. Who looks for what is not there, which
// is nearly everybody, reads a few hints, which stay in the processor's caches, and no slot.
type shard struct {
	slots []slot
	hints []uint8 // of each slot: a byte of its tag, 0 if it is free
	used  int
}

// slot is one listing.
type slot struct {
	fingerprint
	meta meta // 0: free
}

// fingerprint stands for a value. Who asks compares tag first, which is quick to compute and which nobody outside can
// predict, and sum only if tag is equal: that is a keyed cryptographic hash, so that no value is taken for another.
type fingerprint struct {
	tag uint64
	sum [2]uint64
}

// shardsOf is the number of shards of a table that may come to hold millions.
const shardsOf = 4096

// smallest is the least capacity of a shard that holds anything.
const smallest = 4

func newTable(shards int) *table { return &table{shards: make([]*shard, shards)} }

func (t *table) place(tag uint64) int { return int(tag>>32) & (len(t.shards) - 1) }

func (t *table) shard(tag uint64) *shard { return t.shards[t.place(tag)] }

// home is where probing for a tag begins.
func (s *shard) home(tag uint64) int { return int(uint64(uint32(tag)) * uint64(len(s.slots)) >> 32) }

func hint(tag uint64) uint8 { return max(1, uint8(tag>>56)) }

// next returns the position of the first slot with that tag at or after i (start with -1), or -1. s may be nil.
func (s *shard) next(tag uint64, i int) int {
	if s == nil {
		return -1
	}
	if i < 0 {
		i = s.home(tag) - 1
	}
	want := hint(tag)
	for range s.hints {
		if i++; i == len(s.hints) {
			i = 0
		}
		switch h := s.hints[i]; {
		case h == 0:
			return -1
		case h == want && s.slots[i].tag == tag:
			return i
		}
	}
	return -1
}

// has reports whether anything has that tag.
func (t *table) has(tag uint64) bool { return t.shard(tag).next(tag, -1) >= 0 }

// editor makes a table from another one.
type editor struct {
	table
	owned []bool // shards that this editor made
}

// edit starts from t, which is not changed.
func (t *table) edit() *editor {
	return &editor{table: table{shards: append([]*shard(nil), t.shards...), live: t.live}, owned: make([]bool, len(t.shards))}
}

// own returns the shard of a tag, which may then be written to and has room for one more.
func (e *editor) own(tag uint64) *shard {
	i := e.place(tag)
	switch s := e.shards[i]; {
	case s == nil:
		e.shards[i] = s.with(smallest, -1)
	case len(s.slots)*3/4 <= s.used:
		e.shards[i] = s.with(s.used*8/5+1, -1)
	case !e.owned[i]:
		e.shards[i] = &shard{append([]slot(nil), s.slots...), append([]uint8(nil), s.hints...), s.used}
	}
	e.owned[i] = true
	return e.shards[i]
}

// reserve makes room for n more everywhere together.
func (e *editor) reserve(n int) {
	each := n / len(e.shards)
	if each < smallest {
		return
	}
	for i, s := range e.shards {
		used := 0
		if s != nil {
			used = s.used
		}
		e.shards[i], e.owned[i] = s.with((used+each)*3/2+smallest, -1), true
	}
}

// with returns a shard of that capacity with what is in s, but for the slot at position drop.
func (s *shard) with(capacity, drop int) *shard {
	to := &shard{slots: make([]slot, capacity), hints: make([]uint8, capacity)}
	if s == nil {
		return to
	}
	for i := range s.slots {
		if s.slots[i].meta != 0 && i != drop {
			to.put(s.slots[i])
		}
	}
	return to
}

// put stores a slot in the first free place.
func (s *shard) put(v slot) {
	i := s.home(v.tag)
	for s.hints[i] != 0 {
		if i++; i == len(s.hints) {
			i = 0
		}
	}
	s.slots[i], s.hints[i] = v, hint(v.tag)
	s.used++
}

func (e *editor) add(v slot) {
	e.own(v.tag).put(v)
	e.live++
}

// remove takes away one slot that equals v; it reports whether there was one.
func (e *editor) remove(v slot) bool {
	place := e.place(v.tag)
	s := e.shards[place]
	for i := s.next(v.tag, -1); i >= 0; i = s.next(v.tag, i) {
		if s.slots[i] == v {
			e.shards[place] = s.with(max(smallest, min(len(s.slots), s.used*2)), i)
			e.owned[place] = true
			e.live--
			return true
		}
	}
	return false
}
