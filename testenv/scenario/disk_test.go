package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestDiskFull: with no room left, changes are refused and never answered "added"; what is enforced stays enforced, and
// once there is room again changes are taken.
func TestDiskFull(t *testing.T) {
	r := newRig(t)
	dir, err := r.Lab.MountTmpfs("small", 16<<20)
	r.must(err)
	r.daemon.StateDir = filepath.Join(dir, "state")
	r.must(r.daemon.Start())
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())

	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	refusals := 0
	for i := range 40 { // pages that the database has to spare may take a few
		out, err := r.daemon.CLI("add_blacklist", "ip", fmt.Sprintf("10.0.0.%d", i), "--reason", strings.Repeat("x", 900))
		r.must(err)
		if out.Code == 0 {
			continue
		}
		if refusals++; refusals == 1 {
			status, err := r.daemon.CLI("status")
			r.must(err)
			if !strings.Contains(status.Stderr, "warning: store: the last write or copy failed: ") {
				t.Errorf("status says nothing of the full disk: %s", status.Stderr)
			}
		}
		if out.Code != 1 || out.Stdout != "" || !strings.HasPrefix(out.Stderr, "error: ") {
			t.Fatalf("add on a full disk: %+v", out)
		}
		if strings.Contains(strings.Join(r.lists(), "\n")+"\n", fmt.Sprintf("blacklist 10.0.0.%d\n", i)) {
			t.Fatalf("10.0.0.%d was refused and is listed", i)
		}
	}
	if refusals == 0 {
		t.Fatal("no change was refused: the disk is not full")
	}
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
	full := r.lists()

	// A crash on the full disk loses nothing that was answered.
	r.must(r.daemon.Kill())
	r.blocked(r.Client, "ping")
	r.must(os.Remove(ballast))
	r.must(r.daemon.Start())
	if now := r.lists(); strings.Join(now, ",") != strings.Join(full, ",") {
		t.Errorf("after a crash: %q, want %q", now, full)
	}
	r.cli("add_blacklist", "ip", r.Another.IPv4.String())
	r.blocked(r.Another, ipv4...)
	r.blocked(r.Client, ipv4...)
}

// fill writes until the filesystem is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 4096; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// TestCorruptDatabase: a damaged database never becomes an empty list over live maps. With a verified copy that one is
// used, and status says so; without one the daemon does not start. The kernel blocks all the while.
func TestCorruptDatabase(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	testenv.Eventually(t, 10*time.Second, "the first verified copy", func() error {
		copies, err := filepath.Glob(filepath.Join(r.daemon.StateDir, "snapshots", "*.db"))
		if err == nil && len(copies) == 0 {
			err = errors.New("none yet")
		}
		return err
	})
	for i := range 20 {
		r.cli("add_blacklist", "ip", fmt.Sprintf("10.0.0.%d", i))
	}
	r.must(r.daemon.Stop())
	damage(t, r.daemon.StateDir)
	r.must(r.daemon.Start())
	s, err := r.daemon.Status()
	r.must(err)
	if len(s.Degraded) == 0 || !strings.Contains(s.Degraded[0], "snapshot") {
		t.Errorf("a damaged database is not said: degraded %q", s.Degraded)
	}
	if lists := r.lists(); !slices.Contains(lists, "blacklist "+r.Client.IPv4.String()) {
		t.Errorf("the lists of the verified copy are not there: %q", lists)
	}
	r.blocked(r.Client, ipv4...)

	r.must(r.daemon.Stop())
	damage(t, r.daemon.StateDir)
	r.must(os.RemoveAll(filepath.Join(r.daemon.StateDir, "snapshots")))
	r.must(r.daemon.Launch())
	select {
	case <-r.daemon.Done():
		if r.daemon.ExitCode() == 0 {
			t.Error("exit code 0 with a corrupt database")
		}
	case <-time.After(10 * time.Second):
		t.Error("it runs on a corrupt database without a copy")
	}
	r.blocked(r.Client, ipv4...)
	r.reach(r.Another)
}

// TestLostKey: without the file that secrets are sealed with no daemon starts, and what is blocked stays so.
func TestLostKey(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "ip", r.Client.IPv4.String())
	r.cli("add_blacklist", "token", "hush")
	r.must(r.daemon.Stop())
	key := filepath.Join(r.daemon.StateDir, "lists.key")
	r.must(os.Rename(key, key+".away"))
	r.must(r.daemon.Launch())
	select {
	case <-r.daemon.Done():
		if log := r.daemon.Log(); r.daemon.ExitCode() == 0 || !strings.Contains(log, "lists are sealed with another key: "+key+" is missing") {
			t.Errorf("exit code %d: %s", r.daemon.ExitCode(), log)
		}
	case <-time.After(10 * time.Second):
		t.Error("it runs without the key")
	}
	r.blocked(r.Client, ipv4...)
	r.must(os.Rename(key+".away", key))
	r.must(r.daemon.Start())
	if out := r.cli("view_blacklist", "manual"); !strings.Contains(out, "type : token, value : hush") {
		t.Errorf("with the key back:\n%s", out)
	}
	if out := r.cli("history"); strings.Contains(out, "hush") || !strings.Contains(out, "token **********#") {
		t.Errorf("the history shows\n%s", out)
	}
	r.blocked(r.Client, ipv4...)
}

// damage overwrites the middle of every page of the database after the first, and removes the log that could heal it.
func damage(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "lists.db")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() < 3*4096 {
		t.Fatalf("%s has %d bytes only", path, st.Size())
	}
	for at := int64(4096); at < st.Size(); at += 4096 {
		if _, err := f.WriteAt([]byte("this is not what was written here"), at+1000); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(path + suffix)
	}
}
