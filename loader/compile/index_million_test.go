package compile

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
)

var longSizes = flag.Bool("long", false, "hold the memory of the IPv4 index to what is promised for a million prefixes of every length and more shapes")

// shape makes the i-th prefix of a list.
type shape struct {
	name string
	at   func(r *rand.Rand, i int) netip.Prefix
}

func prefix(a uint32, length int) netip.Prefix { return netip.PrefixFrom(addr(a), length).Masked() }

// ofLength is random prefixes of a length.
func ofLength(length int) shape {
	return shape{fmt.Sprintf("random /%d", length), func(r *rand.Rand, _ int) netip.Prefix { return prefix(r.Uint32(), length) }}
}

// oneInEach is a prefix in each of as many blocks of a length as there are prefixes, the blocks spread over everything.
func oneInEach(block, length int) shape {
	return shape{fmt.Sprintf("a /%d in each /%d", length, block), func(r *rand.Rand, i int) netip.Prefix {
		const odd = 0x9E3779B1 // times this is a permutation of the blocks
		return prefix(uint32(i)*odd<<(32-block)|r.Uint32()>>block, length)
	}}
}

// shapes are those that `make test` tries, and with -long all.
func shapes(long bool) []shape {
	some := []shape{
		ofLength(32), ofLength(25), oneInEach(24, 25),
		{"random lengths", func(r *rand.Rand, _ int) netip.Prefix { return prefix(r.Uint32(), 8+r.IntN(25)) }},
	}
	if !long {
		return some
	}
	for length := 8; length <= 31; length++ {
		some = append(some, ofLength(length))
	}
	for length := 26; length <= 32; length++ {
		some = append(some, oneInEach(24, length))
	}
	return append(some, oneInEach(20, 21), oneInEach(20, 25), oneInEach(16, 17),
		shape{"neighbours", func(_ *rand.Rand, i int) netip.Prefix { return prefix(11<<24+uint32(i), 32) }},
		shape{"every other /25", func(_ *rand.Rand, i int) netip.Prefix { return prefix(uint32(i)<<8, 25) }},
		shape{"every other /31", func(_ *rand.Rand, i int) netip.Prefix { return prefix(11<<24+uint32(i)<<2, 31) }},
		shape{"a /25 and a host beside it", func(r *rand.Rand, i int) netip.Prefix {
			return prefix(uint32(i/2)*0x9E3779B1<<8|uint32(i&1)*(128+r.Uint32N(128)), 25+i&1*7)
		}},
		shape{"nested", func(r *rand.Rand, i int) netip.Prefix { return prefix(uint32(i/16)*0x9E3779B1<<12|0xABC, 17+i%16) }},
	)
}

// TestIndexSizeMillion holds the memory to the promise of TestIndexSize for a million entries of shapes that somebody
// might choose who wants the index to grow: `go test ./loader/compile -run IndexSizeMillion -v` prints the figures.
func TestIndexSizeMillion(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 100_000
	}
	r := rand.New(rand.NewPCG(*indexSeed, 5))
	t.Logf("seed %d", *indexSeed)
	for _, s := range shapes(*longSizes) {
		table, b := New(), lists.NewBuilder(nil)
		for i := range n {
			id, _ := lists.PrefixID(s.at(r, i))
			b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}})
		}
		table.Reset(b.Snapshot(1), nil)
		began := time.Now()
		x := newTestIndex(t, table, &memory{left: 1000}, r.Uint64())
		took := time.Since(began)
		hosts, others, seen := 0, 0, 0
		for p := range table.All() {
			if p.IsSingleIP() {
				hosts++
			} else {
				others++
			}
			if seen++; seen%100 == 0 {
				if got := x.Answer(first(p)); got != AnswerDrop {
					t.Fatalf("%s: %s: %d, want a drop", s.name, p, got)
				}
			}
		}
		most := 16<<20 + 8*hosts + 40*others
		t.Logf("%-28s %7d hosts, %7d others: %5.1f MiB of at most %5.1f, made in %v", s.name, hosts, others,
			float64(x.Bytes())/(1<<20), float64(most)/(1<<20), took.Round(time.Millisecond))
		if x.Bytes() > most {
			t.Errorf("%s: %d KiB, more than %d", s.name, x.Bytes()>>10, most>>10)
		}
	}
}
