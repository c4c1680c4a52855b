package shim

// table is a multiset of listings by the fingerprint of what they list. It is immutable: an editor makes the next one,
// copying only the shards that it writes to, so that a change among a million costs microseconds. It holds no pointers
// into its listings, so the garbage collector does not walk them.
type table struct {
	shards []shard // their number is a power of two; the upper bits of a tag choose one
	live   int
}

// shard is an open-addressed array with linear probing, always with a free slot.
type shard struct {
	slots []slot
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

func newTable(shards int) *table { return &table{shards: make([]shard, shards)} }

func (t *table) shard(tag uint64) *shard {
	return &t.shards[tag>>32&uint64(len(t.shards)-1)]
}

// home is where probing for a tag begins.
func (s *shard) home(tag uint64) int { return int(uint64(uint32(tag)) * uint64(len(s.slots)) >> 32) }

// next returns the position of the first slot with that tag at or after i (start with -1), or -1.
func (s *shard) next(tag uint64, i int) int {
	if s.used == 0 {
		return -1
	}
	if i < 0 {
		i = s.home(tag)
	} else {
		i++
	}
	for n := len(s.slots); n > 0; n-- {
		if i >= len(s.slots) {
			i = 0
		}
		switch {
		case s.slots[i].meta == 0:
			return -1
		case s.slots[i].tag == tag:
			return i
		}
		i++
	}
	return -1
}

// has reports whether anything has that tag.
func (t *table) has(tag uint64) bool { return t.shard(tag).next(tag, -1) >= 0 }

// editor makes a table from another one.
type editor struct {
	table
	owned []bool // shards that this editor copied
}

// edit starts from t, which is not changed.
func (t *table) edit() *editor {
	e := &editor{table: table{shards: make([]shard, len(t.shards)), live: t.live}, owned: make([]bool, len(t.shards))}
	copy(e.shards, t.shards)
	return e
}

// own returns the shard of a tag, which may then be written to and has room for one more.
func (e *editor) own(tag uint64) *shard {
	i := tag >> 32 & uint64(len(e.shards)-1)
	s := &e.shards[i]
	if room := len(s.slots)*3/4 - s.used; room < 1 {
		s.rebuild(max(smallest, s.used*8/5+1), -1)
	} else if !e.owned[i] {
		s.slots = append([]slot(nil), s.slots...)
	}
	e.owned[i] = true
	return s
}

// rebuild gives a shard a fresh array of that capacity, without the slot at position drop.
func (s *shard) rebuild(capacity, drop int) {
	old := s.slots
	s.slots, s.used = make([]slot, capacity), 0
	for i := range old {
		if old[i].meta != 0 && i != drop {
			s.put(old[i])
		}
	}
}

// put stores a slot in the first free place.
func (s *shard) put(v slot) {
	i := s.home(v.tag)
	for s.slots[i].meta != 0 {
		if i++; i == len(s.slots) {
			i = 0
		}
	}
	s.slots[i] = v
	s.used++
}

func (e *editor) add(v slot) {
	e.own(v.tag).put(v)
	e.live++
}

// remove takes away one slot that equals v; it reports whether there was one.
func (e *editor) remove(v slot) bool {
	s := e.table.shard(v.tag)
	for i := s.next(v.tag, -1); i >= 0; i = s.next(v.tag, i) {
		if s.slots[i] == v {
			s.rebuild(max(smallest, min(len(s.slots), s.used*2)), i)
			e.owned[v.tag>>32&uint64(len(e.shards)-1)] = true
			e.live--
			return true
		}
	}
	return false
}
