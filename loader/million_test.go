package loader

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
	"github.com/portcullis/portcullis/testenv"
)

// million compiles a blacklist of a million random IPv4 hosts.
func million(t testing.TB) *compile.Table {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	b := lists.NewBuilder(nil)
	for range 1_000_000 {
		b.Put(hostEntry(r.Uint32()))
	}
	table := compile.New()
	table.Reset(b.Snapshot(1), nil)
	return table
}

func hostEntry(n uint32) lists.Entry {
	a := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
	id := lists.ID{Kind: lists.KindIP, Value: a.String()}
	return lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Unix(1, 0)}
}

// TestMillion prints what a million hosts cost in the kernel, and fails where that is far from what is promised.
func TestMillion(t *testing.T) {
	l := open(t, Options{PinDir: pinsFor(t)})
	table := million(t)
	timed := func(f func() error) time.Duration {
		start := time.Now()
		must(t, f())
		return time.Since(start)
	}
	ctx := context.Background()
	before := kernelMemory(t)
	fill := timed(func() error { return l.Maps().Replace(ctx, 1, table.All(), 0, nil) })
	once := kernelMemory(t)
	again := timed(func() error { return l.Maps().Replace(ctx, 2, table.All(), 0, nil) })
	twice := kernelMemory(t)
	sweep := timed(func() error { return l.Maps().Sweep(ctx) })
	// Tests that run beside this one have kernel memory of their own.
	testenv.Eventually(t, 3*time.Minute, "the kernel to free what was replaced", func() error {
		if now := kernelMemory(t); now > once+(once-before)/5 {
			return fmt.Errorf("%d MB, %d before the list was replaced by itself", now, once)
		}
		return nil
	})
	t.Logf("kernel memory: %d MB a list, %d after it was replaced by itself, %d when that is freed",
		once-before, twice-before, kernelMemory(t)-before)

	const adds = 1000
	r := rand.New(rand.NewPCG(5, 6))
	var slowest time.Duration
	one := timed(func() error {
		for range adds {
			e := hostEntry(r.Uint32())
			start := time.Now()
			if err := l.Maps().Apply(3, table.Apply([]lists.Change{{After: &e}})); err != nil {
				return err
			}
			slowest = max(slowest, time.Since(start))
		}
		return nil
	}) / adds
	empty := timed(func() error { return l.Maps().Replace(ctx, 4, compile.New().All(), 0, nil) })
	must(t, l.Maps().Sweep(ctx))
	fmt.Printf("loader, 1 M hosts: first replace %v, replace of as many %v, then old ones emptied in %v, one add %v (slowest of %d: %v), clear %v\n",
		fill.Round(time.Millisecond), again.Round(time.Millisecond), sweep.Round(time.Millisecond), one, adds, slowest, empty.Round(time.Millisecond))
	if fill > 20*time.Second || again > 40*time.Second || one > 10*time.Millisecond {
		t.Error("far slower than documented")
	}
}

// kernelMemory in MB.
func kernelMemory(t *testing.T) int64 {
	t.Helper()
	n, err := testenv.KernelMemory()
	must(t, err)
	return n / 1_000_000
}
