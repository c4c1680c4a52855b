package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/schollz/progressbar/v3"
)

// From how many entries on a bar is shown, and how often systemd is told.
const (
	barEntries  = 100_000
	statusEvery = time.Second
)

// startup tells how far the daemon's start is: systemd by STATUS=, and whoever looks at the terminal by a bar. The log is
// written through it, so that the two do not mix. Safe for concurrent use.
type startup struct {
	notify   func(state string)
	log      io.Writer // where the log goes
	terminal bool      // log is one

	mu   sync.Mutex
	what string // that is being done
	told time.Time
	bar  *progressbar.ProgressBar
}

// progress is told that done of total entries are through with what; 0: not known.
func (s *startup) progress(what string, done, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); what != s.what || now.Sub(s.told) >= statusEvery {
		s.told = now
		text := what
		if total > 0 {
			text = fmt.Sprintf("%s: %d of %d", what, done, total)
		}
		s.notify("STATUS=" + text)
	}
	if what != s.what {
		s.clearBar()
	}
	s.what = what
	if !s.terminal || total < barEntries {
		return
	}
	if s.bar == nil {
		s.bar = progressbar.NewOptions64(int64(total), progressbar.OptionSetWriter(s.log), progressbar.OptionSetDescription(what),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	_ = s.bar.Set64(int64(min(done, total)))
}

// ready is told that the start is over.
func (s *startup) ready() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clearBar()
	s.notify(daemon.SdNotifyReady + "\nSTATUS=enforcing")
}

func (s *startup) clearBar() {
	if s.bar != nil {
		_ = s.bar.Clear()
		s.bar = nil
	}
}

// Write writes the log.
func (s *startup) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		_ = s.bar.Clear()
	}
	return s.log.Write(b)
}
