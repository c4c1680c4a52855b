package lists

import (
	"errors"
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

// Realtime reports whether s is one of the real-time detectors of ASE (decoy, protocol, method, content type,
// missing token), whose entries disable_ase_detected_attack deletes.
func (s Source) Realtime() bool { return s >= Decoy && s <= MissingToken }

// Key identifies an entry: an identifier may be on the blacklist from several sources at once.
type Key struct {
	List   List
	Source Source
	ID     ID
}

// Entry is one row of a list.
//
// Times are wall-clock UTC, rounded to the second; a zero Expires means never. Reason, Comment and By are
// free text, at most [MaxText] bytes each.
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
