package durable

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// envFile makes this binary a helper that replaces, or removes, that file: strace lets its system calls fail.
const envFile, envHow = "DURABLE_FILE", "DURABLE_HOW"

func TestMain(m *testing.M) {
	path := os.Getenv(envFile)
	if path == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // strace counts in each thread
	var err error
	if os.Getenv(envHow) == "replace" {
		err = Replace(path, []byte("new"), 0o400)
	} else {
		err = Remove(path)
	}
	switch {
	case errors.Is(err, ErrUnsynced):
		fmt.Print("unsynced")
	case err != nil:
		fmt.Print("failed")
	}
}

// TestFaults lets each call that matters fail: what is answered is what is there.
func TestFaults(t *testing.T) {
	cases := []struct{ how, inject, says, holds string }{
		{"replace", "none", "", "new"},
		{"replace", "write:error=ENOSPC:when=1", "failed", "old"},
		{"replace", "fsync:error=EIO:when=1", "failed", "old"},
		{"replace", "renameat:error=EIO:when=1", "failed", "old"},
		{"replace", "fsync:error=EIO:when=2", "unsynced", "new"},
		{"remove", "none", "", ""},
		{"remove", "unlinkat:error=EIO:when=1", "failed", "old"},
		{"remove", "fsync:error=EIO:when=1", "unsynced", ""},
	}
	for _, c := range cases {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"-f", "-q", "-o", "/dev/null", os.Args[0]}
		if c.inject != "none" {
			args = append([]string{"-e", "inject=" + c.inject}, args...)
		}
		cmd := exec.Command("strace", args...)
		cmd.Env = append(os.Environ(), envFile+"="+path, envHow+"="+c.how)
		said, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s, %s: %v", c.how, c.inject, err)
		}
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if string(said) != c.says || string(text) != c.holds {
			t.Errorf("%s, %s: answered %q, the file holds %q; want %q, %q", c.how, c.inject, said, text, c.says, c.holds)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 1 {
			t.Errorf("%s, %s: left behind: %v, %v", c.how, c.inject, names, err)
		}
	}
}
