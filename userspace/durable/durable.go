// Package durable writes small files so that after a crash they are there whole or not at all, and once a call has
// returned, for good.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrUnsynced: the change is made, but the disk did not confirm it. Whoever holds in memory what the file says goes by
// the new file, for so does the next start. After any other error the file is what it was.
var ErrUnsynced = errors.New("it is in force, but a power failure may undo it")

// Replace makes path a file that holds data; until it does, what was there before stays.
func Replace(path string, data []byte, mode os.FileMode) error {
	return put(path, data, mode, os.Rename)
}

// Create is Replace where nothing is at path yet; otherwise the error is [os.ErrExist], and what is there stays. Of two
// processes that call it at once one gets that error.
func Create(path string, data []byte, mode os.FileMode) error {
	return put(path, data, mode, os.Link)
}

func put(path string, data []byte, mode os.FileMode, name func(from, to string) error) error {
	dir, base := filepath.Split(path)
	f, err := os.CreateTemp(dir, "."+base+".*") // O_EXCL, mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after a rename, as it should
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = name(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return confirm(path)
}

// Remove takes a file away for good; one that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return confirm(path)
}

func confirm(path string) error {
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	return nil
}

// SyncDir makes durable what was made, renamed and removed in a folder.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
