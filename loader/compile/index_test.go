package compile

import (
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

var indexSeed = flag.Uint64("index-seed", uint64(time.Now().UnixNano()), "seed of the random index changes")

// memory is an index's, in this process.
type memory struct {
	waits int
	wait  func()
	left  int // segments it may still make
}

var errNoMemory = errors.New("no memory")

func (m *memory) Segment(int) ([]uint64, error) {
	if m.left == 0 {
		return nil, errNoMemory
	}
	m.left--
	return make([]uint64, SegmentWords), nil
}

func (m *memory) Gate() []uint64 { return make([]uint64, GateWords) }

func (m *memory) Wait() {
	m.waits++
	if m.wait != nil {
		m.wait()
	}
}

const noon = 1_000_000 // now, in Unix seconds

// soon is whether a deadline comes within a minute of noon.
func soon(deadline int64) bool { return deadline <= noon+60 }

func newTestIndex(t testing.TB, table *Table, m *memory, seed uint64) *Index {
	t.Helper()
	var cells []Packed
	for p, c := range table.All() {
		if p.Addr().Is4() {
			cells = append(cells, Pack(p, c, soon))
		}
	}
	x, err := NewIndex(m, seed, Hosts(cells))
	if err != nil {
		t.Fatal(err)
	}
	x.Fill(slices.Values(cells))
	return x
}

// wanted is what an index is to answer: not to know is right too, but only where the clock matters.
func wanted(table *Table, a uint32) Answer {
	_, c := table.Lookup(addr(a), time.Unix(noon, 0))
	return [...]Answer{AnswerPass, AnswerDrop, AnswerAsk}[c.class(soon)]
}

func addr(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, a)))
}

// check compares an index with the table at these addresses. An answer may be to ask only if something in the /24
// has to be asked about.
func check(t *testing.T, x *Index, table *Table, probes []uint32) {
	t.Helper()
	for _, a := range probes {
		got, want := x.Answer(a), wanted(table, a)
		if got == want {
			continue
		}
		asks := false
		for i := range uint32(256) {
			asks = asks || wanted(table, a&^255|i) == AnswerAsk
		}
		if got == AnswerAsk && asks {
			continue
		}
		t.Fatalf("seed %d: index answers %d for %s, want %d", *indexSeed, got, addr(a), want)
	}
}

// edges are the first and last address of every prefix in a table, and their neighbours.
func edges(table *Table) (probes []uint32) {
	for p := range table.All() {
		if !p.Addr().Is4() {
			continue
		}
		from := first(p)
		to := from + uint32(1<<(32-p.Bits())-1)
		probes = append(probes, from-1, from, from+1, to-1, to, to+1, from+(to-from)/2)
	}
	return probes
}

// lists of entries that come and go, around few addresses so that they nest and fill /24s.
type feed struct {
	r       *rand.Rand
	entries map[lists.Key]lists.Entry
	keys    []lists.Key
	aim     []uint32
	widest  int // length of the widest prefix
}

func (f *feed) prefix() netip.Prefix {
	a := f.aim[f.r.IntN(len(f.aim))]
	if f.r.IntN(8) == 0 {
		a = f.r.Uint32()
	}
	n := []int{32, 32, 32, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 20, 19, 16, 12, 8, 1, 0}[min(f.r.IntN(21), f.r.IntN(26))]
	a ^= f.r.Uint32N(1 << f.r.IntN(14)) // keeps it near
	return netip.PrefixFrom(addr(a), max(n, f.widest)).Masked()
}

func (f *feed) change(t *testing.T) lists.Change {
	t.Helper()
	return f.changeOf(t, f.prefix())
}

// changeOf takes an entry off, or lists this prefix.
func (f *feed) changeOf(t *testing.T, p netip.Prefix) lists.Change {
	t.Helper()
	if len(f.keys) > 0 && f.r.IntN(100) < 45 {
		i := f.r.IntN(len(f.keys))
		k := f.keys[i]
		f.keys = slices.Delete(f.keys, i, i+1)
		e := f.entries[k]
		delete(f.entries, k)
		return lists.Change{Before: &e}
	}
	id, _, err := lists.ParseID(lists.KindIP, "", p.String())
	if err != nil {
		t.Fatal(err)
	}
	e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}}
	switch f.r.IntN(8) {
	case 0, 1:
		e.List = lists.Whitelist
	case 2:
		e.Source = lists.ABS
	}
	switch f.r.IntN(6) {
	case 0:
		e.Expires = time.Unix(noon+3600, 0)
	case 1:
		e.Expires = time.Unix(noon+7200, 0)
	case 2:
		e.Expires = time.Unix(noon+30, 0) // soon
	}
	c := lists.Change{After: &e}
	if before, ok := f.entries[e.Key]; ok {
		c.Before = &before
	} else {
		f.keys = append(f.keys, e.Key)
	}
	f.entries[e.Key] = e
	return c
}

// TestIndexFollowsTheTable changes random lists, and compares after every change at every edge.
func TestIndexFollowsTheTable(t *testing.T) {
	rounds, changes := 3, 80
	if testing.Short() {
		rounds, changes = 2, 30
	}
	t.Logf("seed %d (-index-seed)", *indexSeed)
	for round := range rounds {
		r := rand.New(rand.NewPCG(*indexSeed, uint64(round)))
		table, m := New(), &memory{left: 1000}
		x := newTestIndex(t, table, m, r.Uint64())
		f := &feed{r: r, entries: map[lists.Key]lists.Entry{}, aim: []uint32{r.Uint32(), r.Uint32(), 10 << 24, 0, 1<<32 - 1}}
		// Addresses without a tag, and more of one bucket than it has places, near each other's /24s.
		for i := range uint32(40) {
			f.aim = append(f.aim, x.unmix(i<<15), x.unmix(7<<15|i+1))
		}
		if round == 1 {
			m.left = 0 // leaves find no room
		}
		for range changes {
			var batch []lists.Change
			for range 1 + r.IntN(1+r.IntN(40)) {
				batch = append(batch, f.change(t))
			}
			rules := table.Apply(batch)
			c := x.Change(table, rules, soon)
			c.Remove()
			c.Add()
			if m.left == 0 {
				continue
			}
			probes := edges(table)
			for _, r := range rules {
				if r.Prefix.Addr().Is4() {
					probes = append(probes, first(r.Prefix), first(r.Prefix)+uint32(1<<(32-r.Prefix.Bits())-1))
				}
			}
			check(t, x, table, probes)
		}
		fresh := newTestIndex(t, table, &memory{left: 1000}, r.Uint64())
		check(t, fresh, table, edges(table))
		x.settle()
		if m.left > 0 && x.hosts != len(x.between(0, 1<<32)) {
			t.Errorf("seed %d: %d addresses counted, %d found", *indexSeed, x.hosts, len(x.between(0, 1<<32)))
		}
		around := map[uint32]bool{}
		for h := range slices.Values(x.between(0, 1<<32)) {
			around[h>>12] = true
			if code(atomic.LoadUint64(x.cell(h>>12)), h>>8&15) != codeHosts || wanted(table, h) != AnswerDrop {
				t.Errorf("seed %d: %s lies in a bucket for nothing", *indexSeed, addr(h))
			}
		}
		for number := range uint32(1 << 20) {
			if gate := x.gated(number); gate&gateEmpty == 0 != around[number] || gate&gateCell != 0 != (*x.cell(number) != 0) {
				t.Fatalf("seed %d: the gate tells %d of %s/20", *indexSeed, gate, addr(number<<12))
			}
		}
		if m.left == 0 {
			for _, a := range edges(table) {
				if got, want := x.Answer(a), wanted(table, a); got != want && got != AnswerAsk {
					t.Fatalf("seed %d: without memory: %d for %s, want %d", *indexSeed, got, addr(a), want)
				}
			}
		}
	}
}

// TestIndexReadersSeeOldOrNew looks at the index after every single store of a change, and also as a reader does
// that read gate, bucket and cell at different moments, any two between which there was no wait.
func TestIndexReadersSeeOldOrNew(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 2
	}
	t.Logf("seed %d (-index-seed)", *indexSeed)
	stores := 0
	for round := range rounds {
		r := rand.New(rand.NewPCG(*indexSeed, uint64(round)))
		table, m := New(), &memory{left: 1000}
		near := r.Uint32()
		f := &feed{r: r, entries: map[lists.Key]lists.Entry{}, aim: []uint32{near, near ^ 256, near ^ 4096}, widest: 14}
		var batch []lists.Change
		for range r.IntN(30) {
			batch = append(batch, f.change(t))
		}
		table.Apply(batch)
		x := newTestIndex(t, table, m, r.Uint64())
		for range 20 {
			probes := edges(table)
			for range 60 {
				probes = append(probes, near^r.Uint32N(1<<r.IntN(14)))
			}
			slices.Sort(probes)
			probes = slices.Compact(probes)
			before := make([]Answer, len(probes))
			for i, a := range probes {
				before[i] = x.Answer(a)
			}
			batch = batch[:0]
			for range 1 + r.IntN(6) {
				batch = append(batch, f.change(t))
			}
			rules := table.Apply(batch)
			o := &observer{x: x, probes: probes, allowed: make([][3]bool, len(probes))}
			for i, a := range probes {
				o.allowed[i][before[i]] = true
				o.allowed[i][wanted(table, a)] = true
				o.allowed[i][AnswerAsk] = true
			}
			o.forget()
			o.look(t)
			m.wait = o.forget
			x.stored = func() { stores++; o.look(t) }
			c := x.Change(table, rules, soon)
			c.Remove()
			c.Add()
			if r.IntN(4) == 0 {
				x.settle()
			}
			x.stored, m.wait = nil, nil
			check(t, x, table, probes)
		}
	}
	t.Logf("%d stores", stores)
}

// observer reads probes after every store.
type observer struct {
	x       *Index
	probes  []uint32
	allowed [][3]bool
	gates   [][4]bool  // values that a reader may hold since the last wait
	cells   [][]uint64 // the same
	hits    [][2]bool  // whether some moment since then had it in the bucket (1) or not (0)
}

func (o *observer) forget() {
	o.gates = make([][4]bool, len(o.probes))
	o.cells = make([][]uint64, len(o.probes))
	o.hits = make([][2]bool, len(o.probes))
}

func (o *observer) look(t *testing.T) {
	t.Helper()
	for i, a := range o.probes {
		cell, hit := atomic.LoadUint64(o.x.cell(a>>12)), 0
		if o.x.has(a) {
			hit = 1
		}
		o.hits[i][hit] = true
		o.gates[i][o.x.gated(a>>12)] = true
		if !slices.Contains(o.cells[i], cell) {
			o.cells[i] = append(o.cells[i], cell)
		}
		slices.Sort(o.cells[i])
		o.cells[i] = slices.Compact(o.cells[i])
		for gate, read := range o.gates[i] {
			if read {
				o.answers(t, i, uint64(gate))
			}
		}
	}
}

// answers looks at all that a reader may make of a gate that it has read.
func (o *observer) answers(t *testing.T, i int, gate uint64) {
	t.Helper()
	for _, cell := range o.cells[i] {
		if gate&gateCell == 0 {
			cell = 0
		}
		for hit, seen := range o.hits[i] {
			if !seen {
				continue
			}
			got := answer(o.x.segments[:], cell, hit == 1 && gate&gateEmpty == 0, o.probes[i])
			if !o.allowed[i][got] {
				t.Fatalf("seed %d: a reader gets %d for %s, allowed %v", *indexSeed, got, addr(o.probes[i]), o.allowed[i])
			}
		}
	}
}
