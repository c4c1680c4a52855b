package format

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/portcullis/portcullis/lists"
)

// Element is an entry as -o json prints it. Every field is always there; expires is null if it never does.
type Element struct {
	List    string     `json:"list"`
	Source  string     `json:"source"`
	Type    string     `json:"type"`
	Name    string     `json:"name"`
	Value   string     `json:"value"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires"`
	Reason  string     `json:"reason"`
	Comment string     `json:"comment"`
	By      string     `json:"by"`
}

// ElementOf returns the element of an entry.
func ElementOf(e lists.Entry) Element {
	j := Element{
		List: e.List.String(), Source: e.Source.String(), Type: e.ID.Kind.String(), Name: e.ID.Name, Value: e.ID.Value,
		Created: e.Created, Reason: e.Reason, Comment: e.Comment, By: e.By,
	}
	if !e.Expires.IsZero() {
		j.Expires = &e.Expires
	}
	return j
}

// items makes items of the element: several, if its value is a range.
func (j Element) items(line int, y yield) bool {
	item := Item{Line: line}
	var errs [3]error
	if j.List != "" {
		item.List, errs[0] = lists.ParseList(j.List)
	}
	if j.Source != "" {
		item.Source, errs[1] = lists.ParseSource(j.Source)
	}
	kind := lists.KindIP
	if j.Type != "" {
		kind, errs[2] = lists.ParseKind(j.Type)
	}
	item.Created, item.Reason, item.Comment, item.By = j.Created.UTC(), j.Reason, j.Comment, j.By
	if j.Expires != nil {
		item.Expires = j.Expires.UTC()
	}
	if err := errors.Join(errs[:]...); err != nil {
		return y(Item{}, &Error{Line: line, Err: errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))})
	}
	if kind == lists.KindIP && j.Name == "" {
		return ip(j.Value, item, y)
	}
	var err error
	if item.ID, item.Note, err = lists.ParseID(kind, j.Name, j.Value); err != nil {
		return y(Item{}, &Error{Line: line, Err: err})
	}
	return y(item, nil)
}

// newlines counts lines for a decoder that knows only offsets.
type newlines struct {
	in     io.Reader
	offset int64
	ahead  []int64 // where the lines end that the decoder has not come to
	line   int
}

func (n *newlines) Read(b []byte) (int, error) {
	count, err := n.in.Read(b)
	for i, c := range b[:count] {
		if c == '\n' {
			n.ahead = append(n.ahead, n.offset+int64(i))
		}
	}
	n.offset += int64(count)
	return count, err
}

// at returns the line of an offset, which only grows.
func (n *newlines) at(offset int64) int {
	for len(n.ahead) > 0 && n.ahead[0] < offset {
		n.ahead = n.ahead[1:]
		n.line++
	}
	return n.line + 1
}

// readJSON reads objects, one after the other or in an array. Behind what is no JSON nothing can be read.
func readJSON(in *bufio.Reader, y yield) {
	lines := &newlines{in: in}
	dec := json.NewDecoder(lines)
	array := false
	if first := firstByte(in); first == '[' {
		array = true
		_, _ = dec.Token()
	}
	for {
		if array && !dec.More() {
			if _, err := dec.Token(); err != nil {
				y(Item{}, &Error{Line: lines.at(dec.InputOffset()), Err: jsonError(err), Last: true})
				return
			}
			array = false
		}
		var raw json.RawMessage
		err := dec.Decode(&raw)
		line := lines.at(dec.InputOffset())
		if errors.Is(err, io.EOF) && !array {
			return
		}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			line = lines.at(syntax.Offset)
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				line = lines.at(lines.offset)
			}
			y(Item{}, &Error{Line: line, Err: jsonError(err), Last: true})
			return
		}
		if !element(raw, line, y) {
			return
		}
	}
}

func element(raw json.RawMessage, line int, y yield) bool {
	if !utf8.Valid(raw) {
		return y(Item{}, &Error{Line: line, Err: fmt.Errorf("%w text: it is not valid UTF-8", lists.ErrInvalid)})
	}
	var j Element
	one := json.NewDecoder(bytes.NewReader(raw))
	one.DisallowUnknownFields()
	if err := one.Decode(&j); err != nil {
		return y(Item{}, &Error{Line: line, Err: jsonError(err)})
	}
	return j.items(line, y)
}

func jsonError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends in the middle")
	}
	return fmt.Errorf("%w JSON: %s", lists.ErrInvalid, strings.TrimPrefix(err.Error(), "json: "))
}

// firstByte is the first that is no white space, of those that are buffered.
func firstByte(in *bufio.Reader) byte {
	_, _ = in.Peek(1) // fills the buffer
	begin, _ := in.Peek(max(1, in.Buffered()))
	if begin = bytes.TrimSpace(begin); len(begin) > 0 {
		return begin[0]
	}
	return 0
}

// columns are the fields of CSV, in the order in which they are written.
var columns = []string{"list", "source", "kind", "name", "value", "reason", "comment", "expires", "created", "by"}

// isHeader reports whether a line names the columns of CSV.
func isHeader(line string) bool {
	if strings.TrimSpace(strings.Trim(line, `"`)) == "value" {
		return true
	}
	names, err := headerOf(strings.Split(strings.ReplaceAll(line, `"`, ""), ","))
	return err == nil && len(names) > 1
}

// headerOf reads the names of the columns.
func headerOf(fields []string) ([]string, error) {
	var names []string
	for _, f := range fields {
		f = strings.ToLower(strings.TrimSpace(f))
		switch f {
		case "type":
			f = "kind"
		case "ip", "address":
			f = "value"
		}
		if !slices.Contains(columns, f) {
			return nil, fmt.Errorf("%w column %s: expected some of %s", lists.ErrInvalid, lists.Quote(f), strings.Join(columns, ", "))
		}
		if slices.Contains(names, f) {
			return nil, fmt.Errorf("%w column %s: it is there twice", lists.ErrInvalid, f)
		}
		names = append(names, f)
	}
	if !slices.Contains(names, "value") {
		return nil, fmt.Errorf("%w header: no column is called value", lists.ErrInvalid)
	}
	return names, nil
}

// readCSV reads records below a header.
func readCSV(in *bufio.Reader, y yield) {
	r := csv.NewReader(in)
	r.Comment, r.FieldsPerRecord, r.ReuseRecord = '#', -1, true
	var names []string
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		var parse *csv.ParseError
		if errors.As(err, &parse) && names != nil {
			if !y(Item{}, &Error{Line: parse.Line, Err: fmt.Errorf("%w CSV: %w", lists.ErrInvalid, parse.Err)}) {
				return
			}
			continue
		}
		line := 1
		if err == nil {
			line, _ = r.FieldPos(0)
		}
		if err == nil && names == nil {
			if names, err = headerOf(fields); err == nil {
				continue
			}
		}
		if err != nil {
			y(Item{}, &Error{Line: line, Err: err, Last: true})
			return
		}
		if !record(names, fields, line, y) {
			return
		}
	}
}

// record reads one line of CSV.
func record(names, fields []string, line int, y yield) bool {
	if len(fields) != len(names) {
		return y(Item{}, &Error{Line: line, Err: fmt.Errorf("%w CSV: %d fields, the header has %d", lists.ErrInvalid, len(fields), len(names))})
	}
	var j Element
	for i, name := range names {
		var err error
		switch text := fields[i]; name {
		case "list":
			j.List = text
		case "source":
			j.Source = text
		case "kind":
			j.Type = text
		case "name":
			j.Name = text
		case "value":
			j.Value = text
		case "reason":
			j.Reason = text
		case "comment":
			j.Comment = text
		case "by":
			j.By = text
		case "created":
			if text != "" {
				j.Created, err = parseEnd(text)
			}
		case "expires":
			if text != "" {
				var end time.Time
				end, err = parseEnd(text)
				j.Expires = &end
			}
		}
		if err != nil {
			return y(Item{}, &Error{Line: line, Err: err})
		}
	}
	return j.items(line, y)
}
