package loader

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// TestIndexMadeLater: an index that there was no memory for is made once there is, without a replacement, and says what
// the tries say by then.
func TestIndexMadeLater(t *testing.T) {
	l := open(t, Options{PinDir: pinsFor(t)})
	m, table := l.Maps(), compile.New()
	m.Follow(table)
	b := lists.NewBuilder(nil)
	b.Put(hostEntry(0x0a000001))
	id, _ := lists.PrefixID(netip.MustParsePrefix("2001:db8:66::/48"))
	b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Unix(1, 0)})
	table.Reset(b.Snapshot(1), nil)

	sizes := [2]uint32{m.index.spec.ValueSize, m.index6.spec.ValueSize}
	m.index.spec.ValueSize, m.index6.spec.ValueSize = 0, 0 // the kernel refuses to make such a segment
	must(t, m.Replace(t.Context(), 1, table.All(), 0, nil))
	if m.index.x != nil || m.index6.x != nil {
		t.Fatal("there is an index without segments")
	}
	added := hostEntry(0x0a000002)
	must(t, m.Apply(2, table.Apply([]lists.Change{{After: &added}})))
	must(t, m.Renew())
	m.index.spec.ValueSize, m.index6.spec.ValueSize = sizes[0], sizes[1]
	eventually(t, "indexes", func() bool {
		must(t, m.Renew())
		return m.index.x != nil && m.index6.x != nil
	})
	for text, want := range map[string]string{
		"10.0.0.1": "drop", "10.0.0.2": "drop", "10.0.0.3": "pass", bad6.String(): "drop", "2001:db8:99::1": "pass",
	} {
		if got, err := m.IndexSays(netip.MustParseAddr(text)); err != nil || got != want {
			t.Errorf("%s: the index says %q, %v; want %q", text, got, err, want)
		}
	}
	if state, err := m.Index(); err != nil || state.Lease <= 0 || state.Bytes == 0 {
		t.Errorf("%+v, %v", state, err)
	}
}
