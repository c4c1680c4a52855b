package store

import (
	"errors"
	"fmt"
	"net/url"
	"os"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
)

// openSomehow opens a database also where the disk takes nothing, full or read-only: then it can only be read, and
// reopen is for later. Lists that cannot be changed are better than none.
func openSomehow(path string) (*database, error) {
	d := newDatabase(nil, path)
	err := d.open()
	if err == nil || !takesNothing(err) || d.openReadOnly() != nil {
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	d.makeshift = err
	return d, nil
}

// takesNothing reports whether a file could not be opened because nothing can be written beside it.
func takesNothing(err error) bool {
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull, sqlite.ResultIOErr, sqlite.ResultCantOpen:
		return true
	}
	return errors.Is(err, unix.EROFS)
}

// openReadOnly opens the file for reading, with its WAL if there is one. A WAL is read with an index in memory, which
// wants the file for this connection alone; where even that is too much, with the index file that is there.
func (d *database) openReadOnly() error {
	file, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	d.file = file
	if wal, err := os.Stat(d.path + "-wal"); err != nil || wal.Size() == 0 {
		u := url.URL{Scheme: "file", Path: d.path, RawQuery: "immutable=1"} // we hold the directory's lock
		return d.connect(u.String(), sqlite.OpenReadOnly|sqlite.OpenURI)
	}
	if d.connect(d.path, sqlite.OpenReadWrite, "locking_mode=EXCLUSIVE") == nil {
		if err = d.readVersion(); err == nil {
			return nil
		}
		_ = d.close(nil)
	}
	return d.connect(d.path, sqlite.OpenReadOnly)
}

// reopen opens a makeshift database as it should be, if that can be done now.
func (d *database) reopen() error {
	if d.makeshift == nil {
		return nil
	}
	before := d.file
	_ = d.close(nil) // it may hold the file for itself alone
	err := d.open()
	if err == nil && !os.SameFile(before, d.file) {
		err = errors.Join(errReplaced, d.close(nil))
	}
	if err == nil {
		d.makeshift = nil
		return nil
	}
	d.file = before
	if again := d.openReadOnly(); again != nil {
		return fmt.Errorf("%w; and it cannot be read any more: %w", err, again)
	}
	return err
}
