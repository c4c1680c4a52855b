package spoe

import (
	"hash/maphash"
	"net/http"
	"strings"
)

const (
	// shapeSlots is how many shapes a connection remembers at most, a power of two.
	shapeSlots = 32
	// maxShape bounds the lines of one.
	maxShape = 32
)

// shape is the names of a header in their order. Clients of one kind send the same ones each time, so that a header made
// once serves them all: only its values change.
type shape struct {
	names  []string    // as sent
	values []string    // what the slices of header point into, in the order of names
	header http.Header // of no request but the present one
}

// shapes are those that were met lately.
type shapes struct {
	slots [shapeSlots]struct {
		shape *shape
		once  uint64 // hash of what was met last that shape did not fit; it takes over when met again
	}
	filled *shape // that of the last request, nil: it had none
	place  uint32 // of the slot for the lines that fill was last asked for
	seed   maphash.Seed
}

// fill returns a header of these lines, nil if their shape is not known. It is void with the next call.
func (s *shapes) fill(lines []line) http.Header {
	last := s.filled
	s.filled = nil
	h := uint32(len(lines))
	for i := range lines {
		n := lines[i].name // not empty
		h = h*0x9e3779b1 + uint32(len(n))<<16 + uint32(n[0])<<8 + uint32(n[len(n)-1])
	}
	s.place = (h ^ h>>15) % shapeSlots
	sh := s.slots[s.place].shape
	if sh == nil || !sh.fits(lines) {
		sh = nil
	}
	if last != nil && last != sh {
		clear(last.values) // nothing of a request stays in memory, nor anywhere another could see it
	}
	if sh == nil {
		return nil
	}
	for i := range lines {
		sh.values[i] = lines[i].value
	}
	s.filled = sh
	return sh.header
}

func (s *shape) fits(lines []line) bool {
	if len(lines) != len(s.names) {
		return false
	}
	for i, n := range s.names {
		if lines[i].name != n {
			return false
		}
	}
	return true
}

// remember keeps the shape of the lines that fill was last asked for, if it is the second time in a row that its slot
// does not have it: who sends other names each time takes nobody's place. The names differ, in their canonical form too,
// which known tells.
func (s *shapes) remember(lines []line, known func(string) *name) {
	if len(lines) > maxShape {
		return
	}
	var hash maphash.Hash
	hash.SetSeed(s.seed)
	for i := range lines {
		hash.WriteString(lines[i].name)
		hash.WriteByte(':')
	}
	slot := &s.slots[s.place]
	if once := hash.Sum64(); slot.once != once {
		slot.once = once
		return
	}
	sh := &shape{values: make([]string, len(lines)), header: make(http.Header, len(lines))}
	for i, l := range lines {
		sh.names = append(sh.names, strings.Clone(l.name))
		sh.header[known(l.name).canonical] = sh.values[i : i+1 : i+1]
	}
	slot.shape = sh
}
