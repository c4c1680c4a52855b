package lists

import (
	"hash/maphash"
	"net/netip"
	"time"
	"unique"
)

// record is an entry as a snapshot holds it: 64 bytes, and nothing more for an IP address.
type record struct {
	addr    [16]byte // form 4 and 6; IPv4 in the first four bytes
	value   string   // form text
	texts   unique.Handle[texts]
	created int64 // Unix seconds
	expires int64 // Unix seconds or never
	kind    Kind  // 0: a hole that a deleted entry left
	source  Source
	form    form
	bits    uint8 // prefix length, form 4 and 6
}

// never is a record's expires without an end: the Unix seconds of time.Time{}.
const never = -62135596800

// form says how a record holds its value.
type form uint8

const (
	formText form = iota
	form4
	form6
)

// texts are the strings that many entries share. They are interned, so that a million entries of one feed hold
// one copy.
type texts struct{ name, reason, comment, by string }

// probe is an identifier prepared for looking it up.
type probe struct {
	id   ID
	hash uint32
	addr [16]byte
	form form
	bits uint8
}

// newProbe packs and hashes id. The seed is per table and random, so that nobody who chooses identifiers can aim
// at one shard.
func newProbe(seed maphash.Seed, id ID) probe {
	p := probe{id: id}
	if id.Kind == KindIP {
		p.pack(id.Value)
	}
	if p.form != formText {
		p.hash = uint32(hashAddr(seed, &p))
		return p
	}
	h := maphash.String(seed, id.Value) + uint64(id.Kind)
	if id.Name != "" {
		h = h*0x9e3779b97f4a7c15 + maphash.String(seed, id.Name)
	}
	p.hash = uint32(h)
	return p
}

// hashAddr is the hash of a probe that is packed.
func hashAddr(seed maphash.Seed, p *probe) uint64 {
	var b [18]byte
	copy(b[:], p.addr[:])
	b[16], b[17] = byte(p.form), p.bits
	return maphash.Bytes(seed, b[:])
}

// pack fills addr, bits and form if value is in canonical form; else the value stays text, which costs memory and
// harms nothing.
func (p *probe) pack(value string) {
	var prefix netip.Prefix
	if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
		prefix = netip.PrefixFrom(a, a.BitLen())
	} else if prefix, err = netip.ParsePrefix(value); err != nil {
		return
	}
	var buf [64]byte
	text := buf[:0]
	if prefix.IsSingleIP() {
		text = prefix.Addr().AppendTo(text)
	} else {
		text = prefix.AppendTo(text)
	}
	if string(text) != value || prefix.Addr().Is4In6() || prefix != prefix.Masked() {
		return
	}
	p.bits, p.form = uint8(prefix.Bits()), form6
	if p.addr = prefix.Addr().As16(); prefix.Addr().Is4() {
		four := prefix.Addr().As4()
		p.addr, p.form = [16]byte{}, form4
		copy(p.addr[:], four[:])
	}
}

// matches reports whether r holds the identifier, whatever its source.
func (p *probe) matches(r *record) bool {
	if r.kind != p.id.Kind || r.form != p.form {
		return false
	}
	if p.form != formText {
		return r.addr == p.addr && r.bits == p.bits
	}
	return r.value == p.id.Value && (!p.id.Kind.Named() && p.id.Name == "" || r.texts.Value().name == p.id.Name)
}

// prefix is what an IP entry covers.
func (r *record) prefix() (p netip.Prefix, ok bool) {
	switch r.form {
	case form4:
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(r.addr[:4])), int(r.bits)), true
	case form6:
		return netip.PrefixFrom(netip.AddrFrom16(r.addr), int(r.bits)), true
	}
	return ID{Kind: r.kind, Value: r.value}.Prefix()
}

func (r *record) id() ID {
	if r.form != formText {
		p, _ := r.prefix()
		return ID{Kind: r.kind, Value: formatPrefix(p)}
	}
	return ID{Kind: r.kind, Name: r.texts.Value().name, Value: r.value}
}

func (r *record) entry(l List) Entry {
	t := r.texts.Value()
	return Entry{
		Key:     Key{List: l, Source: r.source, ID: r.id()},
		Created: time.Unix(r.created, 0).UTC(), Expires: time.Unix(r.expires, 0).UTC(),
		Reason: t.reason, Comment: t.comment, By: t.by,
	}
}
