package lists

import (
	"net/netip"
)

// Kind says what sort of client identifier an [ID] holds.
type Kind uint8

// The five kinds of identifier, in the order of the seed.
const (
	KindIP Kind = iota + 1
	KindCookie
	KindToken
	KindAPIKey
	KindUsername
)

// Limits on what an identifier may hold, in bytes.
const (
	MaxValue = 8 << 10
	MaxName  = 256
)

// ID is one client identifier in canonical form: the thing that is listed.
//
// Two IDs are equal (==) exactly when they name the same client. Make one with [ParseID]; the zero value is
// no identifier. Name is the cookie's or API key's name and empty for the other kinds. For [KindIP] Value is
// an address ("1.1.1.1", "2001:db8::1") or a masked CIDR shorter than a host ("10.0.0.0/8"), in RFC 5952 form
// and never IPv4-mapped.
type ID struct {
	Kind  Kind
	Name  string
	Value string
}

// ParseID reads what an admin or a feed typed and returns it in canonical form.
//
// name must be empty unless kind is cookie or api_key. note is not empty when the canonical form says less
// than was typed (host bits of a CIDR were masked); callers show it on stderr. An error wraps [ErrInvalid],
// quotes the input (shortened, control characters escaped) and says what is expected.
func ParseID(kind Kind, name, value string) (id ID, note string, err error) {
	panic("contract")
}

// Prefix returns the addresses an IP identifier covers, a host being a /32 or /128; ok is false for other kinds.
func (id ID) Prefix() (p netip.Prefix, ok bool) { panic("contract") }

// String returns the identifier as the seed prints it: "ip 1.1.1.1", "cookie JSESSIONID cookie_1.4".
func (id ID) String() string { panic("contract") }
