package userspace

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLimitLog(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1_000_000, 0)
	log := limitLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), func() time.Time { return now })
	lines := func() (n int) {
		n = strings.Count(out.String(), "\n")
		out.Reset()
		return n
	}

	for i := range 1000 { // through loggers made of it too
		log.With("a", i).WithGroup("g").Warn("odd", "peer", i)
		log.Error("worse")
	}
	if n := lines(); n != 2*maxLines {
		t.Errorf("%d lines of 2000, want %d", n, 2*maxLines)
	}
	for range 100 {
		log.Info("usual")
		log.Debug("detail")
	}
	if n := lines(); n != 200 {
		t.Errorf("%d lines that are no warning of 200", n)
	}

	now = now.Add(time.Minute)
	log.Warn("odd")
	log.Warn("odd")
	if text := out.String(); strings.Count(text, "suppressed") != 1 || !strings.Contains(text, fmt.Sprintf("suppressed=%d", 1000-maxLines)) {
		t.Errorf("after a minute: %q", text)
	}
	lines()

	for i := range 10 * maxMessages {
		log.Warn(fmt.Sprint("made up ", i))
	}
	if n := lines(); n >= maxMessages {
		t.Errorf("%d lines of messages without number", n)
	}
}
