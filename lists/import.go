package lists

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Imported counts what became of the entries of a pack.
type Imported struct {
	Added     int // were not there
	Replaced  int // were there with another end, reason or comment, and now have the new ones
	Unchanged int // were there as they are, or stand in the pack more than once
	Removed   int // went, for the pack that replaces the list does not hold them
}

// importer puts the entries of a pack on the lists.
type importer struct {
	*applier
	begins [2]int // the first slot of each list that this import filled
	count  [2]Imported
	gone   []Change // entries that were there before, as they were and as they are
	now    lot      // what the entries have in common, with what is filled in

	replaced *Snapshot // if Replace: the lists before they were emptied
	replace  List
	cleared  int // manual entries that were there
	kept     int // of these, those that the pack holds
}

// importPack is OpAdd of every entry of the pack, in one step. What is past its end is removed from both lists first.
func (a *applier) importPack(op Operation) (Outcome, int, error) {
	if op.Pack == nil {
		return 0, 0, fmt.Errorf("%w operation import: it has no pack", ErrInvalid)
	}
	a.expireDue()
	m := &importer{applier: a, replace: op.Replace}
	if op.Replace != 0 {
		if err := m.empty(op); err != nil {
			return 0, 0, err
		}
	}
	for i := range m.begins {
		if t := a.tables[i]; t != nil {
			m.begins[i] = t.slots
		}
	}
	for _, c := range op.Pack.chunks {
		r := chunkReader{data: c.Data}
		for r.next() {
			if r.fresh {
				if err := m.begin(r.lot); err != nil {
					return 0, 0, err
				}
			}
			m.put(&r)
		}
	}
	return m.finish()
}

// empty takes the manual entries off the list that is replaced; what the pack holds of them comes back as it was.
func (m *importer) empty(op Operation) error {
	if op.Pack.Len() == 0 {
		return fmt.Errorf("%w operation import: nothing to replace the %s with", ErrInvalid, op.Replace)
	}
	m.replaced = m.base
	if len(m.Steps) > 0 {
		m.replaced = m.Builder.Snapshot(m.base.Generation())
		m.Builder = NewBuilder(m.replaced)
	}
	var err error
	_, m.cleared, err = m.clear(Operation{Op: OpClearSources, List: op.Replace, Sources: []Source{Manual}})
	return err
}

// was returns the entry that is replaced by an entry of the pack.
func (m *importer) was(r *record) (Entry, bool) {
	if m.replace != m.now.list || r.source != Manual {
		return Entry{}, false
	}
	return m.replaced.Get(r.entry(m.replace).Key)
}

// expireDue removes what is past its end, so that no identifier of an import meets it.
func (a *applier) expireDue() {
	for _, l := range []List{Whitelist, Blacklist} {
		t := a.table(l)
		if t == nil {
			continue
		}
		var due []Entry
		t.due(a.now.Unix(), func(r *record) bool { due = append(due, r.entry(l)); return true })
		for i := range due {
			a.Delete(due[i].Key)
			a.step(OpAdd, &due[i], nil)
		}
	}
}

// begin takes over what the next entries have in common.
func (m *importer) begin(l lot) error {
	m.now = l
	if m.now.by == "" {
		m.now.by = m.batch.By
	}
	if l.expires != never && l.expires <= m.applier.now.Unix() {
		return fmt.Errorf("%w end of imported entries: %s is not after %s", ErrInvalid,
			time.Unix(l.expires, 0).UTC().Format(time.RFC3339), m.applier.now.Format(time.RFC3339))
	}
	if now := m.applier.now.Unix(); l.created == never || l.created > now {
		m.now.created = now
	}
	return nil
}

func (m *importer) put(r *chunkReader) {
	t := m.edit(m.now.list)
	var p probe
	if r.form == formText {
		p = newProbe(t.seed, r.id)
	} else {
		p = probe{id: ID{Kind: KindIP}, addr: r.addr, form: r.form, bits: r.bits}
		p.hash = uint32(hashAddr(t.seed, &p))
	}
	next := record{
		addr: p.addr, form: p.form, bits: p.bits,
		texts:   m.intern(texts{p.id.Name, m.now.reason, m.now.comment, m.now.by}),
		created: m.now.created, expires: m.now.expires, kind: p.id.Kind, source: m.now.source,
	}
	if p.form == formText {
		next.value = p.id.Value
	}
	var buf [numSources]int
	slots := t.find(&p, buf[:0])
	for _, slot := range slots {
		if t.at(slot).source == next.source {
			m.merge(t, slot, next)
			return
		}
	}
	count := &m.count[m.now.list-1]
	if old, found := m.was(&next); found {
		m.kept++
		next.created = old.Created.Unix()
		next.texts = m.intern(texts{p.id.Name, cmp.Or(m.now.reason, old.Reason), cmp.Or(m.now.comment, old.Comment), old.By})
		if next.entry(m.replace) == old {
			count.Unchanged++
		} else {
			count.Replaced++
		}
	} else {
		count.Added++
	}
	t.add(p.hash, next, len(slots) > 0)
}

// merge is what adding does to an entry that is there, in this import or before it.
func (m *importer) merge(t *editor, slot int, next record) {
	l, count := m.now.list, &m.count[m.now.list-1]
	old := *t.at(slot)
	had := old.texts.Value()
	next.created = old.created
	reason, comment := m.now.reason, m.now.comment
	if reason == "" {
		reason = had.reason
	}
	if comment == "" {
		comment = had.comment
	}
	next.texts = m.intern(texts{had.name, reason, comment, had.by})
	if next == old {
		count.Unchanged++
		return
	}
	t.page(slot/pageLen).write(slot%pageLen, next)
	if slot >= m.begins[l-1] {
		count.Unchanged++ // the last of several in the pack counts
		return
	}
	count.Replaced++
	before, after := old.entry(l), next.entry(l)
	m.gone = append(m.gone, Change{Before: &before, After: &after})
}

// finish makes the step that the store writes: what is new as a pack, what was there before as changes.
func (m *importer) finish() (Outcome, int, error) {
	step := Step{Op: OpImport, Pack: &Pack{}, Replaced: m.gone}
	m.Result.Imported.Removed += m.cleared - m.kept
	var notes []string
	for i, l := range []List{Whitelist, Blacklist} {
		c := m.count[i]
		m.Result.Imported.Added += c.Added
		m.Result.Imported.Replaced += c.Replaced
		m.Result.Imported.Unchanged += c.Unchanged
		replaced := l == m.replace
		if c.Added+c.Replaced == 0 && !replaced {
			continue
		}
		note := fmt.Sprintf("%s %d added, %d updated", l, c.Added, c.Replaced)
		if replaced {
			note += fmt.Sprintf(", %d removed", m.cleared-m.kept)
		}
		notes = append(notes, note)
		for t, slot := m.tables[i], m.begins[i]; slot < t.slots; slot++ {
			step.Pack.addRecord(l, t.at(slot))
		}
	}
	step.Note = strings.Join(notes, ", ")
	step.Count = step.Pack.Len() + len(m.gone)
	if step.Count == 0 {
		return Unchanged, 0, nil
	}
	if step.Count > maxListed {
		m.Whole = true
	} else {
		m.Changes = append(m.Changes, m.gone...)
		for e := range step.Pack.All() {
			m.Changes = append(m.Changes, Change{After: &e})
		}
	}
	m.Steps = append(m.Steps, step)
	return Added, step.Pack.Len(), nil
}
