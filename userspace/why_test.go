package userspace

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// TestDiffers: why says in what the maps do not hold what the lists say, and nothing of what makes no difference.
func TestDiffers(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	in := func(seconds int64) int64 { return now.Unix() + seconds }
	drop := compile.Cell{DropUntil: compile.Never, Source: lists.Manual}
	for _, test := range []struct {
		name       string
		want, have compile.Cell
		says       string // begins with; "": they agree
	}{
		{"the same", drop, drop, ""},
		{"nothing", compile.Cell{}, compile.Cell{}, ""},
		{"missing in the kernel", drop, compile.Cell{}, "it is dropped never in the kernel, for ever in the store"},
		{"left in the kernel", compile.Cell{}, drop, "it is dropped for ever in the kernel, never in the store"},
		{"another end", compile.Cell{DropUntil: in(60)}, compile.Cell{DropUntil: in(70)}, "it is dropped until 2027-01-15T08:01:10Z in the kernel, until 2027-01-15T08:01:00Z in the store"},
		{"an end rounded to the next second", compile.Cell{DropUntil: in(60)}, compile.Cell{DropUntil: in(61)}, ""},
		{"ended in both, not at once", compile.Cell{DropUntil: in(-60)}, compile.Cell{DropUntil: in(-5), Source: lists.ABS}, ""},
		{"ended in one", compile.Cell{DropUntil: in(-60)}, drop, "it is dropped for ever in the kernel"},
		{"whitelist missing", compile.Cell{PassUntil: compile.Never, DropUntil: compile.Never}, compile.Cell{DropUntil: compile.Never}, "it passes never in the kernel, for ever in the store"},
		{"protection missing", compile.Cell{PassUntil: compile.Never, Protected: true}, compile.Cell{PassUntil: compile.Never}, "protected is false in the kernel, true in the store"},
		{"another source", drop, compile.Cell{DropUntil: compile.Never, Source: lists.ABS}, "its source is abs_detected in the kernel, manual in the store"},
	} {
		if got := differs(test.want, test.have, now); !strings.HasPrefix(got, test.says) || (test.says == "") != (got == "") {
			t.Errorf("%s: %q, want %q", test.name, got, test.says)
		}
	}
	for _, test := range []struct {
		index string
		cell  compile.Cell
		says  string
	}{
		{"drop", drop, ""}, {"pass", compile.Cell{}, ""}, {"ask", drop, ""}, {"ask", compile.Cell{}, ""}, {"", drop, ""},
		{"drop", compile.Cell{}, "the index says drop, the maps do not"},
		{"drop", compile.Cell{DropUntil: in(-1)}, "the index says drop, the maps do not"},
		{"drop", compile.Cell{PassUntil: compile.Never, DropUntil: compile.Never}, "the index says drop, the maps do not"},
		{"pass", drop, "the index says pass, the maps do not"},
	} {
		if got := indexDiffers(test.index, test.cell, now); got != test.says {
			t.Errorf("index %q over %+v: %q, want %q", test.index, test.cell, got, test.says)
		}
	}
}

// TestWantedCell: the longest end of each list counts, and among equal ends the most specific entry's source.
func TestWantedCell(t *testing.T) {
	entry := func(l lists.List, src lists.Source, prefix string, end int64) lists.Entry {
		id, ok := lists.PrefixID(netip.MustParsePrefix(prefix))
		if !ok {
			t.Fatal(prefix)
		}
		e := lists.Entry{Key: lists.Key{List: l, Source: src, ID: id}}
		if end > 0 {
			e.Expires = time.Unix(end, 0)
		}
		return e
	}
	white := []lists.Entry{entry(lists.Whitelist, lists.Manual, "10.0.0.1/32", 50), entry(lists.Whitelist, lists.Manual, "10.0.0.0/8", 90)}
	black := []lists.Entry{
		entry(lists.Blacklist, lists.Decoy, "10.0.0.1/32", 50), entry(lists.Blacklist, lists.ABS, "10.0.0.0/24", 0),
		entry(lists.Blacklist, lists.Manual, "10.0.0.0/8", 0),
	}
	for _, test := range []struct {
		white, black []lists.Entry
		want         compile.Cell
	}{
		{nil, nil, compile.Cell{}},
		{white, nil, compile.Cell{PassUntil: 90}},
		{nil, black[:1], compile.Cell{DropUntil: 50, Source: lists.Decoy}},
		{white, black, compile.Cell{PassUntil: 90, DropUntil: compile.Never, Source: lists.ABS}},
	} {
		if got := wantedCell(test.white, test.black); got != test.want {
			t.Errorf("%v, %v: %+v, want %+v", test.white, test.black, got, test.want)
		}
	}
}
