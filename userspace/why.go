package userspace

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/loader/compile"
	"github.com/portcullis/portcullis/userspace/control"
)

// A kernel that has not caught up with the store is looked at again.
const (
	whyTries = 10
	whyPause = 20 * time.Millisecond
)

// why says what happens to the packets of an address. The kernel's maps are read, not derived.
func (n *node) why(a netip.Addr) control.Why {
	for try := 1; ; try++ {
		w := n.lookWhy(a)
		if w.Kernel.Agrees || try == whyTries {
			return w
		}
		time.Sleep(whyPause)
	}
}

func (n *node) lookWhy(a netip.Addr) control.Why {
	snap, now := n.store.Snapshot(), n.store.Clock().Now()
	w := control.Why{Address: a.String(), Firewall: snap.Settings().Firewall}
	if w.Generation.Store = snap.Generation(); n.feed != nil {
		w.Generation.Shim = n.feed.generation()
	}
	attached := false
	for _, i := range *n.interfaces.Load() {
		if attached = attached || protected(i); !protected(i) {
			w.Unprotected = append(w.Unprotected, i.Interface)
		}
	}
	white, black := covering(snap, lists.Whitelist, hostPrefix(a)), covering(snap, lists.Blacklist, hostPrefix(a))
	w.AddEntries(white...)
	w.AddEntries(black...)
	want := wantedCell(white, black)
	for _, p := range *n.protected.Load() {
		if p.prefix.Contains(a) {
			w.Protected, want.PassUntil, want.Protected = p.why, compile.Never, true
		}
	}
	if w.Layer = n.layer(attached); !w.Firewall {
		w.Layer = "none"
	}
	if n.maps == nil {
		w.Verdict, w.Reason = "pass", "unprotected"
		w.Kernel = control.WhyKernel{Verdict: "pass", Agrees: true}
		return w
	}
	if n.enforce.table.PassOnly {
		want.DropUntil, want.Source = 0, 0
	}
	n.whyKernel(&w, a, want, attached, now)
	return w
}

// layer is who acts on a listed address: kernel, l7 or none.
func (n *node) layer(attached bool) string {
	switch how := n.config.ipEnforcement(); {
	case how != enforceL7 && attached:
		return enforceKernel
	case n.feed != nil && how != enforceKernel:
		return enforceL7
	}
	return "none"
}

// whyKernel is the part of why that the maps know.
func (n *node) whyKernel(w *control.Why, a netip.Addr, want compile.Cell, attached bool, now time.Time) {
	w.Generation.Kernel = n.maps.Generation()
	w.Bypass, _ = n.maps.Bypass() // fails only once the daemon ends
	cell, found, err := n.maps.Lookup(a)
	w.Kernel = kernelSays(cell, found, now)
	if err == nil {
		w.Kernel.Index, err = n.maps.IndexSays(a)
	}
	if err == nil && found {
		w.Kernel.Dropped, err = n.dropped(a)
	}
	if w.Kernel.Differs = cmp.Or(differs(want, cell, now), indexDiffers(w.Kernel.Index, cell, now)); err != nil {
		w.Kernel.Differs = err.Error()
		cell = want
	}
	w.Kernel.Agrees = w.Kernel.Differs == ""
	w.Reason = reason(a, cell, now)
	switch {
	case !attached:
		w.Reason = "unprotected"
	case w.Bypass:
		w.Reason = "pass_bypass"
		if w.Layer = "none"; n.feed != nil && n.config.ipEnforcement() != enforceKernel && w.Firewall {
			w.Layer = enforceL7
		}
	case !w.Firewall:
		w.Reason = "pass_firewall_off"
	}
	if w.Verdict = "pass"; w.Reason == "drop_blacklisted" {
		w.Verdict = "drop"
	}
}

// dropped is what was dropped on account of the prefix that the maps have for an address, nil if that is not counted.
func (n *node) dropped(a netip.Addr) (*control.Hits, error) {
	var d control.Drop
	blame(n.store.Snapshot(), *n.protected.Load(), a, &d)
	p, err := netip.ParsePrefix(d.Prefix)
	if err != nil || !n.exact() {
		return nil, nil
	}
	h, err := n.hits(p)
	return &h, err
}

// indexDiffers says in what the index does not say what the maps do, "" if it does. What is about to end it leaves to the maps.
func indexDiffers(index string, cell compile.Cell, now time.Time) string {
	if drops := cell.Verdict(now) == lists.Drop; index == "drop" && !drops || index == "pass" && drops {
		return fmt.Sprintf("the index says %s, the maps do not", index)
	}
	return ""
}

// wantedCell is what the maps should hold for an address that these entries cover.
func wantedCell(white, black []lists.Entry) (c compile.Cell) {
	for _, e := range white {
		c.PassUntil = max(c.PassUntil, endOf(e))
	}
	if e, ok := lastToEnd(black); ok {
		c.DropUntil, c.Source = endOf(e), e.Source
	}
	return c
}

func endOf(e lists.Entry) int64 {
	if e.Expires.IsZero() {
		return compile.Never
	}
	return e.Expires.Unix()
}

// lastToEnd is the entry that a drop is due to, of those of the blacklist that cover an address, the most specific first: of
// those that end at the same time, the first.
func lastToEnd(black []lists.Entry) (last lists.Entry, ok bool) {
	for _, e := range black {
		if !ok || endOf(e) > endOf(last) {
			last, ok = e, true
		}
	}
	return last, ok
}

// slack is how far deadlines may be apart: each is rounded to the second where it is turned into the other clock.
const slack = 2

// differs says in what the maps do not hold what they should, "" if they do. What has ended counts as absent.
func differs(want, have compile.Cell, now time.Time) string {
	live := func(deadline int64) int64 {
		if deadline < now.Unix()+slack {
			return 0
		}
		return deadline
	}
	same := func(a, b int64) bool { a, b = live(a), live(b); return a == b || a-b <= slack && b-a <= slack }
	switch {
	case want.Protected != have.Protected:
		return fmt.Sprintf("protected is %t in the kernel, %t in the store", have.Protected, want.Protected)
	case !same(want.PassUntil, have.PassUntil):
		return fmt.Sprintf("it passes %s in the kernel, %s in the store", until(have.PassUntil), until(want.PassUntil))
	case !same(want.DropUntil, have.DropUntil):
		return fmt.Sprintf("it is dropped %s in the kernel, %s in the store", until(have.DropUntil), until(want.DropUntil))
	case live(want.DropUntil) != 0 && want.Source != have.Source:
		return fmt.Sprintf("its source is %s in the kernel, %s in the store", have.Source, want.Source)
	}
	return ""
}

// until is a deadline in words.
func until(deadline int64) string {
	switch deadline {
	case 0:
		return "never"
	case compile.Never:
		return "for ever"
	}
	return "until " + time.Unix(deadline, 0).UTC().Format(time.RFC3339)
}

func kernelSays(c compile.Cell, found bool, now time.Time) control.WhyKernel {
	k := control.WhyKernel{Verdict: c.Verdict(now).String(), Found: found, Protected: c.Protected,
		Pass: c.PassUntil == compile.Never, Drop: c.DropUntil == compile.Never}
	at := func(deadline int64) *time.Time {
		if deadline == 0 || deadline == compile.Never {
			return nil
		}
		t := time.Unix(deadline, 0).UTC()
		return &t
	}
	k.PassUntil, k.DropUntil = at(c.PassUntil), at(c.DropUntil)
	if c.Source != 0 {
		k.Source = c.Source.String()
	}
	return k
}

// reason is the way out that the kernel program takes for an address with that cell, while it judges at all.
func reason(a netip.Addr, c compile.Cell, now time.Time) string {
	switch v := c.Verdict(now); {
	case a.IsUnspecified():
		return "pass_unspecified"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "pass_link_local"
	case v == lists.PassWhitelisted && c.Protected:
		return "pass_protected"
	case v == lists.PassWhitelisted:
		return "pass_whitelisted"
	case v == lists.Drop:
		return "drop_blacklisted"
	case c.PassUntil != 0 || c.DropUntil != 0:
		return "pass_expired"
	}
	return "pass_unlisted"
}
