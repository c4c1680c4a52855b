package storetest

import (
	"context"
	"testing"

	"github.com/portcullis/portcullis/lists"
)

// Store is what the rest of the house needs of a store, whether it keeps its lists in a file or in a cluster.
type Store interface {
	// Apply makes the batch durable, publishes the snapshot that holds it, and only then returns. All or nothing.
	Apply(ctx context.Context, b lists.Batch) (lists.Result, error)
	// Snapshot returns the newest published state; it never blocks and is never nil.
	Snapshot() *lists.Snapshot
	// Watch blocks until there is something newer than generation from; from 0 returns at once with Whole.
	Watch(ctx context.Context, from uint64) (lists.Update, error)
	// Status never blocks on a writer.
	Status() lists.Status
}

// Run holds the stores that open makes to the promises of [Store], the semantics of lists.ApplyOps and those of
// generations. open returns an empty store with lists.DefaultSettings, which nobody else writes to, with its own work
// (taking off entries whose end has come) under way, and closes it when the test ends.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Store)
	}{
		{"New", testNew},
		{"Add", testAdd},
		{"Replace", testReplace},
		{"Delete", testDelete},
		{"Clear", testClear},
		{"Import", testImport},
		{"Settings", testSettings},
		{"Refusals", testRefusals},
		{"Atomic", testAtomic},
		{"Canceled", testCanceled},
		{"Expiry", testExpiry},
		{"Watch", testWatch},
		{"WatchTooOld", testWatchTooOld},
		{"Concurrent", testConcurrent},
		{"Model", testModel},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}
