package shim

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/apis"
)

// TestNamesForgetNone: whatever was put in may be there, however a field spells it.
func TestNamesForgetNone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOf(rapid.StringMatching(`[A-Za-z0-9_.!-]{1,300}`)).Draw(t, "names")
		var n, joined names
		for _, name := range all {
			n.add(foldName(nil, name))
		}
		joined.join(&n)
		for _, name := range all {
			if !joined.may(foldName(nil, name)) || !joined.mayField(name) {
				t.Errorf("%q is lost", name)
			}
		}
	})
}

// TestNamesLetMostGo: those that browsers send to an API with a cookie and a key need no look.
func TestNamesLetMostGo(t *testing.T) {
	n := fieldNames
	n.add([]byte("x-api-key"))
	n.add([]byte("jsessionid"))
	for _, name := range []string{"User-Agent", "Accept", "Accept-Language", "Accept-Encoding", "Referer", "Sec-Fetch-Mode", "Connection"} {
		if n.mayField(name) {
			t.Errorf("%s is looked at", name)
		}
	}
}

// TestNamesOfChanges: a name that is listed later is looked for, one by one as in a whole list.
func TestNamesOfChanges(t *testing.T) {
	s := newShim(t, l7, []*apis.API{root()})
	snap := lists.NewBuilder(nil).Snapshot(1)
	for i := range 50 {
		key, cookie := black(lists.KindAPIKey, fmt.Sprintf("X-Key-%d", i), "k"), black(lists.KindCookie, fmt.Sprintf("c%d", i), "v")
		b := lists.NewBuilder(snap)
		b.Set(lists.DefaultSettings())
		b.Put(key)
		b.Put(cookie)
		snap = b.Snapshot(uint64(i + 2))
		s.Use(snap, []lists.Change{{After: &key}, {After: &cookie}}, false)
		for _, line := range []string{fmt.Sprintf("x_key_%d: k", i), fmt.Sprintf("Cookie: a=b; C%d=v", i)} {
			if d := s.Decide(get("/", line)); d.Verdict != Block {
				t.Errorf("%s: %v", line, d.Reason)
			}
		}
	}
}

func TestCleanHost(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "Shop.Example": "shop.example", "shop.example.": "shop.example", "shop:80": "shop", "shop:": "shop", "[::1]:443": "[::1]", "[::1]": "[::1]", "[fe80::1%25eth0]": "[fe80::1%25eth0]",
		"b\xfccher": "b\xfccher",
	} {
		if got, ok := cleanHost(in); !ok || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{".", ":80", "shop:http", "a b", "a/b", "::1", "a%b", "a]", "shop:80:81", "a@b", "[::1]x,"} {
		if got, ok := cleanHost(in); ok {
			t.Errorf("%q is %q", in, got)
		}
	}
}
