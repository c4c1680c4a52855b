package userspace

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/portcullis/portcullis/loader"
	"github.com/portcullis/portcullis/userspace/control"
)

// watchRoom is how many samples are kept for somebody who is slow to take them.
const watchRoom = 4096

// watchAgain is how long after a failure samples are read again.
const watchAgain = time.Second

// watchers hands samples of drops to all who watch. Samples are read only while somebody does, and nobody is waited for.
// Safe for concurrent use.
type watchers struct {
	read    func(ctx context.Context, each func([]loader.Sample)) error
	resolve func(loader.Sample) control.Drop
	log     *slog.Logger
	come    chan struct{} // holds one: somebody has come

	mu   sync.Mutex
	all  map[*watching]struct{}
	stop func() // ends the reading, nil: nobody reads
}

func newWatchers(read func(context.Context, func([]loader.Sample)) error, resolve func(loader.Sample) control.Drop, log *slog.Logger) *watchers {
	return &watchers{read: read, resolve: resolve, log: log, come: make(chan struct{}, 1), all: map[*watching]struct{}{}}
}

// run reads for those who watch until ctx ends.
func (w *watchers) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.come:
		}
		reading, done := w.begin(ctx)
		if !reading {
			continue
		}
		err := w.read(done, w.deliver)
		w.end()
		if err == nil {
			continue
		}
		w.log.Warn("cannot read samples of drops, will try again", "error", err)
		w.fail(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

// begin returns a context that ends when nobody watches any more. It is false if that is so already.
func (w *watchers) begin(ctx context.Context) (bool, context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) == 0 {
		return false, nil
	}
	ctx, w.stop = context.WithCancel(ctx)
	return true, ctx
}

func (w *watchers) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop()
	w.stop = nil
	if len(w.all) > 0 { // somebody came while the last one went
		w.wake()
	}
}

func (w *watchers) wake() {
	select {
	case w.come <- struct{}{}:
	default:
	}
}

// subscribe adds somebody who wants what keep says yes to.
func (w *watchers) subscribe(keep func(*control.Drop) bool) control.Drops {
	s := &watching{all: w, keep: keep, news: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[s] = struct{}{}
	if w.stop == nil {
		w.wake()
	}
	return s
}

// deliver gives samples to everybody who wants them.
func (w *watchers) deliver(batch []loader.Sample) {
	drops := make([]control.Drop, len(batch))
	for i, s := range batch {
		drops[i] = w.resolve(s)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.all {
		s.take(drops)
	}
}

// fail tells everybody that there are no samples.
func (w *watchers) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.all {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		s.tell()
	}
}

// watching is one who watches.
type watching struct {
	all  *watchers
	keep func(*control.Drop) bool
	news chan struct{} // holds one

	mu    sync.Mutex
	drops []control.Drop
	lost  uint64
	err   error
}

func (s *watching) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func (s *watching) take(drops []control.Drop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range drops {
		switch {
		case !s.keep(&drops[i]):
		case len(s.drops) >= watchRoom:
			s.lost++
		default:
			s.drops = append(s.drops, drops[i])
		}
	}
	if len(s.drops) > 0 {
		s.tell()
	}
}

// Next implements control.Drops.
func (s *watching) Next(ctx context.Context) ([]control.Drop, uint64, error) {
	select {
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	case <-s.news:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	drops, lost, err := s.drops, s.lost, s.err
	s.drops, s.lost = nil, 0
	return drops, lost, err
}

// Close implements control.Drops.
func (s *watching) Close() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	delete(s.all.all, s)
	if len(s.all.all) == 0 && s.all.stop != nil {
		s.all.stop()
	}
}
