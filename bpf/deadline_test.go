package bpf

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// TestDeadlines tries every pair of deadlines around now, for each way to look a source up.
func TestDeadlines(t *testing.T) {
	k := load(t)
	now := bootNow(t) // every program runs at or after it, and a deadline that is reached has come
	type deadline struct {
		name   string
		at     uint64
		set    bool
		future bool
	}
	deadlines := []deadline{
		{"none", 0, false, false},
		{"1", 1, true, false},
		{"a moment ago", now - 1, true, false},
		{"now", now, true, false},
		{"in an hour", now + hour, true, true},
		{"one before never", Never - 1, true, true},
		{"never", Never, true, true},
	}
	packets := []struct {
		name   string
		ip     []byte
		prefix string
		family Family
	}{
		{"IPv4", plain4, "198.51.100.0/24", FamilyIPv4},
		{"mapped", mappedPlain, "198.51.100.0/24", FamilyIPv6},
		{"IPv6", plain6, "2001:db8::/32", FamilyIPv6},
	}
	for _, pass := range deadlines {
		for _, drop := range deadlines {
			for _, flags := range []uint8{0, CellProtected, ^CellProtected} {
				rule := "expired"
				switch {
				case !pass.set && !drop.set:
					rule = "unlisted"
				case pass.future && flags&CellProtected != 0:
					rule = "protected"
				case pass.future:
					rule = "whitelisted"
				case drop.future:
					rule = "blacklisted"
				}
				cell := Cell{PassUntil: pass.at, DropUntil: drop.at, Source: 255, Flags: flags}
				for _, p := range packets {
					t.Run(fmt.Sprintf("pass %s, drop %s, flags %d, %s", pass.name, drop.name, flags, p.name), func(t *testing.T) {
						k.fill(t, 0, entry{p.prefix, cell})
						want := ruleNamed(t, rule).reason
						k.expect(t, ProgEth, encapsulations[0].wrap(p.ip), -1, p.family, want)
						k.expect(t, ProgL3, p.ip, -1, p.family, want)
					})
				}
			}
		}
	}
}

// TestDeadlineComes watches deadlines come: the verdict changes at the deadline, neither before nor after.
func TestDeadlineComes(t *testing.T) {
	k := load(t)
	for _, c := range []struct {
		name          string
		cell          func(end uint64) Cell
		before, after Reason
	}{
		{"of a drop", func(end uint64) Cell { return Cell{DropUntil: end} }, DropBlacklisted, PassExpired},
		{"of a pass", func(end uint64) Cell { return Cell{PassUntil: end} }, PassWhitelisted, PassExpired},
		{"of a pass over a drop", func(end uint64) Cell { return Cell{PassUntil: end, DropUntil: Never} }, PassWhitelisted, DropBlacklisted},
		{"of a drop under a pass", func(end uint64) Cell { return Cell{PassUntil: 1, DropUntil: end} }, DropBlacklisted, PassExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A busy machine may not let a packet through in the time before the deadline: then give it more.
			for soon := 30 * time.Millisecond; k.watch(t, c.cell, soon, c.before, c.after) == 0; soon *= 4 {
				if soon > 5*time.Second {
					t.Fatalf("no packet was judged in the %s before the deadline", soon)
				}
			}
		})
	}
}

// watch runs packets until a deadline has come, and counts those that were judged before it.
func (k *kernel) watch(t *testing.T, cell func(end uint64) Cell, soon time.Duration, early, late Reason) (judged int) {
	t.Helper()
	frame := encapsulations[0].wrap(plain4)
	end := bootNow(t) + uint64(soon)
	k.fill(t, 0, entry{"198.51.100.0/24", cell(end)})
	for after := 0; after < 3; runtime.Gosched() {
		before := k.tallies(t)
		start := bootNow(t)
		action, _ := k.run(t, ProgEth, frame, -1)
		if start < end && end <= bootNow(t) {
			continue // either verdict is right
		}
		want := early
		if start >= end {
			want = late
			after++
		} else {
			judged++
		}
		expected := before
		expected[Way(FamilyIPv4, want)].Packets++
		expected[Way(FamilyIPv4, want)].Bytes += uint64(len(frame))
		if got := k.tallies(t); got != expected || action != xdpAction(want) {
			t.Fatalf("%d ns before the deadline: action %d, %s, want %s", int64(end-start), action, moved(before, got), want)
		}
	}
	return judged
}

// TestFlip fills the two sides with opposite lists and flips between them.
func TestFlip(t *testing.T) {
	k := load(t)
	k.fill(t, 0, entry{"198.51.100.0/24", listed}, entry{"2001:db8::/32", allowed})
	k.fill(t, 1, entry{"198.51.100.0/24", allowed}, entry{"2001:db8::/32", listed})
	want := [2][3]string{{"blacklisted", "blacklisted", "whitelisted"}, {"whitelisted", "whitelisted", "blacklisted"}}
	for i := range 4 {
		k.set(t, Control{Layout: Layout, Active: uint32(i % 2)})
		for j, r := range []row{{packet: plain4, family: FamilyIPv4}, {packet: mappedPlain, family: FamilyIPv6}, {packet: plain6, family: FamilyIPv6}} {
			r.rule = want[i%2][j]
			k.check(t, false, r, encapsulations[0].wrap(r.packet))
			k.check(t, true, r, r.packet)
		}
	}
}
