package lists

import "time"

// Op is what one operation of a batch does.
type Op uint8

const (
	OpAdd          Op = iota + 1 // put Entry on its list
	OpDelete                     // take ID off List, every source at once
	OpDeleteKey                  // take one Key off (one source only)
	OpClear                      // empty List
	OpClearSources               // remove the entries of Sources from List
	OpSet                        // replace the switches (Settings): Changed, or Unchanged if they are so already
	OpImport                     // OpAdd of every entry of Pack, as one operation with one event in the history
)

// Operation is one step of a [Batch]. Which fields count depends on Op.
type Operation struct {
	Op       Op
	Entry    Entry                   // OpAdd; its Key is also what OpDeleteKey removes
	List     List                    // OpDelete, OpClear, OpClearSources
	ID       ID                      // OpDelete
	Sources  []Source                // OpClearSources
	Settings func(Settings) Settings // OpSet: must be pure
	Pack     *Pack                   // OpImport; not changed any more
	Replace  List                    // OpImport: whose manual entries that Pack does not hold go; 0: none
}

// Batch is applied whole or not at all, in order. [ApplyOps] says what each operation means.
type Batch struct {
	Ops []Operation
	// By is who asks, for the history: "admin", "root", "abs".
	By string
	// Via is the door the change came through: "cli", "rest_api", "cluster", "expiry", "detect".
	Via string
}

// Outcome is what one operation came to.
type Outcome uint8

const (
	Added     Outcome = iota + 1 // OpAdd: was not there; OpImport: something is new or different
	Replaced                     // OpAdd: was there from this source, with another end, reason or comment, and now has the new ones
	Unchanged                    // OpAdd, OpImport: already on the list from this source and nothing new was said
	Deleted                      // OpDelete, OpDeleteKey: at least one entry removed
	NotFound                     // OpDelete, OpDeleteKey: nothing there
	Cleared                      // OpClear, OpClearSources; Count says how many
	Changed                      // OpSet: the switches are different now
)

// Result says what a batch came to, in the order of its operations.
type Result struct {
	Generation uint64 // of the snapshot that holds the batch; the present one if nothing changed
	Outcomes   []Outcome
	Counts     []int    // entries an operation removed or added (Replaced and Unchanged: 0)
	Imported   Imported // of all OpImport
}

// Update tells a reader what happened since the generation it last saw.
type Update struct {
	Snapshot *Snapshot
	// Changes lead from the generation asked for to Snapshot, in order, unless Whole.
	Changes []Change
	// Whole: the store cannot or will not list the changes (start, clear, too long ago): compare whole snapshots.
	Whole bool
}

// Event is one line of the history.
type Event struct {
	Generation uint64
	Time       time.Time
	By, Via    string
	Op         Op
	Before     *Entry // nil: was not there
	After      *Entry // nil: is gone
	Count      int    // OpClear, OpClearSources: how many entries went; OpImport: how many are new or different
	Note       string // "expired", the settings that changed, what was imported
}

// Status is what an admin wants to know of a store.
type Status struct {
	Generation uint64
	Entries    map[List]int
	// Degraded says in one line what is wrong, empty if nothing is: "restored from snapshot of … because …".
	Degraded     string
	LastError    string // of the last write or copy that failed, empty again after one that did not
	LastSnapshot time.Time
	DatabaseSize int64 // bytes
}
