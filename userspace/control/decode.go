package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/portcullis/portcullis/lists"
)

// decoder turns the wire operations of one batch into those of package lists.
type decoder struct {
	now  time.Time
	by   string
	root bool // may name other sources than manual
}

// batch decodes all operations; the notes say where canonical form differs from what was typed.
func (d decoder) batch(ops []Operation) (out []lists.Operation, notes []string, err error) {
	switch {
	case len(ops) == 0:
		return nil, nil, &Error{Code: CodeInvalid, Message: "batch has no operations"}
	case len(ops) > MaxOps:
		return nil, nil, &Error{Code: CodeInvalid, Message: fmt.Sprintf("batch has %d operations: at most %d", len(ops), MaxOps),
			Hint: "send several batches"}
	}
	out = make([]lists.Operation, len(ops))
	for i, o := range ops {
		op, note, err := d.operation(o)
		if err != nil {
			return nil, nil, inOperation(err, i, len(ops))
		}
		if out[i] = op; note != "" {
			notes = append(notes, note)
		}
	}
	return out, notes, nil
}

// inOperation says which operation an error is about, where there is more than one.
func inOperation(err error, i, n int) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Code: CodeInvalid, Message: err.Error()}
	}
	if n > 1 {
		e.Message = fmt.Sprintf("operation %d of %d: %s", i+1, n, e.Message)
	}
	return e
}

func (d decoder) operation(o Operation) (lists.Operation, string, error) {
	if err := o.refuseStrays(); err != nil {
		return lists.Operation{}, "", err
	}
	switch o.Op {
	case "add":
		return d.add(o)
	case "delete":
		return d.delete(o)
	case "clear":
		l, err := lists.ParseList(o.List)
		return lists.Operation{Op: lists.OpClear, List: l}, "", err
	case "clear_sources":
		op, err := clearSources(o)
		return op, "", err
	case "set":
		set, err := setting(o.Setting, o.To)
		return lists.Operation{Op: lists.OpSet, Settings: set}, "", err
	}
	return lists.Operation{}, "", invalid("op %s: expected add, delete, clear, clear_sources or set", lists.Quote(o.Op))
}

// refuseStrays refuses fields that the operation would ignore.
func (o Operation) refuseStrays() error {
	id := []string{"list", "kind", "name", "value", "source"}
	takes := map[string][]string{
		"add":           append(id, "for", "until", "reason", "comment"),
		"delete":        id,
		"clear":         {"list"},
		"clear_sources": {"list", "sources"},
		"set":           {"setting", "to"},
	}[o.Op]
	given := []struct {
		field string
		set   bool
	}{
		{"list", o.List != ""}, {"kind", o.Kind != ""}, {"name", o.Name != ""}, {"value", o.Value != ""},
		{"for", o.For != 0}, {"until", o.Until != ""}, {"reason", o.Reason != ""}, {"comment", o.Comment != ""},
		{"source", o.Source != ""}, {"sources", len(o.Sources) > 0}, {"setting", o.Setting != ""}, {"to", o.To != ""},
	}
	for _, g := range given {
		if g.set && takes != nil && !slices.Contains(takes, g.field) {
			return invalid("%s does not take %q", o.Op, g.field)
		}
	}
	return nil
}

func (d decoder) add(o Operation) (lists.Operation, string, error) {
	key, note, err := d.key(o)
	if err != nil {
		return lists.Operation{}, "", err
	}
	expires, err := d.end(o)
	if err != nil {
		return lists.Operation{}, "", err
	}
	for _, t := range []struct{ name, text string }{{"reason", o.Reason}, {"comment", o.Comment}} {
		if err := checkText(t.name, t.text); err != nil {
			return lists.Operation{}, "", err
		}
	}
	return lists.Operation{Op: lists.OpAdd, Entry: lists.Entry{
		Key: key, Created: d.now.UTC().Round(time.Second), Expires: expires, Reason: o.Reason, Comment: o.Comment, By: d.by,
	}}, note, nil
}

// delete takes the identifier off from every source, or from the one that is named.
func (d decoder) delete(o Operation) (lists.Operation, string, error) {
	key, note, err := d.key(o)
	if err != nil {
		return lists.Operation{}, "", err
	}
	if o.Source != "" {
		return lists.Operation{Op: lists.OpDeleteKey, Entry: lists.Entry{Key: key}}, note, nil
	}
	return lists.Operation{Op: lists.OpDelete, List: key.List, ID: key.ID}, note, nil
}

func (d decoder) key(o Operation) (lists.Key, string, error) {
	l, err := lists.ParseList(o.List)
	if err != nil {
		return lists.Key{}, "", err
	}
	kind, err := lists.ParseKind(o.Kind)
	if err != nil {
		return lists.Key{}, "", err
	}
	source := lists.Manual
	if o.Source != "" {
		if source, err = lists.ParseSource(o.Source); err != nil {
			return lists.Key{}, "", err
		}
	}
	if source != lists.Manual && l == lists.Whitelist {
		return lists.Key{}, "", invalid("source %s: the whitelist takes manual entries only", o.Source)
	}
	if source != lists.Manual && !d.root {
		return lists.Key{}, "", &Error{Code: CodeForbidden, Message: fmt.Sprintf("source %s: only root may speak for a detector", o.Source),
			Hint: "leave the source out, or call as root without -u"}
	}
	// JSON puts U+FFFD where the sender's bytes were no text: such a value is not what was typed.
	for _, s := range []string{o.Name, o.Value} {
		if !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError) {
			return lists.Key{}, "", invalid("%s %s: not valid UTF-8", o.Kind, lists.Quote(s))
		}
	}
	id, note, err := lists.ParseID(kind, o.Name, o.Value)
	if err != nil {
		return lists.Key{}, "", err
	}
	return lists.Key{List: l, Source: source, ID: id}, note, nil
}

// end returns when an added entry ends, the zero time for never.
func (d decoder) end(o Operation) (time.Time, error) {
	switch {
	case o.For != 0 && o.Until != "":
		return time.Time{}, invalid("both for and until given: give one")
	case o.For < 0 || o.For > int64(lists.MaxFor/time.Second):
		return time.Time{}, invalid("for %d: expected 1 to %d seconds", o.For, int64(lists.MaxFor/time.Second))
	case o.For > 0:
		return d.now.UTC().Add(time.Duration(o.For) * time.Second).Round(time.Second), nil
	case o.Until == "":
		return time.Time{}, nil
	}
	if _, err := time.Parse(time.RFC3339, o.Until); err != nil {
		return time.Time{}, invalid("until %s: expected a time as 2006-01-02T15:04:05Z", lists.Quote(o.Until))
	}
	return lists.ParseUntil(o.Until, d.now, time.UTC)
}

func clearSources(o Operation) (lists.Operation, error) {
	l, err := lists.ParseList(o.List)
	if err != nil {
		return lists.Operation{}, err
	}
	if len(o.Sources) == 0 {
		return lists.Operation{}, invalid("clear_sources: no sources given")
	}
	op := lists.Operation{Op: lists.OpClearSources, List: l}
	for _, w := range o.Sources {
		s, err := lists.ParseSource(w)
		if err != nil {
			return lists.Operation{}, err
		}
		op.Sources = append(op.Sources, s)
	}
	return op, nil
}

// setting returns the pure function that turns one switch.
func setting(name, to string) (func(lists.Settings) lists.Settings, error) {
	if name == "log_level" {
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, to) {
			return nil, invalid("log_level %s: expected debug, info, warn or error", lists.Quote(to))
		}
		return func(s lists.Settings) lists.Settings { s.LogLevel = to; return s }, nil
	}
	on := to == "enabled"
	if !on && to != "disabled" {
		return nil, invalid("%s to %s: expected enabled or disabled", lists.Quote(name), lists.Quote(to))
	}
	switch name {
	case "firewall":
		return func(s lists.Settings) lists.Settings { s.Firewall = on; return s }, nil
	case "abs":
		return func(s lists.Settings) lists.Settings { s.ABS = on; return s }, nil
	case "abs_attack":
		return func(s lists.Settings) lists.Settings { s.ABSAttack = on; return s }, nil
	case "ase_detected_attack":
		return func(s lists.Settings) lists.Settings { s.ASEDetectedAttack = on; return s }, nil
	case "sideband_authentication":
		return func(s lists.Settings) lists.Settings { s.SidebandAuthentication = on; return s }, nil
	case "xff":
		return func(s lists.Settings) lists.Settings { s.XFFIgnored = !on; return s }, nil
	case "audit":
		return func(s lists.Settings) lists.Settings { s.Audit = on; return s }, nil
	}
	return nil, invalid("setting %s: expected firewall, abs, abs_attack, ase_detected_attack, audit, sideband_authentication, xff or log_level", lists.Quote(name))
}

// checkText refuses free text that could forge what a terminal or a log shows.
func checkText(field, s string) error {
	if len(s) > lists.MaxText {
		return invalid("%s has %d bytes: at most %d", field, len(s), lists.MaxText)
	}
	for _, r := range s {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return invalid("%s %s: control characters and text direction marks are not allowed", field, lists.Quote(s))
		}
	}
	return nil
}

func invalid(format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Message: fmt.Sprintf(format, args...)}
}
