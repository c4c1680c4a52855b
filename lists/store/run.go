package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/portcullis/portcullis/lists"
)

const (
	tick      = 250 * time.Millisecond // how often Run looks whether there is something to do
	maxExpire = 10_000                 // entries removed in one transaction
	viaExpiry = "expiry"
	viaClock  = "clock"
)

// Run removes entries whose end has come, at most a second late (10,000 in a generation; more follow at once),
// writes what could not be written before, and makes the rotating snapshots, until ctx ends or the store is closed:
// it returns nil then, when all it began has ended. What fails is logged, shown by Status and tried again.
// Call it once.
func (s *Store) Run(ctx context.Context) error {
	var copying sync.WaitGroup
	defer copying.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	busy := make(chan struct{}, 1)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.watch.stopped:
			return nil
		case <-ticker.C:
		}
		s.tidy()
		if !s.copyDue() {
			continue
		}
		select {
		case busy <- struct{}{}:
			// A copy of a million entries takes seconds; entries must not expire late for it.
			copying.Go(func() {
				defer func() { <-busy }()
				s.copy(ctx)
			})
		default: // one is under way
		}
	}
}

// tidy removes what has ended, writes what is unsaved, and all of it if the database was removed.
func (s *Store) tidy() {
	if !s.enter() {
		return
	}
	defer s.leave()
	for {
		s.writer <- struct{}{}
		a := lists.ExpireDue(s.Snapshot(), s.clock.Now(), maxExpire)
		var todo []work
		if len(a.Steps) > 0 {
			todo = []work{{a, lists.Batch{By: "portcullis", Via: viaExpiry}, s.clock.Now()}}
		}
		if s.scrub(); s.clock.Now().Sub(s.lastTry) >= time.Second {
			s.keepKey()
			s.keepLock()
		}
		var err error // save keeps it for Status; what has ended counts for nobody even if it stays
		if len(todo) > 0 {
			err = s.write(todo)
		} else if s.clock.Now().Sub(s.lastTry) >= time.Second && (len(s.unsaved) > 0 || s.leftover || s.db.makeshift != nil || s.db.inPlace() != nil) {
			err = s.save(nil)
		}
		<-s.writer
		if len(todo) == 0 || err != nil {
			return
		}
	}
}

// keepKey writes the key file again if it was removed, and has Status say if that cannot be done.
func (s *Store) keepKey() {
	err := s.keys.keep()
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.health.key
	if s.health.key = ""; err != nil {
		s.health.key = oneLine(err)
	}
	if err != nil && s.health.key != was {
		s.log.Error("without the key file the next start is refused", "error", err)
	}
}

// keepLock takes the lock again if its file was removed: without it another process could open the directory.
func (s *Store) keepLock() {
	if _, err := os.Lstat(s.lock.Name()); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	lock, err := lockDir(filepath.Dir(s.path))
	if err != nil {
		return // Status says what is wrong with the directory
	}
	_ = s.lock.Close()
	s.lock = lock
}

// copyDue reports whether it is time for a copy: something changed, and the last one is SnapshotEvery old, or a
// minute while the lists have doubled or halved since. There is no copy of lists that never held anything.
func (s *Store) copyDue() bool {
	generation, rows := s.Snapshot().Generation(), s.rows()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.health
	switch age := time.Since(h.lastSnapshot); {
	case h.snapshotGen == generation, time.Since(h.copyFailed) < time.Minute:
		return false
	case h.snapshotGen == 0:
		return rows > 0
	case age >= time.Minute && (rows > 2*h.snapshotRows || 2*rows < h.snapshotRows):
		return true
	default:
		return age >= s.options.SnapshotEvery
	}
}

func (s *Store) copy(ctx context.Context) {
	if !s.enter() {
		return
	}
	defer s.leave()
	err := s.copyOut(ctx)
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health.copyError = ""; err != nil {
		s.log.Error("snapshot of the lists failed", "error", err)
		s.health.copyError, s.health.copyFailed = err.Error(), time.Now()
	}
}
