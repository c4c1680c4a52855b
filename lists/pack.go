package lists

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"net/netip"
	"time"
)

// chunkSize is where a chunk of a pack ends, in bytes: with what SQLite adds it fits a page of 4 KiB.
const chunkSize = 3800

// Pack holds many entries in little memory: 5 bytes an IPv4 host whose neighbours share everything but the address.
// It is what an import is made of. Entries keep the order in which they were added; one may be there twice. The zero
// value is empty. Not safe for concurrent use while entries are added.
//
// A chunk is a run of records. Each begins with a tag: a lot says what the identifiers after it have in common, the
// others are one identifier. Every chunk begins with a lot, so that it can be read by itself.
type Pack struct {
	chunks []Chunk
	lot    lot // in force at the end of the last chunk
	count  int
	size   int
}

// Chunk is a part of a pack, all of one list, in its durable form: at most some 20 KiB. [Chunk.Each] reads it.
type Chunk struct {
	List    List
	Data    []byte
	Entries int
}

// lot is an entry without its identifier.
type lot struct {
	list             List
	source           Source
	created, expires int64 // Unix seconds or never
	reason           string
	comment          string
	by               string
}

// The tags. Numbers are varints, texts have their length in front.
const (
	tagLot  = iota + 1 // list, source, created, expires, reason, comment, by
	tagIPv4            // a host: 4 bytes
	tagNet4            // prefix length, 4 bytes
	tagNet6            // prefix length, 16 bytes
	tagText            // kind, name, value
)

// Len counts the entries, Size the bytes they take.
func (p *Pack) Len() int { return p.count }

// Size is how many bytes the entries take.
func (p *Pack) Size() int { return p.size }

// Chunks yields the parts in order. They must not be changed.
func (p *Pack) Chunks() iter.Seq[Chunk] {
	return func(yield func(Chunk) bool) {
		for _, c := range p.chunks {
			if !yield(c) {
				return
			}
		}
	}
}

// Add puts an entry behind the others. A zero Created or an empty By is filled in by [ApplyOps]. Errors wrap
// [ErrInvalid].
func (p *Pack) Add(e Entry) error {
	if err := e.Validate(); err != nil {
		return err
	}
	if prefix, ok := e.ID.Prefix(); ok {
		p.addPrefix(lotOf(e), prefix)
		return nil
	}
	p.addText(lotOf(e), e.ID)
	return nil
}

// AddPrefix is [Pack.Add] of the IP identifier that covers p, everything else being that of e, which has been
// validated with some identifier: the fast way to add many.
func (p *Pack) AddPrefix(e Entry, prefix netip.Prefix) error {
	prefix, err := canonicalPrefix(prefix)
	if err != nil {
		return fmt.Errorf("%w ip: %w", ErrInvalid, err)
	}
	p.addPrefix(lotOf(e), prefix)
	return nil
}

// All yields the entries as they were added.
func (p *Pack) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		stop := errors.New("stop")
		for _, c := range p.chunks {
			if c.Each(func(e Entry) error {
				if !yield(e) {
					return stop
				}
				return nil
			}) != nil {
				return
			}
		}
	}
}

// Covering returns the IP entries that contain the address, as a pack of their own.
func (p *Pack) Covering(a netip.Addr) *Pack {
	a = a.Unmap()
	out := &Pack{}
	for _, c := range p.chunks {
		r := chunkReader{data: c.Data}
		for r.next() {
			if r.form != formText && r.prefix().Contains(a) {
				out.addPrefix(r.lot, r.prefix())
			}
		}
	}
	return out
}

// Prefixes yields the prefix of every IP entry with its list, without making strings.
func (p *Pack) Prefixes() iter.Seq2[List, netip.Prefix] {
	return func(yield func(List, netip.Prefix) bool) {
		for _, c := range p.chunks {
			r := chunkReader{data: c.Data}
			for r.next() {
				if r.form != formText && !yield(r.lot.list, r.prefix()) {
					return
				}
			}
		}
	}
}

// Each calls f for every entry, in order, until it fails. Data that is no chunk is an error.
func (c Chunk) Each(f func(Entry) error) error {
	r, n := chunkReader{data: c.Data}, 0
	for ; r.next() && r.lot.list == c.List; n++ {
		if err := f(r.entry()); err != nil {
			return err
		}
	}
	if r.bad || len(r.data) > 0 || n != c.Entries {
		return fmt.Errorf("%w chunk of entries: %d of %d can be read", ErrInvalid, n, c.Entries)
	}
	return nil
}

// HasText reports whether the chunk holds an identifier that is no address.
func (c Chunk) HasText() bool {
	for r := (chunkReader{data: c.Data}); r.next(); {
		if r.form == formText {
			return true
		}
	}
	return false
}

// Hashes calls f with the [Hash] of every identifier, in order: what Each is to entries, in a fifth of the time.
func (c Chunk) Hashes(seed maphash.Seed, f func(uint64)) {
	for r := (chunkReader{data: c.Data}); r.next(); {
		if r.form == formText {
			f(Hash(seed, r.id))
			continue
		}
		p := probe{addr: r.addr, form: r.form, bits: r.bits}
		f(hashAddr(seed, &p))
	}
}

// Hash is a hash of a canonical identifier, of one process.
func Hash(seed maphash.Seed, id ID) uint64 {
	p := probe{}
	if id.Kind == KindIP {
		p.pack(id.Value)
	}
	if p.form != formText {
		return hashAddr(seed, &p)
	}
	return maphash.String(seed, id.Value) + maphash.String(seed, id.Name)*3 + uint64(id.Kind)
}

func lotOf(e Entry) lot {
	l := lot{list: e.List, source: e.Source, expires: ceilSecond(e.Expires).Unix(), reason: e.Reason, comment: e.Comment, by: e.By}
	l.created = e.Created.Unix() // never, if it is zero
	return l
}

func (p *Pack) addPrefix(l lot, prefix netip.Prefix) {
	addr, bits := prefix.Addr(), byte(prefix.Bits())
	if !addr.Is4() {
		six := addr.As16()
		p.begin(l, append([]byte{tagNet6, bits}, six[:]...)...)
		return
	}
	four := addr.As4()
	p.addIPv4(l, four, bits)
}

func (p *Pack) addIPv4(l lot, four [4]byte, bits byte) {
	if bits == 32 {
		p.begin(l, tagIPv4, four[0], four[1], four[2], four[3])
		return
	}
	p.begin(l, tagNet4, bits, four[0], four[1], four[2], four[3])
}

func (p *Pack) addText(l lot, id ID) {
	b := []byte{tagText, byte(id.Kind)}
	p.begin(l, appendText(appendText(b, id.Name), id.Value)...)
}

// addRecord adds an entry as a table holds it.
func (p *Pack) addRecord(list List, r *record) {
	t := r.texts.Value()
	l := lot{list: list, source: r.source, created: r.created, expires: r.expires, reason: t.reason, comment: t.comment, by: t.by}
	switch r.form {
	case form4:
		p.addIPv4(l, [4]byte(r.addr[:4]), r.bits)
	case form6:
		p.begin(l, append([]byte{tagNet6, r.bits}, r.addr[:]...)...)
	default:
		p.addText(l, ID{Kind: r.kind, Name: t.name, Value: r.value})
	}
}

// begin writes one record, in a new chunk if the last is full, and before it the lot if that is another.
func (p *Pack) begin(l lot, record ...byte) {
	last := len(p.chunks) - 1
	if last < 0 || len(p.chunks[last].Data)+len(record) > chunkSize || l.list != p.lot.list {
		p.chunks = append(p.chunks, Chunk{List: l.list, Data: make([]byte, 0, chunkSize)})
		last++
	}
	c := &p.chunks[last]
	before := len(c.Data)
	if c.Entries == 0 || l != p.lot {
		c.Data = append(c.Data, tagLot, byte(l.list), byte(l.source))
		c.Data = binary.AppendVarint(binary.AppendVarint(c.Data, l.created), l.expires)
		c.Data = appendText(appendText(appendText(c.Data, l.reason), l.comment), l.by)
		p.lot = l
	}
	c.Data = append(c.Data, record...)
	c.Entries++
	p.count++
	p.size += len(c.Data) - before
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// chunkReader reads the records of a chunk.
type chunkReader struct {
	data []byte
	bad  bool // it ended because data is no chunk

	lot   lot
	fresh bool // the lot has changed with this record
	form  form
	bits  uint8
	addr  [16]byte
	id    ID // form text
}

// next reads one identifier, with the lot before it if there is one.
func (r *chunkReader) next() bool {
	r.fresh = false
	for len(r.data) > 0 && !r.bad {
		switch tag := r.byte(); tag {
		case tagLot:
			r.readLot()
			continue
		case tagIPv4, tagNet4:
			r.form, r.bits, r.addr = form4, 32, [16]byte{}
			if tag == tagNet4 {
				r.bits = r.byte()
			}
			copy(r.addr[:4], r.take(4))
			r.bad = r.bad || r.bits > 32
		case tagNet6:
			r.form, r.bits = form6, r.byte()
			copy(r.addr[:], r.take(16))
			r.bad = r.bad || r.bits > 128
		case tagText:
			r.form, r.id = formText, ID{Kind: Kind(r.byte()), Name: r.text(), Value: r.text()}
			r.bad = r.bad || r.id.Kind == KindIP || !valid(kindWords, r.id.Kind)
		default:
			r.bad = true
		}
		r.bad = r.bad || r.lot.list == 0
		return !r.bad
	}
	return false
}

func (r *chunkReader) readLot() {
	r.fresh = true
	r.lot.list, r.lot.source = List(r.byte()), Source(r.byte())
	r.lot.created, r.lot.expires = r.number(), r.number()
	r.lot.reason, r.lot.comment, r.lot.by = r.text(), r.text(), r.text()
	r.bad = r.bad || !valid(listWords, r.lot.list) || !valid(sourceWords, r.lot.source)
}

func (r *chunkReader) take(n int) []byte {
	if r.bad = r.bad || n < 0 || n > len(r.data); r.bad {
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *chunkReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *chunkReader) number() int64 {
	v, n := binary.Varint(r.data)
	r.bad = r.bad || n <= 0
	r.take(n)
	return v
}

func (r *chunkReader) text() string {
	v, n := binary.Uvarint(r.data)
	r.bad = r.bad || n <= 0 || v > uint64(len(r.data))
	r.take(n)
	return string(r.take(int(v)))
}

func (r *chunkReader) prefix() netip.Prefix {
	if r.form == form4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(r.addr[:4])), int(r.bits))
	}
	return netip.PrefixFrom(netip.AddrFrom16(r.addr), int(r.bits))
}

func (r *chunkReader) entry() Entry {
	e := Entry{
		Key:     Key{List: r.lot.list, Source: r.lot.source, ID: r.id},
		Created: time.Unix(r.lot.created, 0).UTC(), Expires: time.Unix(r.lot.expires, 0).UTC(),
		Reason: r.lot.reason, Comment: r.lot.comment, By: r.lot.by,
	}
	if r.form != formText {
		e.ID = ID{Kind: KindIP, Value: formatPrefix(r.prefix())}
	}
	return e
}
