package compile_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// hosts makes a snapshot of n random blacklisted IPv4 hosts.
func hosts(tb testing.TB, n int) *lists.Snapshot {
	tb.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	b := lists.NewBuilder(nil)
	for range n {
		b.Put(entry(lists.Blacklist, lists.Manual, host(r.Uint32()).String(), 0))
	}
	return b.Snapshot(1)
}

func host(n uint32) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))), 32)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMillion prints what a million hosts cost, and fails where that is far from what the package promises.
func TestMillion(t *testing.T) {
	const n = 1_000_000
	s := hosts(t, n)
	before := heap()
	table := compile.New()
	start := time.Now()
	table.Reset(s, nil)
	reset := time.Since(start)
	v4, _ := table.Len()
	perEntry := (heap() - before) / uint64(v4)

	start = time.Now()
	count := 0
	for range table.All() {
		count++
	}
	all := time.Since(start)
	if count != v4 {
		t.Errorf("All yields %d prefixes, Len says %d", count, v4)
	}

	const adds = 10_000
	r := rand.New(rand.NewPCG(3, 4))
	changes := make([]lists.Change, adds)
	for i := range changes {
		e := entry(lists.Blacklist, lists.ABS, host(r.Uint32()).String(), 0)
		changes[i].After = &e
	}
	start = time.Now()
	for i := range changes {
		table.Apply(changes[i : i+1])
	}
	add := time.Since(start) / adds
	runtime.KeepAlive(s)

	fmt.Printf("compile, %d hosts: reset %v, walk %v, %d bytes an entry, apply one add %v\n",
		v4, reset.Round(time.Millisecond), all.Round(time.Millisecond), perEntry, add)
	if reset > 10*time.Second || add > time.Millisecond || perEntry > 200 {
		t.Error("far slower or larger than documented")
	}
}
