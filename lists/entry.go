package lists

import (
	"errors"
	"fmt"
	"time"
)

// Errors that the lists return; test with errors.Is.
var (
	// ErrInvalid: the input is not an identifier, a list, a source or a time.
	ErrInvalid = errors.New("invalid")
)

// List is one of the two lists.
type List uint8

const (
	Whitelist List = iota + 1
	Blacklist
)

// Source says who put an entry on the blacklist. Whitelist entries are always [Manual].
type Source uint8

// The sources in the order in which view_blacklist shows their sections.
const (
	Manual Source = iota + 1
	ABS
	Decoy
	Protocol
	Method
	ContentType
	MissingToken
)

// numSources makes arrays that a Source indexes.
const numSources = int(MissingToken) + 1

// Sources returns every source, in the order of the sections of view_blacklist.
func Sources() []Source {
	return []Source{Manual, ABS, Decoy, Protocol, Method, ContentType, MissingToken}
}

// Realtime reports whether s is one of the real-time detectors of ASE (decoy, protocol, method, content type,
// missing token), whose entries disable_ase_detected_attack deletes.
func (s Source) Realtime() bool { return s >= Decoy && s <= MissingToken }

// Key identifies an entry: an identifier may be on the blacklist from several sources at once.
type Key struct {
	List   List
	Source Source
	ID     ID
}

// Validate returns an error that wraps [ErrInvalid] unless list, source and identifier are what they should be.
func (k Key) Validate() error {
	switch {
	case !valid(listWords, k.List):
		return fmt.Errorf("%w list %d: expected whitelist or blacklist", ErrInvalid, k.List)
	case !valid(sourceWords, k.Source):
		return fmt.Errorf("%w source %d of %s", ErrInvalid, k.Source, Quote(k.ID.String()))
	case k.List == Whitelist && k.Source != Manual:
		return fmt.Errorf("%w source %s of %s: the whitelist is manual only", ErrInvalid, k.Source, Quote(k.ID.String()))
	}
	return k.ID.Validate()
}

// Entry is one row of a list.
//
// Times are wall-clock UTC in whole seconds (Expires is rounded up); a zero Expires means never. Reason, Comment
// and By are free text of UTF-8 without control characters, at most [MaxText] bytes each.
type Entry struct {
	Key
	Created time.Time
	Expires time.Time
	Reason  string
	Comment string
	By      string
}

// MaxText bounds Reason, Comment and By, in bytes.
const MaxText = 1 << 10

// Expired reports whether the entry no longer counts at now: Expires is set and not after now.
func (e Entry) Expired(now time.Time) bool { return !e.Expires.IsZero() && !e.Expires.After(now) }

// Validate returns an error that wraps [ErrInvalid] unless a list can take the entry.
func (e Entry) Validate() error {
	if err := e.Key.Validate(); err != nil {
		return err
	}
	for _, t := range []struct{ what, text string }{{"reason", e.Reason}, {"comment", e.Comment}, {"by", e.By}} {
		if t.text == "" {
			continue
		}
		if problem := checkText(t.text, MaxText); problem != "" {
			return fmt.Errorf("%w %s %s: %s; expected at most %d bytes of UTF-8 text without control characters",
				ErrInvalid, t.what, Quote(t.text), problem, MaxText)
		}
	}
	return nil
}

// ceilSecond rounds up to the second, so that no entry ends before its time.
func ceilSecond(t time.Time) time.Time {
	down := t.Truncate(time.Second) // without a monotonic reading
	if down.Equal(t) {
		return down.UTC()
	}
	return down.Add(time.Second).UTC()
}
