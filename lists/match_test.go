package lists

import (
	"net/netip"
	"testing"
	"time"
)

func TestMatch(t *testing.T) {
	minute := noon.Add(time.Minute)
	white := func(value string, expires time.Time) Entry {
		e := blackIP(value, expires)
		e.List = Whitelist
		return e
	}
	decoy := blackIP("10.1.0.0/16", time.Time{})
	decoy.Source = Decoy
	b := NewBuilder(nil)
	for _, e := range []Entry{
		blackIP("10.0.0.0/8", time.Time{}), blackIP("10.1.0.0/16", minute), decoy, blackIP("11.0.0.1", minute),
		white("10.2.0.0/16", minute), white("10.0.0.0/7", minute.Add(-time.Minute)), white("10.3.0.1", time.Time{}),
		blackIP("2001:db8::/32", time.Time{}), white("2001:db8:1::/48", time.Time{}), blackIP("::/0", minute),
		{Key: Key{Blacklist, Manual, ID{KindToken, "", "12.0.0.1"}}},
	} {
		b.Put(e)
	}
	s := b.Snapshot(1)
	for _, c := range []struct {
		addr string
		now  time.Time
		want Verdict
		by   string
	}{
		{"10.0.0.1", noon, Drop, "ip 10.0.0.0/8 manual"},
		{"::ffff:10.0.0.1", noon, Drop, "ip 10.0.0.0/8 manual"},
		{"10.1.0.1", noon, Drop, "ip 10.1.0.0/16 decoy"}, // the longest-lived of equals
		{"10.2.0.1", noon, PassWhitelisted, "ip 10.2.0.0/16 manual"},
		{"10.2.0.1", minute, Drop, "ip 10.0.0.0/8 manual"},
		{"10.3.0.1", minute, PassWhitelisted, "ip 10.3.0.1 manual"},
		{"10.3.0.2", noon, Drop, "ip 10.0.0.0/8 manual"},
		{"11.0.0.1", noon, Drop, "ip 11.0.0.1 manual"},
		{"11.0.0.1", minute.Add(-time.Nanosecond), Drop, "ip 11.0.0.1 manual"},
		{"11.0.0.1", minute, Pass, ""},
		{"12.0.0.1", noon, Pass, ""},
		{"2001:db8::1", noon, Drop, "ip 2001:db8::/32 manual"},
		{"2001:db8::1%eth0", noon, Drop, "ip 2001:db8::/32 manual"},
		{"2001:db8:1::1", noon, PassWhitelisted, "ip 2001:db8:1::/48 manual"},
		{"2001:db9::", noon, Drop, "ip ::/0 manual"},
		{"2001:db9::", minute, Pass, ""},
	} {
		v, by := Match(s, netip.MustParseAddr(c.addr), c.now)
		got := ""
		if v != Pass {
			got = by.ID.String() + " " + by.Source.String()
		}
		if v != c.want || got != c.by {
			t.Errorf("%s at %s: %v by %q, want %v by %q", c.addr, c.now.Format(time.TimeOnly), v, got, c.want, c.by)
		}
	}
}
