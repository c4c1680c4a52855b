package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// victimDir makes the test binary a process that changes the lists in that directory until it is killed.
const victimDir = "PORTCULLIS_TEST_VICTIM_DIR"

// victimBatch is the n-th thing a victim does; after each, the blacklist is what victimState says.
func victimBatch(n int) lists.Batch {
	switch n % 5 {
	case 0, 1:
		return adds(n*100, 1, lists.Manual)
	case 2:
		return adds(n*100, 50, lists.ABS)
	case 3:
		return lists.Batch{Ops: []lists.Operation{{Op: lists.OpDelete, List: lists.Blacklist, ID: ipAt((n - 2) * 100)}}}
	default:
		return lists.Batch{Ops: []lists.Operation{{Op: lists.OpClear, List: lists.Blacklist}}}
	}
}

// victimState is what the blacklist holds after the first n batches.
func victimState(n int) map[lists.ID]bool {
	state := map[lists.ID]bool{}
	for i := n - n%5; i < n; i++ {
		for _, op := range victimBatch(i).Ops {
			if op.Op == lists.OpAdd {
				state[op.Entry.ID] = true
			}
			delete(state, op.ID)
		}
	}
	return state
}

// victim goes on where the lists are and says on standard output what was acknowledged.
func victim(dir string) {
	s, err := Open(Options{Dir: dir, SnapshotEvery: time.Nanosecond}, nil)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go s.Run(context.Background())
	for n := int(s.Snapshot().Generation()) - 1; ; n++ {
		fmt.Println("begin", n)
		if _, err := s.Apply(context.Background(), victimBatch(n)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println("done", n)
	}
}

// TestKill kills a process that adds, deletes, clears and copies, at random moments: afterwards everything it
// acknowledged is there, and what it had begun is there whole or not at all.
func TestKill(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acknowledged := 0
	kills := 0
	for ; kills < 60 || acknowledged < 60 && kills < 600; kills++ { // a slow disk makes few batches between kills
		done := kill(t, dir, time.Duration(rnd.IntN(120_000))*time.Microsecond)
		acknowledged = max(acknowledged, done)
		s, err := Open(Options{Dir: dir}, nil)
		if err != nil {
			t.Fatal(err)
		}
		applied := int(s.Snapshot().Generation()) - 1
		if applied != acknowledged && applied != acknowledged+1 {
			t.Fatalf("%d batches were acknowledged, %d are there", acknowledged, applied)
		}
		want := victimState(applied)
		if got := s.Snapshot().Len(lists.Blacklist); got != len(want) {
			t.Fatalf("after %d batches: %d entries, want %d", applied, got, len(want))
		}
		for id := range want {
			if s.Snapshot().Find(lists.Blacklist, id) == nil {
				t.Fatalf("after %d batches: %v is missing", applied, id)
			}
		}
		if st := s.Status(); st.Degraded != "" {
			t.Fatal(st.Degraded)
		}
		acknowledged = applied
		closeStore(t, s)
	}
	t.Logf("%d batches survived %d kills", acknowledged, kills)
	if acknowledged < 60 {
		t.Errorf("only %d batches were made: the test tested little", acknowledged)
	}
}

// kill runs a victim, kills it some time after its first batch began, and returns how many batches it finished.
func kill(t *testing.T, dir string, after time.Duration) (done int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var timer *time.Timer
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if timer == nil {
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		word, rest, _ := strings.Cut(lines.Text(), " ")
		if word == "error" {
			t.Errorf("victim: %s", rest)
		}
		if n := 0; word == "done" {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Error(err)
			}
			done = n + 1
		}
	}
	_ = cmd.Wait() // killed
	if timer == nil || timer.Stop() {
		t.Fatal("the victim ended by itself")
	}
	return done
}

// TestLocked: one directory, one store, whoever asks.
func TestLocked(t *testing.T) {
	_, dir := open(t, Options{})
	_, err := Open(Options{Dir: dir}, nil)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("a second opener: %v", err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	out, err := cmd.Output()
	if err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("another process: %v, %s", err, out)
	}
}

// TestModes: nobody but the owner can read anything, whatever the umask and the mode the directory had.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, Options{Dir: dir})
	if _, err := s.Apply(context.Background(), adds(0, 1, lists.Manual)); err != nil {
		t.Fatal(err)
	}
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if path == "lists.key" {
			want = 0o400
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	other := t.TempDir() // somebody else's directory is left as it is
	if err := errors.Join(os.WriteFile(filepath.Join(other, "file"), nil, 0o644), os.Chmod(other, 0o755)); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: other})
	if info, err := os.Stat(other); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err != nil || files < 5 { // lock, database, WAL, shared memory, copy
		t.Errorf("%d files, %v", files, err)
	}
}
