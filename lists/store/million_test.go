package store

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// ipAt returns the i-th of many different addresses.
func ipAt(i int) lists.ID {
	return lists.ID{Kind: lists.KindIP, Value: fmt.Sprintf("%d.%d.%d.%d", 11+i>>24, i>>16&255, i>>8&255, i&255)}
}

// adds returns a batch that adds the n addresses from first on.
func adds(first, n int, src lists.Source) lists.Batch {
	b := lists.Batch{By: "abs", Via: "detect"}
	for i := range n {
		b.Ops = append(b.Ops, lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{
			Key: lists.Key{List: lists.Blacklist, Source: src, ID: ipAt(first + i)}, Reason: "data exfiltration",
		}})
	}
	return b
}

// TestMillion prints and bounds what the store costs with a million entries.
func TestMillion(t *testing.T) {
	const n = 1_000_000
	s, dir := open(t, Options{})
	start := time.Now()
	for i := 0; i < n; i += 10_000 {
		if _, err := s.Apply(context.Background(), adds(i, 10_000, lists.ABS)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("1 M adds in batches of 10,000: %v, %v a batch; database %d MB", time.Since(start), time.Since(start)/100, s.Status().DatabaseSize>>20)
	closeStore(t, s)

	start = time.Now()
	s, _ = open(t, Options{Dir: dir})
	took := time.Since(start)
	t.Logf("open: %v", took)
	if s.Snapshot().Len(lists.Blacklist) != n {
		t.Fatalf("%d entries", s.Snapshot().Len(lists.Blacklist))
	}
	if took > 5*time.Second {
		t.Errorf("opening took %v", took)
	}

	var each []time.Duration
	for i := range 1000 {
		start := time.Now()
		if _, err := s.Apply(context.Background(), adds(n+i, 1, lists.Manual)); err != nil {
			t.Fatal(err)
		}
		each = append(each, time.Since(start))
	}
	slices.Sort(each)
	t.Logf("one add: p50 %v, p99 %v, worst %v", each[500], each[990], each[999])
	if each[990] > 20*time.Millisecond {
		t.Errorf("p99 of an add is %v", each[990])
	}

	start = time.Now()
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("verified copy: %v", time.Since(start))

	start = time.Now()
	if _, err := s.Apply(context.Background(), lists.Batch{Ops: []lists.Operation{{Op: lists.OpClear, List: lists.Blacklist}}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("clear: %v", time.Since(start))
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("clear took %v", took)
	}
}
