// Package store keeps the lists across crash and restart. It is the only writer of entries.
//
// [Open] reads a state directory; [Store.Apply] makes a batch durable and publishes a new [lists.Snapshot];
// [Store.Watch] tells readers what changed. A batch is durable (SQLite, WAL, synchronous=FULL) before Apply
// returns. Every row carries a checksum, verified when it is read; verified snapshots of the database are kept
// in rotation beside it, and a corrupt database is set aside (never deleted) and the newest good snapshot used
// in its place, which Status reports.
//
// A store implements the interface that a replicated store will implement later; package storetest holds every
// implementation to it.
package store
