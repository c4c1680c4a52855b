package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// rate is one line of top, and one element of its -o json.
type rate struct {
	Interface string  `json:"interface"`
	Reason    string  `json:"reason"`
	Family    string  `json:"family"`
	PPS       float64 `json:"packets_per_second"`
	BPS       float64 `json:"bits_per_second"`
	Packets   uint64  `json:"packets"` // since the interface was first attached
	Bytes     uint64  `json:"bytes"`
}

// sample is what status said at a time.
type sample struct {
	at     time.Time
	status control.Status
}

// shortestInterval keeps top from being a load.
const shortestInterval = 100 * time.Millisecond

func runTop(c *call) error {
	interval, count, err := c.pace()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.ctx, os.Interrupt)
	defer stop()
	cl := c.anonymous()
	before, err := takeSample(ctx, cl)
	for n := 0; err == nil && (count == 0 || n < count); n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		var now sample
		if now, err = takeSample(ctx, cl); err == nil {
			err = c.writeTop(rates(before, now), now, n > 0)
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
			all = append(all, rate{i.Name, c.Reason, c.Family, float64(c.Packets-was.Packets) / seconds, float64(c.Bytes-was.Bytes) * 8 / seconds, c.Packets, c.Bytes})
		}
	}
	return all
}

// writeTop prints one table, in place of the last one at a terminal.
func (c *call) writeTop(all []rate, now sample, again bool) error {
	if c.json() {
		return writeJSON(c.out, map[string]any{"time": now.at.UTC(), "rates": all})
	}
	if c.onTerminal() {
		fmt.Fprint(c.out, "\x1b[H\x1b[2J")
	} else if again {
		fmt.Fprintln(c.out)
	}
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(table.Row{"interface", "reason", "family", "packets/s", "bits/s", "packets", "bytes"})
	right := []table.ColumnConfig{}
	for n := 4; n <= 7; n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	for _, r := range all {
		t.AppendRow(table.Row{oneLine(r.Interface), r.Reason, r.Family, quantity(r.PPS), quantity(r.BPS), r.Packets, r.Bytes})
	}
	fmt.Fprintln(c.out, t.Render())
	if len(all) == 0 {
		fmt.Fprintln(c.out, "No packet came yet")
	}
	for _, d := range now.status.Degraded {
		c.warn(d)
	}
	if err := c.out.Flush(); err != nil {
		return &outputError{err}
	}
	return nil
}

// quantity is a number with three digits and a letter for thousands.
func quantity(v float64) string {
	for _, unit := range []string{"", "K", "M", "G"} {
		if v < 999.5 {
			if unit == "" || v >= 99.95 {
				return fmt.Sprintf("%.0f%s", v, unit)
			}
			return fmt.Sprintf("%.1f%s", v, unit)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.1fT", v)
}
