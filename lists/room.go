package lists

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Class says which room an identifier takes, in the kernel's maps or in memory.
type Class uint8

// The classes.
const (
	ClassIPv4       Class = iota + 1 // addresses and CIDRs of IPv4
	ClassIPv6                        // the same of IPv6
	ClassIdentifier                  // cookies, tokens, API keys, user names
)

// Classes returns every class.
func Classes() []Class { return []Class{ClassIPv4, ClassIPv6, ClassIdentifier} }

// String returns "ipv4", "ipv6" or "identifier".
func (c Class) String() string {
	return word("Class", []string{"", "ipv4", "ipv6", "identifier"}, c)
}

// form is how records hold identifiers of the class.
func (c Class) form() form {
	return [...]form{ClassIPv4: form4, ClassIPv6: form6, ClassIdentifier: formText}[c]
}

// Class returns the class of a canonical identifier.
func (id ID) Class() Class {
	p, isIP := id.Prefix()
	switch {
	case !isIP:
		return ClassIdentifier
	case p.Addr().Is4():
		return ClassIPv4
	}
	return ClassIPv6
}

// placeBytes is how much of a value one place holds.
const placeBytes = 512

// Places is how many places an identifier takes of the room of its class: one, or if it is longer than 512 bytes one for
// each 512 bytes begun, so that a bound on places bounds memory too.
func (id ID) Places() int { return max(1, (len(id.Value)+placeBytes-1)/placeBytes) }

func (r *record) places() int { return ID{Value: r.value}.Places() }

// Places counts the places that the different identifiers of a class take on one list, at no cost.
func (s *Snapshot) Places(l List, c Class) int {
	if t := s.table(l); t != nil {
		return t.byFamily[c.form()]
	}
	return 0
}

// Lengths counts prefixes by their length.
type Lengths [129]int32

// Lengths counts the different prefixes of a class on one list, at no cost.
func (s *Snapshot) Lengths(l List, c Class) Lengths {
	if t := s.table(l); t != nil && c != ClassIdentifier {
		return t.lengths[c.form()]
	}
	return Lengths{}
}

// Has reports whether the pack holds an identifier of the class. It looks at every entry if not.
func (p *Pack) Has(c Class) bool {
	for _, part := range p.chunks {
		for r := (chunkReader{data: part.Data}); r.next(); {
			if r.form == c.form() {
				return true
			}
		}
	}
	return false
}

// Expendable is a blacklist entry of a source other than manual.
type Expendable struct {
	Key     Key
	Expires time.Time // zero: never
	created int64
}

// Compare orders what may go first before the others: what ends soonest; of what ends at the same time or never, the
// oldest.
func (e Expendable) Compare(other Expendable) int {
	return cmp.Or(cmp.Compare(e.ends(), other.ends()), cmp.Compare(e.created, other.created))
}

func (e Expendable) ends() int64 {
	if e.Expires.IsZero() {
		return math.MaxInt64
	}
	return e.Expires.Unix()
}

// ExpendableOf is an entry as [Snapshot.Expendable] yields it; ok is false if it is manual or on the whitelist.
func ExpendableOf(e Entry) (x Expendable, ok bool) {
	return Expendable{e.Key, e.Expires, e.Created.Unix()}, e.List == Blacklist && e.Source != Manual
}

// Expendable returns the n blacklist entries of a class, from sources other than manual, that may go first, in the order
// of [Expendable.Compare]. It looks at every entry: some milliseconds a million.
func (s *Snapshot) Expendable(c Class, n int) []Expendable {
	t := s.table(Blacklist)
	if t == nil || n <= 0 || s.Len(Blacklist) == s.LenSource(Blacklist, Manual) {
		return nil
	}
	type candidate struct {
		ends, created int64
		r             *record
	}
	order := func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.ends, b.ends), cmp.Compare(a.created, b.created))
	}
	var best []candidate
	worst := candidate{ends: math.MaxInt64, created: math.MaxInt64}
	t.each(0, func(r *record) bool {
		if r.source == Manual || r.form != c.form() {
			return true
		}
		x := candidate{r.expires, r.created, r}
		if r.expires == never {
			x.ends = math.MaxInt64
		}
		if order(x, worst) >= 0 {
			return true
		}
		if best = append(best, x); len(best) == 2*n {
			slices.SortStableFunc(best, order)
			best = best[:n]
			worst = best[n-1]
		}
		return true
	})
	slices.SortStableFunc(best, order)
	var out []Expendable
	for _, x := range best[:min(n, len(best))] {
		e, _ := ExpendableOf(x.r.entry(Blacklist))
		out = append(out, e)
	}
	return out
}
