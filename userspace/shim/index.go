package shim

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/gaissmai/bart"

	"github.com/portcullis/portcullis/lists"
)

// index is both lists as requests are matched against them. Immutable.
type index struct {
	*secret
	settings lists.Settings
	values   *table // what is listed, by every key that it may be met under
	names    *table // the folded names of listed cookies and API keys, so that others need no look
	// The same names again, each in the set of its kind, and some that are listed no more.
	cookieNames, keyNames names
	prefixes              *bart.Table[prefixMeta] // addresses that are no host; nil: none
	count                 tally
	serial                uint64 // grows from index to index
}

// touched is what a change of lists may have blocked: streams that nothing of it names need no new judgement.
type touched struct {
	all      bool           // whatever it was
	tags     []uint64       // of values and of names, as work meets them
	prefixes []netip.Prefix // of addresses
}

// maxTouched is from how many on nothing is told apart.
const maxTouched = 1000

func (t *touched) add(o touched) {
	t.all = t.all || o.all
	t.tags, t.prefixes = append(t.tags, o.tags...), append(t.prefixes, o.prefixes...)
	if t.all = t.all || len(t.tags)+len(t.prefixes) > maxTouched; t.all {
		t.tags, t.prefixes = nil, nil
	}
}

// tally counts listings, so that nothing is looked up where nothing is listed.
type tally struct {
	black, jwt, signed, white [kinds]int
	prefixes                  [lists.Blacklist + 1]int // by list
}

// prefixMeta is what is listed under one prefix. Never changed once it is in an index.
type prefixMeta struct {
	id   string // as it is listed
	meta []meta
}

// writer makes indexes. It is safe for concurrent use, and one at a time works.
type writer struct {
	*secret
	mu     sync.Mutex
	names  map[uint64]int // how many entries have the name
	serial uint64
}

func newWriter() *writer { return &writer{secret: newSecret(), names: make(map[uint64]int)} }

// empty returns an index that lists nothing.
func (w *writer) empty() *index {
	return &index{secret: w.secret, values: newTable(shardsOf), names: newTable(64)}
}

// next returns the index of a snapshot that changes lead to from that of old, and what they touch; the snapshot is read
// if they do not.
func (w *writer) next(old *index, snap *lists.Snapshot, changes []lists.Change, whole bool) (*index, touched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !whole && len(changes) < 1000+old.values.live/4 {
		if b := w.edit(old); b.apply(changes) {
			b.touched.all = snap.Settings() != old.settings
			return b.index(snap), b.touched
		}
	}
	clear(w.names)
	b := w.edit(w.empty())
	b.fresh = true
	for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		b.values.reserve(snap.Len(l))
		for e := range snap.Entries(l) {
			b.add(e)
		}
	}
	return b.index(snap), touched{all: true}
}

// builder is one edit of an index.
type builder struct {
	*writer
	values, named *editor

	cookieNames, keyNames names

	prefixes *bart.Table[prefixMeta]
	fresh    bool // nobody else has prefixes
	count    tally
	speller  speller
	summer   summer
	buf      []byte
	made     []fingerprint // of the entry that is being worked on
	touched  touched
}

func (w *writer) edit(old *index) *builder {
	b := &builder{writer: w, values: old.values.edit(), named: old.names.edit(), prefixes: old.prefixes, count: old.count,
		cookieNames: old.cookieNames, keyNames: old.keyNames}
	if b.prefixes == nil {
		b.prefixes = new(bart.Table[prefixMeta])
	}
	return b
}

func (b *builder) index(snap *lists.Snapshot) *index {
	b.writer.serial++
	ix := &index{serial: b.writer.serial, secret: b.secret, settings: snap.Settings(), values: &b.values.table, names: &b.named.table,
		count: b.count, cookieNames: b.cookieNames, keyNames: b.keyNames}
	if b.count.prefixes != (tally{}).prefixes {
		ix.prefixes = b.prefixes
	}
	return ix
}

// apply reports whether every change could be made; the builder is useless if not.
func (b *builder) apply(changes []lists.Change) bool {
	for _, c := range changes {
		if c.Before != nil && !b.remove(*c.Before) {
			return false
		}
		if c.After != nil {
			b.add(*c.After)
		}
	}
	return true
}

func (b *builder) add(e lists.Entry) {
	m, blocks := metaOf(e), e.List == lists.Blacklist
	b.touchAddress(e.ID, blocks)
	if p, isPrefix := prefixOf(e.ID); isPrefix {
		b.modify(p, func(v prefixMeta, _ bool) (prefixMeta, bool) {
			return prefixMeta{e.ID.Value, append(slices.Clone(v.meta), m)}, false
		})
		b.count.prefixes[e.List]++
		return
	}
	b.keys(e, func(k key, f fingerprint) {
		b.values.add(slot{f, m})
		b.count.add(e.List, k, 1)
		b.touch(f.tag, blocks)
	})
	if e.ID.Kind.Named() {
		tag := b.nameOf(e.ID)
		if b.writer.names[tag]++; b.writer.names[tag] == 1 {
			b.named.add(slot{fingerprint{tag: tag}, 1})
			b.touch(tag, true) // of those who bear it nobody knows what else was read
			if e.ID.Kind == lists.KindCookie {
				b.cookieNames.add(b.buf)
			} else {
				b.keyNames.add(b.buf)
			}
		}
	}
}

// touch notes what was met under a tag, where that could block somebody.
func (b *builder) touch(tag uint64, blocks bool) {
	if blocks && !b.fresh && len(b.touched.tags) <= maxTouched {
		b.touched.tags = append(b.touched.tags, tag)
	}
}

func (b *builder) touchAddress(id lists.ID, blocks bool) {
	if p, ok := id.Prefix(); ok && blocks && !b.fresh && len(b.touched.prefixes) <= maxTouched {
		b.touched.prefixes = append(b.touched.prefixes, p)
	}
}

func (b *builder) remove(e lists.Entry) bool {
	m, ok := metaOf(e), true
	unprotects := e.List == lists.Whitelist
	b.touchAddress(e.ID, unprotects)
	if p, isPrefix := prefixOf(e.ID); isPrefix {
		b.modify(p, func(v prefixMeta, _ bool) (prefixMeta, bool) {
			i := slices.Index(v.meta, m)
			if ok = i >= 0; !ok {
				return v, len(v.meta) == 0
			}
			return prefixMeta{v.id, slices.Delete(slices.Clone(v.meta), i, i+1)}, len(v.meta) == 1
		})
		b.count.prefixes[e.List]--
		return ok
	}
	b.keys(e, func(k key, f fingerprint) {
		ok = b.values.remove(slot{f, m}) && ok
		b.count.add(e.List, k, -1)
		b.touch(f.tag, unprotects)
	})
	if e.ID.Kind.Named() {
		tag := b.nameOf(e.ID)
		if b.writer.names[tag]--; b.writer.names[tag] <= 0 {
			delete(b.writer.names, tag)
			ok = b.named.remove(slot{fingerprint{tag: tag}, 1}) && ok
		}
	}
	return ok
}

func (b *builder) modify(p netip.Prefix, f func(v prefixMeta, ok bool) (prefixMeta, bool)) {
	if b.fresh {
		b.prefixes.Modify(p, f)
		return
	}
	b.prefixes = b.prefixes.ModifyPersist(p, f)
}

// nameOf is what index.lists looks for. It leaves the folded name in b.buf.
func (b *builder) nameOf(id lists.ID) uint64 {
	b.buf = b.speller.foldEncoded(b.buf[:0], id.Name)
	return nameTag(id.Kind, b.secret.name(textOf(b.buf)))
}

// nameTag tells names of cookies from those of API keys.
func nameTag(kind lists.Kind, name uint64) uint64 { return name + uint64(kind)*0x9e3779b97f4a7c15 }

// lists reports whether anything of that kind and folded name is listed.
func (ix *index) lists(kind lists.Kind, name uint64) bool { return ix.names.has(nameTag(kind, name)) }

func (t *tally) add(l lists.List, k key, n int) {
	switch {
	case l == lists.Whitelist:
		t.white[k.kind] += n
	case k.form == formJWT:
		t.jwt[k.kind] += n
	case k.form == formSigned:
		t.signed[k.kind] += n
	default:
		t.black[k.kind] += n
	}
}

// prefixOf returns what an address entry covers if it is more than one host.
func prefixOf(id lists.ID) (netip.Prefix, bool) {
	if id.Kind != lists.KindIP || strings.IndexByte(id.Value, '/') < 0 {
		return netip.Prefix{}, false
	}
	p, ok := id.Prefix()
	return p, ok && !p.IsSingleIP()
}

// keys calls f with each different key that an entry is met under. It must do for listed values what work does for
// values of requests.
func (b *builder) keys(e lists.Entry, f func(key, fingerprint)) {
	b.made = b.made[:0]
	emit := func(k key) {
		fp := b.summer.fingerprint(b.secret, k)
		if !slices.Contains(b.made, fp) {
			b.made = append(b.made, fp)
			f(k, fp)
		}
	}
	id := e.ID
	switch {
	case id.Kind == lists.KindIP:
		if p, ok := id.Prefix(); ok {
			addr := p.Addr().As16()
			emit(key{kind: id.Kind, value: string(addr[:])})
		}
	case e.List == lists.Whitelist:
		emit(key{kind: id.Kind, form: formStrict, name: id.Name, value: id.Value})
		if id.Kind == lists.KindAPIKey {
			emit(key{kind: id.Kind, form: formHeader, name: strings.ToLower(id.Name), value: id.Value})
		}
	case id.Kind == lists.KindUsername:
		emit(key{kind: id.Kind, value: id.Value})
		if lower := strings.ToLower(id.Value); lower != id.Value {
			emit(key{kind: id.Kind, form: formCase, value: lower})
		}
	default:
		name := ""
		if id.Kind.Named() {
			name = string(b.speller.foldEncoded(nil, id.Name))
		}
		b.speller.each(id.Value, true, func(value string, _ spelling) {
			emit(b.keyOf(id.Kind, name, value, e.Source != lists.Manual))
		})
	}
}

// keyOf is the key of one spelling of a blacklisted cookie, token or API key.
func (b *builder) keyOf(kind lists.Kind, name, value string, automatic bool) key {
	head, payload, signature, ok := jwtParts(value)
	if !ok {
		return key{kind: kind, name: name, value: value}
	}
	if b.buf, ok = appendSigned(b.buf[:0], head, payload); !ok {
		return key{kind: kind, name: name, value: value}
	}
	if !automatic {
		return key{kind: kind, form: formJWT, name: name, value: textOf(b.buf)}
	}
	b.buf = appendSignature(append(b.buf, 0, '.'), signature)
	return key{kind: kind, form: formSigned, name: name, value: textOf(b.buf)}
}
