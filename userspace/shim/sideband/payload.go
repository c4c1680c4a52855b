package sideband

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrPayload: what a gateway sent is not the JSON of a request or a response.
var ErrPayload = errors.New("bad payload")

// payload is what a gateway says of a request, or with ResponseCode of a response. Its clients differ: every form that
// one of them sends is read (see the types of the fields).
type payload struct {
	SourceIP     string   `json:"source_ip"`
	SourcePort   text     `json:"source_port"`
	Method       string   `json:"method"`
	URL          string   `json:"url"`
	HTTPVersion  text     `json:"http_version"`
	UserInfo     pairs    `json:"user_info"`
	Headers      pairs    `json:"headers"`
	ResponseCode text     `json:"response_code"`
	Wrapped      *payload `json:"ASEPayload"` // some wrap it all

	latin1 bool // every byte of it was taken for a character
}

// readPayload reads one JSON object and nothing behind it. Text in ISO-8859-1, which a gateway may send as text/plain,
// becomes UTF-8.
func readPayload(body []byte) (*payload, error) {
	latin1 := !utf8.Valid(body)
	if latin1 {
		body = fromLatin1(body)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	var p payload
	if err := dec.Decode(&p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the JSON object", ErrPayload)
	}
	whole := &p
	if p.Wrapped != nil {
		whole = p.Wrapped
	}
	whole.latin1 = latin1
	return whole, nil
}

func fromLatin1(b []byte) []byte {
	out := make([]byte, 0, len(b)+len(b)/8)
	for _, c := range b {
		out = utf8.AppendRune(out, rune(c))
	}
	return out
}

// text is a string, also where it comes as a number or a boolean; null is none.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	s, err := scalar(json.RawMessage(b))
	*t = text(s)
	return err
}

// scalar reads a string, number, boolean or null.
func scalar(raw json.RawMessage) (string, error) {
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case '{', '[':
		return "", fmt.Errorf("%w: an object or list where a text is expected", ErrPayload)
	}
	if string(raw) == "null" {
		return "", nil
	}
	return string(raw), nil
}

// pair is a name with one value.
type pair struct{ name, value string }

// pairs is a list of objects with one name each, or one object with all of them; names may be repeated in either, and a
// value may be a list. A map would lose the repeated.
type pairs []pair

func (p *pairs) UnmarshalJSON(b []byte) error {
	return p.read(json.NewDecoder(bytes.NewReader(b)))
}

func (p *pairs) read(dec *json.Decoder) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case nil:
		return nil
	case json.Delim('['):
		for dec.More() {
			if err := p.read(dec); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			if err := p.values(dec, name.(string)); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%w: %v where an object of names and values is expected", ErrPayload, t)
	}
	_, err = dec.Token() // the closing one
	return err
}

func (p *pairs) values(dec *json.Decoder, name string) error {
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return err
	}
	all := []json.RawMessage{raw}
	if raw[0] == '[' {
		if err := json.Unmarshal(raw, &all); err != nil {
			return err
		}
	}
	for _, one := range all {
		value, err := scalar(one)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		*p = append(*p, pair{name, value})
	}
	return nil
}

// get returns the first value of a name.
func (p pairs) get(name string) string {
	for _, q := range p {
		if strings.EqualFold(q.name, name) {
			return q.value
		}
	}
	return ""
}

// status reads response_code.
func (p *payload) status() (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(string(p.ResponseCode)))
	if err != nil || n < 100 || n > 999 {
		return 0, fmt.Errorf("%w: response_code %q is no HTTP status", ErrPayload, p.ResponseCode)
	}
	return n, nil
}
