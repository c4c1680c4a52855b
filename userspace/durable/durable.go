// Package durable writes small files so that after a crash they are there whole or not at all, and once a call has
// returned, for good.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

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
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes durable what was made, renamed and removed in a folder.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
