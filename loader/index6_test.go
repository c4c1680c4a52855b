package loader

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/portcullis/portcullis/bpf"
	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

func hostEntry6(r *rand.Rand) lists.Entry {
	b := binary.BigEndian.AppendUint64(nil, 0x2a00<<48|r.Uint64N(1<<48))
	a := netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, r.Uint64())))
	return lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: lists.ID{Kind: lists.KindIP, Value: a.String()}}}
}

// TestIndex6Grows: the index of a list without IPv6 takes no memory; with the first entry it is made, and it grows
// while packets are judged.
func TestIndex6Grows(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t)})
	m, table := j.l.Maps(), compile.New()
	m.Follow(table)
	must(t, m.Replace(context.Background(), 1, table.All(), nil))
	state := func() IndexState {
		t.Helper()
		s, err := m.Index()
		must(t, err)
		return s
	}
	none := state()
	r := rand.New(rand.NewPCG(6, 9))
	first := hostEntry6(r)
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
	var all []netip.Addr
	for generation := range uint64(3) {
		var changes []lists.Change
		for range 60_000 {
			e := hostEntry6(r)
			changes = append(changes, lists.Change{After: &e})
			all = append(all, netip.MustParseAddr(e.ID.Value))
		}
		must(t, m.Apply(3+generation, table.Apply(changes)))
	}
	close(stop)
	reader.Wait()
	many := state()
	if many.Hosts6 < len(all)-len(all)/500 || many.Bytes <= one.Bytes || many.Bytes > none.Bytes+8<<20+42*len(all) {
		t.Errorf("from %+v to %+v", one, many)
	}
	must(t, m.Renew())
	for _, a := range all[:20_000] {
		if !j.drops(t, a) || j.drops(t, a.Next()) {
			t.Fatalf("%s or the one after it is misjudged", a)
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
	}
}

func keysOf(list cells) (keys []bpf.KeyV6) {
	for p := range list {
		keys = append(keys, keyV6(netip.MustParsePrefix(p)))
	}
	return keys
}
