package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/portcullis/portcullis/lists"
	"github.com/portcullis/portcullis/lists/format"
)

// section is one part of what view_blacklist shows. The seed has no name for missing tokens; ours follows its others.
type section struct {
	source  lists.Source
	heading string
}

// sections are in the seed's order.
var sections = []section{
	{lists.Manual, "Manual Blacklist"},
	{lists.ABS, "ABS Generated Blacklist"},
	{lists.Decoy, "Realtime Decoy Blacklist"},
	{lists.Protocol, "Realtime Protocol Blacklist"},
	{lists.Method, "Realtime Method Blacklist"},
	{lists.ContentType, "Realtime Content-Type Blacklist"},
	{lists.MissingToken, "Realtime Missing Token Blacklist"},
}

// allSources are those of every section, in order: the daemon then yields section by section, from one generation.
func allSources() []lists.Source {
	var all []lists.Source
	for _, s := range sections {
		all = append(all, s.source)
	}
	return all
}

func (l listNoun) view(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	sources, gap := []lists.Source{lists.Manual}, " "
	if l == blacklist {
		switch filter := c.arg(0); filter {
		case "", "all":
			sources, gap = allSources(), "  " // the seed's two spaces, here only
		default:
			source, err := lists.ParseSource(filter)
			if err != nil {
				return err
			}
			sources = []lists.Source{source}
		}
	}
	entries := cl.List(c.ctx, lists.List(l), sources...)
	if c.json() {
		return writeArray(c.out, entries, wireEntry)
	}
	return l.writeEntries(c.out, entries, gap)
}

// writeEntries prints a list as the seed does. It streams: a million entries take no more memory than one.
func (l listNoun) writeEntries(w io.Writer, entries iter.Seq2[lists.Entry, error], gap string) error {
	var present lists.Source
	number := 0
	var line []byte
	for e, err := range entries {
		if err != nil {
			return err
		}
		line = line[:0]
		if e.Source != present {
			if e.Source < present {
				return fmt.Errorf("view %s: the daemon sends %s after %s: is it of another version?", l.word(), e.Source, present)
			}
			present, number = e.Source, 0
			line = append(append(line, l.heading(e.Source)...), '\n')
		}
		number++
		line = append(strconv.AppendInt(line, int64(number), 10), ')')
		line = append(line, gap...)
		line = append(append(line, "type : "...), e.ID.Kind.String()...)
		if e.ID.Kind.Named() {
			line = append(append(line, ", name : "...), e.ID.Name...)
		}
		line = append(append(line, ", value : "...), e.ID.Value...)
		if _, err := w.Write(append(line, '\n')); err != nil {
			return &outputError{err}
		}
	}
	if present == 0 {
		fmt.Fprintf(w, "No %s\n", l.title())
	}
	return nil
}

func (l listNoun) heading(source lists.Source) string {
	if l == whitelist {
		return l.title()
	}
	for _, s := range sections {
		if s.source == source {
			return s.heading
		}
	}
	return source.String()
}

// wireEntry is an entry in the output of -o json.
func wireEntry(e lists.Entry) format.Element { return format.ElementOf(e) }

// writeArray streams values as one JSON array, a value a line. If the sequence fails the array stays open, so that a
// reader cannot take a part for the whole.
func writeArray[T, J any](w io.Writer, values iter.Seq2[T, error], wire func(T) J) error {
	before := "[\n"
	for v, err := range values {
		if err != nil {
			return err
		}
		text, err := json.Marshal(wire(v))
		if err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
		if _, err := fmt.Fprintf(w, "%s%s", before, text); err != nil {
			return &outputError{err}
		}
		before = ",\n"
	}
	end := "\n]\n"
	if before == "[\n" {
		end = "[]\n"
	}
	if _, err := io.WriteString(w, end); err != nil {
		return &outputError{err}
	}
	return nil
}

// writeJSON writes one value, indented.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return &outputError{err}
	}
	return nil
}
