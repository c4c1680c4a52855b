package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// write prints one view, in place of the last one at a terminal.
func (t *topping) write(v topView, again bool) error {
	if v.missing != "" && (!t.told || t.onTerminal()) { // there the table wipes it away
		t.told = true
		defer t.note("rates by source and entry are not shown: " + v.missing)
	}
	if t.json() {
		return writeJSON(t.out, v)
	}
	if t.onTerminal() {
		fmt.Fprint(t.out, "\x1b[H\x1b[2J")
	} else if again {
		fmt.Fprintln(t.out)
	}
	totals := newTopTable(1, "verdict")
	for _, r := range v.Verdicts {
		totals.AppendRow(table.Row{r.Verdict, quantity(r.PPS), quantity(r.BPS)})
	}
	ways := newTopTable(3, "interface", "reason", "family", "packets", "bytes")
	for _, r := range v.Rates {
		ways.AppendRow(table.Row{oneLine(r.Interface), r.Reason, r.Family, quantity(r.PPS), quantity(r.BPS), r.Packets, r.Bytes})
	}
	sources := newTopTable(1, "source ("+v.Accounting+")")
	for _, r := range v.Sources {
		sources.AppendRow(table.Row{oneLine(r.Source), quantity(r.PPS), quantity(r.BPS)})
	}
	entries := newTopTable(2, "entry ("+v.Accounting+")", "source")
	for _, r := range v.Entries {
		entries.AppendRow(table.Row{oneLine(r.Entry), oneLine(r.Source), quantity(r.PPS), quantity(r.BPS)})
	}
	fmt.Fprintln(t.out, totals.Render())
	fmt.Fprintf(t.out, "\n%s\n", ways.Render())
	if len(v.Rates) == 0 {
		fmt.Fprintln(t.out, "No packet came yet")
	}
	if len(v.Sources)+len(v.Entries) > 0 {
		fmt.Fprintf(t.out, "\n%s\n\n%s\n", sources.Render(), entries.Render())
	}
	for _, d := range v.degraded {
		t.warn(d)
	}
	if err := t.out.Flush(); err != nil {
		return &outputError{err}
	}
	return nil
}

// newTopTable is a table whose first names columns are words; rates follow, then further numbers.
func newTopTable(names int, columns ...string) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.Style().Format.Header = text.FormatDefault
	header := table.Row{}
	for i, c := range columns {
		if i == names {
			header = append(header, "packets/s", "bits/s")
		}
		header = append(header, c)
	}
	if len(columns) == names {
		header = append(header, "packets/s", "bits/s")
	}
	t.AppendHeader(header)
	right := []table.ColumnConfig{}
	for n := names + 1; n <= len(header); n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	return t
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
