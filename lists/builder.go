package lists

import (
	"slices"
	"unique"
)

// Change is one difference between two snapshots. Before and After are nil where the entry did not exist.
type Change struct {
	Before, After *Entry
}

// Builder makes the next snapshot from an earlier one. It is not safe for concurrent use. The earlier snapshot
// is not changed.
type Builder struct {
	settings Settings
	tables   [2]*table  // as they are now, nil: empty
	editors  [2]*editor // those that were written to; tables points into them
	me       *owner
	last     texts // interned last, and its handle: entries of one source come in a row
	handle   unique.Handle[texts]
}

// NewBuilder starts from base, which may be nil.
func NewBuilder(base *Snapshot) *Builder {
	b := &Builder{me: new(owner), handle: unique.Make(texts{})}
	if base != nil {
		b.settings, b.tables = base.settings, base.tables
	}
	return b
}

// Put adds the entry or replaces the one with its key, keeping the replaced one's place in the order; it returns
// what was there. The entry must be valid (see [Entry.Validate]): Put panics on a list, source or kind that does
// not exist, and checks nothing else. Times are kept in whole seconds, Expires rounded up.
func (b *Builder) Put(e Entry) (before Entry, replaced bool) {
	if !valid(listWords, e.List) || !valid(sourceWords, e.Source) || !valid(kindWords, e.ID.Kind) {
		panic("lists: Put of an entry without list, source or kind")
	}
	t := b.edit(e.List)
	p := newProbe(t.seed, e.ID)
	r := record{
		addr: p.addr, form: p.form, bits: p.bits,
		texts:   b.intern(texts{e.ID.Name, e.Reason, e.Comment, e.By}),
		created: e.Created.Unix(), expires: ceilSecond(e.Expires).Unix(),
		kind: e.ID.Kind, source: e.Source,
	}
	if p.form == formText {
		r.value = e.ID.Value
	}
	var buf [numSources]int
	slots := t.find(&p, buf[:0])
	for _, slot := range slots {
		if t.at(slot).source == e.Source {
			before = t.at(slot).entry(e.List)
			t.page(slot/pageLen).write(slot%pageLen, r)
			return before, true
		}
	}
	t.add(p.hash, r, len(slots) > 0)
	return Entry{}, false
}

// Delete removes the entry with that key and returns it.
func (b *Builder) Delete(k Key) (before Entry, ok bool) {
	if before, ok = b.Get(k); !ok {
		return Entry{}, false
	}
	t := b.edit(k.List)
	p := newProbe(t.seed, k.ID)
	var buf [numSources]int
	slots := t.find(&p, buf[:0])
	for _, slot := range slots {
		if t.at(slot).source == k.Source {
			t.remove(p.hash, slot, len(slots) > 1)
			break
		}
	}
	return before, true
}

// Clear removes every entry of the list, or, when sources are given, those of these sources. The cost of
// clearing a whole list does not grow with its length.
func (b *Builder) Clear(l List, sources ...Source) (removed int) {
	t := b.table(l)
	if t == nil {
		return 0
	}
	if len(sources) == 0 {
		b.tables[l-1], b.editors[l-1] = nil, nil
		return t.live
	}
	for i, s := range sources {
		if !slices.Contains(sources[:i], s) && valid(sourceWords, s) {
			removed += t.bySource[s]
		}
	}
	if removed > 0 {
		b.edit(l).keep(func(r *record) bool { return !slices.Contains(sources, r.source) })
	}
	return removed
}

// Set replaces the switches.
func (b *Builder) Set(s Settings) { b.settings = s }

// Get returns the entry with that key as it is now.
func (b *Builder) Get(k Key) (Entry, bool) { return b.table(k.List).get(k) }

// Find returns the entries of every source that hold id now, in the order of sources.
func (b *Builder) Find(l List, id ID) []Entry { return b.table(l).findAll(l, id) }

// Snapshot returns the finished value under that generation. The Builder must not be used afterwards.
func (b *Builder) Snapshot(generation uint64) *Snapshot {
	s := &Snapshot{generation: generation, settings: b.settings, tables: b.tables}
	for i, e := range b.editors {
		if e != nil {
			t := e.table // without the editor, which would keep the owner's rights
			s.tables[i] = &t
		}
	}
	*b = Builder{}
	return s
}

func (b *Builder) table(l List) *table {
	if !valid(listWords, l) {
		return nil
	}
	return b.tables[l-1]
}

// edit returns the list's table, made writable.
func (b *Builder) edit(l List) *editor {
	i := l - 1
	if b.editors[i] == nil {
		e := &editor{me: b.me}
		if t := b.tables[i]; t != nil {
			e.table = *t
		} else {
			e.table = *newTable()
		}
		b.editors[i], b.tables[i] = e, &e.table
	}
	return b.editors[i]
}

func (b *Builder) intern(t texts) unique.Handle[texts] {
	if t != b.last {
		b.last, b.handle = t, unique.Make(t)
	}
	return b.handle
}
