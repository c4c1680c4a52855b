package compile

import (
	"net/netip"
	"slices"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// node is what the table keeps at a prefix: what the lists say of this very prefix, and the cell that follows
// from it and from the prefixes around it.
type node struct {
	own  own
	cell Cell
}

// own holds the entries of one prefix, without those of the prefixes around it. Values are never changed in
// place: rest is replaced whole, so that copies may share it.
type own struct {
	pass      int64 // end of the whitelist entry, 0 = none
	drop      hold  // the blacklist entry that lasts longest
	rest      *[]hold
	protected bool
}

// hold is one blacklist entry: who put it there and until when.
type hold struct {
	until  int64
	source lists.Source
}

func (o own) empty() bool { return o.pass == 0 && o.drop.until == 0 && !o.protected }

// set puts the entry of a source on the blacklist, or takes it off (until 0).
func (o own) set(source lists.Source, until int64) own {
	if o.rest == nil && (o.drop.until == 0 || o.drop.source == source) {
		o.drop = hold{until, source}
		if until == 0 {
			o.drop = hold{}
		}
		return o
	}
	holds := []hold{o.drop}
	if o.rest != nil {
		holds = append(holds, *o.rest...)
	}
	holds = slices.DeleteFunc(holds, func(h hold) bool { return h.source == source })
	if until != 0 {
		holds = append(holds, hold{until, source})
	}
	slices.SortFunc(holds, func(a, b hold) int {
		if a.until != b.until {
			if a.until > b.until {
				return -1
			}
			return 1
		}
		return int(a.source) - int(b.source)
	})
	o.drop, o.rest = hold{}, nil
	if len(holds) > 0 {
		o.drop = holds[0]
	}
	if len(holds) > 1 {
		rest := holds[1:]
		o.rest = &rest
	}
	return o
}

// under returns the cell of a prefix with these entries below a prefix with that cell.
func (o own) under(c Cell) Cell {
	if o.pass > c.PassUntil {
		c.PassUntil = o.pass
	}
	if o.protected {
		c.PassUntil, c.Protected = Never, true
	}
	if o.drop.until != 0 && o.drop.until >= c.DropUntil {
		c.DropUntil, c.Source = o.drop.until, o.drop.source
	}
	return c
}

// with returns o with the entry in place of the one with its key, or without it when gone.
func (o own) with(e *lists.Entry, gone bool) own {
	var until int64
	if !gone {
		until = deadline(e.Expires)
	}
	if e.List == lists.Whitelist {
		o.pass = until
		return o
	}
	return o.set(e.Source, until)
}

// deadline is the end in Unix seconds, rounded up as snapshots do. It is never 0, which means no entry: what ended
// in 1970 or before ended at 1.
func deadline(expires time.Time) int64 {
	if expires.IsZero() {
		return Never
	}
	return max(1, expires.Add(time.Second-1).Unix())
}

// canonical masks a prefix and moves an IPv4-mapped one to IPv4; ok is false for what is no prefix.
func canonical(p netip.Prefix) (_ netip.Prefix, ok bool) {
	if !p.IsValid() {
		return p, false
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// compare orders prefixes as [Table.All] yields them: IPv4 first, by address, the wider first.
func compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// contains reports whether outer covers inner or equals it.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
