package scenario

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/loader/compile"
	"github.com/portcullis/portcullis/userspace/control"
)

// TestGaplessReplacement replaces whole lists under traffic, a million prefixes each with -long. The listed client is
// covered by another prefix in each, and the other client is now on no list, now whitelisted within a listed network.
func TestGaplessReplacement(t *testing.T) {
	r := newRig(t)
	rnd := random(t)
	size := times(50_000, 1_000_000)
	drop, pass := compile.Cell{DropUntil: compile.Never}, compile.Cell{PassUntil: compile.Never}
	wholes := []whole{
		newWhole(rnd, size, map[string]compile.Cell{
			r.Client.IPv4.String() + "/32": drop, r.Client.IPv6.String() + "/128": drop,
		}),
		newWhole(rnd, size, map[string]compile.Cell{
			"198.51.100.0/24": drop, r.Another.IPv4.String() + "/32": pass, "2001:db8:1::/64": drop, r.Another.IPv6.String() + "/128": pass,
		}),
		newWhole(rnd, size, map[string]compile.Cell{
			"198.51.100.64/26": drop, "198.51.96.0/20": pass, r.Client.IPv4.String() + "/32": drop, "2001:db8:1::60/124": drop,
		}),
	}
	var ld *loader.Loader
	var err error
	r.must(r.Gateway.Do(func() error {
		if ld, err = loader.Open(loader.Options{PinDir: filepath.Join(r.bpffs, "replace"), Mode: loader.ModeNative}); err != nil {
			return err
		}
		if err := ld.Maps().Replace(context.Background(), 1, wholes[0].all(), 0, nil); err != nil {
			return err
		}
		_, err := ld.Attach("eth0")
		return err
	}))
	defer ld.Close()
	count, traffic := r.count(), r.flood(100*time.Microsecond)
	replacements := times(6, 100)
	began, slowest := time.Now(), time.Duration(0)
	for i := range replacements {
		one := time.Now()
		r.must(ld.Maps().Replace(context.Background(), uint64(i+2), wholes[(i+1)%len(wholes)].all(), 0, nil))
		r.must(ld.Maps().Renew())
		slowest = max(slowest, time.Since(one))
	}
	r.expectExact(traffic, count, fmt.Sprintf("%d replacements of %d prefixes in %v, the slowest %v", replacements, size,
		time.Since(began).Round(time.Second), slowest.Round(10*time.Millisecond)))
	state, err := ld.Maps().Index()
	r.must(err)
	if state.Mismatches != 0 {
		t.Errorf("the self-check saw %d of %d packets judged otherwise by the tries", state.Mismatches, state.Checked)
	}
}

// whole is a list as the kernel takes it.
type whole struct {
	prefixes []netip.Prefix
	special  map[netip.Prefix]compile.Cell // the others drop
}

// newWhole makes a list of random hosts outside of the rig's networks, and of what it is given.
func newWhole(rnd *rand.Rand, size int, special map[string]compile.Cell) whole {
	w := whole{special: make(map[netip.Prefix]compile.Cell)}
	for text, c := range special {
		p := netip.MustParsePrefix(text)
		w.special[p] = c
		w.prefixes = append(w.prefixes, p)
	}
	for len(w.prefixes) < size {
		n := 11<<24 + rnd.Uint32N(100<<24) // 11.0.0.0 to 110.255.255.255
		w.prefixes = append(w.prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))), 32))
	}
	slices.SortFunc(w.prefixes, netip.Prefix.Compare)
	w.prefixes = slices.Compact(w.prefixes)
	return w
}

func (w whole) all() iter.Seq2[netip.Prefix, compile.Cell] {
	return func(yield func(netip.Prefix, compile.Cell) bool) {
		for _, p := range w.prefixes {
			c, ok := w.special[p]
			if !ok {
				c.DropUntil = compile.Never
			}
			if !yield(p, c) {
				return
			}
		}
	}
}

// TestGaplessImport replaces the blacklist through a daemon under traffic, a million addresses each with -long. The
// client is on every list and never gets through; the other client, whitelisted within a listed network, always does.
func TestGaplessImport(t *testing.T) {
	r := newRig(t)
	rnd := random(t)
	size := times(50_000, 1_000_000)
	r.must(r.daemon.Start())
	r.cli("add_whitelist", "ip", r.Another.IPv4.String())
	r.cli("add_whitelist", "ip", r.Another.IPv6.String())
	imports := func(w whole) {
		entries := func(yield func(control.ImportEntry, error) bool) {
			for _, p := range w.prefixes {
				id, _ := lists.PrefixID(p)
				e := lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}}
				if !yield(control.ImportEntry{Entry: e}, nil) {
					return
				}
			}
		}
		client := control.Client{Socket: r.daemon.Socket}
		reply, err := client.Import(context.Background(), control.ImportOptions{Replace: lists.Blacklist}, entries)
		r.must(err)
		if s, err := r.daemon.Status(); err != nil || s.Entries["blacklist"] != len(w.prefixes) || reply.Added+reply.Unchanged != len(w.prefixes) {
			t.Fatalf("%+v, status %+v (%v), want %d entries", reply, s.Entries, err, len(w.prefixes))
		}
	}
	var wholes []whole
	for _, n := range []int{size, 1000, size} { // a small list is changed entry by entry
		for range 2 {
			wholes = append(wholes, newWhole(rnd, n, map[string]compile.Cell{
				r.Client.IPv4.String() + "/32": {}, r.Client.IPv6.String() + "/128": {},
				r.Another.IPv4.String() + "/32": {}, r.Another.IPv6.String() + "/128": {},
			}))
		}
	}
	imports(wholes[0])
	count, traffic := r.count(), r.flood(100*time.Microsecond)
	began, slowest := time.Now(), time.Duration(0)
	for range times(1, 2) {
		for _, w := range wholes {
			one := time.Now()
			imports(w)
			slowest = max(slowest, time.Since(one))
		}
	}
	r.expectExact(traffic, count, fmt.Sprintf("%d imports in place of the list, of up to %d addresses, in %v, the slowest %v",
		len(wholes)*times(1, 2), size, time.Since(began).Round(time.Second), slowest.Round(10*time.Millisecond)))
	r.memory("after replacing", 350)
}
