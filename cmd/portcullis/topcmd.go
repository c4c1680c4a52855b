package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// rate is one line of top, and one element of its -o json.
type rate struct {
	Interface string `json:"interface"`
	Reason    string `json:"reason"`
	Family    string `json:"family"`
	amount
	Packets uint64 `json:"packets"` // since the interface was first attached
	Bytes   uint64 `json:"bytes"`
}

// verdictRate is what passes, or is dropped, on all interfaces.
type verdictRate struct {
	Verdict string `json:"verdict"`
	amount
}

// topView is all that top shows of one interval, as -o json prints it.
type topView struct {
	Time     time.Time     `json:"time"`
	Verdicts []verdictRate `json:"verdicts"`
	Rates    []rate        `json:"rates"`
	// Accounting says how sources and entries were counted: sampled (an estimate) or exact; "" if they are not known.
	Accounting string       `json:"accounting"`
	Sources    []sourceRate `json:"sources"`
	Entries    []entryRate  `json:"entries"` // those that drop the most
	degraded   []string
	missing    string // why there are no sources and entries
}

// topRows is how many entries are shown.
const topRows = 20

// sample is what status said at a time.
type sample struct {
	at     time.Time
	status control.Status
}

// shortestInterval keeps top from being a load.
const shortestInterval = 100 * time.Millisecond

// topping is one run of top.
type topping struct {
	*call
	status *control.Client // needs no login
	login  *control.Client
	tally  *tally
	told   bool // that sources and entries are missing
}

func runTop(c *call) error {
	interval, count, err := c.pace()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.ctx, os.Interrupt)
	defer stop()
	t := &topping{call: c, status: c.anonymous(), tally: newTally()}
	if t.login, err = c.client(); err != nil {
		return err
	}
	before, err := takeSample(ctx, t.status)
	if err == nil {
		go t.tally.follow(ctx, t.login)
	}
	for n := 0; err == nil && (count == 0 || n < count); n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		var now sample
		if now, err = takeSample(ctx, t.status); err == nil {
			err = t.write(t.view(ctx, before, now), n > 0)
			before = now
		}
	}
	if c.ctx.Err() == nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil // Ctrl-C is how it ends
	}
	return err
}

// pace reads --interval and --count.
func (c *call) pace() (interval time.Duration, count int, err error) {
	interval = time.Second
	if s := c.cli.String("interval"); s != "" {
		if interval, err = time.ParseDuration(s); err != nil || interval < shortestInterval || interval > time.Hour {
			return 0, 0, &usageError{fmt.Sprintf("--interval %s: expected a duration from %s to 1h", lists.Quote(s), shortestInterval), "--interval 2s"}
		}
	}
	if !c.onTerminal() {
		count = 1
	}
	if s := c.cli.String("count"); s != "" {
		if count, err = strconv.Atoi(s); err != nil || count < 0 {
			return 0, 0, &usageError{fmt.Sprintf("--count %s: expected a whole number, 0 or more", lists.Quote(s)), "-n 10"}
		}
	}
	return interval, count, nil
}

// onTerminal reports whether somebody looks at standard output.
func (c *call) onTerminal() bool { return !c.json() && term.IsTerminal(int(os.Stdout.Fd())) }

func takeSample(ctx context.Context, cl *control.Client) (sample, error) {
	st, err := cl.Status(ctx)
	return sample{time.Now(), st}, err
}

// view works out what happened between two samples.
func (t *topping) view(ctx context.Context, before, now sample) topView {
	v := topView{Time: now.at.UTC(), Rates: rates(before, now), Sources: []sourceRate{}, Entries: []entryRate{}, degraded: now.status.Degraded}
	v.Verdicts = verdicts(v.Rates)
	if err := t.tally.failed(); err != nil {
		v.missing = explain(err)
		return v
	}
	v.Accounting = now.status.Accounting
	sources, entries := t.tally.estimate(now.at)
	if v.Accounting == "exact" {
		var err error
		if entries, err = t.exactEntries(ctx); err != nil {
			v.missing = explain(err)
			return v
		}
		sources = sourceRates(before, now)
	}
	v.Sources = append(v.Sources, most(sources, func(r sourceRate) string { return r.Source }, func(r sourceRate) amount { return r.amount }, len(sources))...)
	v.Entries = append(v.Entries, most(entries, func(r entryRate) string { return r.Entry + " " + r.Source }, func(r entryRate) amount { return r.amount }, topRows)...)
	return v
}

// exactEntries asks for the counts of the prefixes that samples came from.
func (t *topping) exactEntries(ctx context.Context) ([]entryRate, error) {
	prefixes := t.tally.names()
	if len(prefixes) == 0 {
		return nil, nil
	}
	hits, err := t.login.Hits(ctx, prefixes)
	if err != nil {
		return nil, err
	}
	return t.tally.exact(prefixes, hits, time.Now()), nil
}

// explain says why sources and entries are missing.
func explain(err error) string {
	if wire, ok := errors.AsType[*control.Error](err); ok {
		return wire.Message
	}
	return err.Error()
}

// rates compares two samples. Counters that began anew count from nothing.
func rates(before, now sample) []rate {
	type way struct{ iface, reason, family string }
	old := map[way]control.Counter{}
	for _, i := range before.status.Interfaces {
		for _, c := range i.Counters {
			old[way{i.Name, c.Reason, c.Family}] = c
		}
	}
	seconds := now.at.Sub(before.at).Seconds()
	all := []rate{}
	for _, i := range now.status.Interfaces {
		for _, c := range i.Counters {
			if c.Packets == 0 {
				continue
			}
			was := old[way{i.Name, c.Reason, c.Family}]
			if was.Packets > c.Packets || was.Bytes > c.Bytes {
				was = control.Counter{}
			}
			all = append(all, rate{i.Name, c.Reason, c.Family, amountOf(c.Packets-was.Packets, c.Bytes-was.Bytes, seconds), c.Packets, c.Bytes})
		}
	}
	return all
}

// verdicts adds up rates by what happened to the packets.
func verdicts(all []rate) []verdictRate {
	sums := []verdictRate{{Verdict: "drop"}, {Verdict: "pass"}}
	for _, r := range all {
		verdict, _, _ := strings.Cut(r.Reason, "_")
		i := slices.IndexFunc(sums, func(v verdictRate) bool { return v.Verdict == verdict })
		if i < 0 {
			continue
		}
		sums[i].PPS += r.PPS
		sums[i].BPS += r.BPS
	}
	return sums
}

// sourceRates compares what two samples say of sources, if they were counted.
func sourceRates(before, now sample) (all []sourceRate) {
	old := map[string]control.Hits{}
	for _, s := range before.status.Sources {
		old[s.Source] = s.Hits
	}
	seconds := now.at.Sub(before.at).Seconds()
	for _, s := range now.status.Sources {
		was := old[s.Source]
		if s.Packets == 0 || was.Packets > s.Packets || was.Bytes > s.Bytes {
			was = control.Hits{}
		}
		if s.Packets > 0 {
			all = append(all, sourceRate{s.Source, amountOf(s.Packets-was.Packets, s.Bytes-was.Bytes, seconds)})
		}
	}
	return all
}
