package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestReplaceAndCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	holds := func(text string, mode fs.FileMode) {
		t.Helper()
		got, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || string(got) != text || info.Mode().Perm() != mode {
			t.Fatalf("file holds %q, %v, %v; want %q, mode %v", got, err, serr, text, mode)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Fatalf("left beside it: %v, %v", all, err)
		}
	}
	if err := Create(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	holds("one", 0o600)
	if err := Create(path, []byte("two"), 0o600); !errors.Is(err, os.ErrExist) {
		t.Fatalf("create over a file: %v", err)
	}
	holds("one", 0o600)
	if err := Replace(path, []byte("three"), 0o644); err != nil {
		t.Fatal(err)
	}
	holds("three", 0o644)

	// A folder in the way: nothing is changed, nothing stays.
	if err := os.MkdirAll(filepath.Join(dir, "sub", "file", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	path, dir = filepath.Join(dir, "sub", "file"), filepath.Join(dir, "sub")
	for name, put := range map[string]func(string, []byte, os.FileMode) error{"replace": Replace, "create": Create} {
		if err := put(path, []byte("four"), 0o600); err == nil {
			t.Errorf("%s put a file in the place of a folder", name)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Errorf("%s left %v, %v", name, all, err)
		}
	}
}

// TestCreateAtOnce: of many that create one file one succeeds, and the file is all of what that one wrote.
func TestCreateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var made atomic.Pointer[string]
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			text := strings.Repeat(string(rune('a'+i)), 10000)
			switch err := Create(path, []byte(text), 0o600); {
			case err == nil:
				if !made.CompareAndSwap(nil, &text) {
					t.Error("two made it")
				}
			case !errors.Is(err, os.ErrExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got, err := os.ReadFile(path); err != nil || made.Load() == nil || string(got) != *made.Load() {
		t.Errorf("the file holds %.3q…, %v", got, err)
	}
}
