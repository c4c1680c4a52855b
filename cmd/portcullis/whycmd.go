package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"time"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// silent is an exit code that needs no words: the answer was printed.
type silent int

func (s silent) Error() string { return fmt.Sprintf("exit code %d", int(s)) }

func runWhy(c *call) error {
	if c.has("http") {
		return c.whyHTTP()
	}
	for _, flag := range append([]string{"from"}, requestFlags...) {
		if c.cli.IsSet(flag) {
			return &usageError{"--" + flag + " belongs to a request", "why --http --" + flag + " ... URL"}
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	dropped := false
	answers := func(yield func(control.Why, error) bool) {
		for batch, err := range c.addresses() {
			if err != nil {
				yield(control.Why{}, err)
				return
			}
			all, err := cl.Why(c.ctx, batch)
			if err != nil {
				yield(control.Why{}, err)
				return
			}
			for _, w := range all {
				dropped = dropped || w.Verdict == "drop"
				if !yield(w, nil) {
					return
				}
			}
		}
	}
	if c.json() {
		err = writeArray(c.out, answers, func(w control.Why) control.Why { return w })
	} else {
		err = c.writeWhy(answers)
	}
	if err == nil && dropped {
		return silent(exitDropped)
	}
	return err
}

// addresses yields those of the command line, or, where it says "-", of standard input, a line each, in batches.
func (c *call) addresses() iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		var batch []string
		add := func(text, where string) bool {
			if _, err := netip.ParseAddr(text); err != nil {
				hint := "give an IPv4 or IPv6 address"
				if _, err := netip.ParsePrefix(text); err == nil {
					hint = "give an address of that CIDR: others in it may fare differently"
				}
				yield(nil, &usageError{fmt.Sprintf("%s%s is no IP address", where, lists.Quote(text)), hint})
				return false
			}
			if batch = append(batch, text); len(batch) < control.MaxWhy {
				return true
			}
			full := batch
			batch = nil
			return yield(full, nil)
		}
		for _, arg := range c.cli.Args().Slice() {
			if arg != "-" {
				if !add(arg, "") {
					return
				}
				continue
			}
			lines := bufio.NewScanner(c.in)
			for n := 1; lines.Scan(); n++ {
				text, _, _ := strings.Cut(lines.Text(), "#")
				if text = strings.TrimSpace(text); text != "" && !add(text, fmt.Sprintf("standard input: line %d: ", n)) {
					return
				}
			}
			if err := lines.Err(); err != nil {
				yield(nil, fmt.Errorf("read standard input: %w", err))
				return
			}
		}
		if len(batch) > 0 {
			yield(batch, nil)
		}
	}
}

func (c *call) writeWhy(answers iter.Seq2[control.Why, error]) error {
	requestsOnly := false
	for w, err := range answers {
		if err != nil {
			return err
		}
		requestsOnly = w.Reason == "unprotected" && len(w.Unprotected) == 0
		entries, err := w.List()
		if err != nil {
			return fmt.Errorf("why %s: the daemon answered what this client does not understand: %w", w.Address, err)
		}
		line := func(format string, args ...any) { fmt.Fprintln(c.out, "  "+oneLine(fmt.Sprintf(format, args...))) }
		fmt.Fprintf(c.out, "%s: %s, %s\n", w.Address, w.Verdict, w.Reason)
		for _, e := range entries {
			line("%s", describeEntry(e, time.Now()))
		}
		if len(entries) == 0 {
			line("no entry covers it")
		}
		line("protected: %s", cmp.Or(w.Protected, "no"))
		line("kernel: %s%s; %s", kernelText(w.Kernel), indexText(w.Kernel), agreement(w))
		line("layer: %s, firewall %s, bypass %s", w.Layer, enabled(w.Firewall), map[bool]string{true: "on", false: "off"}[w.Bypass])
		if len(w.Unprotected) > 0 {
			c.warn("not protected: " + strings.Join(w.Unprotected, ", ") + ": packets that come in there pass")
		}
		if !w.Kernel.Agrees {
			c.warn(fmt.Sprintf("%s: kernel and store do not agree: %s; see: portcullis status", w.Address, w.Kernel.Differs))
		}
	}
	if requestsOnly {
		c.note("this daemon has no interfaces: it drops no packets and judges HTTP requests alone; ask about one: why --http --from ADDRESS URL")
	}
	if _, err := c.out.Write(nil); err != nil {
		return &outputError{err}
	}
	return nil
}

// describeEntry says all of an entry on one line.
func describeEntry(e lists.Entry, now time.Time) string {
	text := fmt.Sprintf("%s %s, source %s, by %s, %s old", e.List, e.ID, e.Source, cmp.Or(e.By, "?"), age(now.Sub(e.Created)))
	switch {
	case e.Expires.IsZero():
		text += ", never ends"
	case e.Expired(now):
		text += ", ended at " + e.Expires.Local().Format(time.DateTime)
	default:
		text += fmt.Sprintf(", ends at %s (in %s)", e.Expires.Local().Format(time.DateTime), age(e.Expires.Sub(now)))
	}
	if e.Reason != "" {
		text += ", reason " + lists.Quote(e.Reason)
	}
	if e.Comment != "" {
		text += ", comment " + lists.Quote(e.Comment)
	}
	return text
}

// age is a length of time in its two largest units.
func age(d time.Duration) string {
	d = max(0, d)
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func kernelText(k control.WhyKernel) string {
	if !k.Found {
		return "holds nothing that covers it"
	}
	var parts []string
	say := func(what string, forever bool, end *time.Time) {
		switch {
		case forever:
			parts = append(parts, what+" for ever")
		case end != nil:
			parts = append(parts, what+" until "+end.Local().Format(time.DateTime))
		}
	}
	say("pass", k.Pass, k.PassUntil)
	say("drop", k.Drop, k.DropUntil)
	if k.Source != "" {
		parts = append(parts, "source "+k.Source)
	}
	if k.Protected {
		parts = append(parts, "protected")
	}
	if k.Dropped != nil {
		parts = append(parts, fmt.Sprintf("dropped %d packets, %d bytes", k.Dropped.Packets, k.Dropped.Bytes))
	}
	return strings.Join(parts, ", ")
}

// indexText is what the index says of the address, for the end of a line.
func indexText(k control.WhyKernel) string {
	if k.Index == "" {
		return ""
	}
	return "; index: " + map[string]string{"drop": "drop", "pass": "pass", "ask": "ask the maps"}[k.Index]
}

func agreement(w control.Why) string {
	if !w.Kernel.Agrees {
		return fmt.Sprintf("store and kernel do not agree (generation %d in the store, %d in the kernel)", w.Generation.Store, w.Generation.Kernel)
	}
	return "agrees with the store"
}

// isSilent tells an exit code that needs no words.
func isSilent(err error) (code int, ok bool) {
	var s silent
	if errors.As(err, &s) {
		return int(s), true
	}
	return 0, false
}
