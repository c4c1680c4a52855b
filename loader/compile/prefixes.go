package compile

import (
	"cmp"
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
)

// prefixes maps prefixes to nodes in the order of [compare]. A prefix of IPv4 takes 12 to 24 bytes, one of IPv6 twice
// that, and nodes that are met often are kept once. The zero value is empty.
type prefixes struct {
	four family[key4]
	six  family[key6]
	kept nodes
}

// key4 is address and length, so that numbers sort as [compare] does.
type key4 uint64

// key6 is the address in two halves, and the length.
type key6 struct {
	high, low uint64
	bits      uint8
}

func key4Of(p netip.Prefix) key4 {
	a := p.Addr().As4()
	return key4(binary.BigEndian.Uint32(a[:]))<<8 | key4(p.Bits())
}

func (k key4) prefix() netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(k>>8))
	return netip.PrefixFrom(netip.AddrFrom4(a), int(k&0xff))
}

func (k key4) compare(other key4) int { return cmp.Compare(k, other) }

func key6Of(p netip.Prefix) key6 {
	a := p.Addr().As16()
	return key6{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), uint8(p.Bits())}
}

func (k key6) prefix() netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], k.high)
	binary.BigEndian.PutUint64(a[8:], k.low)
	return netip.PrefixFrom(netip.AddrFrom16(a), int(k.bits))
}

func (k key6) compare(other key6) int {
	return cmp.Or(cmp.Compare(k.high, other.high), cmp.Compare(k.low, other.low), cmp.Compare(k.bits, other.bits))
}

// Len4 and Len6 count the prefixes of a family.
func (t *prefixes) Len4() int { return t.four.count }
func (t *prefixes) Len6() int { return t.six.count }

// Get returns the node of exactly that prefix.
func (t *prefixes) Get(p netip.Prefix) (n node, ok bool) {
	var at uint32
	if p.Addr().Is4() {
		at, ok = t.four.get(key4Of(p))
	} else {
		at, ok = t.six.get(key6Of(p))
	}
	if !ok {
		return node{}, false
	}
	return t.kept.get(at), true
}

// Put sets the node of a prefix.
func (t *prefixes) Put(p netip.Prefix, n node) {
	at := t.kept.add(n)
	var old uint32
	var replaced bool
	if p.Addr().Is4() {
		old, replaced = t.four.put(key4Of(p), uint8(p.Bits()), at)
	} else {
		old, replaced = t.six.put(key6Of(p), uint8(p.Bits()), at)
	}
	if replaced {
		t.kept.drop(old)
	}
}

// Delete removes a prefix.
func (t *prefixes) Delete(p netip.Prefix) {
	var old uint32
	var ok bool
	if p.Addr().Is4() {
		old, ok = t.four.delete(key4Of(p), uint8(p.Bits()))
	} else {
		old, ok = t.six.delete(key6Of(p), uint8(p.Bits()))
	}
	if ok {
		t.kept.drop(old)
	}
}

// Supernets yields the prefixes that contain p or equal it, the most specific first: a look-up for each length that
// occurs.
func (t *prefixes) Supernets(p netip.Prefix) iter.Seq2[netip.Prefix, node] {
	return func(yield func(netip.Prefix, node) bool) {
		lengths := &t.six.lengths
		if p.Addr().Is4() {
			lengths = &t.four.lengths
		}
		for bits := p.Bits(); bits >= 0; bits-- {
			if lengths[bits] == 0 {
				continue
			}
			wider, _ := p.Addr().Prefix(bits)
			if n, ok := t.Get(wider); ok && !yield(wider, n) {
				return
			}
		}
	}
}

// Subnets yields the prefixes that p contains or equals, in order. Nothing may be changed meanwhile.
func (t *prefixes) Subnets(p netip.Prefix) iter.Seq2[netip.Prefix, node] {
	return func(yield func(netip.Prefix, node) bool) {
		inside := func(q netip.Prefix, at uint32) bool { return contains(p, q) && yield(q, t.kept.get(at)) }
		if p.Addr().Is4() {
			t.four.from(key4Of(p), func(k key4, at uint32) bool { return inside(k.prefix(), at) })
		} else {
			t.six.from(key6Of(p), func(k key6, at uint32) bool { return inside(k.prefix(), at) })
		}
	}
}

// All yields everything in order. Nothing may be changed meanwhile.
func (t *prefixes) All() iter.Seq2[netip.Prefix, node] {
	return func(yield func(netip.Prefix, node) bool) {
		if t.four.from(0, func(k key4, at uint32) bool { return yield(k.prefix(), t.kept.get(at)) }) {
			t.six.from(key6{}, func(k key6, at uint32) bool { return yield(k.prefix(), t.kept.get(at)) })
		}
	}
}

// leafLen is how many prefixes lie together: a change moves half of them.
const leafLen = 256

// orderedKey is the key of a family.
type orderedKey[K any] interface {
	comparable
	compare(K) int
}

// family is the prefixes of one family: a list of leaves, in order, none of them empty.
type family[K orderedKey[K]] struct {
	firsts  []K // of each leaf, side by side for the search
	leaves  []leaf[K]
	count   int
	lengths [129]int // prefixes of each length
}

// leaf holds neighbours, and where their nodes are.
type leaf[K any] struct {
	keys []K
	at   []uint32
}

func newLeaf[K any]() leaf[K] {
	return leaf[K]{make([]K, 0, leafLen), make([]uint32, 0, leafLen)}
}

// find returns the leaf that k is in or belongs into, and its place there.
func (f *family[K]) find(k K) (i, j int, ok bool) {
	i, ok = slices.BinarySearchFunc(f.firsts, k, K.compare)
	if ok {
		return i, 0, true
	}
	if i = max(0, i-1); i == len(f.leaves) {
		return 0, 0, false
	}
	j, ok = slices.BinarySearchFunc(f.leaves[i].keys, k, K.compare)
	return i, j, ok
}

func (f *family[K]) get(k K) (at uint32, ok bool) {
	i, j, ok := f.find(k)
	if !ok {
		return 0, false
	}
	return f.leaves[i].at[j], true
}

func (f *family[K]) put(k K, bits uint8, at uint32) (old uint32, replaced bool) {
	i, j, ok := f.find(k)
	if ok {
		old, f.leaves[i].at[j] = f.leaves[i].at[j], at
		return old, true
	}
	f.count++
	f.lengths[bits]++
	if len(f.leaves) == 0 {
		f.insertLeaf(0, newLeaf[K](), k)
	}
	if len(f.leaves[i].keys) == leafLen {
		i, j = f.split(i, j, k)
	}
	l := &f.leaves[i]
	l.keys, l.at = slices.Insert(l.keys, j, k), slices.Insert(l.at, j, at)
	f.firsts[i] = l.keys[0]
	return 0, false
}

// split makes room in a full leaf and returns the place of k after that. What comes in order fills the leaves.
func (f *family[K]) split(i, j int, k K) (int, int) {
	l := &f.leaves[i]
	half := leafLen / 2
	if i == len(f.leaves)-1 && j == leafLen {
		half = leafLen
	}
	next := newLeaf[K]()
	next.keys, next.at = append(next.keys, l.keys[half:]...), append(next.at, l.at[half:]...)
	l.keys, l.at = l.keys[:half], l.at[:half]
	first := k
	if len(next.keys) > 0 {
		first = next.keys[0]
	}
	f.insertLeaf(i+1, next, first)
	if j > half || half == leafLen {
		return i + 1, j - half
	}
	return i, j
}

func (f *family[K]) insertLeaf(i int, l leaf[K], first K) {
	f.leaves, f.firsts = slices.Insert(f.leaves, i, l), slices.Insert(f.firsts, i, first)
}

func (f *family[K]) delete(k K, bits uint8) (old uint32, ok bool) {
	i, j, ok := f.find(k)
	if !ok {
		return 0, false
	}
	f.count--
	f.lengths[bits]--
	l := &f.leaves[i]
	old = l.at[j]
	l.keys, l.at = slices.Delete(l.keys, j, j+1), slices.Delete(l.at, j, j+1)
	switch {
	case len(l.keys) == 0:
		f.removeLeaf(i)
	case i+1 < len(f.leaves) && len(l.keys)+len(f.leaves[i+1].keys) <= leafLen/2:
		next := f.leaves[i+1]
		l.keys, l.at = append(l.keys, next.keys...), append(l.at, next.at...)
		f.removeLeaf(i + 1)
		fallthrough
	default:
		f.firsts[i] = l.keys[0]
	}
	return old, true
}

func (f *family[K]) removeLeaf(i int) {
	f.leaves, f.firsts = slices.Delete(f.leaves, i, i+1), slices.Delete(f.firsts, i, i+1)
}

// from yields the keys from k on, in order, until yield says false.
func (f *family[K]) from(k K, yield func(k K, at uint32) bool) bool {
	i, j, _ := f.find(k)
	for ; i < len(f.leaves); i, j = i+1, 0 {
		l := f.leaves[i]
		for ; j < len(l.keys); j++ {
			if !yield(l.keys[j], l.at[j]) {
				return false
			}
		}
	}
	return true
}
