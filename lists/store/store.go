package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Errors of a store; test with errors.Is.
var (
	// ErrLocked: another process has the state directory open.
	ErrLocked = errors.New("state directory is in use by another process")
	// ErrCorrupt: the database (or a row of it) is damaged and no good snapshot is there to take its place.
	// Nothing was changed on disk. Whoever enforces must go on with what it has: the lists are not empty.
	ErrCorrupt = errors.New("database is damaged")
	// ErrKey: the key file is missing, or it is not the one that the database is sealed with. Nothing was changed.
	ErrKey = errors.New("lists are sealed with another key")
	// ErrNotDurable: the change could not be written (disk full, I/O error); nothing was changed.
	ErrNotDurable = errors.New("change could not be made durable")
	// ErrRefused wraps what Options.Check answered; nothing was changed.
	ErrRefused = errors.New("change refused")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Options of [Open]. Only Dir is needed.
type Options struct {
	Dir string // state directory, made with mode 0700 if missing
	// KeyFile seals cookies, tokens, API keys and user names in the database and its copies ("": lists.key in Dir). It
	// is made, with mode 0400, when nothing is sealed yet.
	KeyFile string

	// Check, if set, sees each change before it is made durable, with the snapshot it would lead to, and may
	// refuse it (capacity, lock-out). changes are those of lists.Applied: after a big clear they lack what the
	// clear removed, never what is added. It runs inside the writer: it must not call the store. It may be asked
	// twice about one batch, and about one that then cannot be written.
	Check func(b lists.Batch, next *lists.Snapshot, changes []lists.Change) error

	// Evict, if set, is asked before Check in the same way, and names entries that go, in the same change, to make room
	// for what the batch adds. The batch's Result does not count them; the history says that they were evicted.
	Evict func(b lists.Batch, next *lists.Snapshot, changes []lists.Change) []lists.Key

	Logger *slog.Logger // nil: no log
	Clock  ClockSource  // zero: the machine's own clocks

	// KeepSnapshots is how many verified copies are kept beside the database (0: 3), SnapshotEvery how often
	// Run makes one if something changed (0: 1 hour).
	KeepSnapshots int
	SnapshotEvery time.Duration
	// History is how many events are kept (0: 1,000,000).
	History int
}

// Status is what an admin wants to know of the store.
type Status = lists.Status

// Store keeps the lists in a SQLite database. Safe for concurrent use.
type Store struct {
	options Options
	log     *slog.Logger
	path    string // of the database
	lock    *os.File
	clock   *Clock

	current atomic.Pointer[lists.Snapshot] // what is published

	queueMu sync.Mutex
	queue   []*request

	writer   chan struct{} // holds one token while somebody writes; guards db, unsaved, leftover and lastTry
	db       *database
	unsaved  []work    // published, but not on disk: see hold
	leftover bool      // the WAL may hold a change that was refused
	lastTry  time.Time // when unsaved was last tried, on the clock
	keys     *keyring

	unscrubbed bool // an upgrade left values in the file that were not sealed

	watch watchLog

	mu     sync.Mutex // guards what follows
	closed bool
	active sync.WaitGroup // calls that use the connection's file; Close waits for them
	health health
}

// health is what Status says beside the figures.
type health struct {
	restored     string
	lost         string // why no change is taken before somebody acts
	key          string // what is wrong with the key file
	unsaved      int
	lastError    string
	lastSnapshot time.Time
	snapshotGen  uint64 // 0: there is none
	snapshotRows int
	copyError    string
	copyFailed   time.Time
}

// Open locks the directory, checks the database, and loads it. It blocks for as long as that takes: about 3 s
// for a million entries. Progress may be nil; it is called with rows read and rows there are.
// The lock is given back by Close and by the process's end.
//
// Errors: [ErrLocked], [ErrCorrupt], [ErrKey], and those of the file system. A damaged database is set aside and replaced by
// the newest good snapshot, as Status then says; without one Open fails with ErrCorrupt and leaves all as it is.
func Open(o Options, progress func(done, total int)) (_ *Store, err error) {
	if o.KeepSnapshots == 0 {
		o.KeepSnapshots = 3
	}
	if o.SnapshotEvery == 0 {
		o.SnapshotEvery = time.Hour
	}
	if o.History == 0 {
		o.History = 1_000_000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock, err = o.Clock.withDefaults(); err != nil {
		return nil, err
	}
	if err := makeDir(o.Dir, o.Logger); err != nil {
		return nil, err
	}
	if err := makeDir(filepath.Join(o.Dir, "snapshots"), o.Logger); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{options: o, log: o.Logger, path: filepath.Join(o.Dir, "lists.db"), lock: lock, writer: make(chan struct{}, 1)}
	s.keys = &keyring{path: cmp.Or(o.KeyFile, filepath.Join(o.Dir, "lists.key")), log: o.Logger}
	s.watch.start()
	if err := s.open(progress); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("open lists in %s: %w", o.Dir, err)
	}
	if copies, err := s.snapshots(); err == nil && len(copies) > 0 {
		s.health.lastSnapshot, s.health.snapshotGen = copies[0].made.UTC(), copies[0].generation
		s.health.snapshotRows = s.rows() // it is not worth reading the copy for
		if unsealed(copies[0].path) {
			s.health.snapshotGen = 0 // so that a sealed one takes its place soon
		}
	}
	return s, nil
}

// makeDir makes a directory that only its owner can look into, or makes an existing one so, unless it holds what
// is not ours: the files are closed to others in any case.
func makeDir(dir string, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	_, ours := os.Lstat(filepath.Join(dir, "lists.db"))
	if names, err := os.ReadDir(dir); ours != nil && (err != nil || len(names) > 0) {
		log.Warn("state directory is open to others and holds other files: give it one of its own", "path", dir, "mode", info.Mode().Perm())
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("protect state directory: %w", err)
	}
	return nil
}

// Snapshot returns the newest published state; it never blocks.
func (s *Store) Snapshot() *lists.Snapshot { return s.current.Load() }

// Clock returns the steady clock that entry times of this store are kept on.
func (s *Store) Clock() *Clock { return s.clock }

// Status reports the health of the store; it never blocks on a writer.
func (s *Store) Status() Status {
	snap := s.Snapshot()
	st := Status{Generation: snap.Generation(), Entries: map[lists.List]int{}}
	for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
		st.Entries[l] = snap.Len(l)
	}
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(s.path + suffix); err == nil {
			st.DatabaseSize += info.Size()
		} else if suffix == "" && !errors.Is(err, fs.ErrNotExist) {
			st.LastError = err.Error()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var degraded []string
	if s.health.restored != "" {
		degraded = append(degraded, s.health.restored)
	}
	if s.health.lost != "" {
		degraded = append(degraded, "changes are refused: "+s.health.lost)
	}
	if s.health.key != "" {
		degraded = append(degraded, s.health.key)
	}
	if s.health.unsaved > 0 {
		degraded = append(degraded, fmt.Sprintf("%d automatic changes are enforced but not on disk: %s", s.health.unsaved, s.health.lastError))
	}
	st.Degraded = strings.Join(degraded, "; ")
	if problem := cmp.Or(s.health.lastError, s.health.copyError); problem != "" {
		st.LastError = problem
	}
	st.LastSnapshot = s.health.lastSnapshot
	return st
}

// rows counts the entries of both lists.
func (s *Store) rows() int {
	snap := s.Snapshot()
	return snap.Len(lists.Whitelist) + snap.Len(lists.Blacklist)
}

// Close finishes the calls of Apply that have begun and gives the directory back. Watch and all later calls get
// [ErrClosed]; Snapshot and Status go on answering with the last state. Closing twice does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.watch.stop()
	s.active.Wait()
	s.writer <- struct{}{}
	defer func() { <-s.writer }()
	// Now is kept as the time last seen; it is no loss if that fails, but what is unsaved is.
	err := s.save(nil)
	if err != nil && len(s.unsaved) == 0 {
		err = nil
	}
	if err = s.db.close(err); err != nil {
		err = fmt.Errorf("close %s: %w", s.path, err)
	}
	return errors.Join(err, s.lock.Close())
}

// enter counts a call that Close must wait for; it is false once the store is closed.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.active.Add(1)
	return true
}

func (s *Store) leave() { s.active.Done() }

// changed reports whether err is another than the last, which is tried again and again.
func (s *Store) changed(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return err.Error() != s.health.lastError
}

// failed keeps the text of an error for Status, and forgets it with nil.
func (s *Store) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health.lastError, s.health.lost = "", ""
	if err != nil {
		s.health.lastError = err.Error()
	}
	if errors.Is(err, errRemoved) || errors.Is(err, errReplaced) {
		s.health.lost = oneLine(err)
	}
	s.health.unsaved = 0
	for _, w := range s.unsaved {
		s.health.unsaved += len(w.applied.Steps)
	}
}

// Apply makes the batch durable, publishes the snapshot that holds it, and only then returns. All or nothing:
// after any error nothing has changed. lists.ApplyOps says what the operations mean and what is refused with
// lists.ErrInvalid: an entry whose end has already passed, among others. Concurrent calls share transactions.
// When ctx ends before the batch is begun, its error is returned; a batch that is begun is finished.
//
// One exception to durability: a batch that only adds to the blacklist from sources other than manual, and cannot
// be written, is published all the same and written by Run when that works again. Until then Status is degraded,
// and a crash loses it. Every other batch fails with [ErrNotDurable].
func (s *Store) Apply(ctx context.Context, b lists.Batch) (lists.Result, error) {
	return s.ApplyIf(ctx, b, nil)
}

// ApplyIf is Apply of a batch that allow may refuse, with the state right before the batch and the one right after it:
// no other change comes in between. allow is called as Options.Check is, and after it; what it answers is wrapped in
// [ErrRefused].
func (s *Store) ApplyIf(ctx context.Context, b lists.Batch, allow func(base, next *lists.Snapshot) error) (lists.Result, error) {
	if !s.enter() {
		return lists.Result{}, ErrClosed
	}
	defer s.leave()
	return s.apply(ctx, b, allow)
}
