package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/userspace/control"
)

// seen takes what watch sees.
type seen interface {
	drop(control.Drop) error
	lost(samples uint64) error
	close() error
}

func runWatch(c *call) error {
	filter, err := c.dropFilter()
	if err != nil {
		return err
	}
	most := 0
	if s := c.cli.String("count"); s != "" {
		if most, err = strconv.Atoi(s); err != nil || most < 0 {
			return &usageError{fmt.Sprintf("--count %s: expected a whole number, 0 or more", lists.Quote(s)), "-n 10"}
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var out seen = dropLines{c}
	if file := c.cli.String("write"); file != "" {
		filter.Packet = true
		if out, err = c.newCapture(file); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(c.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = watch(ctx, cl, filter, most, out)
	if c.ctx.Err() == nil && errors.Is(ctx.Err(), context.Canceled) {
		err = nil // Ctrl-C is how it ends
	}
	return errors.Join(err, out.close())
}

// watch hands over samples until most of them have come (0: any number), or something ends it.
func watch(ctx context.Context, cl *control.Client, filter control.DropFilter, most int, out seen) error {
	n := 0
	for w, err := range cl.Watch(ctx, filter) {
		switch {
		case err != nil:
			return err
		case w.Drop == nil:
			if err := out.lost(w.Lost); err != nil {
				return err
			}
			continue
		}
		if err := out.drop(*w.Drop); err != nil {
			return err
		}
		if n++; n == most {
			return nil
		}
	}
	return nil
}

// dropFilter reads the flags that say which packets are wanted.
func (c *call) dropFilter() (f control.DropFilter, err error) {
	f = control.DropFilter{
		Interfaces: c.cli.StringSlice("interface"), Protocols: c.cli.StringSlice("protocol"),
		Sources: c.cli.StringSlice("source"), Reasons: c.cli.StringSlice("drop"),
	}
	for i, s := range f.Sources {
		source, err := lists.ParseSource(s) // an alias may be one
		if err != nil {
			return f, &usageError{"--source: " + err.Error(), "one of " + wordList(filters[1:])}
		}
		f.Sources[i] = source.String()
	}
	for flag, to := range map[string]*netip.Prefix{"from": &f.From, "to": &f.To} {
		s := c.cli.String(flag)
		if s == "" {
			continue
		}
		id, _, err := lists.ParseID(lists.KindIP, "", s)
		if err != nil {
			return f, &usageError{fmt.Sprintf("--%s %s: expected an IP address or CIDR", flag, lists.Quote(s)), "--" + flag + " 192.0.2.0/24"}
		}
		*to, _ = id.Prefix()
	}
	if s := c.cli.String("port"); s != "" {
		port, err := strconv.ParseUint(s, 10, 16)
		if err != nil || port == 0 {
			return f, &usageError{fmt.Sprintf("--port %s: expected a number from 1 to 65535", lists.Quote(s)), "--port 443"}
		}
		f.Port = uint16(port)
	}
	return f, nil
}

// dropLines prints samples, one a line.
type dropLines struct{ *call }

const dropTime = "2006-01-02 15:04:05.000"

func (l dropLines) drop(d control.Drop) error {
	if l.json() {
		return l.object(d)
	}
	line := strings.Join([]string{
		d.Time.Local().Format(dropTime), cmp.Or(d.Interface, "?"), cmp.Or(d.Protocol, "?"), endpoint(d.Source, d.SourcePort) + " > " + endpoint(d.Destination, d.DestinationPort),
		cmp.Or(d.Entry, d.Reason), cmp.Or(d.EntrySource, "-"),
	}, " | ")
	if d.Packets > 1 {
		line += fmt.Sprintf(" | %d packets", d.Packets)
	}
	fmt.Fprintln(l.out, oneLine(line))
	return l.flush()
}

func (l dropLines) lost(samples uint64) error {
	if l.json() {
		return l.object(map[string]uint64{"lost": samples})
	}
	l.warn(fmt.Sprintf("%d samples were lost, because this was too slow to take them", samples))
	return nil
}

// object prints a value on one line.
func (l dropLines) object(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	l.out.Write(append(text, '\n'))
	return l.flush()
}

func (l dropLines) flush() error {
	if err := l.out.Flush(); err != nil {
		return &outputError{err}
	}
	return nil
}

func (l dropLines) close() error { return nil }

// endpoint is an address with its port, if there is one.
func endpoint(address string, port uint16) string {
	switch {
	case address == "":
		return "?"
	case port == 0:
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}
