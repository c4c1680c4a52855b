package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/portcullis/portcullis/lists"
)

// TestOpenOnDeadDisk: a disk that takes nothing keeps no lists from being enforced, whether the daemon before was stopped
// or killed. Changes are refused, automatic blocks hold, and all works again when the disk does.
func TestOpenOnDeadDisk(t *testing.T) {
	from := t.TempDir()
	s, _ := open(t, Options{Dir: from})
	apply(t, s, adds(0, 100, lists.Manual))
	killed, stopped := t.TempDir(), t.TempDir()
	copyDir(t, from, killed) // with its WAL
	closeStore(t, s)
	copyDir(t, from, stopped)
	for name, state := range map[string]string{"killed": killed, "stopped": stopped} {
		for disk, kill := range map[string]func(t *testing.T, dir string) (heal func()){"full": fillUp, "read-only": writeProtect} {
			t.Run(name+", "+disk, func(t *testing.T) {
				dir := filepath.Join(smallDisk(t), "state")
				copyDir(t, state, dir)
				heal := kill(t, filepath.Dir(dir))
				s, _ := open(t, Options{Dir: dir})
				if n := s.Snapshot().Len(lists.Blacklist); n != 100 {
					t.Fatalf("%d entries", n)
				}
				if _, err := s.Apply(context.Background(), adds(100, 1, lists.Manual)); !errors.Is(err, ErrNotDurable) {
					t.Errorf("a manual change: %v", err)
				}
				apply(t, s, adds(200, 10, lists.Decoy))
				if st := s.Status(); !strings.Contains(st.Degraded, "10 automatic changes are enforced but not on disk") || st.LastError == "" {
					t.Errorf("%+v", st)
				}
				heal()
				run(t, s)
				eventually(t, "the automatic blocks are written", func() bool { return s.Status().Degraded == "" })
				apply(t, s, adds(100, 1, lists.Manual))
				if st := s.Status(); st.LastError != "" {
					t.Error(st.LastError)
				}
				if err := s.copyOut(context.Background()); err != nil {
					t.Error(err)
				}
				want := collect(s.Snapshot())
				closeStore(t, s)
				again, _ := open(t, Options{Dir: dir})
				if got := collect(again.Snapshot()); len(got) != 111 || !slices.Equal(got, want) {
					t.Errorf("%d entries after a restart, %d before", len(got), len(want))
				}
			})
		}
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// CopyFS keeps no modes.
	for name, mode := range map[string]os.FileMode{"": 0o700, "snapshots": 0o700, "lists.key": 0o400} {
		if err := os.Chmod(filepath.Join(to, name), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func fillUp(t *testing.T, dir string) (heal func()) {
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	}
}

func writeProtect(t *testing.T, dir string) (heal func()) {
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	return func() { remount(0) }
}

// TestCreateOnSmallDisk: however much of a new database the disk takes, what is left of the try is in nobody's way.
func TestCreateOnSmallDisk(t *testing.T) {
	failed := 0
	for size := int64(0); size < 256<<10; size += 8 << 10 {
		dir := smallDisk(t)
		ballast := filepath.Join(dir, "ballast")
		fill(t, ballast)
		info, err := os.Stat(ballast)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(ballast, info.Size()-size); err != nil {
			t.Fatal(err)
		}
		o := Options{Dir: filepath.Join(dir, "state")}
		s, err := Open(o, nil)
		if err != nil {
			failed++
		} else {
			closeStore(t, s)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		s, _ = open(t, o)
		if st := s.Status(); st.Degraded != "" || st.LastError != "" {
			t.Errorf("after a start with %d KiB: %+v", size>>10, st)
		}
		apply(t, s, adds(0, 1, lists.Manual))
		closeStore(t, s)
	}
	if failed == 0 {
		t.Error("every start worked: the disk is too large")
	}
}
