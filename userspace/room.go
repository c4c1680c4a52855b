package userspace

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// alarmPercent is from where on status says that the lists grow full.
const alarmPercent = 80

// place is how much room the identifiers of a class have.
type place struct {
	class    lists.Class
	entries  int // places that those of both lists take, each identifier counting once
	reserved int // for protected addresses
	limit    int
	key      string // of the configuration
	evicted  uint64 // since the daemon's start
}

// over is how many do not fit; 0 or less: all fit.
func (p place) over() int { return p.entries + p.reserved - p.limit }

// alarming reports whether it is time to do something.
func (p place) alarming() bool {
	return int64(p.entries+p.reserved)*100 >= int64(p.limit)*alarmPercent
}

// what names the identifiers, for people.
func (p place) what() string {
	return map[lists.Class]string{
		lists.ClassIPv4: "IPv4 entries", lists.ClassIPv6: "IPv6 entries",
		lists.ClassIdentifier: "places of cookies, tokens, API keys and user names",
	}[p.class]
}

// protected names what is reserved, for people.
func (p place) protected() string {
	if p.reserved == 0 {
		return ""
	}
	return fmt.Sprintf(" and %d protected addresses", p.reserved)
}

// place says how much room a class has in a state of the lists.
func (n *node) place(s *lists.Snapshot, c lists.Class) place {
	p := place{class: c, entries: s.Places(lists.Whitelist, c) + s.Places(lists.Blacklist, c), evicted: n.evictor.evicted[c].Load()}
	if c == lists.ClassIdentifier {
		p.limit, p.key = int(n.config.IdentifierCapacity), "identifier_capacity"
		return p
	}
	p.limit, p.key, p.reserved = int(n.config.Capacity), "capacity", int(n.room.Load())
	return p
}

// places are those of all classes.
func (n *node) places() (all []place) {
	for _, c := range lists.Classes() {
		all = append(all, n.place(n.Snapshot(), c))
	}
	return all
}

// makeRoom raises the capacities to what the lists already hold: lists that were accepted are enforced, whatever was
// configured since. Further adds are refused.
func (n *node) makeRoom() {
	for _, p := range n.places() {
		if p.reserved *= 2; p.over() <= 0 { // protected addresses may become more
			continue
		}
		need := uint32(min(p.entries+p.reserved, 1<<32-1))
		n.log.Warn(p.key+" is below what is listed, and is raised", "configured", p.limit, "now", need)
		if p.class == lists.ClassIdentifier {
			n.config.IdentifierCapacity = need
		} else {
			n.config.Capacity = need
		}
	}
}

// mapSlack is how many prefixes more than are listed the kernel's maps have room for: a change puts what is new before
// it removes what is gone, and detectors that evict may do that to as many at once as the store keeps changes of.
const mapSlack = 8 << 10

// mapCapacity is what the kernel's maps have room for, given what may be listed.
func mapCapacity(listed uint32) uint32 { return uint32(min(uint64(listed)+mapSlack, 1<<32-1)) }

// checkRoom refuses what there is no room for, before anything is changed. What adds nothing of a class is let through:
// it makes room, and may be all that helps where there is too little. The store calls it.
func (n *node) checkRoom(b lists.Batch, next *lists.Snapshot, changes []lists.Change) error {
	for _, c := range lists.Classes() {
		p := n.place(next, c)
		if p.over() <= 0 || !adds(b, changes, c) {
			continue
		}
		return &control.Error{
			Code:    control.CodeFailed,
			Message: fmt.Sprintf("lists are full: %d %s%s do not fit %s = %d", p.entries, p.what(), p.protected(), p.key, p.limit),
			Hint:    fmt.Sprintf("delete entries, or raise %s in the configuration and restart the daemon", p.key),
		}
	}
	return nil
}

// adds reports whether a change adds identifiers of the class.
func adds(b lists.Batch, changes []lists.Change, c lists.Class) bool {
	// Of a big import the changes are not listed one by one.
	for _, op := range b.Ops {
		if op.Op == lists.OpImport && op.Pack.Has(c) {
			return true
		}
	}
	return slices.ContainsFunc(changes, func(ch lists.Change) bool {
		return ch.Before == nil && ch.After != nil && ch.After.ID.Class() == c
	})
}

// automatic reports whether nobody but detectors asks for a change: it adds to the blacklist, from their sources.
func automatic(b lists.Batch) bool {
	return len(b.Ops) > 0 && !slices.ContainsFunc(b.Ops, func(op lists.Operation) bool {
		return op.Op != lists.OpAdd || op.Entry.List != lists.Blacklist || op.Entry.Source == lists.Manual
	})
}

// evictor finds what goes when detectors add to a full list. The store's writer alone uses it.
type evictor struct {
	queues  [lists.ClassIdentifier + 1][]lists.Expendable // what goes first, in order; some of it may be gone
	evicted [lists.ClassIdentifier + 1]atomic.Uint64
}

// evictAhead is how many entries are looked up at once: finding one takes as long as finding them all.
const evictAhead = 1024

// evict names the entries that make room for what detectors add: of the automatic ones those nearest their end. Manual
// entries and the whitelist stay, and so does what another source lists too. It names none if they are too few. The
// store calls it.
func (n *node) evict(b lists.Batch, next *lists.Snapshot, changes []lists.Change) (keys []lists.Key) {
	n.evictor.follow(b, changes)
	if !automatic(b) {
		return nil
	}
	for _, c := range lists.Classes() {
		over := n.place(next, c).over()
		if over <= 0 || !adds(b, changes, c) {
			continue
		}
		some, freed := n.evictor.pick(next, c, over, b)
		if freed < over {
			return nil
		}
		keys = append(keys, some...)
	}
	for _, k := range keys {
		n.evictor.evicted[k.ID.Class()].Add(1)
	}
	return keys
}

// follow keeps the queues complete: what is new or ends otherwise now may have to go before what they hold.
func (e *evictor) follow(b lists.Batch, changes []lists.Change) {
	if slices.ContainsFunc(b.Ops, func(op lists.Operation) bool { return op.Op == lists.OpImport }) {
		clear(e.queues[:]) // its changes may not be listed
	}
	if !slices.ContainsFunc(e.queues[:], func(q []lists.Expendable) bool { return len(q) > 0 }) {
		return
	}
	for _, ch := range changes {
		if ch.After == nil {
			continue
		}
		x, ok := lists.ExpendableOf(*ch.After)
		q := &e.queues[ch.After.ID.Class()]
		if !ok || len(*q) == 0 || x.Compare((*q)[len(*q)-1]) >= 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(*q, x, lists.Expendable.Compare)
		*q = slices.Insert(*q, i, x)
		*q = (*q)[:min(len(*q), 2*evictAhead)]
	}
}

// pick returns entries of the class that may go, and the places that they free: n or more, fewer if there are no more.
// Those of the batch itself stay.
func (e *evictor) pick(s *lists.Snapshot, c lists.Class, n int, b lists.Batch) (keys []lists.Key, freed int) {
	own := make(map[lists.Key]bool, len(b.Ops))
	for _, op := range b.Ops {
		own[op.Entry.Key] = true
	}
	from := func(q []lists.Expendable) (left []lists.Expendable) {
		keys, freed = keys[:0], 0
		for i, x := range q {
			if freed >= n {
				return append(left, q[i:]...)
			}
			now, there := s.Get(x.Key)
			if !there || !now.Expires.Equal(x.Expires) || len(s.Find(lists.Blacklist, x.Key.ID)) > 1 {
				continue
			}
			left = append(left, x) // it stays until it is seen to be gone: the change may yet fail
			if !own[x.Key] {
				keys, freed = append(keys, x.Key), freed+x.Key.ID.Places()
			}
		}
		return left
	}
	e.queues[c] = from(e.queues[c])
	for ask := n + len(own) + evictAhead; freed < n; ask *= 4 { // some of them cannot go
		all := s.Expendable(c, ask)
		e.queues[c] = from(all)
		if len(all) < ask {
			break
		}
	}
	return keys, freed
}

// watchRoom logs when the lists grow full, when there is room again, and that entries were evicted.
func (n *node) watchRoom(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	alarmed, evicted := map[lists.Class]bool{}, map[lists.Class]uint64{}
	for ctx.Err() == nil {
		for _, p := range n.places() {
			if now := p.alarming(); now != alarmed[p.class] {
				if alarmed[p.class] = now; now {
					n.log.Warn("lists grow full", "of", p.what(), "entries", p.entries, "protected", p.reserved, p.key, p.limit)
				} else {
					n.log.Info("lists have room again", "of", p.what(), "entries", p.entries, p.key, p.limit)
				}
			}
			if p.evicted != evicted[p.class] {
				n.log.Warn("automatic entries were evicted to make room", "of", p.what(), "count", p.evicted-evicted[p.class], p.key, p.limit)
				evicted[p.class] = p.evicted
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// statusRoom says that the lists grow full.
func (n *node) statusRoom(bad func(string, ...any)) {
	for _, p := range n.places() {
		if p.alarming() {
			bad("capacity: %d %s%s, of %s = %d; delete entries or raise it", p.entries, p.what(), p.protected(), p.key, p.limit)
		}
	}
}
