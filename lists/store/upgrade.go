package store

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"

	"zombiezen.com/go/sqlite"

	"github.com/portcullis/portcullis/lists"
)

// sealBatch is how many rows are sealed before the next are read.
const sealBatch = 10_000

// upgrade brings a database of an earlier version to the present one, within a transaction: it makes the tables that
// are missing and seals what is not.
func (d *database) upgrade() (err error) {
	if d.keys == nil {
		if d.keys, err = d.ring.open(""); err != nil {
			return err
		}
	}
	statements := []string{"ALTER TABLE meta ADD COLUMN key_id TEXT NOT NULL DEFAULT ''"}
	if d.version < bulkVersion {
		statements = append(statements, strings.Split(strings.TrimSpace(bulkSchema), "\n")...)
	}
	for _, s := range append(statements, fmt.Sprintf("PRAGMA user_version=%d", schemaVersion)) {
		if err := d.exec(s); err != nil {
			return fmt.Errorf("upgrade database: %w", err)
		}
	}
	for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		if err := d.sealRows(l); err != nil {
			return fmt.Errorf("seal %s: %w", l, err)
		}
		if err := d.sealChunks(l); err != nil {
			return fmt.Errorf("seal %s: %w", l, err)
		}
	}
	if err := d.sealHistory(); err != nil {
		return fmt.Errorf("seal history: %w", err)
	}
	d.meta.keyID = d.keys.id
	return nil
}

// sealRows seals the rows of a list that hold plain values.
func (d *database) sealRows(l lists.List) error {
	var c checksum
	for last := int64(0); ; {
		var rows []row
		err := d.query("SELECT "+rowColumns+" FROM "+l.String()+" WHERE seq > ? AND kind <> ? ORDER BY seq LIMIT ?", func(s *sqlite.Stmt) error {
			rows = append(rows, scanRow(s, l, nil))
			return nil
		}, last, int(lists.KindIP), sealBatch)
		if err != nil || len(rows) == 0 {
			return err
		}
		t := d.tallyOf(l)
		for _, r := range rows {
			last = r.seq
			was := r.sum
			r.hash, r.stored = d.keys.hash(r.entry.ID), d.keys.value(r.entry.ID)
			r.sum = r.checksum(&c)
			t.sum += uint64(r.sum) - uint64(was)
			if err := d.exec("UPDATE "+l.String()+" SET hash=?, value=?, sum=? WHERE seq=?", r.hash, r.stored, r.sum, r.seq); err != nil {
				return err
			}
		}
	}
}

// sealChunks does the same with chunks.
func (d *database) sealChunks(l lists.List) error {
	seqs, err := d.chunkSeqs(l)
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		var plain *chunk
		err := d.chunks(l, func(c *chunk) error {
			if c.HasText() {
				plain = c
			}
			return nil
		}, "WHERE seq=?", seq)
		if err != nil {
			return err
		}
		if plain == nil {
			continue
		}
		t := d.tallyOf(l)
		t.sum -= uint64(plain.sum)
		plain.stored = d.keys.chunk(plain.Chunk, seq)
		plain.sum = plain.checksum()
		t.sum += uint64(plain.sum)
		if err := d.exec("UPDATE "+l.String()+"_bulk SET data=?, sum=? WHERE seq=?", plain.stored, plain.sum, seq); err != nil {
			return err
		}
	}
	return nil
}

// sealHistory does the same with events. Most are of addresses, which the database itself can tell: quotes inside a
// text are escaped.
func (d *database) sealHistory() error {
	const secret = ` (before <> '' AND before NOT LIKE '%"Kind":"ip"%' OR after <> '' AND after NOT LIKE '%"Kind":"ip"%')`
	type numbered struct {
		id int64
		lists.Event
	}
	for last := int64(0); ; {
		var events []numbered
		err := d.query("SELECT "+eventColumns+", id FROM history WHERE id > ? AND"+secret+" ORDER BY id LIMIT ?", func(s *sqlite.Stmt) error {
			e, err := scanEvent(s, nil)
			events = append(events, numbered{s.ColumnInt64(10), e})
			return err
		}, last, sealBatch)
		if err != nil || len(events) == 0 {
			return err
		}
		for _, e := range events {
			last = e.id
			before, after, err := d.marshalEvent(e.Event)
			if err != nil {
				return err
			}
			if err := d.exec("UPDATE history SET before=?, after=?, sum=? WHERE id=?", before, after, eventChecksum(e.Event, before, after), e.id); err != nil {
				return err
			}
		}
	}
}

// scrub writes the database anew after an upgrade: pages that are free, and the log, may hold values that were not
// sealed then.
func (d *database) scrub() error {
	for _, q := range []string{"VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"} {
		if err := d.exec(q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	return nil
}

// unsealed reports whether a database file is of a version that did not seal.
func unsealed(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var header [64]byte
	if _, err := io.ReadFull(f, header[:]); err != nil {
		return false
	}
	return binary.BigEndian.Uint32(header[60:]) < sealVersion // PRAGMA user_version
}
