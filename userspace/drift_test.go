package userspace

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// TestDriftIsMended: whatever the maps hold that the lists do not say, or the other way round, is found, and the whole list
// written again; maps and lists that agree are left alone.
func TestDriftIsMended(t *testing.T) {
	ctx := context.Background()
	b := lists.NewBuilder(nil)
	put := func(l lists.List, text string, end time.Time) {
		id, _, err := lists.ParseID(lists.KindIP, "", text)
		if err != nil {
			t.Fatal(err)
		}
		b.Put(lists.Entry{Key: lists.Key{List: l, Source: lists.Manual, ID: id}, Expires: end})
	}
	for i := range 1000 {
		put(lists.Blacklist, fmt.Sprintf("10.0.%d.%d", i/250, i%250), time.Time{})
		put(lists.Blacklist, fmt.Sprintf("2001:db8:%x::/48", i), time.Now().Add(time.Hour))
	}
	put(lists.Blacklist, "10.0.0.0/8", time.Time{})
	put(lists.Whitelist, "10.0.1.1", time.Time{})
	k := &fakeKernel{}
	e := newEnforcement(k, &fakeStore{first: b.Snapshot(7)}, slog.New(slog.DiscardHandler), func() []netip.Prefix { return nil }, nil)
	e.contents, e.now = k, time.Now
	if err := e.start(ctx, nil); err != nil {
		t.Fatal(err)
	}
	pass := func() {
		t.Helper()
		before := e.drifted()
		for range 1000 {
			e.compare(ctx)
			if now := e.drifted(); now.passes > before.passes || now.addresses > before.addresses {
				return
			}
		}
		t.Fatal("the comparison does not end")
	}
	for range 2 {
		if pass(); e.drifted().addresses != 0 || k.replaced != 1 {
			t.Fatalf("%+v, %d replacements, where all agrees", e.drifted(), k.replaced)
		}
	}
	right := k.holds()
	for what, spoil := range map[string]func(map[netip.Prefix]compile.Cell){
		"one is missing": func(m map[netip.Prefix]compile.Cell) { delete(m, netip.MustParsePrefix("2001:db8:3e7::/48")) },
		"one too many": func(m map[netip.Prefix]compile.Cell) {
			m[netip.MustParsePrefix("192.0.2.9/32")] = compile.Cell{DropUntil: compile.Never}
		},
		"the whitelist is not there": func(m map[netip.Prefix]compile.Cell) {
			m[netip.MustParsePrefix("10.0.1.1/32")] = compile.Cell{DropUntil: compile.Never, Source: lists.Manual}
		},
	} {
		e.drift = drift{}
		k.mu.Lock()
		k.replaced = 0
		spoil(k.cells)
		k.mu.Unlock()
		if pass(); e.drifted().addresses == 0 || k.replaced != 1 || !maps.Equal(k.holds(), right) {
			t.Errorf("%s: %+v, %d replacements", what, e.drifted(), k.replaced)
		}
		if d := e.drifted(); !strings.Contains(d.last, "in the kernel") {
			t.Errorf("%s: %q", what, d.last)
		}
		spoil(k.cells)
		if pass(); k.replaced != 1 {
			t.Errorf("%s again at once: written again, which did not help before", what)
		}
		k.cells = maps.Clone(right)
	}
}
