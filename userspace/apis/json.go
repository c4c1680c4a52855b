package apis

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// value is a JSON value that knows where it stands in its text.
type value struct {
	from, to int64 // bytes of the text
	token    any   // string, json.Number, bool, nil; of an object or array its json.Delim
	items    []value
	fields   []field
}

type field struct {
	name string
	at   int64
	value
}

// maxDepth is how deep values may nest.
const maxDepth = 8

// decode reads one JSON value and nothing behind it. Names that an object has twice are refused.
func decode(file string, text []byte) (value, error) {
	d := decoder{Decoder: json.NewDecoder(bytes.NewReader(text)), file: file, text: text}
	d.UseNumber()
	if !utf8.Valid(text) {
		return value{}, fmt.Errorf("%w: %s: not valid UTF-8", ErrInvalid, file)
	}
	v, err := d.value(0)
	if err != nil {
		return value{}, d.explain(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return value{}, d.bad(v.to, "", "something follows the definition")
	}
	return v, nil
}

type decoder struct {
	*json.Decoder
	file string
	text []byte
}

func (d *decoder) value(depth int) (v value, err error) {
	v.from = d.next()
	if v.token, err = d.Token(); err != nil {
		return v, err
	}
	if depth == maxDepth {
		return v, d.bad(v.from, "", "values are nested more than %d deep", maxDepth)
	}
	switch v.token {
	case json.Delim('['):
		for d.More() {
			item, err := d.value(depth + 1)
			if err != nil {
				return v, err
			}
			v.items = append(v.items, item)
		}
		_, err = d.Token()
	case json.Delim('{'):
		seen := make(map[string]bool)
		for d.More() {
			f := field{at: d.next()}
			name, err := d.Token()
			if err != nil {
				return v, err
			}
			if f.name, _ = name.(string); seen[f.name] {
				return v, d.bad(f.at, f.name, "it is there twice")
			}
			seen[f.name] = true
			if f.value, err = d.value(depth + 1); err != nil {
				return v, err
			}
			v.fields = append(v.fields, f)
		}
		_, err = d.Token()
	}
	v.to = d.InputOffset()
	return v, err
}

// next is where the next token begins.
func (d *decoder) next() int64 {
	at := d.InputOffset()
	for at < int64(len(d.text)) && bytes.IndexByte([]byte(" \t\r\n,:"), d.text[at]) >= 0 {
		at++
	}
	return at
}

// bad is the error that a field makes no sense.
func (d *decoder) bad(at int64, field, format string, args ...any) error {
	where := fmt.Sprintf("%s: line %d: ", d.file, line(d.text, at))
	if field != "" {
		where += field + ": "
	}
	return fmt.Errorf("%w: %s%s", ErrInvalid, where, fmt.Sprintf(format, args...))
}

// explain says where the JSON is none.
func (d *decoder) explain(err error) error {
	if errors.Is(err, ErrInvalid) {
		return err
	}
	at := d.InputOffset()
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		at = max(0, syntax.Offset-1)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return d.bad(int64(len(d.text)), "", "not JSON: it ends too early")
	}
	return d.bad(at, "", "not JSON: %v", err)
}

func line(text []byte, at int64) int {
	return 1 + bytes.Count(text[:min(at, int64(len(text)))], []byte("\n"))
}

// kind names what a value is, for people.
func (v value) kind() string {
	switch v.token.(type) {
	case string:
		return "a text"
	case json.Number:
		return "a number"
	case bool:
		return "true or false"
	case nil:
		return "null"
	}
	if v.token == json.Delim('[') {
		return "a list"
	}
	return "an object"
}

// zero reports whether the value says as much as its absence.
func (v value) zero() bool {
	switch t := v.token.(type) {
	case string:
		n, _, isRate := cutRate(t)
		return t == "" || isRate && n == "0"
	case json.Number:
		f, err := t.Float64()
		return err == nil && f == 0
	case bool:
		return !t
	case nil:
		return true
	}
	for _, f := range v.fields {
		if !f.zero() {
			return false
		}
	}
	return len(v.items) == 0
}

// show quotes a value of the text for an error.
func show(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.QuoteToASCII(s)
}
