package store

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/portcullis/portcullis/lists"
)

// TestImportReplaces replaces the manual entries of a list, few and many: what is in both keeps when it was added, what
// is of another source or list stays, and a restart finds the same.
func TestImportReplaces(t *testing.T) {
	for _, n := range []int{100, 10_000} {
		dir := t.TempDir()
		s, _ := open(t, Options{Dir: dir})
		created := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
		old := adds(0, n, lists.Manual)
		for i := range old.Ops {
			old.Ops[i].Entry.Created, old.Ops[i].Entry.Reason, old.Ops[i].Entry.By = created, "kept", "bob"
		}
		apply(t, s, packOf(t, old))
		detected := adds(n/4, 10, lists.ABS)
		apply(t, s, detected)
		white := old.Ops[0].Entry
		white.List = lists.Whitelist
		apply(t, s, lists.Batch{By: "admin", Ops: []lists.Operation{{Op: lists.OpAdd, Entry: white}}})
		before := s.Snapshot()

		next := adds(n/2, n, lists.Manual)
		for i := range next.Ops {
			next.Ops[i].Entry.Reason = ""
		}
		b := packOf(t, next)
		b.Ops[0].Replace = lists.Blacklist
		res := apply(t, s, b)
		if want := (lists.Imported{Added: n / 2, Unchanged: n / 2, Removed: n / 2}); res.Imported != want {
			t.Errorf("of %d: %+v, want %+v", n, res.Imported, want)
		}
		after := s.Snapshot()
		if after.Generation() != before.Generation()+1 {
			t.Errorf("%d generations", after.Generation()-before.Generation())
		}
		for i, op := range old.Ops {
			e, found := after.Get(op.Entry.Key)
			if found != (i >= n/2) {
				t.Fatalf("%s listed: %v", op.Entry.ID, found)
			}
			if was, _ := before.Get(op.Entry.Key); found && e != was {
				t.Fatalf("%+v, was %+v", e, was)
			}
		}
		if got := after.LenSource(lists.Blacklist, lists.ABS); got != 10 || after.Len(lists.Whitelist) != 1 || after.Len(lists.Blacklist) != n+10 {
			t.Errorf("%d detected, %d white, %d black", got, after.Len(lists.Whitelist), after.Len(lists.Blacklist))
		}
		want := state(after)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, _ = open(t, Options{Dir: dir})
		if diff := cmp.Diff(want, state(s.Snapshot())); diff != "" {
			t.Errorf("after a restart (-before +after): %.2000s", diff)
		}
		generation := s.Snapshot().Generation()
		if _, err := s.Apply(t.Context(), lists.Batch{Ops: []lists.Operation{{Op: lists.OpImport, Pack: &lists.Pack{}, Replace: lists.Blacklist}}}); !errors.Is(err, lists.ErrInvalid) {
			t.Errorf("nothing in place of a list: %v", err)
		}
		if s.Snapshot().Generation() != generation {
			t.Error("an import that was refused changed the lists")
		}
	}
}
