package compile

import (
	"net/netip"
	"slices"
)

// Filling6 collects the cells of a new IPv6 index. The zero value is ready.
type Filling6 struct {
	cells       []cell6
	nets, hosts int
}

type cell6 struct {
	key   key6
	class class
}

// Add takes a prefix, IPv6 only, in any order; in that of [Table.All] it is fastest.
func (f *Filling6) Add(p netip.Prefix, c Cell, soon func(deadline int64) bool) {
	if c.DropUntil == 0 { // nor is there around it
		return
	}
	switch level, keys := level6Of(p); level {
	case 0:
	case levelHosts:
		f.hosts++
	default:
		f.nets += keys
	}
	f.cells = append(f.cells, cell6{key6Of(p), c.class(soon)})
}

// Index makes the index. It fails as memory.Segment does; the seeds keep those who write lists from aiming at one line.
func (f *Filling6) Index(memory Memory, seeds [3]uint64) (*Index6, error) {
	x, err := newIndex6(memory, seeds, f.nets, f.hosts)
	if err != nil {
		return nil, err
	}
	order := func(a, b cell6) int { return a.key.compare(b.key) }
	if !slices.IsSortedFunc(f.cells, order) {
		slices.SortFunc(f.cells, order)
	}
	for _, c := range f.cells { // what lies in another prefix comes after it, and overwrites what that was written out as
		p := c.key.prefix()
		answer := uint64(c.class)
		if odd(p) {
			answer = answerAll
		}
		keys6(p, func(k indexed6) { x.put(k, answer) })
	}
	x.lostAtFirst = x.lost
	return x, nil
}

// Ask leaves to the tries every address whose verdict the rules may change, until the steps of [Index6.Plan] are
// written: whatever of the rules the tries hold meanwhile, nobody is judged by a part of them.
func (x *Index6) Ask(rules []Rule) {
	for _, r := range rules {
		if !r.Prefix.Addr().Is6() {
			continue
		}
		if odd(r.Prefix) {
			if r.Cell.DropUntil != 0 {
				keys6(r.Prefix, func(k indexed6) { x.put(k, answerAll) })
			}
			continue
		}
		keys6(r.Prefix, func(k indexed6) {
			if r.Cell.DropUntil != 0 || k.level == 0 || x.has(k) {
				x.put(k, uint64(classAsk))
			}
		})
	}
}

// Step6 is what is to be written of a change.
type Step6 struct {
	key    indexed6
	answer uint64
	gone   bool
}

// Plan works out what brings the index up to date with a table that has the rules already. It writes nothing.
func (x *Index6) Plan(t *Table, rules []Rule, soon func(deadline int64) bool) (steps []Step6) {
	for _, r := range rules {
		if !r.Prefix.Addr().Is6() || odd(r.Prefix) {
			continue
		}
		keys6(r.Prefix, func(k indexed6) {
			c, ok := t.at(k)
			steps = append(steps, Step6{k, uint64(c.class(soon)), !ok})
		})
	}
	return steps
}

// Write takes the steps. Each may be taken by itself, in any order, after an [Index6.Ask] about their rules.
func (x *Index6) Write(steps []Step6) {
	for _, s := range steps {
		if s.gone {
			x.take(s.key)
		} else {
			x.put(s.key, s.answer)
		}
	}
}

// at returns the cell that holds for a key if that is one of its own level: from a prefix that is written out as keys
// of this level, and has something to say.
func (t *Table) at(k indexed6) (c Cell, ok bool) {
	p := k.prefix()
	wider := p.Bits() - 4 // the level above
	switch k.level {
	case 0:
		wider = -1
	case levelHosts:
		wider = 127
	}
	for by, n := range t.nodes.Supernets(p) { // the closest one comes first
		return n.cell, n.cell.DropUntil != 0 && by.Bits() > wider
	}
	return Cell{}, false
}
