package store

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"math"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/portcullis/portcullis/lists"
)

// crcTable is that of every checksum in the database: CRC-64, ECMA polynomial.
var crcTable = crc64.MakeTable(crc64.ECMA)

// checksum collects columns; texts are preceded by their lengths. The zero value is ready.
type checksum struct{ buf []byte }

func (c *checksum) ints(values ...int64) {
	for _, v := range values {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, uint64(v))
	}
}

func (c *checksum) texts(values ...string) {
	for _, v := range values {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(len(v)))
		c.buf = append(c.buf, v...)
	}
}

func (c *checksum) sum() int64 { return int64(crc64.Checksum(c.buf, crcTable)) }

// row is an entry as a table holds it.
type row struct {
	seq, hash     int64
	entry         lists.Entry
	stored        string // the identifier's value as the table has it
	span          int64  // seconds
	sum           int64  // as the table says
	list          lists.List
	created, ends int64 // Unix seconds, ends 0: never
}

// newRow makes the row of an entry that begins (or was replaced) at now, but for what finish adds.
func newRow(seq int64, e lists.Entry, now time.Time) row {
	r := row{seq: seq, entry: e, list: e.List, created: e.Created.Unix()}
	if !e.Expires.IsZero() {
		r.ends = e.Expires.Unix()
		r.span = r.ends - now.Unix()
	}
	return r
}

// finish adds what only the table needs.
func (r *row) finish(k *sealer) {
	r.hash, r.stored = k.hash(r.entry.ID), k.value(r.entry.ID)
	var c checksum
	r.sum = r.checksum(&c)
}

// checksum computes the checksum over all columns, with the memory of c.
func (r *row) checksum(c *checksum) int64 {
	c.buf = c.buf[:0]
	c.ints(r.seq, r.hash, int64(r.list), int64(r.entry.Source), int64(r.entry.ID.Kind), r.created, r.ends, r.span)
	c.texts(r.entry.ID.Name, r.stored, r.entry.Reason, r.entry.Comment, r.entry.By)
	return c.sum()
}

// hashID is sealer.hash of what is not sealed.
func hashID(id lists.ID) int64 {
	var c checksum
	c.ints(int64(id.Kind))
	c.texts(id.Name, id.Value)
	h := sha256.Sum256(c.buf)
	return int64(binary.LittleEndian.Uint64(h[:]))
}

// tallyOf returns the tally of a list.
func (d *database) tallyOf(l lists.List) *tally { return &d.meta.tally[l-1] }

// put writes a new entry, or the new state of the one with its key.
func (d *database) put(before *lists.Entry, e lists.Entry, now time.Time) error {
	t := d.tallyOf(e.List)
	if before == nil {
		r := newRow(t.next, e, now)
		r.finish(d.keys)
		t.next++
		t.rows++
		t.sum += uint64(r.sum)
		return d.insert(&r)
	}
	seq, sum, err := d.find(e.Key)
	if err != nil {
		return err
	}
	r := newRow(seq, e, now)
	r.finish(d.keys)
	t.sum += uint64(r.sum) - uint64(sum)
	return d.exec("UPDATE "+e.List.String()+" SET created=?, expires=?, span=?, reason=?, comment=?, added_by=?, sum=? WHERE seq=?",
		r.created, r.ends, r.span, e.Reason, e.Comment, e.By, r.sum, seq)
}

func (d *database) insert(r *row) error {
	e := &r.entry
	return d.exec("INSERT INTO "+r.list.String()+` (seq, hash, source, kind, name, value, created, expires, span, reason, comment, added_by, sum)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.seq, r.hash, int(e.Source), int(e.ID.Kind), e.ID.Name, r.stored, r.created, r.ends, r.span, e.Reason, e.Comment, e.By, r.sum)
}

// delete removes the row with the key.
func (d *database) delete(k lists.Key) error {
	seq, sum, err := d.find(k)
	if err != nil {
		return err
	}
	t := d.tallyOf(k.List)
	t.rows--
	t.sum -= uint64(sum)
	return d.exec("DELETE FROM "+k.List.String()+" WHERE seq=?", seq)
}

// find returns where the row with the key is. The index is not verified at start; should it not lead to the row,
// it is built anew.
func (d *database) find(k lists.Key) (seq, sum int64, err error) {
	for range 2 {
		found := 0
		err = d.query("SELECT seq, sum FROM "+k.List.String()+" WHERE hash=? AND source=? AND kind=? AND name=? AND value=?",
			func(s *sqlite.Stmt) error {
				found++
				seq, sum = s.ColumnInt64(0), s.ColumnInt64(1)
				return nil
			}, d.keys.hash(k.ID), int(k.Source), int(k.ID.Kind), k.ID.Name, d.keys.value(k.ID))
		if err != nil || found == 1 {
			return seq, sum, err
		}
		if err := d.exec("REINDEX " + k.List.String() + "_hash"); err != nil {
			return 0, 0, err
		}
	}
	return 0, 0, fmt.Errorf("%w: row of a %s not found", ErrCorrupt, k.ID.Kind)
}

// clear empties the table of a list, or takes the rows of some sources out of it.
func (d *database) clear(s lists.Step) error {
	t := d.tallyOf(s.List)
	if s.Op == lists.OpClear {
		t.rows, t.sum = 0, 0
		d.filters.lists[s.List-1] = nil
		if err := d.exec("DELETE FROM " + s.List.String() + "_bulk"); err != nil {
			return err
		}
		return d.exec("DELETE FROM " + s.List.String())
	}
	for _, f := range d.filters.lists[s.List-1] {
		if err := d.unpack(s.List, f.seq, func(c *chunk) bool { return c.from(s.Sources) }); err != nil {
			return err
		}
	}
	var numbers []string
	for _, src := range s.Sources {
		numbers = append(numbers, fmt.Sprint(int(src)))
	}
	where := " FROM " + s.List.String() + " WHERE source IN (" + strings.Join(numbers, ",") + ")"
	rows := 0
	err := d.query("SELECT sum"+where, func(s *sqlite.Stmt) error {
		rows++
		t.rows--
		t.sum -= uint64(s.ColumnInt64(0))
		return nil
	})
	if err == nil && rows != s.Count {
		err = fmt.Errorf("%w: %s has %d rows to clear instead of %d", ErrCorrupt, s.List, rows, s.Count)
	}
	if err != nil {
		return err
	}
	return d.exec("DELETE" + where)
}

// scan reads and verifies every row of a list in order, those in chunks too.
func (d *database) scan(l lists.List, each func(r *row)) error {
	var c checksum
	var rows, sum uint64
	t := d.tallyOf(l)
	texts := interner{}
	last := int64(0)
	take := func(r *row) error {
		if r.seq <= last {
			return fmt.Errorf("%w: row %d of %s comes after %d", ErrCorrupt, r.seq, l, last)
		}
		rows++
		last = r.seq
		each(r)
		return nil
	}
	chunks, err := d.chunkSeqs(l)
	if err != nil {
		return err
	}
	unpackBefore := func(seq int64) error {
		for len(chunks) > 0 && chunks[0] < seq {
			if err := d.scanChunk(l, chunks[0], &sum, take); err != nil {
				return err
			}
			chunks = chunks[1:]
		}
		return nil
	}
	err = d.query("SELECT "+rowColumns+" FROM "+l.String()+" ORDER BY seq",
		func(s *sqlite.Stmt) error {
			r := scanRow(s, l, &texts)
			if r.checksum(&c) != r.sum || int64(r.entry.Source) != s.ColumnInt64(2) || int64(r.entry.ID.Kind) != s.ColumnInt64(3) {
				return fmt.Errorf("%w: checksum of row %d of %s is wrong", ErrCorrupt, r.seq, l)
			}
			if d.version >= sealVersion {
				if err := d.keys.open(&r.entry.ID); err != nil {
					return fmt.Errorf("row %d of %s: %w", r.seq, l, err)
				}
			}
			sum += uint64(r.sum)
			if err := unpackBefore(r.seq); err != nil {
				return err
			}
			return take(&r)
		})
	if err == nil {
		err = unpackBefore(math.MaxInt64)
	}
	if err == nil && (rows != t.rows || sum != t.sum) {
		err = fmt.Errorf("%w: %s holds %d rows with sum %x, table meta says %d with %x", ErrCorrupt, l, rows, sum, t.rows, t.sum)
	}
	t.next = last + 1
	return err
}

// rowColumns are what scanRow reads.
const rowColumns = "seq, hash, source, kind, name, value, created, expires, span, reason, comment, added_by, sum"

// scanRow reads a row; the value of its identifier is as it is stored. texts may be nil.
func scanRow(s *sqlite.Stmt, l lists.List, texts *interner) row {
	r := row{
		seq: s.ColumnInt64(0), hash: s.ColumnInt64(1), list: l, stored: s.ColumnText(5),
		created: s.ColumnInt64(6), ends: s.ColumnInt64(7), span: s.ColumnInt64(8), sum: s.ColumnInt64(12),
	}
	if texts == nil {
		texts = &interner{}
	}
	id := lists.ID{Kind: lists.Kind(s.ColumnInt64(3)), Name: texts.column(s, 4), Value: r.stored}
	r.entry = lists.Entry{
		Key:     lists.Key{List: l, Source: lists.Source(s.ColumnInt64(2)), ID: id},
		Created: time.Unix(r.created, 0).UTC(), Reason: texts.column(s, 9), Comment: texts.column(s, 10), By: texts.column(s, 11),
	}
	if r.ends != 0 {
		r.entry.Expires = time.Unix(r.ends, 0).UTC()
	}
	return r
}

// interner returns one string for equal texts, of which a million rows have few.
type interner struct {
	buf  []byte
	seen map[string]string
}

func (i *interner) column(s *sqlite.Stmt, col int) string {
	n := s.ColumnLen(col)
	if n == 0 {
		return ""
	}
	if n > cap(i.buf) {
		i.buf = make([]byte, n)
	}
	b := i.buf[:s.ColumnBytes(col, i.buf[:n])]
	if text, ok := i.seen[string(b)]; ok {
		return text
	}
	if i.seen == nil || len(i.seen) > 1000 {
		i.seen = map[string]string{}
	}
	text := string(b)
	i.seen[text] = text
	return text
}
