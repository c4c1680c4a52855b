package lists

import (
	"fmt"
	"slices"
	"time"
)

// maxListed is how many removals of a clear are listed one by one instead of as Whole.
const maxListed = 4096

// Step is one thing a batch did, in the order in which it did them: what a store writes and what the history says.
type Step struct {
	Op      Op
	Change  Change   // OpAdd, OpDelete, OpDeleteKey: one entry. OpAdd without After: it was past its end
	List    List     // OpClear, OpClearSources
	Sources []Source // OpClearSources
	Count   int      // OpClear, OpClearSources: how many entries went; OpImport: how many are new or different
	Note    string   // OpSet: the settings that changed; OpImport: the lists and how many of each
	// OpImport: the entries that are new, in order, and then those that were there and are different now.
	Pack     *Pack
	Replaced []Change
}

// Applied is what [ApplyOps] makes of a batch.
type Applied struct {
	Next    *Snapshot // one generation after base; base itself if nothing changed
	Result  Result
	Steps   []Step   // empty if nothing changed
	Changes []Change // entry by entry, in order; when Whole, without what a big clear or import did
	Whole   bool     // a clear or an import changed so many entries that Changes does not list them
}

// ApplyOps returns what the batch makes of base at now, changing nothing. It is the one place that says what
// operations mean, so that every store gives the same answers:
//
//   - An entry past its end that the store has not removed yet counts as absent: OpAdd of its key is Added and takes
//     a new place at the end of the order, OpDelete of it is NotFound.
//   - OpAdd: Created defaults to now and is never later; By defaults to the batch's. A key that is there keeps
//     Created, By and its place; it takes the new end (a zero Expires included), and the new reason and comment
//     where they are not empty. If that makes no difference the outcome is Unchanged.
//   - OpDelete takes the identifier from every source. OpDeleteKey looks at Entry.Key alone.
//   - OpClear and OpClearSources are Cleared whether or not there was anything to clear.
//   - OpImport is OpAdd of each entry of the pack; what is past its end is removed from both lists before it. With
//     Replace the manual entries of that list which the pack does not hold go; those that it holds keep Created, By
//     and what the pack does not say, and take the order of the pack. An empty pack replaces nothing: it is an error.
//   - Identifiers must be canonical (see [ParseID]); ends must be after now.
//
// An error wraps [ErrInvalid], names the operation when there are several, and means that the batch has no effect.
func ApplyOps(base *Snapshot, b Batch, now time.Time) (Applied, error) {
	if base == nil {
		base = &Snapshot{}
	}
	if b.By != "" {
		if problem := checkText(b.By, MaxText); problem != "" {
			return Applied{}, fmt.Errorf("%w by %s: %s", ErrInvalid, Quote(b.By), problem)
		}
	}
	a := applier{Builder: NewBuilder(base), base: base, batch: b, now: now.UTC()}
	a.Result.Outcomes = make([]Outcome, 0, len(b.Ops))
	a.Result.Counts = make([]int, 0, len(b.Ops))
	for i, op := range b.Ops {
		outcome, count, err := a.apply(op)
		if err != nil && len(b.Ops) > 1 {
			err = fmt.Errorf("operation %d of %d: %w", i+1, len(b.Ops), err)
		}
		if err != nil {
			return Applied{}, err
		}
		a.Result.Outcomes = append(a.Result.Outcomes, outcome)
		a.Result.Counts = append(a.Result.Counts, count)
	}
	if a.Next = base; len(a.Steps) > 0 {
		a.Next = a.Builder.Snapshot(base.Generation() + 1)
	}
	a.Result.Generation = a.Next.Generation()
	return a.Applied, nil
}

// ExpireDue returns what becomes of base when the entries of both lists whose end is at or before now are removed,
// at most limit of them. Each is an OpDeleteKey step.
func ExpireDue(base *Snapshot, now time.Time, limit int) Applied {
	a := applier{Builder: NewBuilder(base), now: now}
	for e := range base.Due(now) {
		if len(a.Steps) == limit {
			break
		}
		a.Delete(e.Key)
		a.step(OpDeleteKey, &e, nil)
	}
	if a.Next = base; len(a.Steps) > 0 {
		a.Next = a.Builder.Snapshot(base.Generation() + 1)
	}
	a.Result.Generation = a.Next.Generation()
	return a.Applied
}

// applier is one run of [ApplyOps].
type applier struct {
	*Builder
	Applied
	base  *Snapshot
	batch Batch
	now   time.Time
}

func (a *applier) apply(op Operation) (Outcome, int, error) {
	switch op.Op {
	case OpAdd:
		return a.add(op.Entry)
	case OpDelete:
		if err := (Key{List: op.List, Source: Manual, ID: op.ID}).Validate(); err != nil {
			return 0, 0, err
		}
		outcome, count := a.remove(OpDelete, a.Find(op.List, op.ID))
		return outcome, count, nil
	case OpDeleteKey:
		if err := op.Entry.Key.Validate(); err != nil {
			return 0, 0, err
		}
		var found []Entry
		if e, ok := a.Get(op.Entry.Key); ok {
			found = []Entry{e}
		}
		outcome, count := a.remove(OpDeleteKey, found)
		return outcome, count, nil
	case OpClear, OpClearSources:
		return a.clear(op)
	case OpSet:
		return a.set(op.Settings)
	case OpImport:
		return a.importPack(op)
	}
	return 0, 0, fmt.Errorf("%w operation %d", ErrInvalid, op.Op)
}

func (a *applier) add(e Entry) (Outcome, int, error) {
	if e.By == "" {
		e.By = a.batch.By
	}
	if err := e.Validate(); err != nil {
		return 0, 0, err
	}
	if e.Expires = ceilSecond(e.Expires); e.Expired(a.now) {
		return 0, 0, fmt.Errorf("%w end of %s: %s is not after %s", ErrInvalid, Quote(e.ID.String()),
			e.Expires.Format(time.RFC3339), a.now.Format(time.RFC3339))
	}
	if e.Created.IsZero() || e.Created.After(a.now) {
		e.Created = a.now
	}
	e.Created = e.Created.UTC().Truncate(time.Second)
	old, found := a.Get(e.Key)
	if found && old.Expired(a.now) {
		a.Delete(e.Key)
		a.step(OpAdd, &old, nil)
		found = false
	}
	if !found {
		a.Put(e)
		a.step(OpAdd, nil, &e)
		return Added, 1, nil
	}
	merged := old
	merged.Expires = e.Expires
	if e.Reason != "" {
		merged.Reason = e.Reason
	}
	if e.Comment != "" {
		merged.Comment = e.Comment
	}
	if merged == old {
		return Unchanged, 0, nil
	}
	a.Put(merged)
	a.step(OpAdd, &old, &merged)
	return Replaced, 0, nil
}

// remove takes out the entries, those past their end too if any is not.
func (a *applier) remove(op Op, found []Entry) (Outcome, int) {
	count := 0
	for _, e := range found {
		if !e.Expired(a.now) {
			count++
		}
	}
	if count == 0 {
		return NotFound, 0
	}
	for _, e := range found {
		a.Delete(e.Key)
		a.step(op, &e, nil)
	}
	return Deleted, count
}

func (a *applier) clear(op Operation) (Outcome, int, error) {
	if !valid(listWords, op.List) {
		return 0, 0, fmt.Errorf("%w list %d: expected whitelist or blacklist", ErrInvalid, op.List)
	}
	sources := Sources()
	if op.Op == OpClearSources {
		sources = slices.Clone(op.Sources)
		for _, s := range sources {
			if !valid(sourceWords, s) {
				return 0, 0, fmt.Errorf("%w source %d", ErrInvalid, s)
			}
		}
		if len(sources) == 0 {
			return Cleared, 0, nil
		}
	}
	count, t := 0, a.table(op.List)
	for _, s := range Sources() {
		if t != nil && slices.Contains(sources, s) {
			count += t.bySource[s]
		}
	}
	if count == 0 {
		return Cleared, 0, nil
	}
	a.take(op, t, sources, count)
	return Cleared, count, nil
}

// take removes the count entries of the sources from t, the table of the operation's list.
func (a *applier) take(op Operation, t *table, sources []Source, count int) {
	step := Step{Op: op.Op, List: op.List, Count: count}
	if op.Op == OpClearSources {
		step.Sources = sources
	}
	var gone []Entry
	if a.Whole = a.Whole || count > maxListed; count <= maxListed {
		for _, src := range Sources() {
			if slices.Contains(sources, src) {
				gone = slices.AppendSeq(gone, t.entries(op.List, src))
			}
		}
		for i := range gone {
			a.Changes = append(a.Changes, Change{Before: &gone[i]})
		}
	}
	switch {
	case op.Op == OpClear:
		a.Clear(op.List)
	case gone == nil:
		a.Clear(op.List, sources...)
	default: // a few among many: cheaper one by one
		for _, e := range gone {
			a.Delete(e.Key)
		}
	}
	a.Steps = append(a.Steps, step)
}

func (a *applier) set(change func(Settings) Settings) (Outcome, int, error) {
	if change == nil {
		return 0, 0, fmt.Errorf("%w operation set: it has no settings", ErrInvalid)
	}
	old := a.Builder.settings
	next := change(old)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, next.LogLevel) {
		return 0, 0, fmt.Errorf("%w log level %s: expected one of debug, info, warn, error", ErrInvalid, Quote(next.LogLevel))
	}
	if next == old {
		return Unchanged, 0, nil
	}
	a.Set(next)
	a.Steps = append(a.Steps, Step{Op: OpSet, Note: next.diff(old)})
	return Changed, 0, nil
}

func (a *applier) step(op Op, before, after *Entry) {
	c := Change{Before: before, After: after}
	a.Changes = append(a.Changes, c)
	a.Steps = append(a.Steps, Step{Op: op, Change: c})
}
