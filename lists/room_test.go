package lists

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var roomSeed = flag.Uint64("room-seed", uint64(time.Now().UnixNano()), "seed of TestExpendable")

// TestExpendable compares with sorting everything.
func TestExpendable(t *testing.T) {
	t.Logf("seed %d (-room-seed)", *roomSeed)
	r := rand.New(rand.NewPCG(*roomSeed, 1))
	b := NewBuilder(nil)
	var want [ClassIdentifier + 1][]Entry
	var count [ClassIdentifier + 1]int
	for i := range 3000 {
		e := Entry{Key: Key{List: Blacklist, Source: Source(1 + r.IntN(numSources-1)), ID: ID{Kind: KindToken, Value: fmt.Sprint("t", i)}}}
		switch r.IntN(3) {
		case 0:
			e.ID = ID{Kind: KindIP, Value: fmt.Sprintf("10.0.%d.%d", i/256, i%256)}
		case 1:
			e.ID = ID{Kind: KindIP, Value: fmt.Sprintf("2001:db8:%x::/48", i+1)}
		}
		if e.Created = time.Unix(int64(1e9+i), 0).UTC(); r.IntN(2) == 0 {
			e.Expires = time.Unix(int64(2e9+r.IntN(1e6)), 0).UTC()
		}
		if r.IntN(5) == 0 {
			e.List, e.Source = Whitelist, Manual
		}
		b.Put(e)
		c := e.ID.Class()
		if e.List == Blacklist {
			count[c]++
			if e.Source != Manual {
				want[c] = append(want[c], e)
			}
		}
	}
	s := b.Snapshot(1)
	for _, c := range Classes() {
		slices.SortFunc(want[c], func(a, b Entry) int {
			switch {
			case a.Expires.IsZero() && b.Expires.IsZero():
				return a.Created.Compare(b.Created)
			case a.Expires.IsZero():
				return 1
			case b.Expires.IsZero():
				return -1
			}
			if d := a.Expires.Compare(b.Expires); d != 0 {
				return d
			}
			return a.Created.Compare(b.Created)
		})
		for _, n := range []int{0, 1, 7, 200, len(want[c]), 1 << 20} {
			got := s.Expendable(c, n)
			if len(got) != min(n, len(want[c])) {
				t.Fatalf("%s: %d of %d, want %d", c, len(got), n, min(n, len(want[c])))
			}
			for i, x := range got {
				if x.Key != want[c][i].Key || !x.Expires.Equal(want[c][i].Expires) {
					t.Fatalf("%s: %d of %d is %+v, want %+v", c, i, n, x, want[c][i])
				}
			}
		}
		if got := s.Places(Blacklist, c); got != count[c] {
			t.Errorf("%d of %s, want %d", got, c, count[c])
		}
	}
	if l := s.Lengths(Blacklist, ClassIPv4); int(l[32]) != count[ClassIPv4] || l != (Lengths{32: l[32]}) {
		t.Errorf("%v: want %d of 32", l, count[ClassIPv4])
	}
	if l := s.Lengths(Blacklist, ClassIPv6); int(l[48]) != count[ClassIPv6] || l != (Lengths{48: l[48]}) {
		t.Errorf("%v: want %d of 48", l, count[ClassIPv6])
	}
	long := NewBuilder(s)
	for i, n := range []int{1, 512, 513, 8192} {
		e := Entry{Key: Key{List: Blacklist, Source: Manual, ID: ID{Kind: KindToken, Value: strings.Repeat("x", n)}}}
		want := []int{1, 1, 2, 16}[i]
		before := long.table(Blacklist).byFamily[formText]
		long.Put(e)
		if e.Source = ABS; i == 3 {
			long.Put(e) // another source of the same
		}
		if got := long.table(Blacklist).byFamily[formText] - before; got != want || e.ID.Places() != want {
			t.Errorf("%d bytes take %d places, by themselves %d; want %d", n, got, e.ID.Places(), want)
		}
	}
	last := Key{List: Blacklist, Source: Manual, ID: ID{Kind: KindToken, Value: strings.Repeat("x", 8192)}}
	long.Delete(last)
	last.Source = ABS
	long.Delete(last)
	if got := long.Snapshot(2).Places(Blacklist, ClassIdentifier); got != count[ClassIdentifier]+4 {
		t.Errorf("%d places after the longest went, want %d", got, count[ClassIdentifier]+4)
	}
	pack := &Pack{}
	if err := pack.Add(Entry{Key: Key{List: Blacklist, Source: Manual, ID: ID{Kind: KindIP, Value: "10.0.0.1"}}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range Classes() {
		if pack.Has(c) != (c == ClassIPv4) {
			t.Errorf("a pack of an IPv4 address has %s: %v", c, pack.Has(c))
		}
	}
}
