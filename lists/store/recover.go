package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/portcullis/portcullis/lists"
)

// copyInfo is one verified copy under snapshots/.
type copyInfo struct {
	path       string
	generation uint64
	made       time.Time
}

// snapshots lists the copies, the newest first.
func (s *Store) snapshots() ([]copyInfo, error) {
	names, err := os.ReadDir(s.snapshotDir())
	if err != nil {
		return nil, err
	}
	var copies []copyInfo
	for _, entry := range names {
		var c copyInfo
		if n, _ := fmt.Sscanf(entry.Name(), "lists-%d.db", &c.generation); n != 1 || entry.Name() != copyName(c.generation) {
			continue
		}
		if info, err := entry.Info(); err == nil {
			c.path, c.made = filepath.Join(s.snapshotDir(), entry.Name()), info.ModTime()
			copies = append(copies, c)
		}
	}
	slices.SortFunc(copies, func(a, b copyInfo) int { return cmp.Compare(b.generation, a.generation) })
	return copies, nil
}

func (s *Store) snapshotDir() string { return filepath.Join(s.options.Dir, "snapshots") }

func copyName(generation uint64) string { return fmt.Sprintf("lists-%d.db", generation) }

// verify reads every row of a database file that nobody writes to.
func verify(ctx context.Context, path string, keys *keyring) (meta, error) {
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		return meta{}, err
	}
	conn.SetInterrupt(ctx.Done())
	d := newDatabase(conn, path)
	if err = d.readMeta(); err == nil {
		err = d.unlock(keys)
	}
	if err == nil {
		err = d.readAll(func(*row) {}, func(int) {})
	}
	return d.meta, d.close(err)
}

// copyOut makes a verified copy of the database while it is written to, and removes the oldest copies.
func (s *Store) copyOut(ctx context.Context) (err error) {
	temp := filepath.Join(s.snapshotDir(), "copy.new")
	defer func() {
		if err != nil {
			_ = removeDatabase(temp)
			err = fmt.Errorf("copy %s: %w", s.path, err)
		}
	}()
	if err := emptyFile(temp); err != nil {
		return err
	}
	if err := copyPages(ctx, s.path, temp); err != nil {
		return err
	}
	m, err := verify(ctx, temp, s.keys)
	if err != nil {
		return err
	}
	if err := publish(temp, filepath.Join(s.snapshotDir(), copyName(m.generation))); err != nil {
		return err
	}
	s.mu.Lock()
	s.health.lastSnapshot, s.health.snapshotGen = time.Now().UTC(), m.generation
	s.health.snapshotRows = int(m.tally[0].rows + m.tally[1].rows)
	s.mu.Unlock()
	copies, err := s.snapshots()
	for i, old := range copies {
		if i >= s.options.KeepSnapshots || unsealed(old.path) { // there is a sealed one now
			err = errors.Join(err, removeDatabase(old.path))
		}
	}
	return err
}

// restore puts the newest good copy in the place of a database that could not be loaded because of cause. The
// damaged one is moved aside only when the copy is ready, so that it is never mistaken for a new directory.
func (s *Store) restore(cause error) error {
	copies, err := s.snapshots()
	if err != nil {
		return err
	}
	temp := s.path + ".new"
	for _, c := range copies {
		if err := copyFile(c.path, temp); err != nil {
			return fmt.Errorf("restore %s: %w", c.path, err)
		}
		if _, err := verify(context.Background(), temp, s.keys); errors.Is(err, ErrKey) {
			return errors.Join(fmt.Errorf("restore %s: %w", c.path, err), removeDatabase(temp))
		} else if err != nil {
			s.log.Error("snapshot of the lists is damaged too", "path", c.path, "error", err)
			if err := renameDatabase(c.path, s.asideName(c.path)); err != nil {
				return err
			}
			continue
		}
		aside := s.asideName(s.path)
		if err := renameDatabase(s.path, aside); err != nil {
			return err
		}
		if err := publish(temp, s.path); err != nil {
			return err
		}
		s.health.restored = fmt.Sprintf("lists restored from the snapshot of %s (generation %d) because %s; later changes are lost, the damaged file is %s*",
			c.made.UTC().Format(time.RFC3339), c.generation, oneLine(cause), aside)
		s.log.Error("lists restored", "snapshot", c.path, "aside", aside, "error", cause)
		return nil
	}
	_ = removeDatabase(temp)
	if !errors.Is(cause, ErrCorrupt) {
		cause = fmt.Errorf("%w: %w", ErrCorrupt, cause)
	}
	return fmt.Errorf("%w; no good snapshot is in %s. Put a backup of the database in its place, or move lists.db* and snapshots away to begin with empty lists",
		cause, s.snapshotDir())
}

// asideName is where a damaged database goes.
func (s *Store) asideName(path string) string {
	name := path + ".corrupt-" + s.options.Clock.Wall().UTC().Format("20060102T150405Z")
	for n, try := 2, name; ; n++ {
		if _, err := os.Lstat(try); err != nil {
			if _, err := os.Lstat(try + "-wal"); err != nil {
				return try
			}
		}
		try = fmt.Sprintf("%s.%d", name, n)
	}
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// rebuild writes a new database with what is published, in the place of one that a write found damaged. The
// history stays behind in the file set aside. The caller is the writer.
func (s *Store) rebuild(cause error) error {
	snap, now, m := s.Snapshot(), s.clock.Now(), s.db.meta
	m.generation, m.settings = snap.Generation(), snap.Settings()
	temp := s.path + ".new"
	aside := s.asideName(s.path)
	why := fmt.Sprintf("lists written anew from memory because %s; nothing is lost but the history, which is in the damaged file %s*", oneLine(cause), aside)
	if errors.Is(cause, errRemoved) {
		why = fmt.Sprintf("lists written anew from memory because of %s; nothing is lost but the history", oneLine(cause))
	}
	keys := s.db.keys
	if err := os.Mkdir(filepath.Dir(s.path), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make removed state directory again: %w", err)
	}
	if err := s.keys.keep(); err != nil { // first: without it nobody could read the database
		return err
	}
	s.keepLock()
	err := writeDatabase(temp, m, keys, now, func(d *database) error {
		for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
			for e := range snap.Entries(l) {
				if err := d.put(nil, e, now); err != nil {
					return err
				}
			}
		}
		return d.note(lists.Event{Generation: m.generation, Time: now, Via: "recovery", Op: lists.OpAdd, Note: why})
	})
	if err != nil {
		_ = removeDatabase(temp)
		return fmt.Errorf("write %s: %w", temp, err)
	}
	_ = s.db.close(nil) // before its files are renamed: closing deletes them by name
	if err := renameDatabase(s.path, aside); err != nil {
		return err
	}
	if err := publish(temp, s.path); err != nil {
		return err
	}
	d, err := openDatabase(s.path)
	if err != nil {
		return err
	}
	d.keys = keys
	if err := errors.Join(d.readMeta(), d.readAll(func(*row) {}, func(int) {})); err != nil {
		return d.close(err)
	}
	s.db, s.unsaved = d, nil
	s.mu.Lock()
	s.health.restored = why
	s.mu.Unlock()
	s.log.Error("lists written anew", "path", s.path, "aside", aside, "error", cause)
	return nil
}
