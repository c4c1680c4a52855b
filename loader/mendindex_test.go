package loader

import (
	"net/netip"
	"testing"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
)

// dropsAll sends many packets: the first of a counter, of each CPU, is judged by the tries too, and so tells nothing of
// the index.
func (j *judged) dropsAll(t testing.TB, a netip.Addr) bool {
	t.Helper()
	for range 50 {
		if !j.drops(t, a) {
			return false
		}
	}
	return true
}

// TestIndexMadeLater: an index that there was no memory for is made once there is, without a replacement, and says what
// the tries say by then.
func TestIndexMadeLater(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t)})
	m, table := j.l.Maps(), compile.New()
	m.Follow(table)
	must(t, m.Replace(t.Context(), 1, table.All(), 0, nil)) // an index that is gone later must not be believed
	for range 50 {                                          // so that what passes by the index is not the first packet of a counter any more, on either CPU
		j.drops(t, netip.MustParseAddr("10.0.0.1"))
	}
	b := lists.NewBuilder(nil)
	b.Put(hostEntry(0x0a000001))
	id, _ := lists.PrefixID(netip.MustParsePrefix("2001:db8:66::/48"))
	b.Put(lists.Entry{Key: lists.Key{List: lists.Blacklist, Source: lists.Manual, ID: id}, Created: time.Unix(1, 0)})
	table.Reset(b.Snapshot(1), nil)

	sizes := [2]uint32{m.index.spec.ValueSize, m.index6.spec.ValueSize}
	m.index.spec.ValueSize, m.index6.spec.ValueSize = 0, 0 // the kernel refuses to make such a segment
	for range 2 {                                          // either side
		must(t, m.Replace(t.Context(), 1, table.All(), 0, nil))
		for _, a := range []string{"10.0.0.1", "2001:db8:66::1"} {
			if !j.dropsAll(t, netip.MustParseAddr(a)) {
				t.Errorf("%s passes without an index", a)
			}
		}
	}
	if m.index.x != nil || m.index6.x != nil {
		t.Fatal("there is an index without segments")
	}
	added := hostEntry(0x0a000002)
	must(t, m.Apply(2, table.Apply([]lists.Change{{After: &added}})))
	if !j.dropsAll(t, netip.MustParseAddr("10.0.0.2")) {
		t.Error("10.0.0.2 passes without an index")
	}
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

// TestIndexForgotten: what a process adds that knows nothing of the index before it is dropped at once.
func TestIndexForgotten(t *testing.T) {
	j := newJudged(t, Options{PinDir: pinsFor(t)})
	m, table := j.l.Maps(), compile.New()
	must(t, m.Replace(t.Context(), 1, table.All(), 0, nil))
	if a := netip.MustParseAddr("10.0.0.1"); j.drops(t, a) {
		t.Fatalf("%s is dropped, and nothing is listed", a)
	}
	m.index.space.free()
	m.index.x, m.index.space = nil, nil // as in a new process
	m.index.forget()
	added := hostEntry(0x0a000001)
	must(t, m.Apply(2, table.Apply([]lists.Change{{After: &added}})))
	if a := netip.MustParseAddr("10.0.0.1"); !j.dropsAll(t, a) {
		t.Errorf("%s passes", a)
	}
}
