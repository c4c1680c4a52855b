package loader

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// entry6 lists a random prefix of a length in 2a00::/16.
func entry6(r *rand.Rand, bits int) lists.Entry {
	b := binary.BigEndian.AppendUint64(nil, 0x2a00<<48|r.Uint64N(1<<48))
	a := netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, r.Uint64())))
	id, _ := lists.PrefixID(netip.PrefixFrom(a, bits).Masked())
	return lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}}
}

// TestIndex6Grows: the index of a list without IPv6 takes no memory; with the first entry it is made, and it grows
// while packets are judged.
func TestIndex6Grows(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t)})
	m, table := j.l.Maps(), compile.New()
	m.Follow(table)
	must(t, m.Replace(context.Background(), 1, table.All(), 0, nil))
	state := func() IndexState {
		t.Helper()
		s, err := m.Index()
		must(t, err)
		return s
	}
	none := state()
	r := rand.New(rand.NewPCG(6, 9))
	first := entry6(r, 128)
	must(t, m.Apply(2, table.Apply([]lists.Change{{After: &first}})))
	one := state()
	if !none.IPv4 || !none.IPv6 || none.Hosts6 != 0 || one.Hosts6 != 1 || one.Bytes != none.Bytes+6<<20 {
		t.Errorf("from %+v to %+v", none, one)
	}
	known := netip.MustParseAddr(first.ID.Value)
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if !j.drops(t, known) || j.drops(t, known.Next()) {
				t.Error("a packet was misjudged while the index grew")
				return
			}
		}
	})
	var all []netip.Prefix
	for generation := range uint64(3) {
		var changes []lists.Change
		for i := range 90_000 {
			e := entry6(r, [...]int{128, 64, 128, 56, 128, 47}[i%6])
			changes = append(changes, lists.Change{After: &e})
			p, _ := e.ID.Prefix()
			all = append(all, p)
		}
		must(t, m.Apply(3+generation, table.Apply(changes)))
	}
	close(stop)
	reader.Wait()
	many := state()
	if most := 1 + len(all)/2; many.Hosts6 < most-most/500 || many.Hosts6 > most || many.Bytes <= one.Bytes || many.Bytes > none.Bytes+8<<20+111*len(all) {
		t.Errorf("from %+v to %+v", one, many)
	}
	must(t, m.Renew())
	for _, p := range all[:15_000] {
		for _, a := range []netip.Addr{p.Addr(), lastOf(p), p.Addr().Prev(), lastOf(p).Next()} {
			if v, _ := table.Lookup(a, time.Now()); j.drops(t, a) != (v == lists.Drop) {
				t.Fatalf("%s, beside or in %s, is misjudged", a, p)
			}
		}
	}
	mismatches(t, m)
}

// TestIndex6AfterADeath: a process that died while it wrote leaves the index to nobody; the tries are asked, and a
// replacement makes it whole again.
func TestIndex6AfterADeath(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t)})
	m := j.l.Maps()
	list := cells{"2001:db8::/32": drop}
	replace(t, m, 1, list)
	atomic.AddUint32(&m.words.Changes6, 1)
	atomic.AddUint32(&m.words.Changes, 1)
	must(t, m.sides[m.words.active()].v6.remove(keysOf(list))) // so it shows who is asked
	if j.drops(t, netip.MustParseAddr("2001:db8::1")) {
		t.Error("an index that is being written was read")
	}
	for range 2 { // whatever the word says
		replace(t, m, 2, list)
		j.drops(t, netip.MustParseAddr("2001:db8::1")) // the first packet of a counter is judged by the tries too
		must(t, m.sides[m.words.active()].v6.remove(keysOf(list)))
		if !j.drops(t, netip.MustParseAddr("2001:db8::1")) {
			t.Error("after a replacement the index is not read")
		}
		if n := atomic.LoadUint32(&m.words.Changes); n%2 != 0 {
			t.Errorf("after a replacement the self-check believes in a change: %d", n)
		}
	}
}

func keysOf(list cells) (keys []bpf.KeyV6) {
	for p := range list {
		keys = append(keys, keyV6(netip.MustParsePrefix(p)))
	}
	return keys
}
