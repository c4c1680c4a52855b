package store

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// Errors of a store; test with errors.Is.
var (
	// ErrLocked: another process has the state directory open.
	ErrLocked = errors.New("state directory is in use by another process")
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

	// Check, if set, sees each change before it is made durable, with the snapshot it would lead to, and may
	// refuse it (capacity, lock-out). It runs inside the writer: it must not call the store.
	Check func(b lists.Batch, next *lists.Snapshot, changes []lists.Change) error

	Logger *slog.Logger
	Clock  ClockSource // zero: the machine's own clocks

	// KeepSnapshots is how many verified copies are kept beside the database (0: 3), SnapshotEvery how often
	// Run makes one if something changed (0: 1 hour).
	KeepSnapshots int
	SnapshotEvery time.Duration
	// History is how many events are kept (0: 1,000,000).
	History int
}

// Status is what an admin wants to know of the store.
type Status struct {
	Generation uint64
	Entries    map[lists.List]int
	// Degraded says in one line what is wrong, empty if nothing is: "restored from snapshot of … because …".
	Degraded     string
	LastError    string
	LastSnapshot time.Time
	DatabaseSize int64 // bytes
}

// Store keeps the lists in a SQLite database. Safe for concurrent use.
type Store struct{}

// Open locks the directory, checks the database, and loads it. It blocks for as long as that takes: about 3 s
// for a million entries. Progress may be nil; it is called with rows read and rows there are.
// The lock is given back by Close and by the process's end.
func Open(o Options, progress func(done, total int)) (*Store, error) { panic("contract") }

// Apply makes the batch durable, publishes the snapshot that holds it, and only then returns. All or nothing:
// after any error nothing has changed. An entry whose end has already passed is refused with lists.ErrInvalid.
// An OpAdd of a key that is there replaces its end, reason and comment (Replaced; Created and the place in the
// order stay), unless it says the same (Unchanged). Concurrent calls may share one transaction.
func (s *Store) Apply(ctx context.Context, b lists.Batch) (lists.Result, error) { panic("contract") }

// Snapshot returns the newest published state; it never blocks.
func (s *Store) Snapshot() *lists.Snapshot { panic("contract") }

// Watch blocks until there is something newer than generation from, or ctx ends (its error is returned), or the
// store is closed ([ErrClosed]). from 0 returns at once with Whole.
func (s *Store) Watch(ctx context.Context, from uint64) (lists.Update, error) { panic("contract") }

// Clock returns the steady clock that entry times of this store are kept on.
func (s *Store) Clock() *Clock { panic("contract") }

// Status reports the health of the store; it never blocks on a writer.
func (s *Store) Status() Status { panic("contract") }

// History yields the newest events first, at most limit (0: all). It reads from disk.
func (s *Store) History(ctx context.Context, limit int) iter.Seq2[lists.Event, error] {
	panic("contract")
}

// Run removes entries whose end has come, at most a second late, and makes the rotating snapshots, until ctx
// ends. Call it once.
func (s *Store) Run(ctx context.Context) error { panic("contract") }

// Close finishes the running batch and gives the directory back.
func (s *Store) Close() error { panic("contract") }
