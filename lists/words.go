package lists

import (
	"fmt"
	"strings"
)

// The words of the seed and of the command line, indexed by value; index 0 is no value.
var (
	kindWords    = []string{"", "ip", "cookie", "token", "api_key", "username"}
	listWords    = []string{"", "whitelist", "blacklist"}
	sourceWords  = []string{"", "manual", "abs_detected", "decoy", "invalid_protocol", "invalid_method", "invalid_content_type", "missing_token"}
	opWords      = []string{"", "add", "delete", "delete_key", "clear", "clear_sources", "set", "import"}
	outcomeWords = []string{"", "added", "replaced", "unchanged", "deleted", "not_found", "cleared", "changed"}
)

// ParseKind reads "ip", "cookie", "token", "api_key" or "username".
func ParseKind(s string) (Kind, error) { return parseWord[Kind]("kind", kindWords, s) }

// ParseList reads "whitelist" or "blacklist".
func ParseList(s string) (List, error) { return parseWord[List]("list", listWords, s) }

// ParseSource reads a source as view_blacklist names it: "manual", "abs_detected" (or "abs_generated"), "decoy",
// "invalid_protocol", "invalid_method", "invalid_content_type", "missing_token".
func ParseSource(s string) (Source, error) {
	if s == "abs_generated" {
		return ABS, nil
	}
	return parseWord[Source]("source", sourceWords, s)
}

// ParseOp reads "add", "delete", "delete_key", "clear", "clear_sources", "set" or "import".
func ParseOp(s string) (Op, error) { return parseWord[Op]("operation", opWords, s) }

// ParseOutcome reads "added", "replaced", "unchanged", "deleted", "not_found", "cleared" or "changed".
func ParseOutcome(s string) (Outcome, error) { return parseWord[Outcome]("outcome", outcomeWords, s) }

// String returns the word of the seed for k.
func (k Kind) String() string { return word("Kind", kindWords, k) }

// String returns the word of the seed for l.
func (l List) String() string { return word("List", listWords, l) }

// String returns the word of the seed for s.
func (s Source) String() string { return word("Source", sourceWords, s) }

// String returns the word for o.
func (o Op) String() string { return word("Op", opWords, o) }

// String returns the word for o.
func (o Outcome) String() string { return word("Outcome", outcomeWords, o) }

// String returns "pass", "pass_whitelisted" or "drop".
func (v Verdict) String() string {
	return word("Verdict", []string{"pass", "pass_whitelisted", "drop"}, v)
}

// MarshalText writes the word, nothing for the zero value.
func (k Kind) MarshalText() ([]byte, error) { return marshalWord("kind", kindWords, k) }

// MarshalText writes the word, nothing for the zero value.
func (l List) MarshalText() ([]byte, error) { return marshalWord("list", listWords, l) }

// MarshalText writes the word, nothing for the zero value.
func (s Source) MarshalText() ([]byte, error) { return marshalWord("source", sourceWords, s) }

// MarshalText writes the word, nothing for the zero value.
func (o Op) MarshalText() ([]byte, error) { return marshalWord("operation", opWords, o) }

// MarshalText writes the word, nothing for the zero value.
func (o Outcome) MarshalText() ([]byte, error) { return marshalWord("outcome", outcomeWords, o) }

// UnmarshalText reads the word; nothing is the zero value.
func (k *Kind) UnmarshalText(b []byte) error { return unmarshalWord(k, ParseKind, b) }

// UnmarshalText reads the word; nothing is the zero value.
func (l *List) UnmarshalText(b []byte) error { return unmarshalWord(l, ParseList, b) }

// UnmarshalText reads the word; nothing is the zero value.
func (s *Source) UnmarshalText(b []byte) error { return unmarshalWord(s, ParseSource, b) }

// UnmarshalText reads the word; nothing is the zero value.
func (o *Op) UnmarshalText(b []byte) error { return unmarshalWord(o, ParseOp, b) }

// UnmarshalText reads the word; nothing is the zero value.
func (o *Outcome) UnmarshalText(b []byte) error { return unmarshalWord(o, ParseOutcome, b) }

// valid reports whether v is one of the values that have a word.
func valid[T ~uint8](words []string, v T) bool { return v > 0 && int(v) < len(words) }

func word[T ~uint8](typ string, words []string, v T) string {
	if int(v) < len(words) && words[v] != "" {
		return words[v]
	}
	return fmt.Sprintf("%s(%d)", typ, uint8(v))
}

func parseWord[T ~uint8](what string, words []string, s string) (T, error) {
	for i, w := range words[1:] {
		if s == w {
			return T(i + 1), nil
		}
	}
	return 0, fmt.Errorf("%w %s %s: expected one of %s", ErrInvalid, what, Quote(s), strings.Join(words[1:], ", "))
}

func marshalWord[T ~uint8](what string, words []string, v T) ([]byte, error) {
	if int(v) >= len(words) {
		return nil, fmt.Errorf("%w %s %d", ErrInvalid, what, uint8(v))
	}
	return []byte(words[v]), nil
}

func unmarshalWord[T any](to *T, parse func(string) (T, error), b []byte) (err error) {
	if len(b) == 0 {
		var zero T
		*to = zero
		return nil
	}
	*to, err = parse(string(b))
	return err
}
