package store

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
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

// fillDatabase makes a closed database with n addresses from ABS, without going through a store.
func fillDatabase(t testing.TB, dir string, n int) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	source, err := ClockSource{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := meta{generation: 1, settings: lists.DefaultSettings(), anchor: newClock(source, anchor{}, time.Time{}).anchor}
	keys, err := (&keyring{path: filepath.Join(dir, "lists.key")}).open("")
	if err != nil {
		t.Fatal(err)
	}
	err = writeDatabase(filepath.Join(dir, "lists.db"), m, keys, now, func(d *database) error {
		for _, op := range adds(0, n, lists.ABS).Ops {
			op.Entry.Created, op.Entry.By = now, "abs"
			if err := d.put(nil, op.Entry, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMillion prints what the store costs with a million entries. The bounds are several times what an idle machine
// takes, so that a busy one passes and a change of order does not.
func TestMillion(t *testing.T) {
	const n = 1_000_000
	dir := t.TempDir()
	fillDatabase(t, dir, n)

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	s, _ := open(t, Options{Dir: dir})
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("open with %d entries: %v, %d bytes an entry, database %d MB", n, took, (after.HeapAlloc-before.HeapAlloc)/n, s.Status().DatabaseSize>>20)
	if s.Snapshot().Len(lists.Blacklist) != n {
		t.Fatalf("%d entries", s.Snapshot().Len(lists.Blacklist))
	}
	if took > 15*time.Second {
		t.Errorf("opening took %v", took)
	}

	var each []time.Duration
	for i := range 1000 {
		start := time.Now()
		apply(t, s, adds(n+i, 1, lists.Manual))
		each = append(each, time.Since(start))
	}
	slices.Sort(each)
	t.Logf("one add: p50 %v, p99 %v, worst %v", each[500], each[990], each[999])
	if each[990] > 100*time.Millisecond {
		t.Errorf("p99 of an add is %v", each[990])
	}

	start = time.Now()
	apply(t, s, adds(2*n, 10_000, lists.ABS))
	t.Logf("10,000 adds in one batch: %v", time.Since(start))

	start = time.Now()
	if err := s.copyOut(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("verified copy: %v", time.Since(start))

	start = time.Now()
	apply(t, s, lists.Batch{Ops: []lists.Operation{{Op: lists.OpClear, List: lists.Blacklist}}})
	took = time.Since(start)
	t.Logf("clear: %v", took)
	if took > 2*time.Second {
		t.Errorf("clear took %v", took)
	}
}

// BenchmarkOpenMillion is the start of a store with a million entries.
func BenchmarkOpenMillion(b *testing.B) {
	dir := b.TempDir()
	fillDatabase(b, dir, 1_000_000)
	for b.Loop() {
		s, err := Open(Options{Dir: dir}, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
