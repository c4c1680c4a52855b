package store

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/portcullis/portcullis/lists"
)

// note adds what a step did to the history.
func (d *database) note(e lists.Event) error {
	before, after, err := d.marshalEvent(e)
	if err != nil {
		return err
	}
	return d.exec("INSERT INTO history (generation, time, by, via, op, before, after, count, note, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		int64(e.Generation), e.Time.UnixNano(), e.By, e.Via, int(e.Op), before, after, e.Count, e.Note, eventChecksum(e, before, after))
}

// marshalEvent writes the entries of an event, sealed.
func (d *database) marshalEvent(e lists.Event) (before, after string, err error) {
	if before, err = marshalEntry(d.keys.entry(e.Before)); err == nil {
		after, err = marshalEntry(d.keys.entry(e.After))
	}
	return before, after, err
}

// forget removes all but the newest events.
func (d *database) forget(keep int) error {
	return d.exec("DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - ?", keep)
}

func eventChecksum(e lists.Event, before, after string) int64 {
	var c checksum
	c.ints(int64(e.Generation), e.Time.UnixNano(), int64(e.Op), int64(e.Count))
	c.texts(e.By, e.Via, before, after, e.Note)
	return c.sum()
}

func marshalEntry(e *lists.Entry) (string, error) {
	if e == nil {
		return "", nil
	}
	b, err := json.Marshal(e)
	return string(b), err
}

func unmarshalEntry(text string, keys *sealer) (*lists.Entry, error) {
	if text == "" {
		return nil, nil
	}
	var e lists.Entry
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return nil, err
	}
	if keys != nil {
		if err := keys.open(&e.ID); err != nil {
			return nil, err
		}
	}
	return &e, nil
}

// History yields the newest events first, at most limit (0: all). It reads from disk, over a connection of its
// own, what is durable when it begins. The sequence ends with the first error: an event whose checksum is wrong
// wraps [ErrCorrupt].
func (s *Store) History(ctx context.Context, limit int) iter.Seq2[lists.Event, error] {
	return func(yield func(lists.Event, error) bool) {
		if err := s.history(ctx, limit, yield); err != nil && err != errStop {
			yield(lists.Event{}, fmt.Errorf("read history: %w", err))
		}
	}
}

// errStop ends a query whose reader wants no more.
var errStop = fmt.Errorf("stop")

func (s *Store) history(ctx context.Context, limit int, yield func(lists.Event, error) bool) error {
	if !s.enter() {
		return ErrClosed
	}
	defer s.leave()
	conn, err := sqlite.OpenConn(s.path, sqlite.OpenReadOnly)
	if err != nil {
		return err
	}
	d := &database{conn: conn}
	conn.SetBusyTimeout(5 * time.Second)
	conn.SetInterrupt(ctx.Done())
	if err := d.readVersion(); err != nil {
		return d.close(err)
	}
	keys := s.keys.keys
	if d.version < sealVersion {
		keys = nil
	}
	if limit <= 0 {
		limit = -1
	}
	err = d.query("SELECT "+eventColumns+" FROM history ORDER BY id DESC LIMIT ?", func(s *sqlite.Stmt) error {
		e, err := scanEvent(s, keys)
		if err != nil {
			return err
		}
		if !yield(e, nil) {
			return errStop
		}
		return nil
	}, limit)
	if ctx.Err() != nil && err != nil && err != errStop {
		err = ctx.Err()
	}
	return d.close(err)
}

// eventColumns are what scanEvent reads.
const eventColumns = "generation, time, by, via, op, before, after, count, note, sum"

// scanEvent reads an event, whose entries are sealed with keys; nil: they are not.
func scanEvent(s *sqlite.Stmt, keys *sealer) (lists.Event, error) {
	e := lists.Event{
		Generation: uint64(s.ColumnInt64(0)), Time: time.Unix(0, s.ColumnInt64(1)).UTC(), By: s.ColumnText(2), Via: s.ColumnText(3),
		Op: lists.Op(s.ColumnInt64(4)), Count: s.ColumnInt(7), Note: s.ColumnText(8),
	}
	before, after := s.ColumnText(5), s.ColumnText(6)
	if s.ColumnInt64(9) != eventChecksum(e, before, after) {
		return e, fmt.Errorf("%w: checksum of an event of generation %d is wrong", ErrCorrupt, e.Generation)
	}
	var err error
	if e.Before, err = unmarshalEntry(before, keys); err != nil {
		return e, err
	}
	e.After, err = unmarshalEntry(after, keys)
	return e, err
}
