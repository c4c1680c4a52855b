package shim

// names is a set of folded names that also holds some it was not given: whoever is not in it needs no further look,
// which is nearly every name of a request.
type names [4]uint64

// fieldNames are those that mean something in every request: of header fields, and of query parameters.
var fieldNames = func() (n names) {
	for _, name := range []string{"host", "transfer-encoding", "content-length", "cookie", "authorization", "access-token"} {
		n.add([]byte(name))
	}
	return n
}()

// nameBit is where a folded name of that length and ends is in a set.
func nameBit(length int, first, last byte) uint8 {
	return uint8(length)*0x4d + first*0x1f + last*0x65
}

func (n *names) add(folded []byte) {
	bit := nameBit(0, 0, 0)
	if len(folded) > 0 {
		bit = nameBit(len(folded), folded[0], folded[len(folded)-1])
	}
	n[bit>>6] |= 1 << (bit & 63)
}

func (n *names) join(other *names) {
	for i := range n {
		n[i] |= other[i]
	}
}

func (n *names) has(bit uint8) bool { return n[bit>>6]>>(bit&63)&1 != 0 }

// may reports whether a folded name may be in the set.
func (n *names) may(folded []byte) bool {
	if len(folded) == 0 {
		return n.has(nameBit(0, 0, 0))
	}
	return n.has(nameBit(len(folded), folded[0], folded[len(folded)-1]))
}

// mayField is may for the name of a header field, not yet folded. It has bytes.
func (n *names) mayField(name string) bool {
	return n.has(nameBit(len(name), folds[name[0]], folds[name[len(name)-1]]))
}
