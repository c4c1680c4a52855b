package compile

import "hash/maphash"

// nodes keeps nodes under numbers. Equal ones, of which a list has many, mostly share a number; that is only to save
// memory, so it is enough to look among those that were added lately. The zero value is empty.
type nodes struct {
	seed   maphash.Seed
	slots  []*[slotsAPage]slot
	used   uint32   // numbers given out
	free   []uint32 // of these, the ones that are free again
	last   uint32   // added last
	recent []uint32 // by hash
}

// slot is a node, and how many prefixes have it.
type slot struct {
	node
	holders uint32
}

const (
	slotsAPage = 512
	recentLen  = 1 << 12
)

func (n *nodes) slot(at uint32) *slot { return &n.slots[at/slotsAPage][at%slotsAPage] }

func (n *nodes) get(at uint32) node { return n.slot(at).node }

// add returns the number of a node that one more prefix has.
func (n *nodes) add(value node) uint32 {
	if n.recent == nil {
		n.seed, n.recent = maphash.MakeSeed(), make([]uint32, recentLen)
	}
	if n.share(n.last, value) {
		return n.last
	}
	place := &n.recent[maphash.Comparable(n.seed, value)%recentLen]
	if !n.share(*place, value) {
		*place = n.make(value)
	}
	n.last = *place
	return n.last
}

// share counts one more holder of a number, if it stands for such a node.
func (n *nodes) share(at uint32, value node) bool {
	if at >= n.used {
		return false
	}
	s := n.slot(at)
	if s.holders == 0 || s.node != value {
		return false
	}
	s.holders++
	return true
}

func (n *nodes) make(value node) (at uint32) {
	if last := len(n.free) - 1; last >= 0 {
		at, n.free = n.free[last], n.free[:last]
	} else {
		at = n.used
		if at%slotsAPage == 0 {
			n.slots = append(n.slots, new([slotsAPage]slot))
		}
		n.used++
	}
	*n.slot(at) = slot{value, 1}
	return at
}

// drop counts one holder less.
func (n *nodes) drop(at uint32) {
	s := n.slot(at)
	if s.holders--; s.holders == 0 {
		*s = slot{}
		n.free = append(n.free, at)
	}
}
