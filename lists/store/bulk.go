package store

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/portcullis/portcullis/lists"
)

// bulkSchema: an import is written as chunks of lists.Pack, a page of the database each, not row by row: a million
// entries take 5 MB and a tenth of a second so. seq is that of the chunk's first entry, the others follow; made is
// when they were added, in Unix seconds. A chunk becomes rows when one of its entries changes or goes.
const bulkSchema = `
CREATE TABLE whitelist_bulk (seq INTEGER PRIMARY KEY, entries INTEGER NOT NULL, made INTEGER NOT NULL, data BLOB NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE blacklist_bulk (seq INTEGER PRIMARY KEY, entries INTEGER NOT NULL, made INTEGER NOT NULL, data BLOB NOT NULL, sum INTEGER NOT NULL);
`

// bulkVersion is the first schema version with chunks.
const bulkVersion = 2

// chunk is a row of a bulk table.
type chunk struct {
	seq, made int64
	lists.Chunk
	stored []byte // Data as the table has it
	sum    int64
}

// checksum computes the checksum over all columns.
func (c *chunk) checksum() int64 {
	var sum checksum
	sum.ints(c.seq, int64(c.Entries), c.made)
	sum.buf = append(sum.buf, c.stored...)
	return sum.sum()
}

// rows are the entries of the chunk as rows that are not finished, in order.
func (c *chunk) rows(each func(r *row)) error {
	seq := c.seq
	err := c.Each(func(e lists.Entry) error {
		if err := e.Validate(); err != nil {
			return err
		}
		r := newRow(seq, e, time.Unix(c.made, 0))
		seq++
		each(&r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: chunk %d of %s: %w", ErrCorrupt, c.seq, c.List, err)
	}
	return nil
}

// from reports whether an entry is of one of the sources.
func (c *chunk) from(sources []lists.Source) (found bool) {
	_ = c.Each(func(e lists.Entry) error { // what is damaged is found when it is unpacked
		found = found || slices.Contains(sources, e.Source)
		return nil
	})
	return found
}

// filterWords is the size of a filter: 16 bits an entry of a chunk of IPv4 hosts.
const filterWords = 192

// filter tells what a chunk cannot hold, so that an entry is found without reading every chunk.
type filter struct {
	seq  int64
	bits [filterWords]uint64
}

// filters are those of every chunk in the database, and of some that are no longer in it.
type filters struct {
	seed  maphash.Seed
	lists [2][]filter
}

// places are the bits of an identifier with that hash.
func places(h uint64) [3]uint64 {
	return [3]uint64{h % (filterWords * 64), (h >> 20) % (filterWords * 64), (h >> 40) % (filterWords * 64)}
}

// addChunk makes the filter of a chunk.
func (f *filters) addChunk(c *chunk) {
	n := filter{seq: c.seq}
	f.lists[c.List-1] = append(f.lists[c.List-1], n)
	bits := &f.lists[c.List-1][len(f.lists[c.List-1])-1].bits
	c.Hashes(f.seed, func(h uint64) {
		for _, p := range places(h) {
			bits[p/64] |= 1 << (p % 64)
		}
	})
}

// candidates are the chunks that may hold an identifier with one of the hashes.
func (f *filters) candidates(l lists.List, hashes map[uint64]bool) []int64 {
	wanted := make([][3]uint64, 0, len(hashes))
	for h := range hashes {
		wanted = append(wanted, places(h))
	}
	var seqs []int64
	for i := range f.lists[l-1] {
		n := &f.lists[l-1][i]
		has := func(place uint64) bool { return n.bits[place/64]&(1<<(place%64)) != 0 }
		if slices.ContainsFunc(wanted, func(p [3]uint64) bool { return has(p[0]) && has(p[1]) && has(p[2]) }) {
			seqs = append(seqs, n.seq)
		}
	}
	return seqs
}

// bulkMin is from how many entries on an import is written as chunks.
const bulkMin = 256

// putImport writes the new entries of an import, and the new state of those that were there.
func (d *database) putImport(step lists.Step, now time.Time) error {
	for c := range step.Pack.Chunks() {
		var err error
		if step.Pack.Len() >= bulkMin {
			err = d.putChunk(c, now)
		} else {
			err = c.Each(func(e lists.Entry) error { return d.put(nil, e, now) })
		}
		if err != nil {
			return err
		}
	}
	for _, c := range step.Replaced {
		if err := d.put(c.Before, *c.After, now); err != nil {
			return err
		}
	}
	return nil
}

func (d *database) putChunk(c lists.Chunk, now time.Time) error {
	t := d.tallyOf(c.List)
	row := chunk{seq: t.next, made: now.Unix(), Chunk: c, stored: d.keys.chunk(c, t.next)}
	row.sum = row.checksum()
	t.next += int64(c.Entries)
	t.rows += uint64(c.Entries)
	t.sum += uint64(row.sum)
	d.filters.addChunk(&row)
	return d.exec("INSERT INTO "+c.List.String()+"_bulk (seq, entries, made, data, sum) VALUES (?, ?, ?, ?, ?)",
		row.seq, c.Entries, row.made, row.stored, row.sum)
}

// chunks calls each for the chunks that where selects, in order, verified.
func (d *database) chunks(l lists.List, each func(c *chunk) error, where string, args ...any) error {
	return d.query("SELECT seq, entries, made, data, sum FROM "+l.String()+"_bulk "+where+" ORDER BY seq", func(s *sqlite.Stmt) error {
		c := chunk{
			seq: s.ColumnInt64(0), made: s.ColumnInt64(2), sum: s.ColumnInt64(4),
			Chunk: lists.Chunk{List: l, Entries: s.ColumnInt(1)}, stored: make([]byte, s.ColumnLen(3)),
		}
		s.ColumnBytes(3, c.stored)
		if c.checksum() != c.sum {
			return fmt.Errorf("%w: checksum of chunk %d of %s is wrong", ErrCorrupt, c.seq, l)
		}
		var err error
		if c.Data, err = d.keys.openChunk(l, c.seq, c.stored); err != nil {
			return err
		}
		return each(&c)
	}, args...)
}

// chunkSeqs lists where the chunks begin, in order.
func (d *database) chunkSeqs(l lists.List) (seqs []int64, err error) {
	if d.version < bulkVersion {
		return nil, nil
	}
	err = d.query("SELECT seq FROM "+l.String()+"_bulk ORDER BY seq", func(s *sqlite.Stmt) error {
		seqs = append(seqs, s.ColumnInt64(0))
		return nil
	})
	return seqs, err
}

// scanChunk reads one chunk, with its filter, and hands over its rows.
func (d *database) scanChunk(l lists.List, seq int64, sum *uint64, each func(r *row) error) error {
	return d.chunks(l, func(c *chunk) error {
		*sum += uint64(c.sum)
		var failed error
		err := c.rows(func(r *row) {
			if failed == nil {
				failed = each(r)
			}
		})
		d.filters.addChunk(c)
		return cmp.Or(err, failed)
	}, "WHERE seq=?", seq)
}

// unpackFor makes rows of the chunks that hold an entry which the steps change or take away.
func (d *database) unpackFor(steps []lists.Step) error {
	var ids [2][]lists.ID
	need := func(e *lists.Entry) {
		if e != nil && len(d.filters.lists[e.List-1]) > 0 {
			ids[e.List-1] = append(ids[e.List-1], e.ID)
		}
	}
	for _, s := range steps {
		need(s.Change.Before)
		for _, c := range s.Replaced {
			need(c.Before)
		}
	}
	for i, some := range ids {
		if len(some) == 0 {
			continue
		}
		wanted := make(map[uint64]bool, len(some))
		for _, id := range some {
			wanted[lists.Hash(d.filters.seed, id)] = true
		}
		holds := func(c *chunk) (found bool) {
			c.Hashes(d.filters.seed, func(h uint64) { found = found || wanted[h] })
			return found
		}
		l := lists.List(i + 1)
		for _, seq := range d.filters.candidates(l, wanted) {
			if err := d.unpack(l, seq, holds); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpack makes rows of a chunk, if it is there and wanted.
func (d *database) unpack(l lists.List, seq int64, wanted func(*chunk) bool) error {
	var found *chunk
	var rows []row
	err := d.chunks(l, func(c *chunk) error {
		if !wanted(c) {
			return nil
		}
		found = c
		return c.rows(func(r *row) { rows = append(rows, *r) })
	}, "WHERE seq=?", seq)
	if err != nil || found == nil {
		return err
	}
	if err := d.exec("DELETE FROM "+l.String()+"_bulk WHERE seq=?", seq); err != nil {
		return err
	}
	t := d.tallyOf(l)
	t.sum -= uint64(found.sum)
	for i := range rows {
		rows[i].finish(d.keys)
		t.sum += uint64(rows[i].sum)
		if err := d.insert(&rows[i]); err != nil {
			return err
		}
	}
	d.unpacked = append(d.unpacked, unpacked{l, seq})
	return nil
}

// unpacked names a chunk that this transaction made rows of.
type unpacked struct {
	list lists.List
	seq  int64
}

// forgetUnpacked drops the filters of chunks that are rows now, once that is durable.
func (d *database) forgetUnpacked() {
	if len(d.unpacked) == 0 {
		return
	}
	gone := make(map[unpacked]bool)
	for _, u := range d.unpacked {
		gone[u] = true
	}
	for i := range d.filters.lists {
		d.filters.lists[i] = slices.DeleteFunc(d.filters.lists[i], func(f filter) bool { return gone[unpacked{lists.List(i + 1), f.seq}] })
	}
	d.unpacked = nil
}
