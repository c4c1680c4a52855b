package lists

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
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

// Named reports whether identifiers of the kind have a name beside the value: cookie and api_key.
func (k Kind) Named() bool { return k == KindCookie || k == KindAPIKey }

// Limits on what an identifier may hold, in bytes.
const (
	MaxValue = 8 << 10
	MaxName  = 256
)

// ID is one client identifier in canonical form: the thing that is listed.
//
// Two IDs are equal (==) exactly when they name the same client as the lists see it: names and values compare
// byte for byte (a matcher may look more liberally, for instance at header names). Make one with [ParseID]; the
// zero value is no identifier. Name is the cookie's or API key's name and empty for the other kinds. For [KindIP]
// Value is an address ("1.1.1.1", "2001:db8::1") or a masked CIDR shorter than a host ("10.0.0.0/8"), in RFC 5952
// form and never IPv4-mapped.
//
// A value is 1 to [MaxValue] bytes of UTF-8 without control characters (C0, DEL, C1: tabs and newlines among
// them); spaces count and stay, bidirectional characters are allowed, since a client can send them. A name is
// 1 to [MaxName] bytes of the same without white space; a cookie's name has none of = ; , either. Text in
// another encoding than UTF-8 is refused: it could not travel through JSON unchanged, and would silently not match.
type ID struct {
	Kind  Kind
	Name  string
	Value string
}

// ParseID reads what an admin or a feed typed and returns it in canonical form.
//
// name must be empty unless kind is cookie or api_key. note is not empty when the canonical form says less
// than was typed (host bits of a CIDR were masked) or can hardly be meant (a value that begins or ends with a
// space); callers show it on stderr. An error wraps [ErrInvalid], quotes the input (shortened, control
// characters escaped) and says what is expected. "0.0.0.0/0" and "::/0" are identifiers like others.
func ParseID(kind Kind, name, value string) (id ID, note string, err error) {
	switch {
	case !valid(kindWords, kind):
		return ID{}, "", fmt.Errorf("%w kind %d: expected one of %s", ErrInvalid, kind, strings.Join(kindWords[1:], ", "))
	case kind.Named():
		if err := checkName(kind, name); err != nil {
			return ID{}, "", err
		}
	case name != "":
		return ID{}, "", fmt.Errorf("%w name %s: %s has a value only", ErrInvalid, Quote(name), kind)
	}
	if kind == KindIP {
		p, note, err := parsePrefix(value)
		if err != nil {
			return ID{}, "", err
		}
		return ID{Kind: KindIP, Value: formatPrefix(p)}, note, nil
	}
	if problem := checkText(value, MaxValue); problem != "" {
		return ID{}, "", fmt.Errorf("%w %s %s: %s; expected 1 to %d bytes of UTF-8 text without control characters",
			ErrInvalid, kind, Quote(value), problem, MaxValue)
	}
	if value[0] == ' ' || value[len(value)-1] == ' ' {
		note = fmt.Sprintf("%s %s begins or ends with a space: it matches only a client that sends the space too", kind, Quote(value))
	}
	return ID{Kind: kind, Name: name, Value: value}, note, nil
}

// Validate returns an error that wraps [ErrInvalid] unless id is what [ParseID] returns.
func (id ID) Validate() error {
	canonical, _, err := ParseID(id.Kind, id.Name, id.Value)
	if err == nil && canonical != id {
		err = fmt.Errorf("%w %s %s: expected its canonical form %s", ErrInvalid, id.Kind, Quote(id.Value), canonical.Value)
	}
	return err
}

// Prefix returns the addresses an IP identifier covers, a host being a /32 or /128; ok is false for other kinds.
func (id ID) Prefix() (p netip.Prefix, ok bool) {
	if id.Kind != KindIP {
		return netip.Prefix{}, false
	}
	if a, err := netip.ParseAddr(id.Value); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), a.Zone() == ""
	}
	p, err := netip.ParsePrefix(id.Value)
	return p, err == nil
}

// String returns the identifier as the seed prints it: "ip 1.1.1.1", "cookie JSESSIONID cookie_1.4".
func (id ID) String() string {
	if id.Name == "" {
		return id.Kind.String() + " " + id.Value
	}
	return id.Kind.String() + " " + id.Name + " " + id.Value
}

// PrefixID returns the identifier of the addresses that p covers: masked and unmapped. ok is false if p is not
// valid or a mapped prefix shorter than /96.
func PrefixID(p netip.Prefix) (id ID, ok bool) {
	p, err := canonicalPrefix(p)
	if err != nil {
		return ID{}, false
	}
	return ID{Kind: KindIP, Value: formatPrefix(p)}, true
}

var (
	errZone        = errors.New("an address on the lists has no zone")
	errShortMapped = errors.New("an IPv4-mapped prefix is at least /96 long")
)

// parsePrefix reads an address or CIDR and returns it masked and unmapped.
func parsePrefix(s string) (p netip.Prefix, note string, err error) {
	if p, err = parseRaw(s); err == nil {
		masked := p.Masked()
		hostBits := p != masked
		if p, err = canonicalPrefix(p); err == nil && hostBits {
			note = fmt.Sprintf("%s has host bits set: %s is listed", s, formatPrefix(p))
		}
	}
	if err != nil {
		return netip.Prefix{}, "", fmt.Errorf("%w ip %s: %w; expected an IPv4 or IPv6 address or CIDR, such as 1.1.1.1, 10.0.0.0/8 or 2001:db8::/32",
			ErrInvalid, Quote(s), err)
	}
	return p, note, nil
}

// parseRaw reads an address or CIDR as typed. The errors of net/netip repeat the input without a bound, so they
// are replaced by our own words.
func parseRaw(s string) (netip.Prefix, error) {
	host, length, cidr := strings.Cut(s, "/")
	a, err := netip.ParseAddr(host)
	switch {
	case s == "":
		return netip.Prefix{}, errors.New("it is empty")
	case strings.Contains(host, "%"):
		return netip.Prefix{}, errZone
	case err != nil && leadingZero(host):
		return netip.Prefix{}, errors.New("a number has leading zeros, which some programs read as octal")
	case err != nil:
		return netip.Prefix{}, errors.New("it is not an address")
	case !cidr:
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("prefix length %s is not a number from 0 to %d", Quote(length), a.BitLen())
	}
	return p, nil
}

// leadingZero reports whether s looks like an IPv4 address with a number such as 010.
func leadingZero(s string) bool {
	if strings.Trim(s, "0123456789.") != "" {
		return false
	}
	for _, part := range strings.Split(s, ".") {
		if len(part) > 1 && part[0] == '0' {
			return true
		}
	}
	return false
}

// canonicalPrefix masks p and turns an IPv4-mapped prefix into the IPv4 one it covers.
func canonicalPrefix(p netip.Prefix) (netip.Prefix, error) {
	switch a := p.Addr(); {
	case !p.IsValid():
		return p, errors.New("it is not an address")
	case a.Zone() != "":
		return p, errZone
	case a.Is4In6() && p.Bits() < 96:
		return p, errShortMapped
	case a.Is4In6():
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// formatPrefix writes a host without its length.
func formatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func checkName(kind Kind, name string) error {
	problem := checkText(name, MaxName)
	switch {
	case problem != "":
	case strings.ContainsFunc(name, unicode.IsSpace):
		problem = "it contains white space"
	case kind == KindCookie && strings.ContainsAny(name, "=;,"):
		problem = "a cookie's name contains no = ; or ,"
	default:
		return nil
	}
	return fmt.Errorf("%w name %s of %s: %s; expected 1 to %d bytes of UTF-8 text without white space and control characters",
		ErrInvalid, Quote(name), kind, problem, MaxName)
}

// checkText says what is wrong with s as a name or value, "" if nothing.
func checkText(s string, limit int) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > limit:
		return fmt.Sprintf("it is %d bytes long", len(s))
	case !utf8.ValidString(s):
		return "it is not valid UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "it contains a control character"
	}
	return ""
}
