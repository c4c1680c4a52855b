package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/portcullis/portcullis/lists"
)

// eventually polls until what says true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// run starts Run; the test stops it before the store is closed.
func run(t *testing.T, s *Store) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func apply(t *testing.T, s *Store, b lists.Batch) lists.Result {
	t.Helper()
	r, err := s.Apply(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

// smallDisk is a filesystem of its own, of 2 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	requireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestDiskFull fills a small filesystem of its own: manual changes are refused and change nothing, automatic blocks
// hold in memory, and everything works again when there is space.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t)
	s, _ := open(t, Options{Dir: dir})
	apply(t, s, adds(0, 100, lists.Manual))
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)

	// The WAL may have room for some more.
	var err error
	n := 100
	for ; err == nil && n < 10_000; n += 50 {
		_, err = s.Apply(context.Background(), adds(n, 50, lists.Manual))
	}
	n -= 50
	if !errors.Is(err, ErrNotDurable) || sqlite.ErrCode(err).ToPrimary() != sqlite.ResultFull && sqlite.ErrCode(err).ToPrimary() != sqlite.ResultIOErr {
		t.Fatalf("a full disk: %v", err)
	}
	before := s.Snapshot()
	if before.Len(lists.Blacklist) != n || s.Status().LastError == "" || s.Status().Degraded != "" {
		t.Fatalf("%d entries, want %d; %+v", before.Len(lists.Blacklist), n, s.Status())
	}
	clear := lists.Batch{Ops: []lists.Operation{{Op: lists.OpClear, List: lists.Blacklist}}}
	if _, err := s.Apply(context.Background(), clear); !errors.Is(err, ErrNotDurable) || s.Snapshot() != before {
		t.Fatalf("a clear on a full disk: %v", err)
	}
	// A decoy was touched: blocked all the same.
	for i := range 3 {
		apply(t, s, adds(n+50*i, 50, lists.Decoy))
	}
	if got := s.Snapshot().LenSource(lists.Blacklist, lists.Decoy); got != 150 {
		t.Fatalf("%d automatic blocks", got)
	}
	if st := s.Status(); !strings.Contains(st.Degraded, "150 automatic changes are enforced but not on disk") {
		t.Fatalf("degraded: %q", st.Degraded)
	}
	if _, err := s.Apply(context.Background(), adds(n, 1, lists.Manual)); !errors.Is(err, ErrNotDurable) {
		t.Fatalf("a manual add beside automatic ones: %v", err)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	eventually(t, "the automatic blocks are written", func() bool { return s.Status().Degraded == "" })
	if st := s.Status(); st.LastError != "" {
		t.Errorf("last error: %s", st.LastError)
	}
	apply(t, s, adds(n+150, 1, lists.Manual))
	want := collect(s.Snapshot())
	closeStore(t, s)
	s, _ = open(t, Options{Dir: dir})
	if got := collect(s.Snapshot()); !slices.Equal(got, want) {
		t.Errorf("%d entries after a restart, %d before", len(got), len(want))
	}
}

// fill writes a file until the filesystem is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.LimitReader(zeros{}, 1<<30)); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func collect(s *lists.Snapshot) []lists.Entry {
	return slices.Concat(slices.Collect(s.Entries(lists.Whitelist)), slices.Collect(s.Entries(lists.Blacklist)))
}

// TestCorrupt flips bytes of the database at random places, with and without a good copy beside it: what is
// answered is the truth, the copy with a warning, or ErrCorrupt, and never anything else.
func TestCorrupt(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	master := t.TempDir()
	s, _ := open(t, Options{Dir: master})
	apply(t, s, adds(0, 400, lists.ABS))
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	copied := collect(s.Snapshot())
	apply(t, s, adds(400, 100, lists.Manual))
	whole := collect(s.Snapshot())
	closeStore(t, s)
	counts := map[string]int{}
	few := func() bool { return counts["restored"] < 10 || counts["refused"] < 10 }
	for i := 0; i < 120 || few() && i < 1200; i++ { // how often damage shows is up to chance
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(master)); err != nil {
			t.Fatal(err)
		}
		withCopy := i%2 == 0
		if !withCopy {
			if err := os.RemoveAll(filepath.Join(dir, "snapshots")); err != nil {
				t.Fatal(err)
			}
		}
		what := damage(t, rnd, filepath.Join(dir, "lists.db"))
		s, err := Open(Options{Dir: dir}, nil)
		switch {
		case err != nil && withCopy:
			t.Errorf("%s: %v", what, err)
		case err != nil:
			counts["refused"]++
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "lists.db") || !strings.Contains(err.Error(), "backup") {
				t.Errorf("%s: %v", what, err)
			}
			if _, again := Open(Options{Dir: dir}, nil); !errors.Is(again, ErrCorrupt) {
				t.Errorf("%s: opened again: %v", what, again)
			}
			continue
		case s.Status().Degraded == "":
			counts["harmless"]++ // free space, an index, the history
			if !slices.Equal(collect(s.Snapshot()), whole) {
				t.Errorf("%s: silently another list", what)
			}
		default:
			counts["restored"]++
			if !withCopy || !slices.Equal(collect(s.Snapshot()), copied) || !strings.Contains(s.Status().Degraded, "restored from the snapshot of") {
				t.Errorf("%s: %s", what, s.Status().Degraded)
			}
			if aside, _ := filepath.Glob(filepath.Join(dir, "lists.db.corrupt-*")); len(aside) == 0 {
				t.Errorf("%s: nothing was set aside", what)
			}
		}
		if s != nil {
			heal(t, s, what, rnd)
			closeStore(t, s)
		}
	}
	t.Log(counts)
	if few() {
		t.Errorf("too few of a kind: %v", counts)
	}
}

// TestDamagedSchema: a table that is described in another way than when it was made, where start does not look, is damage
// too: all is written anew, and no change is refused for it.
func TestDamagedSchema(t *testing.T) {
	s, dir := open(t, Options{})
	apply(t, s, adds(0, 10, lists.Manual))
	closeStore(t, s)
	path := filepath.Join(dir, "lists.db")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := regexp.MustCompile(`(CREATE TABLE history[^;]*)before`).ReplaceAll(file, []byte("${1}befoul"))
	if slices.Equal(file, spoilt) {
		t.Fatal("the file describes no such table")
	}
	if err := os.WriteFile(path, spoilt, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = Open(Options{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, adds(10, 1, lists.Manual))
	if st := s.Status(); !strings.Contains(st.Degraded, "written anew from memory") {
		t.Errorf("degraded: %q", st.Degraded)
	}
	want := collect(s.Snapshot())
	closeStore(t, s)
	again, _ := open(t, Options{Dir: dir})
	if got := collect(again.Snapshot()); len(got) != 11 || !slices.Equal(got, want) {
		t.Errorf("%d entries after a restart, want 11", len(got))
	}
}

// heal changes every entry of a store whose file may still be damaged where start does not look: nothing is lost.
func heal(t *testing.T, s *Store, what string, rnd *rand.Rand) {
	t.Helper()
	var b lists.Batch
	all := collect(s.Snapshot())
	keep := all[rnd.IntN(len(all))].ID
	for _, e := range all {
		if e.ID != keep {
			b.Ops = append(b.Ops, lists.Operation{Op: lists.OpDelete, List: e.List, ID: e.ID})
		}
	}
	if _, err := s.Apply(context.Background(), b); err != nil {
		t.Errorf("%s: deleting afterwards: %v", what, err)
		return
	}
	want := collect(s.Snapshot())
	closeStore(t, s)
	again, err := Open(Options{Dir: s.options.Dir}, nil)
	if err != nil {
		t.Errorf("%s: opening afterwards: %v", what, err)
		return
	}
	if got := collect(again.Snapshot()); len(got) != 1 || !slices.Equal(got, want) {
		t.Errorf("%s: %d entries afterwards, want 1", what, len(got))
	}
	closeStore(t, again)
}

// damage changes 1 to 64 bytes of the file, or cuts it short.
func damage(t *testing.T, rnd *rand.Rand, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := rnd.IntN(len(b))
	if rnd.IntN(4) == 0 {
		at = rnd.IntN(8192) // header, schema, meta
	}
	what := fmt.Sprintf("cut at %d of %d", at, len(b))
	if rnd.IntN(8) == 0 {
		b = b[:at]
	} else {
		n := min(1+rnd.IntN(64), len(b)-at)
		what = fmt.Sprintf("%d bytes at %d of %d", n, at, len(b))
		for i := at; i < at+n; i++ {
			b[i] ^= byte(1 + rnd.IntN(255))
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return what
}

// TestRowMissing: a row that vanished without a trace in its page is noticed by the sum over all rows.
func TestRowMissing(t *testing.T) {
	s, dir := open(t, Options{})
	apply(t, s, adds(0, 10, lists.Manual))
	closeStore(t, s)
	for _, statement := range []string{
		"DELETE FROM blacklist WHERE seq = 5", "UPDATE blacklist SET expires = 1 WHERE seq = 5", "DELETE FROM meta", "DROP TABLE whitelist",
		"UPDATE meta SET settings = replace(settings, 'true', 'false')", "PRAGMA user_version = 0",
	} {
		other := t.TempDir()
		if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		tamper(t, filepath.Join(other, "lists.db"), statement)
		if _, err := Open(Options{Dir: other}, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

func tamper(t *testing.T, path, statement string) {
	t.Helper()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err == nil {
		err = errors.Join(sqlitex.ExecuteScript(conn, statement, nil), conn.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestNewer: a database of a newer program is left alone.
func TestNewer(t *testing.T) {
	s, dir := open(t, Options{})
	closeStore(t, s)
	tamper(t, filepath.Join(dir, "lists.db"), "PRAGMA user_version = 4; UPDATE meta SET schema = 4")
	_, err := Open(Options{Dir: dir}, nil)
	if err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("%v", err)
	}
}

// TestIndexDamaged: the index that finds rows is built anew when it does not lead to one.
func TestIndexDamaged(t *testing.T) {
	s, dir := open(t, Options{})
	apply(t, s, adds(0, 10, lists.Manual))
	closeStore(t, s)
	// An index over nothing, under the name of the right one, without SQLite's knowing.
	tamper(t, filepath.Join(dir, "lists.db"), `PRAGMA writable_schema = ON;
		DROP INDEX blacklist_hash; CREATE INDEX blacklist_hash ON blacklist (hash) WHERE seq < 0;
		UPDATE sqlite_schema SET sql = 'CREATE INDEX blacklist_hash ON blacklist (hash)' WHERE name = 'blacklist_hash'`)
	s, _ = open(t, Options{Dir: dir})
	r := apply(t, s, lists.Batch{Ops: []lists.Operation{{Op: lists.OpDelete, List: lists.Blacklist, ID: ipAt(3)}}})
	if r.Outcomes[0] != lists.Deleted || s.Status().Degraded != "" {
		t.Fatalf("%v, %q", r, s.Status().Degraded)
	}
}

// TestRemoved: a database that somebody removes is written anew from memory, whether or not there is a change.
func TestRemoved(t *testing.T) {
	for _, running := range []bool{false, true} {
		s, dir := open(t, Options{})
		apply(t, s, adds(0, 10, lists.Manual))
		if err := removeDatabase(filepath.Join(dir, "lists.db")); err != nil {
			t.Fatal(err)
		}
		if running {
			run(t, s)
			eventually(t, "the database is there again", func() bool { return strings.Contains(s.Status().Degraded, "removed while in use") })
		} else {
			apply(t, s, adds(10, 1, lists.Manual))
		}
		want := collect(s.Snapshot())
		closeStore(t, s)
		again, _ := open(t, Options{Dir: dir})
		if got := collect(again.Snapshot()); !slices.Equal(got, want) {
			t.Errorf("running %v: %d entries after a restart, %d before", running, len(got), len(want))
		}
		closeStore(t, again)
	}
}

// TestDisplaced: what would be lost at the next start is not answered "added", and the file that somebody put in the
// database's place is left alone. A directory that was moved away is made again, with all that is in force in it.
func TestDisplaced(t *testing.T) {
	s, dir := open(t, Options{})
	apply(t, s, adds(0, 10, lists.Manual))
	path, away := filepath.Join(dir, "lists.db"), filepath.Join(t.TempDir(), "away")
	if err := os.Rename(path, path+".mine"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("a backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		before := s.Snapshot()
		_, err := s.Apply(context.Background(), adds(20, 1, lists.Manual))
		if !errors.Is(err, ErrNotDurable) || s.Snapshot() != before || !strings.Contains(s.Status().Degraded, "changes are refused") {
			t.Errorf("%s: %v; degraded: %q", what, err, s.Status().Degraded)
		}
	}
	refused("replaced")
	if b, err := os.ReadFile(path); err != nil || string(b) != "a backup" {
		t.Errorf("the backup: %q, %v", b, err)
	}
	if err := errors.Join(os.Rename(path+".mine", path), os.Rename(dir, away)); err != nil {
		t.Fatal(err)
	}
	apply(t, s, adds(20, 1, lists.Manual))
	if st := s.Status(); st.LastError != "" || strings.Contains(st.Degraded, "refused") || s.Snapshot().Len(lists.Blacklist) != 11 {
		t.Errorf("%d entries, %+v", s.Snapshot().Len(lists.Blacklist), st)
	}
	want := collect(s.Snapshot())
	closeStore(t, s)
	again, _ := open(t, Options{Dir: dir})
	if got := collect(again.Snapshot()); !slices.Equal(got, want) {
		t.Errorf("%d entries after a restart, %d before", len(got), len(want))
	}
}
