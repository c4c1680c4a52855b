package compile

import (
	"flag"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var prefixesSeed = flag.Uint64("prefixes-seed", uint64(time.Now().UnixNano()), "seed of TestPrefixes")

// TestPrefixes compares prefixes with a plain map while they grow to some hundred leaves and shrink again.
func TestPrefixes(t *testing.T) {
	t.Logf("seed %d (-prefixes-seed)", *prefixesSeed)
	r := rand.New(rand.NewPCG(*prefixesSeed, 1))
	var tree prefixes
	model := map[netip.Prefix]node{}
	draw := func() netip.Prefix {
		if r.IntN(3) == 0 {
			a := netip.AddrFrom16([16]byte{0x20, 1, 0, byte(r.IntN(4)), 7: byte(r.IntN(4)), 14: byte(r.IntN(8)), 15: byte(r.IntN(256))})
			return netip.PrefixFrom(a, 128-r.IntN(r.IntN(128)+1)).Masked()
		}
		a := addr(10<<24 | r.Uint32N(1<<14)<<r.IntN(3))
		return netip.PrefixFrom(a, 32-r.IntN(r.IntN(32)+1)).Masked()
	}
	for _, phase := range []struct{ steps, inTen int }{{20_000, 9}, {6000, 5}, {40_000, 1}} {
		for range phase.steps {
			if r.IntN(10) < phase.inTen {
				p, n := draw(), node{own: own{pass: int64(r.IntN(1 << r.IntN(16)))}}
				tree.Put(p, n)
				model[p] = n
			} else if p, ok := some(r, &tree); ok {
				tree.Delete(p)
				delete(model, p)
			}
		}
		tree.Delete(netip.MustParsePrefix("192.0.2.0/24")) // not there
		comparePrefixes(t, r, &tree, model, draw)
	}
	for p := range model {
		tree.Delete(p)
	}
	comparePrefixes(t, r, &tree, map[netip.Prefix]node{}, draw)
	if len(tree.four.leaves)+len(tree.six.leaves) != 0 || len(tree.kept.free) != int(tree.kept.used) {
		t.Errorf("emptied, but %d and %d leaves are left, %d of %d nodes free", len(tree.four.leaves), len(tree.six.leaves),
			len(tree.kept.free), tree.kept.used)
	}
}

// some returns a prefix that is there.
func some(r *rand.Rand, tree *prefixes) (netip.Prefix, bool) {
	if n := len(tree.six.leaves); n > 0 && r.IntN(3) == 0 {
		keys := tree.six.leaves[r.IntN(n)].keys
		return keys[r.IntN(len(keys))].prefix(), true
	}
	if n := len(tree.four.leaves); n > 0 {
		keys := tree.four.leaves[r.IntN(n)].keys
		return keys[r.IntN(len(keys))].prefix(), true
	}
	return netip.Prefix{}, false
}

func comparePrefixes(t *testing.T, r *rand.Rand, tree *prefixes, model map[netip.Prefix]node, draw func() netip.Prefix) {
	t.Helper()
	want := slices.SortedFunc(maps.Keys(model), compare)
	same := func(what string, got iter.Seq2[netip.Prefix, node], want []netip.Prefix) {
		t.Helper()
		var keys []netip.Prefix
		for p, n := range got {
			if keys = append(keys, p); n != model[p] {
				t.Fatalf("%s: %s has %+v, want %+v", what, p, n, model[p])
			}
		}
		if !slices.Equal(keys, want) {
			t.Fatalf("%s: %d prefixes, want %d, or another order", what, len(keys), len(want))
		}
	}
	same("All", tree.All(), want)
	if tree.Len4()+tree.Len6() != len(want) {
		t.Fatalf("Len is %d and %d, want %d", tree.Len4(), tree.Len6(), len(want))
	}
	holders := 0
	for at := range tree.kept.used {
		holders += int(tree.kept.slot(at).holders)
	}
	if holders != len(want) {
		t.Fatalf("nodes have %d holders, want %d", holders, len(want))
	}
	for range 300 {
		p := draw()
		if n, ok := tree.Get(p); n != model[p] || ok != slices.Contains(want, p) {
			t.Fatalf("Get %s: %+v, %v", p, n, ok)
		}
		same("Subnets of "+p.String(), tree.Subnets(p), slices.DeleteFunc(slices.Clone(want), func(q netip.Prefix) bool { return !contains(p, q) }))
		wider := slices.DeleteFunc(slices.Clone(want), func(q netip.Prefix) bool { return !contains(q, p) })
		slices.Reverse(wider)
		same("Supernets of "+p.String(), tree.Supernets(p), wider)
	}
}
