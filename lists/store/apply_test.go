package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

func TestCheck(t *testing.T) {
	refusal := errors.New("it covers the default gateway")
	s, _ := open(t, Options{Check: func(b lists.Batch, next *lists.Snapshot, changes []lists.Change) error {
		if len(b.Ops) != len(changes) || next.Len(lists.Blacklist) < len(changes) {
			t.Errorf("asked about %d operations with %d changes and %d entries", len(b.Ops), len(changes), next.Len(lists.Blacklist))
		}
		for _, c := range changes {
			if c.After.ID == ipAt(13) {
				return refusal
			}
		}
		return nil
	}})
	apply(t, s, adds(0, 5, lists.Manual))
	before := s.Snapshot()
	_, err := s.Apply(context.Background(), adds(10, 5, lists.Manual))
	if !errors.Is(err, ErrRefused) || !errors.Is(err, refusal) || s.Snapshot() != before {
		t.Errorf("%v", err)
	}
}

// TestApplyIf: who allows a change sees the state right before and right after it, whatever others do at the same time.
func TestApplyIf(t *testing.T) {
	s, _ := open(t, Options{})
	const most = 10
	full := errors.New("there are enough")
	var added, refused atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			_, err := s.ApplyIf(context.Background(), adds(i, 1, lists.Manual), func(base, next *lists.Snapshot) error {
				if next.Len(lists.Blacklist) != base.Len(lists.Blacklist)+1 || next.Generation() != base.Generation()+1 {
					t.Errorf("%d entries after %d", next.Len(lists.Blacklist), base.Len(lists.Blacklist))
				}
				if base.Len(lists.Blacklist) == most {
					return full
				}
				return nil
			})
			switch {
			case err == nil:
				added.Add(1)
			case errors.Is(err, ErrRefused) && errors.Is(err, full):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if added.Load() != most || refused.Load() != 90 || s.Snapshot().Len(lists.Blacklist) != most {
		t.Errorf("%d added, %d refused, %d entries", added.Load(), refused.Load(), s.Snapshot().Len(lists.Blacklist))
	}
}

// TestEvict: what makes room goes in the same change, durably, and the answer is about the batch alone.
func TestEvict(t *testing.T) {
	victim := lists.Key{List: lists.Blacklist, Source: lists.ABS, ID: ipAt(2)}
	s, dir := open(t, Options{Evict: func(b lists.Batch, next *lists.Snapshot, changes []lists.Change) []lists.Key {
		if next.Len(lists.Blacklist) <= 5 {
			return nil
		}
		return []lists.Key{{List: lists.Blacklist, Source: lists.ABS, ID: ipAt(99)}, victim} // the first is not there
	}})
	apply(t, s, adds(0, 5, lists.ABS))
	res, err := s.Apply(context.Background(), adds(10, 1, lists.ABS))
	if err != nil || !slices.Equal(res.Outcomes, []lists.Outcome{lists.Added}) || !slices.Equal(res.Counts, []int{1}) || res.Generation != 3 {
		t.Fatalf("%+v, %v", res, err)
	}
	u, err := s.Watch(context.Background(), 2)
	if err != nil || len(u.Changes) != 2 || u.Changes[0].Before == nil || u.Changes[0].Before.Key != victim || u.Changes[1].After.ID != ipAt(10) {
		t.Errorf("changes %+v, %v", u.Changes, err)
	}
	closeStore(t, s)
	s, _ = open(t, Options{Dir: dir})
	if _, ok := s.Snapshot().Get(victim); ok || s.Snapshot().Len(lists.Blacklist) != 5 {
		t.Errorf("%d entries; victim there: %v", s.Snapshot().Len(lists.Blacklist), ok)
	}
	var notes []string
	for e, err := range s.History(context.Background(), 2) {
		if err != nil {
			t.Fatal(err)
		}
		notes = append(notes, e.Note)
	}
	if !slices.Equal(notes, []string{"", noteEvicted}) {
		t.Errorf("history says %q", notes)
	}
}

// TestThousand: a thousand calls at once are answered in time, in few transactions, and none is lost.
func TestThousand(t *testing.T) {
	s, dir := open(t, Options{})
	start := time.Now()
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			if _, err := s.Apply(context.Background(), adds(i, 1, lists.Manual)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("1,000 concurrent adds: %v", time.Since(start))
	closeStore(t, s)
	s, _ = open(t, Options{Dir: dir})
	if got := s.Snapshot().Len(lists.Blacklist); got != 1000 || s.Snapshot().Generation() != 1001 {
		t.Errorf("%d entries in generation %d", got, s.Snapshot().Generation())
	}
}

// TestGroupWithRefusals: in one transaction, none suffers for another.
func TestGroupWithRefusals(t *testing.T) {
	s, _ := open(t, Options{})
	s.writer <- struct{}{} // everybody queues up
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			b := adds(i, 1, lists.Manual)
			if i%3 == 0 {
				b.Ops[0].Entry.ID.Value = "nonsense"
			}
			if _, err := s.Apply(context.Background(), b); (i%3 == 0) != errors.Is(err, lists.ErrInvalid) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	eventually(t, "all queue up", func() bool { s.queueMu.Lock(); defer s.queueMu.Unlock(); return len(s.queue) == 60 })
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		if _, err := s.Apply(ctx, adds(1000, 1, lists.Manual)); !errors.Is(err, context.Canceled) {
			t.Errorf("one that gave up: %v", err)
		}
	})
	eventually(t, "one more queues up", func() bool { s.queueMu.Lock(); defer s.queueMu.Unlock(); return len(s.queue) == 61 })
	cancel()
	eventually(t, "it gives up", func() bool { s.queueMu.Lock(); defer s.queueMu.Unlock(); return len(s.queue) == 60 })
	<-s.writer
	wg.Wait()
	if got := s.Snapshot().Len(lists.Blacklist); got != 40 {
		t.Errorf("%d entries", got)
	}
}

// TestPanic: a caller whose function panics takes nobody with it.
func TestPanic(t *testing.T) {
	s, _ := open(t, Options{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = s.Apply(context.Background(), lists.Batch{Ops: []lists.Operation{{Op: lists.OpSet, Settings: func(lists.Settings) lists.Settings { panic("bug") }}}})
	}()
	apply(t, s, adds(0, 1, lists.Manual))
}

// TestRebuild: a row that vanished under a running store is noticed, and the database written anew from memory.
func TestRebuild(t *testing.T) {
	s, dir := open(t, Options{})
	apply(t, s, adds(0, 20, lists.ABS))
	tamper(t, s.path, "DELETE FROM blacklist WHERE seq = 5")
	apply(t, s, adds(20, 1, lists.Manual)) // does not touch it
	apply(t, s, lists.Batch{Ops: []lists.Operation{{Op: lists.OpDelete, List: lists.Blacklist, ID: ipAt(4)}}})
	if st := s.Status(); !strings.Contains(st.Degraded, "written anew from memory") || st.LastError != "" {
		t.Fatalf("%+v", st)
	}
	apply(t, s, adds(30, 1, lists.Manual))
	want := collect(s.Snapshot())
	if len(want) != 21 {
		t.Fatalf("%d entries", len(want))
	}
	closeStore(t, s)
	s, _ = open(t, Options{Dir: dir})
	if st := s.Status(); !slices.Equal(collect(s.Snapshot()), want) || st.Degraded != "" {
		t.Errorf("%d entries, %q", s.Snapshot().Len(lists.Blacklist), st.Degraded)
	}
}

func TestClosed(t *testing.T) {
	s, _ := open(t, Options{})
	apply(t, s, adds(0, 1, lists.Manual))
	watching := make(chan error, 1)
	go func() { _, err := s.Watch(context.Background(), 2); watching <- err }()
	running := make(chan error, 1)
	go func() { running <- s.Run(context.Background()) }()
	closeStore(t, s)
	if err := <-watching; !errors.Is(err, ErrClosed) {
		t.Errorf("Watch: %v", err)
	}
	if err := <-running; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := s.Apply(context.Background(), adds(1, 1, lists.Manual)); !errors.Is(err, ErrClosed) {
		t.Errorf("Apply: %v", err)
	}
	if _, err := s.Watch(context.Background(), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("Watch: %v", err)
	}
	if s.Snapshot().Len(lists.Blacklist) != 1 || s.Status().Generation != 2 {
		t.Error("the last state is gone")
	}
}

// TestProgress: who waits for a big list sees how far it is.
func TestProgress(t *testing.T) {
	s, dir := open(t, Options{})
	for i := range 3 {
		apply(t, s, adds(i*10_000, 10_000, lists.ABS))
	}
	closeStore(t, s)
	var got []string
	s, err := Open(Options{Dir: dir}, func(done, total int) { got = append(got, fmt.Sprintf("%d/%d", done, total)) })
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	if want := []string{"10000/30000", "20000/30000", "30000/30000", "30000/30000"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
