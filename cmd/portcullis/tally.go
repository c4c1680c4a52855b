package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/portcullis/portcullis/userspace/control"
)

// amount is an amount of traffic a second, and one element of top's -o json.
type amount struct {
	PPS float64 `json:"packets_per_second"`
	BPS float64 `json:"bits_per_second"`
}

func amountOf(packets, bytes uint64, seconds float64) amount {
	return amount{float64(packets) / seconds, float64(bytes) * 8 / seconds}
}

// entryName tells entries of the blacklist apart.
type entryName struct {
	Entry  string `json:"entry"`
	Source string `json:"source"`
}

// entryRate is what an entry drops.
type entryRate struct {
	entryName
	amount
}

// sourceRate is what entries of a source drop.
type sourceRate struct {
	Source string `json:"source"`
	amount
}

// Bounds of a tally: names in one interval, and prefixes whose exact counts are asked for.
const (
	maxNames    = 100_000
	maxPrefixes = 1000
)

// tally adds up samples of drops. Where the daemon counts exactly, samples only say which prefixes to ask about. Safe for
// concurrent use.
type tally struct {
	mu       sync.Mutex
	sources  map[string]control.Hits
	entries  map[entryName]control.Hits
	prefixes map[string]*counted // with exact accounting
	since    time.Time
	err      error // why there are no samples
}

// counted is the exact count of a prefix when it was last looked at.
type counted struct {
	name entryName
	hits control.Hits
	at   time.Time
}

func newTally() *tally {
	return &tally{sources: map[string]control.Hits{}, entries: map[entryName]control.Hits{}, prefixes: map[string]*counted{}, since: time.Now()}
}

// follow adds samples until ctx ends or there are none to be had.
func (t *tally) follow(ctx context.Context, cl *control.Client) {
	for w, err := range cl.Watch(ctx, control.DropFilter{Reasons: []string{"drop_blacklisted"}}) {
		if err != nil {
			t.mu.Lock()
			t.err = err
			t.mu.Unlock()
			return
		}
		if w.Drop != nil && w.Drop.Entry != "" {
			t.add(*w.Drop, time.Now())
		}
	}
}

func (t *tally) add(d control.Drop, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := entryName{d.Entry, d.EntrySource}
	if d.Hits != nil {
		if t.prefixes[d.Prefix] == nil && len(t.prefixes) < maxPrefixes {
			t.prefixes[d.Prefix] = &counted{name: name, hits: *d.Hits, at: now}
		}
		return
	}
	grow := func(h control.Hits) control.Hits {
		return control.Hits{Packets: h.Packets + d.Packets, Bytes: h.Bytes + d.Packets*uint64(d.Length)}
	}
	t.sources[d.EntrySource] = grow(t.sources[d.EntrySource])
	if _, known := t.entries[name]; known || len(t.entries) < maxNames {
		t.entries[name] = grow(t.entries[name])
	}
}

// estimate returns the rates by samples since the last call.
func (t *tally) estimate(now time.Time) (sources []sourceRate, entries []entryRate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seconds := now.Sub(t.since).Seconds()
	for s, h := range t.sources {
		sources = append(sources, sourceRate{s, amountOf(h.Packets, h.Bytes, seconds)})
	}
	for e, h := range t.entries {
		entries = append(entries, entryRate{e, amountOf(h.Packets, h.Bytes, seconds)})
	}
	clear(t.sources)
	clear(t.entries)
	t.since = now
	return sources, entries
}

// names are the prefixes to ask about.
func (t *tally) names() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.prefixes))
}

// exact returns the rates of entries by the counts of their prefixes, and forgets prefixes that dropped nothing.
func (t *tally) exact(prefixes []string, hits []control.Hits, now time.Time) []entryRate {
	t.mu.Lock()
	defer t.mu.Unlock()
	rates := map[entryName]amount{}
	for i, p := range prefixes {
		was := t.prefixes[p]
		before := was.hits
		if hits[i].Packets < before.Packets || hits[i].Bytes < before.Bytes {
			before = control.Hits{} // counted anew
		}
		more := control.Hits{Packets: hits[i].Packets - before.Packets, Bytes: hits[i].Bytes - before.Bytes}
		if more.Packets == 0 {
			delete(t.prefixes, p)
			continue
		}
		a := amountOf(more.Packets, more.Bytes, now.Sub(was.at).Seconds())
		sum := rates[was.name]
		rates[was.name] = amount{sum.PPS + a.PPS, sum.BPS + a.BPS}
		was.hits, was.at = hits[i], now
	}
	var all []entryRate
	for name, a := range rates {
		all = append(all, entryRate{name, a})
	}
	return all
}

// failed is why there are no samples, nil while there are.
func (t *tally) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// most sorts by packets, the most first, and cuts what is more than a screen shows.
func most[T any](all []T, name func(T) string, of func(T) amount, rows int) []T {
	slices.SortFunc(all, func(a, b T) int {
		return cmp.Or(cmp.Compare(of(b).PPS, of(a).PPS), cmp.Compare(name(a), name(b)))
	})
	return all[:min(len(all), rows)]
}
