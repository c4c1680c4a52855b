package compile

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// scattered lists n random prefixes of a length.
func scattered(r *rand.Rand, n, length int) *Table {
	table := New()
	b := lists.NewBuilder(nil)
	for range n {
		id, _ := lists.PrefixID(netip.PrefixFrom(addr(r.Uint32()), length).Masked())
		b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}})
	}
	table.Reset(b.Snapshot(1), nil)
	return table
}

// TestIndexSize holds the memory to what is promised, for lists of every length: 16 MiB, 8 bytes a host, 40 bytes any
// other entry.
func TestIndexSize(t *testing.T) {
	n := 50_000
	if testing.Short() {
		n = 20_000
	}
	r := rand.New(rand.NewPCG(*indexSeed, 3))
	for _, length := range []int{32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18} {
		table := scattered(r, n, length)
		x := newTestIndex(t, table, &memory{left: 1000}, r.Uint64())
		entries, _ := table.Len()
		each := 40
		if length == 32 {
			each = 8
		}
		if limit := 16<<20 + each*entries; x.Bytes() > limit {
			t.Errorf("%d prefixes of /%d take %d KiB, more than %d", entries, length, x.Bytes()>>10, limit>>10)
		}
		for a := range table.All() {
			if got := x.Answer(first(a)); got != AnswerDrop {
				t.Fatalf("/%d: %s: %d, want a drop", length, a, got)
			}
		}
	}
}

// TestIndexWide lists everything and takes it off again, over none and over many hosts.
func TestIndexWide(t *testing.T) {
	r := rand.New(rand.NewPCG(*indexSeed, 4))
	for _, hosts := range []int{0, 300_000} {
		table := scattered(r, hosts, 32)
		x := newTestIndex(t, table, &memory{left: 1000}, r.Uint64())
		for _, p := range []string{"0.0.0.0/0", "0.0.0.0/1", "8.0.0.0/7", "10.0.0.0/8"} {
			id, _ := lists.PrefixID(netip.MustParsePrefix(p))
			e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.ABS, ID: id}}
			for _, c := range []lists.Change{{After: &e}, {Before: &e}} {
				rules := table.Apply([]lists.Change{c})
				start := time.Now()
				change := x.Change(table, rules, soon)
				change.Remove()
				change.Add()
				took := time.Since(start)
				t.Logf("%s over %d hosts, listed %v: %v", p, hosts, c.After != nil, took)
				if limit := 5*time.Second + time.Duration(hosts)*50*time.Microsecond; took > limit {
					t.Errorf("%s took %v, more than %v", p, took, limit)
				}
				var probes []uint32
				for range 1000 {
					probes = append(probes, r.Uint32())
				}
				check(t, x, table, probes)
			}
		}
	}
}
