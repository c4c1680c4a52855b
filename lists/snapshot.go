package lists

import (
	"iter"
)

// Settings are the durable switches of a node. They live beside the entries so that a generation names both.
type Settings struct {
	Firewall          bool   // off: nothing is blocked, in the kernel or in the shim
	ABS               bool   // send access logs to the analysis engine
	ABSAttack         bool   // take over what the analysis engine found
	ASEDetectedAttack bool   // real-time detectors may blacklist
	Audit             bool   // write the audit log
	LogLevel          string // debug, info, warn, error
}

// DefaultSettings are those of a new node: firewall and audit on, automatic blocking off, log level info.
func DefaultSettings() Settings {
	return Settings{Firewall: true, Audit: true, LogLevel: "info"}
}

// Snapshot is the state of both lists and the switches at one generation. It is immutable and safe for
// concurrent use; the zero value is generation 0 with no entries and zero Settings.
//
// Snapshots share structure: a change of one entry among a million costs microseconds and kilobytes, not a copy.
// Entries past their end stay in a snapshot until the store removes them (which is a new generation); readers
// that act on entries must look at [Entry.Expired].
type Snapshot struct {
	// persistent two-level copy-on-write structure: see snapshot_impl
}

// Generation returns the number of the change that made this snapshot. It only grows.
func (s *Snapshot) Generation() uint64 { panic("contract") }

// Settings returns the switches.
func (s *Snapshot) Settings() Settings { panic("contract") }

// Len counts the entries of one list, all sources; expired ones not yet removed included.
func (s *Snapshot) Len(l List) int { panic("contract") }

// LenSource counts the entries of one source of the list.
func (s *Snapshot) LenSource(l List, src Source) int { panic("contract") }

// Get returns the entry with that key.
func (s *Snapshot) Get(k Key) (Entry, bool) { panic("contract") }

// Find returns the entries of every source that hold id on list l, in the order of sources.
func (s *Snapshot) Find(l List, id ID) []Entry { panic("contract") }

// Entries yields the entries of one list in the order they were added, all sources interleaved.
func (s *Snapshot) Entries(l List) iter.Seq[Entry] { panic("contract") }

// Section yields the entries of one list and source in the order they were added: what one section of
// view_blacklist shows.
func (s *Snapshot) Section(l List, src Source) iter.Seq[Entry] { panic("contract") }

// Change is one difference between two snapshots. Before and After are nil where the entry did not exist.
type Change struct {
	Before, After *Entry
}

// Builder makes the next snapshot from an earlier one. It is not safe for concurrent use. The earlier snapshot
// is not changed.
type Builder struct{}

// NewBuilder starts from base, which may be nil.
func NewBuilder(base *Snapshot) *Builder { panic("contract") }

// Put adds the entry or replaces the one with its key, keeping the replaced one's place in the order; it returns what was there.
func (b *Builder) Put(e Entry) (before Entry, replaced bool) { panic("contract") }

// Delete removes the entry with that key and returns it.
func (b *Builder) Delete(k Key) (before Entry, ok bool) { panic("contract") }

// Clear removes every entry of the list, or, when sources are given, those of these sources. The cost of
// clearing a whole list does not grow with its length.
func (b *Builder) Clear(l List, sources ...Source) (removed int) { panic("contract") }

// Set replaces the switches.
func (b *Builder) Set(s Settings) { panic("contract") }

// Snapshot returns the finished value under that generation. The Builder must not be used afterwards.
func (b *Builder) Snapshot(generation uint64) *Snapshot { panic("contract") }
