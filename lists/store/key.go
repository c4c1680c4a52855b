package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// keyring is the key file of a store: 32 random bytes, mode 0400, made when there is nothing yet that needs it.
type keyring struct {
	path string
	log  *slog.Logger
	raw  []byte
	keys *sealer // nil: not read yet
}

// open returns the sealer of the key with that name; "": of whatever key there is, made now if there is none.
func (r *keyring) open(id string) (*sealer, error) {
	if r.keys == nil {
		raw, err := os.ReadFile(r.path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && id == "":
			raw = make([]byte, keySize)
			rand.Read(raw)
			if err := r.write(raw); err != nil {
				return nil, fmt.Errorf("make key file: %w", err)
			}
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%w: %s is missing; cookies, tokens, API keys and user names are sealed with key %s: put that file back from your backup",
				ErrKey, r.path, id)
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrKey, err)
		}
		keys, err := newSealer(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %s is %w: put the right file back from your backup", ErrKey, r.path, err)
		}
		if info, err := os.Stat(r.path); err == nil && info.Mode().Perm()&0o077 != 0 {
			r.log.Warn("key file is open to others", "path", r.path, "mode", info.Mode().Perm(), "fix", "chmod 0400")
		}
		r.raw, r.keys = raw, keys
	}
	if id != "" && id != r.keys.id {
		return nil, fmt.Errorf("%w: %s holds key %s; cookies, tokens, API keys and user names are sealed with key %s: put that file back from your backup",
			ErrKey, r.path, r.keys.id, id)
	}
	return r.keys, nil
}

// write makes the file, durable before anything is sealed with it.
func (r *keyring) write(raw []byte) error {
	temp := r.path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(temp, raw, 0o400); err != nil {
		return err
	}
	if err := publish(temp, r.path); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(r.path), err)
	}
	return nil
}

// keep writes the file again if it was removed: without it the next start would read nothing.
func (r *keyring) keep() error {
	if _, err := os.Lstat(r.path); !errors.Is(err, fs.ErrNotExist) || r.keys == nil {
		return nil
	}
	if err := r.write(r.raw); err != nil {
		return fmt.Errorf("key file was removed while in use, and could not be written anew: %w", err)
	}
	r.log.Error("key file was removed while in use, and is written anew", "path", r.path)
	return nil
}
