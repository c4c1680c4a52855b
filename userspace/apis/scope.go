package apis

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// reader reads a definition. After the first error every further read gives zero values.
type reader struct {
	decoder
	err   error
	inert []string
}

// scope is one object of a definition. Each field is asked for once, by its name; end refuses what nobody asked for.
type scope struct {
	r      *reader
	path   string // "api_metadata.decoy_config."
	at     int64
	fields map[string]field
}

func (r *reader) scope(path string, v value) *scope {
	s := &scope{r: r, path: path, at: v.from, fields: make(map[string]field)}
	if v.token != json.Delim('{') {
		r.fail(v.from, strings.TrimSuffix(path, "."), "%s, expected an object", v.kind())
		return s
	}
	for _, f := range v.fields {
		s.fields[f.name] = f
	}
	return s
}

func (r *reader) fail(at int64, field, format string, args ...any) {
	if r.err == nil {
		r.err = r.bad(at, field, format, args...)
	}
}

// fail names a field of the scope, or the scope where the field is missing.
func (s *scope) fail(name string, at int64, format string, args ...any) {
	if at == 0 {
		at = s.at
	}
	s.r.fail(at, s.path+name, format, args...)
}

// take returns a field and no longer expects it.
func (s *scope) take(name string) (field, bool) {
	f, ok := s.fields[name]
	delete(s.fields, name)
	return f, ok && s.r.err == nil
}

// end refuses fields that nobody asked for.
func (s *scope) end() {
	for _, name := range slices.Sorted(maps.Keys(s.fields)) {
		s.fail(name, s.fields[name].at, "unknown field")
	}
}

// text is "" if the field is absent.
func (s *scope) text(name string) (string, int64) {
	f, ok := s.take(name)
	if !ok {
		return "", 0
	}
	t, ok := f.token.(string)
	if !ok {
		s.fail(name, f.from, "%s, expected a text", f.kind())
	}
	return t, f.from
}

// checked is a text that is "" or passes the check.
func (s *scope) checked(name string, check func(string) string) string {
	t, at := s.text(name)
	if t == "" {
		return ""
	}
	if problem := check(t); problem != "" {
		s.fail(name, at, "%s: %s", show(t), problem)
	}
	return t
}

// needed is a text that must be there.
func (s *scope) needed(name string, check func(string) string) string {
	if t := s.checked(name, check); t != "" {
		return t
	}
	s.fail(name, 0, "missing or empty")
	return ""
}

func (s *scope) flag(name string, absent bool) bool {
	f, ok := s.take(name)
	if !ok {
		return absent
	}
	t, ok := f.token.(bool)
	if !ok {
		s.fail(name, f.from, "%s, expected true or false", f.kind())
	}
	return t
}

// number takes a number, or a text that is one; "" and what is absent are 0. 0 is always allowed.
func (s *scope) number(name string, low, high int) int {
	f, ok := s.take(name)
	if !ok {
		return 0
	}
	return s.toNumber(name, f, low, high)
}

func (s *scope) toNumber(name string, f field, low, high int) int {
	var text string
	switch t := f.token.(type) {
	case json.Number:
		text = t.String()
	case string:
		text = t
	default:
		s.fail(name, f.from, "%s, expected a number", f.kind())
		return 0
	}
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n != 0 && (n < low || n > high) {
		s.fail(name, f.from, "%s: expected a whole number from %d to %d", show(text), low, high)
		return 0
	}
	return n
}

// rate takes "100/second" (or /minute, /hour), or a number, and returns how many a second, rounded up.
func (s *scope) rate(name string) int {
	f, ok := s.take(name)
	if !ok {
		return 0
	}
	t, isText := f.token.(string)
	n, per, isRate := cutRate(t)
	if !isText || !isRate {
		return s.toNumber(name, f, 0, maxRate)
	}
	count, err := strconv.Atoi(n)
	seconds := map[string]int{"second": 1, "minute": 60, "hour": 3600}[per]
	if err != nil || count < 0 || count > maxRate || seconds == 0 {
		s.fail(name, f.from, "%s: expected such as 100/second, 100/minute or 100/hour", show(t))
		return 0
	}
	return (count + seconds - 1) / seconds
}

const maxRate = 1_000_000_000

func cutRate(t string) (n, per string, ok bool) { return strings.Cut(t, "/") }

// texts is a list of texts, each of which passes the check.
func (s *scope) texts(name string, most int, check func(string) string) []string {
	f, ok := s.take(name)
	if !ok {
		return nil
	}
	if f.token != json.Delim('[') {
		s.fail(name, f.from, "%s, expected a list", f.kind())
		return nil
	}
	if len(f.items) > most {
		s.fail(name, f.items[most].from, "%d elements, expected at most %d", len(f.items), most)
		return nil
	}
	var all []string
	for i, item := range f.items {
		t, ok := item.token.(string)
		at := fmt.Sprintf("%s[%d]", name, i)
		switch {
		case !ok:
			s.fail(at, item.from, "%s, expected a text", item.kind())
		case t == "":
			s.fail(at, item.from, "empty")
		default:
			if problem := check(t); problem != "" {
				s.fail(at, item.from, "%s: %s", show(t), problem)
			}
			all = append(all, t)
		}
	}
	return all
}

// scopes are the objects of a list.
func (s *scope) scopes(name string, most int, each func(*scope)) {
	f, ok := s.take(name)
	if !ok {
		return
	}
	if f.token != json.Delim('[') {
		s.fail(name, f.from, "%s, expected a list", f.kind())
		return
	}
	if len(f.items) > most {
		s.fail(name, f.items[most].from, "%d elements, expected at most %d", len(f.items), most)
		return
	}
	for i, item := range f.items {
		sub := s.r.scope(fmt.Sprintf("%s%s[%d].", s.path, name, i), item)
		each(sub)
		sub.end()
	}
}

// sub is an object within; each is not called if it is absent.
func (s *scope) sub(name string, each func(*scope)) {
	if f, ok := s.take(name); ok {
		sub := s.r.scope(s.path+name+".", f.value)
		each(sub)
		sub.end()
	}
}

// noEffect accepts fields that change nothing here, and remembers those that say something.
func (s *scope) noEffect(names ...string) {
	for _, name := range names {
		f, ok := s.take(name)
		if !ok {
			continue
		}
		if f.items != nil || f.fields != nil {
			s.fail(name, f.from, "%s, expected a text, a number, true or false", f.kind())
		}
		if !f.zero() {
			s.r.inert = append(s.r.inert, strings.TrimPrefix(s.path+name, "api_metadata."))
		}
	}
}
