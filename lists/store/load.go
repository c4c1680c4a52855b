package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/portcullis/portcullis/lists"
)

// isDamage reports whether err says that a database file does not hold what was written to it, rather than that
// it could not be read or written now.
func isDamage(err error) bool {
	if err == nil || errors.Is(err, ErrCorrupt) {
		return err != nil
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultCorrupt, sqlite.ResultNotADB, sqlite.ResultFormat, sqlite.ResultMismatch, sqlite.ResultConstraint:
		return true
	case sqlite.ResultError: // a statement is the same each time: the tables are not what they were
		return strings.Contains(err.Error(), "sqlite: prepare ")
	}
	return false
}

// isDamageAtStart also counts what a damaged header or schema makes SQLite say of a file that we could open.
func isDamageAtStart(err error) bool {
	var path *fs.PathError
	switch {
	case isDamage(err):
		return true
	case err == nil || errors.Is(err, errNewer) || errors.Is(err, ErrKey) || errors.As(err, &path):
		return false
	}
	switch sqlite.ErrCode(err) {
	case sqlite.ResultError, sqlite.ResultReadOnly, sqlite.ResultTooBig, sqlite.ResultSchema:
		return true
	}
	return false
}

// open opens the database, or makes one where nothing is, or restores one from a snapshot, and loads it.
func (s *Store) open(progress func(done, total int)) error {
	found, err := s.leftovers()
	if err != nil {
		return err
	}
	if !found {
		keys, err := s.keys.open("")
		if err != nil {
			return err
		}
		if err := createDatabase(s.path, newClock(s.options.Clock, anchor{}, time.Time{}), keys); err != nil {
			return err
		}
	}
	err = s.load(progress)
	if isDamageAtStart(err) || errors.Is(err, fs.ErrNotExist) {
		if err := s.restore(err); err != nil {
			return err
		}
		err = s.load(progress)
	}
	return err
}

// leftovers reports whether the directory holds a database or what is left of one.
func (s *Store) leftovers() (bool, error) {
	copies, err := s.snapshots()
	if err != nil || len(copies) > 0 {
		return len(copies) > 0, err
	}
	for _, name := range []string{s.path, s.path + "-wal"} {
		if _, err := os.Lstat(name); err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// load reads the database into a snapshot, verifying every row.
func (s *Store) load(progress func(done, total int)) (err error) {
	d, err := openSomehow(s.path)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	if d.makeshift != nil {
		s.log.Error("lists can be read, but not changed", "path", s.path, "error", d.makeshift)
		s.failed(d.makeshift)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", s.path, d.close(err))
		}
	}()
	if err := d.readMeta(); err != nil {
		return err
	}
	if err := d.unlock(s.keys); err != nil {
		return err
	}
	clock := newClock(s.options.Clock, d.meta.anchor, d.meta.seen)
	rebooted := clock.anchor != d.meta.anchor
	now := clock.Now()
	b := lists.NewBuilder(nil)
	b.Set(d.meta.settings)
	var shortened []lists.Step
	total := int(d.meta.tally[0].rows + d.meta.tally[1].rows)
	err = d.readAll(func(r *row) {
		if left := now.Unix() + r.span; rebooted && r.ends != 0 && r.ends > left {
			before := r.entry
			r.entry.Expires = time.Unix(left, 0).UTC()
			after := r.entry
			shortened = append(shortened, lists.Step{Op: lists.OpAdd, Change: lists.Change{Before: &before, After: &after}})
		}
		b.Put(r.entry)
	}, func(done int) {
		if progress != nil {
			progress(done, total)
		}
	})
	if err != nil {
		return err
	}
	s.db, s.clock = d, clock
	d.meta.anchor = clock.anchor
	if len(shortened) == 0 {
		s.current.Store(b.Snapshot(d.meta.generation))
	} else {
		s.current.Store(b.Snapshot(d.meta.generation + 1))
	}
	s.unscrubbed = d.version < sealVersion
	switch {
	case rebooted:
		s.saveReboot(shortened, now)
	case d.version < schemaVersion:
		_ = s.save(nil) // a disk that does not take it must not keep the lists from being enforced: the next change tries again
	}
	s.scrub()
	return nil
}

// scrub removes what an upgrade left of values that were not sealed. The caller is the writer.
func (s *Store) scrub() {
	if !s.unscrubbed || s.db.version < sealVersion {
		return
	}
	s.unscrubbed = false
	if err := s.db.scrub(); err != nil {
		s.log.Warn("values are sealed now, but traces of them may be left in the file: run VACUUM on it while the daemon is stopped", "path", s.path, "error", err)
	}
}

// saveReboot writes the new anchor of the clock and the ends that it brought nearer. A disk that does not take it
// must not keep the lists from being enforced: Run tries again.
func (s *Store) saveReboot(shortened []lists.Step, now time.Time) {
	var todo []work
	if len(shortened) > 0 {
		todo = []work{{lists.Applied{Next: s.Snapshot(), Steps: shortened}, lists.Batch{By: "portcullis", Via: viaClock}, now}}
	}
	if err := s.save(todo); err != nil {
		s.unsaved = append(s.unsaved, todo...)
		s.failed(err)
	}
}

// readAll reads and verifies the rows of both lists; meta must have been read.
func (d *database) readAll(each func(r *row), progress func(done int)) error {
	done := 0
	for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		err := d.scan(l, func(r *row) {
			each(r)
			if done++; done%10_000 == 0 {
				progress(done)
			}
		})
		if err != nil {
			return err
		}
	}
	progress(done)
	return nil
}
