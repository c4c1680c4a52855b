package shim

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Held streams are looked at sweepEvery if lists or APIs have changed; those that nothing of a change names are not
// judged for it. Judging goes on for sweepSlice before the next change is looked at, the streams that cost least first:
// so those whose clients were listed end soon, however many others there are and however long these take to read.
// What passes for the sake of the whitelist, or of who is protected, is judged in any case every sweepAll.
const (
	sweepEvery = 250 * time.Millisecond
	sweepSlice = 100 * time.Millisecond
	sweepAll   = 5 * time.Second
)

// streams are those that are held.
type streams struct {
	mu      sync.Mutex
	open    map[*stream]struct{}
	changed touched   // since the last look
	late    []*stream // judged by what was in force before a change that may have been looked at already
}

// stream is one held stream. What follows end belongs to the goroutine that sweeps, once the stream is held.
type stream struct {
	request request
	cost    int // of judging it
	end     func()
	may     filter // what it was found to bear; nil: not known
	due     bool   // to be judged
	routine bool   // to be judged every sweepAll
}

// Hold has end called, once and within a second, when the client of a passed request comes to be blocked while its
// stream is open. Call it before anything of the request is changed, from the goroutine that judged it. release must be
// called when the stream has ended; end may be running then, in a goroutine of its own.
func (s *Shim) Hold(d Decision, end func()) (release func()) {
	if d.Verdict != Pass || d.seen.request.header == nil {
		return func() {}
	}
	st := &stream{request: d.seen.request, cost: d.seen.cost, end: end, routine: s.favoured(&d)}
	st.request.header = maps.Clone(st.request.header)
	s.streams.mu.Lock()
	s.streams.open[st] = struct{}{}
	if d.seen.by != s.index.Load().serial+s.rules.Load().serial {
		s.streams.late = append(s.streams.late, st)
	}
	s.streams.mu.Unlock()
	return func() { s.streams.release(st) }
}

// favoured: the request passes for something that may end without a change of lists.
func (s *Shim) favoured(d *Decision) bool {
	return d.Reason == PassWhitelisted || s.options.Protected != nil && s.options.Protected(d.Client)
}

// release reports whether the stream was still held.
func (s *streams) release(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, held := s.open[st]
	delete(s.open, st)
	return held
}

func (s *streams) held(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, held := s.open[st]
	return held
}

// touch notes a change.
func (s *streams) touch(what touched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.add(what)
}

// appendDue appends the streams that are to be judged for what has changed, or because it is time to.
func (s *streams) appendDue(due []*stream, routine bool) []*stream {
	s.mu.Lock()
	what, late := s.changed, s.late
	s.changed, s.late = touched{}, nil
	quiet := !what.all && len(what.tags)+len(what.prefixes) == 0 && !routine
	var all []*stream
	if !quiet {
		all = make([]*stream, 0, len(s.open))
		for st := range s.open {
			all = append(all, st)
		}
	}
	s.mu.Unlock()
	add := func(st *stream) {
		if !st.due {
			st.due = true
			due = append(due, st)
		}
	}
	for _, st := range late {
		add(st)
	}
	for _, st := range all {
		if st.names(what) || routine && st.routine {
			add(st)
		}
	}
	return due
}

// names reports whether a change may concern the stream.
func (st *stream) names(what touched) bool {
	if what.all || len(what.tags) > 0 && (st.may == nil || slices.ContainsFunc(what.tags, st.may.has)) {
		return true
	}
	for _, p := range what.prefixes {
		if p.Contains(st.request.client) {
			return true
		}
	}
	return false
}

// endListed judges held streams again until ctx ends.
func (s *Shim) endListed(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var due []*stream
	var last time.Time
	for {
		if len(due) == 0 {
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		if ctx.Err() != nil {
			return
		}
		routine := time.Since(last) >= sweepAll
		if routine {
			last = time.Now()
		}
		due = s.streams.appendDue(due, routine)
		slices.SortStableFunc(due, func(a, b *stream) int { return cmp.Compare(a.cost, b.cost) })
		n := s.sweep(due)
		due = slices.Delete(due, 0, n)
	}
}

// sweep judges streams for a while, and ends those whose clients are blocked now. It returns how many it judged.
func (s *Shim) sweep(all []*stream) int {
	w := works.Get().(*work)
	defer works.Put(w)
	start := time.Now()
	for i, st := range all {
		if i > 0 && time.Since(start) > sweepSlice {
			return i
		}
		if st.due = false; !s.streams.held(st) {
			continue
		}
		s.prepare(w, time.Since(s.began))
		w.gather = true
		var d Decision
		s.judge(w, &st.request, &d)
		if st.may = nil; d.Verdict != Refuse { // else not all of it was read
			st.may = newFilter(w.tags)
		}
		st.routine = s.favoured(&d)
		if d.Verdict == Block && s.streams.release(st) {
			s.options.Logger.Info("an open stream is ended: its client is blacklisted",
				"client", d.Client, "kind", d.ID.Kind, "source", d.Source)
			go st.end()
		}
	}
	return len(all)
}

// filter holds tags, and some more: a Bloom filter of four bits a tag. Nil holds all.
type filter []uint64

// maxFilter bounds a filter's size in words: who bears thousands of identifiers may be judged in vain.
const maxFilter = 256

func newFilter(tags []uint64) filter {
	words := 1
	for words < maxFilter && words*64 < len(tags)*16 {
		words *= 2
	}
	f := make(filter, words)
	for _, tag := range tags {
		for i := range uint64(4) {
			bit := f.bit(tag, i)
			f[bit/64] |= 1 << (bit % 64)
		}
	}
	return f
}

func (f filter) bit(tag, i uint64) uint64 {
	return (tag>>32 + i*(tag&0xffffffff|1)) & uint64(len(f)*64-1)
}

func (f filter) has(tag uint64) bool {
	for i := range uint64(4) {
		if bit := f.bit(tag, i); f[bit/64]&(1<<(bit%64)) == 0 {
			return false
		}
	}
	return true
}
