package shim

import (
	"context"
	"maps"
	"sync"
	"time"
)

// Held streams are judged again sweepEvery if lists or APIs have changed, and sweepAll in any case, for entries of the
// whitelist that end.
const (
	sweepEvery = 250 * time.Millisecond
	sweepAll   = 5 * time.Second
)

// streams are those that are held.
type streams struct {
	mu   sync.Mutex
	open map[*stream]struct{}
}

// stream is one held stream.
type stream struct {
	request request
	end     func()
}

// Hold has end called, once and within a second, when the client of a passed request comes to be blocked while its
// stream is open. Call it before anything of the request is changed, from the goroutine that judged it. release must be
// called when the stream has ended; end may be running then, in a goroutine of its own.
func (s *Shim) Hold(d Decision, end func()) (release func()) {
	if d.Verdict != Pass || d.seen.request.header == nil {
		return func() {}
	}
	st := &stream{request: d.seen.request, end: end}
	st.request.header = maps.Clone(st.request.header)
	s.streams.mu.Lock()
	s.streams.open[st] = struct{}{}
	s.streams.mu.Unlock()
	return func() { s.streams.release(st) }
}

// release reports whether the stream was still held.
func (s *streams) release(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, held := s.open[st]
	delete(s.open, st)
	return held
}

// all appends the streams that are held now.
func (s *streams) all(to []*stream) []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.open {
		to = append(to, st)
	}
	return to
}

// endListed judges held streams again until ctx ends.
func (s *Shim) endListed(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var buf []*stream
	var lists *index
	var apis *rules
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if lists == s.index.Load() && apis == s.rules.Load() && now.Sub(last) < sweepAll {
				continue
			}
			lists, apis, last = s.index.Load(), s.rules.Load(), now
			buf = s.streams.all(buf[:0])
			s.sweep(buf)
			clear(buf)
		}
	}
}

// sweep ends those streams whose clients are blocked now.
func (s *Shim) sweep(all []*stream) {
	w := works.Get().(*work)
	defer works.Put(w)
	for _, st := range all {
		s.prepare(w, time.Now())
		if d := s.judge(w, &st.request); d.Verdict == Block && s.streams.release(st) {
			s.options.Logger.Info("an open stream is ended: its client is blacklisted",
				"client", d.Client, "kind", d.ID.Kind, "source", d.Source)
			go st.end()
		}
	}
}
