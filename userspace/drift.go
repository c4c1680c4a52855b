package userspace

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/portcullis/portcullis/lists"
)

// What the kernel's maps hold is compared with the lists all the time, bit by bit: a million entries take half an hour, and
// nobody's command waits for it.
const (
	passEvery    = 10 * time.Second       // a comparison of everything begins so often at most
	compareEvery = 100 * time.Millisecond // a bit of it
	compareSome  = 64                     // entries of the lists, and as many of the maps
	skipSome     = 64 * compareSome       // entries without an address that are passed over for it
	mendEvery    = time.Minute            // maps are written again so often at most
)

// drift is what was found to differ so far.
type drift struct {
	addresses uint64 // that the maps judged otherwise than the lists
	passes    uint64 // comparisons of everything
	last      string // that was found, "" if nothing was
	mended    time.Time
}

// audit is where a comparison is.
type audit struct {
	began      time.Time    // zero: none is under way
	at         netip.Prefix // in the maps
	walked     bool         // the maps, to their end
	next       func() (lists.Entry, bool)
	stop       func()
	enumerated bool // the lists, to their end
}

// end gives a comparison up: it holds on to the lists as they were.
func (a *audit) end() {
	if a.stop != nil {
		a.stop()
	}
	*a = audit{}
}

// begin begins one.
func (a *audit) begin(snap *lists.Snapshot) {
	a.end()
	a.began = time.Now()
	a.next, a.stop = iter.Pull(func(yield func(lists.Entry) bool) {
		for _, l := range []lists.List{lists.Whitelist, lists.Blacklist} {
			for e := range snap.Entries(l) {
				if !yield(e) {
					return
				}
			}
		}
	})
}

// compare compares some addresses, mends the maps if they differ, and returns when to come again. Nobody else writes to the
// maps or to the table meanwhile.
func (e *enforcement) compare(ctx context.Context) time.Duration {
	if e.contents == nil || !e.inStep {
		return passEvery
	}
	if e.audit.began.IsZero() {
		e.audit.begin(e.snapshot)
	}
	found, last, err := e.differences()
	if err != nil {
		e.log.Warn("the kernel's maps could not be compared with the lists", "error", err)
		e.audit.end()
		return passEvery
	}
	if found > 0 {
		e.mend(ctx, found, last)
		return passEvery
	}
	if !e.audit.walked || !e.audit.enumerated {
		return compareEvery
	}
	again := passEvery - time.Since(e.audit.began)
	e.audit.end()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drift.passes++
	return max(again, compareEvery)
}

// differences looks at the next addresses, and returns on how many lists and maps differ.
func (e *enforcement) differences() (found int, last string, err error) {
	a, now := &e.audit, e.now()
	look := func(addr netip.Addr) error {
		have, _, err := e.contents.Lookup(addr)
		if err != nil {
			return err
		}
		_, want := e.table.Lookup(addr, now)
		if why := differs(want, have, now); why != "" {
			found++
			last = fmt.Sprintf("%s: %s", addr, why)
		}
		return nil
	}
	if !a.walked {
		some, err := e.contents.Next(a.at, compareSome)
		if err != nil {
			return 0, "", err
		}
		for _, p := range some {
			if err := look(p.Addr()); err != nil {
				return 0, "", err
			}
			a.at = p
		}
		a.walked = len(some) < compareSome
	}
	for n, skipped := 0, 0; !a.enumerated && n < compareSome && skipped < skipSome; {
		entry, more := a.next()
		if a.enumerated = !more; !more {
			break
		}
		p, ok := entry.ID.Prefix()
		if !ok {
			skipped++
			continue
		}
		n++
		if err := look(p.Addr()); err != nil {
			return 0, "", err
		}
	}
	return found, last, nil
}

// mend has the whole list written again, unless that was done a moment ago: then it does not help.
func (e *enforcement) mend(ctx context.Context, found int, last string) {
	e.audit.end()
	e.mu.Lock()
	e.drift.addresses += uint64(found)
	e.drift.last = last
	soon := time.Since(e.drift.mended) < mendEvery
	if !soon {
		e.drift.mended = time.Now()
	}
	e.mu.Unlock()
	e.log.Error("the kernel's maps do not hold what the lists say", "addresses", found, "last", last)
	if !soon {
		e.report(e.snapshot.Generation(), e.replace(ctx, nil))
	}
}

// drifted returns what was found so far.
func (e *enforcement) drifted() drift {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.drift
}
