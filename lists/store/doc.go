// Package store keeps the lists across crash and restart. It is the only writer of entries.
//
// [Open] reads a state directory; [Store.Apply] makes a batch durable and publishes a new [lists.Snapshot];
// [Store.Watch] tells readers what changed; [Store.Run] removes entries whose end has come. A batch is durable
// (SQLite, WAL, synchronous=FULL) before Apply returns. Every row carries a checksum and the database the number
// and the sum of its rows, all verified when it is read; verified copies are kept in rotation under snapshots/, and
// a corrupt database is set aside (never deleted) and the newest good copy used in its place, which Status reports.
//
// The state directory (0700, files 0600) holds:
//
//	lock                         held while a process has the directory open; names its pid
//	lists.key                    what secrets are sealed with (0400); without it nothing can be read: back it up too
//	lists.db, -wal, -shm         entries, switches, clock anchor, history
//	snapshots/lists-N.db         verified copies, N being the generation
//	lists.db.corrupt-TIME        what was set aside; for the admin to look at and delete
//
// What it cannot see: damage to the newest part of the WAL after a crash looks to SQLite like changes never made, and
// they are gone without a word.
//
// Cookies, tokens, API keys and user names are sealed in the database, its history and its copies (XChaCha20-Poly1305,
// with a key of this store alone); addresses, names and comments are plain text, hence the modes. A database of a version
// that did not seal is sealed when it is opened, copies of it are removed once there is a new one. What was set aside
// stays as it was.
//
// A store implements the interface that a replicated store will implement later; package storetest holds every
// implementation to it.
package store
