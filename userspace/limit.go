package userspace

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Bounds of what others can make the daemon log: lines of one message in a minute, and messages told apart.
const (
	maxLines    = 10
	maxMessages = 128
)

// limiter is a [slog.Handler] that lets few warnings and errors of one message through in a minute: what requests and
// connections can cause would fill the disk otherwise. The next line of the message says how many were left out.
type limiter struct {
	slog.Handler
	*heard
}

// heard is what was logged lately.
type heard struct {
	now   func() time.Time
	mu    sync.Mutex
	lines map[string]*lines // by message
}

type lines struct {
	since         time.Time
	through, left int
}

// limitLog returns a logger that writes to log, within bounds.
func limitLog(log *slog.Logger, now func() time.Time) *slog.Logger {
	return slog.New(limiter{log.Handler(), &heard{now: now, lines: map[string]*lines{}}})
}

// Handle writes the record, or counts it.
func (l limiter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		left, ok := l.may(r.Message)
		if !ok {
			return nil
		}
		if left > 0 {
			r = r.Clone()
			r.AddAttrs(slog.Int("suppressed", left))
		}
	}
	return l.Handler.Handle(ctx, r)
}

// may reports whether a line may be written, and how many of its message were not since the last that was.
func (h *heard) may(message string) (left int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	m := h.lines[message]
	switch {
	case m == nil && len(h.lines) >= maxMessages: // ours are fixed texts, and few
		return 0, false
	case m == nil:
		m = &lines{since: now}
		h.lines[message] = m
	case now.Sub(m.since) >= time.Minute:
		m.since, m.through = now, 0
	}
	if m.through >= maxLines {
		m.left++
		return 0, false
	}
	m.through++
	left, m.left = m.left, 0
	return left, true
}

// WithAttrs keeps the bounds.
func (l limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limiter{l.Handler.WithAttrs(attrs), l.heard}
}

// WithGroup keeps the bounds.
func (l limiter) WithGroup(name string) slog.Handler {
	return limiter{l.Handler.WithGroup(name), l.heard}
}
