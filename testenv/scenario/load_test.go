package scenario

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/portcullis/portcullis/testenv"
)

// TestThousandConcurrentCalls runs a thousand commands, sixteen at a time, from adders, deleters and viewers, and
// expects every one answered and the lists exactly what they add up to.
func TestThousandConcurrentCalls(t *testing.T) {
	r := start(t)
	const workers, calls = 16, 1000
	var wg sync.WaitGroup
	failures := make(chan error, calls)
	work := make(chan int)
	for range workers {
		wg.Go(func() {
			for i := range work {
				if err := r.call(i); err != nil {
					failures <- err
				}
			}
		})
	}
	began := time.Now()
	for i := range calls {
		work <- i
	}
	close(work)
	wg.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	t.Logf("%d calls in %v", calls, time.Since(began).Round(time.Millisecond))

	// Of each four: one kept, one added and deleted, one view.
	s, err := r.daemon.Status()
	r.must(err)
	if got, want := s.Entries["blacklist"], calls/4; got != want || s.Generation.Kernel != s.Generation.Store || len(s.Degraded) != 0 {
		t.Errorf("%d entries, want %d; kernel generation %d, store %d; degraded %q",
			got, want, s.Generation.Kernel, s.Generation.Store, s.Degraded)
	}
	lists := r.lists()
	for i := range calls / 4 {
		if want := "blacklist " + kept(i); !strings.Contains(strings.Join(lists, "\n")+"\n", want+"\n") {
			t.Fatalf("%s is missing", want)
		}
	}
}

func kept(i int) string { return fmt.Sprintf("10.1.%d.%d", i/200, i%200) }

// call is the i-th of the thousand calls.
func (r *rig) call(i int) error {
	passing := fmt.Sprintf("10.2.%d.%d", i/800, i/4%200)
	switch i % 4 {
	case 0:
		_, err := r.daemon.Run("add_blacklist", "ip", kept(i/4))
		return err
	case 1:
		_, err := r.daemon.Run("add_blacklist", "ip", passing)
		return err
	case 2: // the add of the call before may not have happened yet
		return testenv.Poll(30*time.Second, func() error {
			_, err := r.daemon.Run("delete_blacklist", "ip", passing)
			return err
		})
	default:
		_, err := r.daemon.Run("view_blacklist", "all")
		return err
	}
}

// TestNothingLeaks: after hundreds of commands, failures and restarted clients the daemon holds as many descriptors,
// goroutines and pins as when it had done each once.
func TestNothingLeaks(t *testing.T) {
	idle := start(t)
	idle.commands(0, 3)
	fds, pins := idle.settled(), idle.pins()
	goroutines := idle.goroutines()

	busy := start(t)
	busy.commands(0, 3)
	busy.commands(3, 40)
	for range 20 { // clients that go away in the middle
		c, err := net.Dial("unix", busy.daemon.Socket)
		busy.must(err)
		_, err = c.Write([]byte("GET /v1/status HT"))
		busy.must(err)
		busy.must(c.Close())
	}
	busy.cli("status") // whoever came before this call has been accepted
	// One more is SQLite's: it keeps a descriptor of its database for the next time it needs another.
	if now := busy.settled(); len(now) > len(fds)+1 {
		t.Errorf("open are %q, want no more than %q", now, fds)
	}
	if now := busy.pins(); now != pins {
		t.Errorf("pinned: %s\nwant:   %s", now, pins)
	}
	if now := busy.goroutines(); now > goroutines {
		t.Errorf("%d goroutines, want at most %d:\n%s", now, goroutines, busy.daemon.Log())
	}
}

// commands does one of everything for each number.
func (r *rig) commands(from, to int) {
	r.t.Helper()
	for i := from; i < to; i++ {
		ip := fmt.Sprintf("10.3.0.%d", i)
		r.cli("add_blacklist", "ip", ip)
		r.refused(2, "add_blacklist", "ip", ip+".5")
		r.refused(7, "delete_whitelist", "ip", ip)
		r.cli("view_blacklist", "all")
		r.cli("delete_blacklist", "ip", ip)
		if i%20 == 0 {
			r.cli("disable_firewall")
			r.cli("enable_firewall")
			out, err := r.daemon.Ask("y\n", "clear_blacklist")
			r.must(err)
			if out.Code != 0 {
				r.t.Fatalf("clear_blacklist: %+v", out)
			}
		}
	}
}

// descriptors lists what the daemon has open.
func (r *rig) descriptors() []string {
	r.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", r.daemon.PID())
	entries, err := os.ReadDir(dir)
	r.must(err)
	var open []string
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open = append(open, to)
		}
	}
	slices.Sort(open)
	return open
}

// settled is what is open once it has stayed the same for half a second.
func (r *rig) settled() []string {
	r.t.Helper()
	var last []string
	same := 0
	testenv.Eventually(r.t, 15*time.Second, "descriptors settle", func() error {
		same++
		if now := r.descriptors(); !slices.Equal(now, last) {
			last, same = now, 0
		}
		if same < 100 {
			return fmt.Errorf("open are %q", last)
		}
		return nil
	})
	return last
}

// goroutines ends the daemon by SIGQUIT and counts, in its last words, the goroutines that the runtime does not keep
// for itself.
func (r *rig) goroutines() int {
	r.t.Helper()
	r.must(syscall.Kill(r.daemon.PID(), syscall.SIGQUIT))
	<-r.daemon.Done()
	log := r.daemon.Log()
	n := strings.Count(log, "\ncreated by ") - strings.Count(log, "\ncreated by runtime.")
	if n < 3 {
		r.t.Fatalf("no stack dump in the log:\n%s", log)
	}
	return n
}

// TestStateDirectoryIsPrivate: what is listed is nobody's business but root's.
func TestStateDirectoryIsPrivate(t *testing.T) {
	r := start(t)
	r.cli("add_blacklist", "token", "secret-token")
	st, err := os.Stat(r.daemon.PinDir)
	r.must(err)
	if st.Mode().Perm()&0o007 != 0 {
		t.Errorf("%s has mode %v: others can reach the pins", r.daemon.PinDir, st.Mode().Perm())
	}
	r.must(filepath.WalkDir(r.daemon.StateDir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := e.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others can read it", path, info.Mode())
		}
		return nil
	}))
}
